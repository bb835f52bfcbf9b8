"""The head against the log-softmax of the model's own logits."""

from __future__ import annotations

from unittest import mock

import pytest
import tiny
import torch
from torch import Tensor

from evalkit.backends.hf import head
from evalkit.backends.hf.head import Head

TRANSFORMS = {
    "llama-grouped": "nothing",
    "llama-tied": "weights of the embedding",
    "phi": "a bias",
    "cohere": "a scale",
    "granite": "a divisor",
    "gemma2": "a soft cap",
    "recurrent-gemma": "a soft cap of another name",
    "parallel-hybrid": "a multiplier of another name",
}


def hidden_and_logits(name: str) -> tuple[Head, Tensor, Tensor]:
    """Head, hidden states [50, width] and the model's own logits [50, vocabulary]."""
    model = tiny.model(name)
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    ids = torch.arange(3, 53).unsqueeze(0)
    with torch.inference_mode():
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        logits = model(input_ids=ids, use_cache=False).logits[0]
    return Head(model), hidden, logits


@pytest.mark.parametrize("name", TRANSFORMS, ids=TRANSFORMS.values())
def test_scores_are_the_log_softmax_of_the_models_logits(name: str) -> None:
    scorer, hidden, logits = hidden_and_logits(name)
    targets = torch.arange(50) * 7
    logprobs, greedy = scorer.score(hidden, targets)
    expected = logits.log_softmax(dim=1)[torch.arange(50), targets]
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)
    assert torch.equal(greedy, logits.argmax(dim=1) == targets)


def test_the_most_likely_token_is_greedy() -> None:
    scorer, hidden, logits = hidden_and_logits("llama-grouped")
    _, greedy = scorer.score(hidden, logits.argmax(dim=1))
    assert greedy.all()


@pytest.mark.parametrize("at_once", [1, 400, 400 * 7, 400 * 50, 400 * 1000])
def test_scores_do_not_depend_on_how_many_logits_are_held_at_once(at_once: int) -> None:
    scorer, hidden, _ = hidden_and_logits("llama-grouped")
    targets = torch.arange(50)
    whole, _ = scorer.score(hidden, targets)
    with mock.patch.object(head, "_LOGITS_AT_ONCE", at_once):
        parts, _ = scorer.score(hidden, targets)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_no_more_logits_exist_at_once_than_the_limit() -> None:
    scorer, hidden, _ = hidden_and_logits("llama-grouped")
    sizes = []

    def watched(*args: Tensor) -> Tensor:
        logits = linear(*args)
        sizes.append(logits.numel())
        return logits

    linear = torch.nn.functional.linear
    with (
        mock.patch.object(head, "_LOGITS_AT_ONCE", 400 * 8),
        mock.patch.object(torch.nn.functional, "linear", watched),
    ):
        scorer.score(hidden, torch.arange(50))
    assert max(sizes) <= 400 * 8
    assert sum(sizes) == 400 * 50


def test_half_precision_operands_are_multiplied_in_float32() -> None:
    model = tiny.model("llama-grouped", torch.bfloat16)
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    logprobs, _ = Head(model).score(hidden, torch.arange(20))
    logits = hidden.double() @ model.lm_head.weight.detach().double().T
    expected = logits.log_softmax(dim=1)[torch.arange(20), torch.arange(20)]
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-4, rtol=0)
