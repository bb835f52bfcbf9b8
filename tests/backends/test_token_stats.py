"""Per-token statistics against brute force over the whole vocabulary."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from test_hf_paths import BAG, SHARING, ids, question

from evalkit.backends.hf import head
from evalkit.backends.hf.backend import HfBackend
from evalkit.errors import UsageError
from evalkit.tokens import EncodedRequest
from evalkit.types import Failure, ScoreResponse, TokenStats


def all_stats(backend: HfBackend, requests: list[EncodedRequest]) -> list[tuple[TokenStats, ...]]:
    found = dict(backend.token_stats(requests))
    answers = [found[i] for i in range(len(requests))]
    assert not any(isinstance(answer, Failure) for answer in answers)
    return answers  # type: ignore[return-value]


@torch.inference_mode()
def brute_force(model: torch.nn.Module, request: EncodedRequest, j: int) -> TokenStats:
    """From the log-softmax of the model's own logits in float64."""
    sequence = request.sequence(j)
    start = request.starts[j]
    logits = model(torch.tensor(sequence[None, :-1].astype(np.int64)), use_cache=False).logits[0, start - 1 :]
    every = logits.double().log_softmax(dim=1).numpy()
    targets = sequence[start:]
    p = np.exp(every)
    mean = (p * every).sum(axis=1)
    variance = (p * (every - mean[:, None]) ** 2).sum(axis=1)
    logprobs = every[np.arange(len(targets)), targets]
    return TokenStats(logprobs, mean, variance, every.argmax(axis=1) == targets)


@pytest.mark.parametrize("path", SHARING)
def test_every_path_gives_the_moments_of_brute_force(path: str) -> None:
    backend = tiny.backend("llama-grouped", batch_tokens=256, path=path)
    model = tiny.model("llama-grouped")
    for request, stats in zip(BAG, all_stats(backend, BAG), strict=True):
        for j, found in enumerate(stats):
            expected = brute_force(model, request, j)
            for column in ("logprob", "mean", "variance"):
                a, b = getattr(found, column), getattr(expected, column)
                np.testing.assert_allclose(a, b, atol=2e-4, err_msg=f"{column} on the {path} path")
            np.testing.assert_array_equal(found.greedy, expected.greedy)


@pytest.mark.parametrize("path", SHARING)
def test_tokens_add_up_to_the_scores_bit_by_bit(path: str) -> None:
    backend = tiny.backend("llama-grouped", batch_tokens=256, path=path)
    scores = dict(backend.score(BAG))
    for i, stats in enumerate(all_stats(backend, BAG)):
        response = scores[i]
        assert isinstance(response, ScoreResponse)
        assert [s.logprob.sum() for s in stats] == [s.logprob for s in response.scores]
        assert [s.greedy.all() for s in stats] == [s.is_greedy for s in response.scores]


def test_inputs_that_must_not_share_a_forward_are_read_alone() -> None:
    backend = tiny.backend("phi3-longrope")  # rotary frequencies change beyond 64 tokens
    model = tiny.model("phi3-longrope")
    requests = [question(ids(1, 40), ids(2, 5)), question(ids(3, 90), ids(4, 7), ids(5, 3))]
    for request, stats in zip(requests, all_stats(backend, requests), strict=True):
        for j, found in enumerate(stats):
            expected = brute_force(model, request, j)
            np.testing.assert_allclose(found.variance, expected.variance, atol=2e-4)
            np.testing.assert_allclose(found.logprob, expected.logprob, atol=2e-4)


def test_no_more_logits_exist_at_once_than_the_limit() -> None:
    backend = tiny.backend("llama-grouped")
    request = [question(ids(0, 3), ids(1, 50))]
    (whole,) = all_stats(backend, request)
    sizes = []
    transform = backend._head._transform

    def watched(logits: torch.Tensor) -> torch.Tensor:
        sizes.append(logits.numel())
        return transform(logits)

    with (
        mock.patch.object(head, "_LOGITS_AT_ONCE", 400 * 8),
        mock.patch.object(backend._head, "_transform", watched),
    ):
        (parts,) = all_stats(backend, request)
    assert max(sizes) == 400 * 8
    np.testing.assert_allclose(parts[0].mean, whole[0].mean, atol=1e-5)


def test_a_uniform_prediction_has_no_variance_and_the_entropy_of_the_vocabulary() -> None:
    logits = torch.zeros(3, 400)
    logprobs, _, mean, variance = head.target_statistics(logits, torch.tensor([0, 1, 399]))
    torch.testing.assert_close(logprobs, torch.full((3,), -np.log(400.0), dtype=torch.float32))
    torch.testing.assert_close(mean, logprobs)
    torch.testing.assert_close(variance, torch.zeros(3), atol=1e-9, rtol=0)


def test_engines_without_moments_say_so() -> None:
    from evalkit.backends.openai.backend import OpenAiBackend

    server = object.__new__(OpenAiBackend)
    with pytest.raises(UsageError, match="--backend hf"):
        server.token_stats([])
