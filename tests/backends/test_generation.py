"""Generation on tiny random models: slots against transformers' own `generate`, and each against itself."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import tiny
import torch

from evalkit.backends.hf import generation, memory
from evalkit.backends.hf.backend import HfBackend
from evalkit.backends.hf.generation import PlainGenerator, SlotGenerator
from evalkit.decoding import Draft
from evalkit.tokens import EncodedPrompt
from evalkit.types import Completion, Failure, GenerateResponse, Sampling

SLOTS = ("llama-grouped", "llama-multihead", "mixtral", "qwen2", "gpt2", "phi", "gemma", "cohere", "granite")
SLOTS += ("opt", "latent-attention", "llama-dynamic-rope")
ONE_BY_ONE = ("mistral-window", "bloom", "gemma2", "llama4", "recurrent", "hybrid")


def prompts() -> list[EncodedPrompt]:
    """Few-shot prefixes shared by several prompts, lengths that differ by far, equal prompts."""
    rng = np.random.default_rng(0)

    def ids(n: int) -> np.ndarray:
        return rng.integers(3, 400, n).astype(np.int32)

    header, other = ids(90), ids(130)
    own = [np.concatenate([header, ids(5 + 3 * i)]) for i in range(6)]
    own += [np.concatenate([other, ids(4)]) for _ in range(3)]
    own += [ids(n) for n in (1, 2, 40, 300)]
    own.append(own[0])
    return [EncodedPrompt(p, 4 + 3 * (i % 5), seed=i) for i, p in enumerate(own)]


def completed(backend: HfBackend, asked: list[EncodedPrompt]) -> list[tuple[Completion, ...]]:
    answers = dict(backend.generate(asked))
    assert sorted(answers) == list(range(len(asked)))
    found = []
    for i in range(len(asked)):
        answer = answers[i]
        assert isinstance(answer, GenerateResponse)
        found.append(answer.completions)
    return found


def one_by_one(backend: HfBackend, asked: list[EncodedPrompt]) -> list[tuple[Completion, ...]]:
    plain = PlainGenerator(backend._model, backend._native_attention, backend.tokenizer, backend.usage)
    done = {d.index: c for d, c in plain.run([Draft(i, 0, p) for i, p in enumerate(asked)])}
    return [(done[i],) for i in range(len(asked))]  # type: ignore[misc]


def same(a: list[tuple[Completion, ...]], b: list[tuple[Completion, ...]]) -> None:
    for one, other in zip(a, b, strict=True):
        for x, y in zip(one, other, strict=True):
            assert (x.text, x.token_ids, x.finish_reason) == (y.text, y.token_ids, y.finish_reason)
            assert x.logprob == pytest.approx(y.logprob, abs=1e-3)


@pytest.mark.parametrize("name", SLOTS)
def test_slots_say_what_generate_says(name: str) -> None:
    backend = tiny.backend(name)
    with mock.patch.object(PlainGenerator, "_attempt", side_effect=AssertionError("not in slots")):
        completed(backend, prompts())
    with torch.inference_mode():
        expected = one_by_one(backend, prompts())
    same(completed(backend, prompts()), expected)


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_other_models_are_completed_one_by_one(name: str) -> None:
    backend = tiny.backend(name)
    asked = [prompts()[i] for i in (0, 7, 9, 12)]
    with torch.inference_mode():
        expected = one_by_one(backend, asked)
    same(completed(backend, asked), expected)


@pytest.mark.parametrize("slots", [1, 2, 3, 16])
@pytest.mark.parametrize("batch_tokens", [64, 2048])
def test_the_composition_of_a_batch_changes_nothing(slots: int, batch_tokens: int) -> None:
    expected = completed(tiny.backend("llama-grouped"), prompts())
    with mock.patch.dict(generation._MOST_SLOTS, cpu=slots):
        same(completed(tiny.backend("llama-grouped", batch_tokens=batch_tokens), prompts()), expected)


def test_a_shared_prefix_is_computed_once() -> None:
    rng = np.random.default_rng(1)
    header = rng.integers(3, 400, 500).astype(np.int32)
    asked = [
        EncodedPrompt(np.concatenate([header, rng.integers(3, 400, 10).astype(np.int32)]), 2)
        for _ in range(20)
    ]
    backend = tiny.backend("llama-grouped")
    completed(backend, asked)
    assert backend.usage.tokens_computed <= 500 + 20 * (10 + 1)
    assert backend.usage.tokens_generated <= 40


def test_finished_sequences_make_room_for_waiting_ones() -> None:
    """With two slots, a long answer and many short ones take about as many forwards as the long one."""
    short = [EncodedPrompt(np.arange(5 + i, 25 + i, dtype=np.int32), 3) for i in range(8)]
    long = EncodedPrompt(np.asarray([300, 301], np.int32), 24, min_new_tokens=24)
    backend = tiny.backend("llama-grouped")
    engine = backend._in_slots(backend._path)  # type: ignore[arg-type]
    calls = []
    decode = engine.decode
    engine.decode = lambda *args: calls.append(1) or decode(*args)  # type: ignore[method-assign, func-returns-value]
    with torch.inference_mode(), mock.patch.dict(generation._MOST_SLOTS, cpu=2):
        done = list(engine.run([Draft(i, 0, p) for i, p in enumerate([long, *short])]))
    assert len(done) == 9
    assert len(calls) <= 26


def test_sampling_depends_on_the_seed_and_on_nothing_else() -> None:
    drawn = [replace(p, sampling=Sampling(0.9, top_p=0.9, top_k=50, n=3)) for p in prompts()[:5]]
    backend = tiny.backend("llama-grouped")
    first = completed(backend, drawn)
    assert completed(backend, drawn) == first
    texts = [[c.token_ids for c in completions] for completions in completed(backend, drawn[::-1])[::-1]]
    assert texts == [[c.token_ids for c in completions] for completions in first]
    assert len({c.token_ids for c in first[0]}) > 1
    other = completed(backend, [replace(p, seed=p.seed + 100) for p in drawn])
    assert other != first


def test_a_repetition_penalty_changes_what_is_said() -> None:
    greedy = Sampling(temperature=1e-4, top_k=1)
    asked = [
        replace(prompts()[0], sampling=s, max_new_tokens=20)
        for s in (greedy, replace(greedy, repetition_penalty=5.0))
    ]
    plain, penalised = completed(tiny.backend("llama-grouped"), asked)
    assert len(set(penalised[0].token_ids)) >= len(set(plain[0].token_ids))
    assert penalised != plain


def test_out_of_memory_halves_the_slots_and_loses_nothing() -> None:
    backend = tiny.backend("llama-grouped")
    expected = completed(backend, prompts())
    decode = SlotGenerator.decode

    def small(self: SlotGenerator, cache, tokens, positions):
        if len(tokens) > 2:
            raise torch.OutOfMemoryError
        return decode(self, cache, tokens, positions)

    with mock.patch.object(SlotGenerator, "decode", small):
        same(completed(backend, prompts()), expected)


def test_what_fits_nowhere_fails_alone() -> None:
    backend = tiny.backend("llama-grouped")
    prefill = SlotGenerator.prefill

    def small(self: SlotGenerator, cache, slots, shared, tails):
        if max(map(len, tails)) > 250:
            raise torch.OutOfMemoryError
        return prefill(self, cache, slots, shared, tails)

    with mock.patch.object(SlotGenerator, "prefill", small):
        answers = dict(backend.generate(prompts()))
    failed = [i for i, answer in answers.items() if isinstance(answer, Failure)]
    assert failed == [12]
    assert len(answers) == len(prompts())


def test_the_one_that_does_not_fit_is_the_one_that_fails() -> None:
    asked = [EncodedPrompt(np.arange(first, first + 20, dtype=np.int32), 3) for first in (300, 200, 100)]
    backend = tiny.backend("llama-grouped")
    prefill = SlotGenerator.prefill

    def small(self: SlotGenerator, cache, slots, shared, tails):
        if any(tail[0] == 200 for tail in tails):
            raise torch.OutOfMemoryError
        return prefill(self, cache, slots, shared, tails)

    with mock.patch.object(SlotGenerator, "prefill", small):
        answers = dict(backend.generate(asked))
    assert [i for i, answer in answers.items() if isinstance(answer, Failure)] == [1]


def test_memory_decides_how_many_slots_there_are() -> None:
    backend = tiny.backend("llama-grouped")
    engine = backend._in_slots(backend._path)  # type: ignore[arg-type]
    with mock.patch.object(memory, "free_bytes", return_value=0):
        assert engine._most_slots(100) == 1
    with mock.patch.object(memory, "free_bytes", return_value=1 << 50):
        assert engine._most_slots(100) == generation._MOST_SLOTS["cpu"]


def test_scoring_goes_on_after_one_by_one_generation() -> None:
    backend = tiny.backend("llama-grouped")
    before = backend._model.config._attn_implementation
    with torch.inference_mode():
        one_by_one(backend, prompts()[:1])
    assert backend._model.config._attn_implementation == before


def test_both_ways_look_for_stop_texts_after_the_reasoning_only() -> None:
    backend = tiny.backend("llama-grouped")
    ((whole,), *_) = completed(backend, [replace(prompts()[0], max_new_tokens=24)])
    reasoning, tag, rest = whole.text.partition(" th")
    assert "O" in reasoning and tag and "/" in rest  # noqa: PT018 - what the tiny model happens to say
    asked = [replace(prompts()[0], max_new_tokens=24, stop=("O", "/"), reasoning=("<think>", tag))]
    with torch.inference_mode():
        expected = one_by_one(backend, asked)
    found = completed(backend, asked)
    same(found, expected)
    for ((completion,),) in (found, expected):
        assert (completion.reasoning, completion.text) == (reasoning, rest.partition("/")[0])
        assert completion.finish_reason == "stop"
