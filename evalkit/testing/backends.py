"""What every backend must do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from evalkit.backends.base import Backend
from evalkit.equality import TOLERANCE
from evalkit.testing.rules import named
from evalkit.tokens import EncodedPrompt, EncodedRequest, encode, encode_prompt
from evalkit.types import (
    Completion,
    ContinuationScore,
    Failure,
    FinishReason,
    GenerateResponse,
    NextToken,
    Response,
    Sampling,
    ScoreRequest,
    ScoreResponse,
    SpanRequest,
    TokenStats,
)

_TOLERANCE = TOLERANCE | {"float64": TOLERANCE["float32"]}

_ROUNDING = 1e-4
"""How far above zero rounding may lift a log-probability."""

_SHARED = "The following are questions about geography.\n\n" + "".join(
    f"Question: Which city lies on river number {n}?\nA. Rome\nB. Cairo\nAnswer: {'AB'[n % 2]}\n\n"
    for n in range(4)
)


def _requests() -> dict[str, list[ScoreRequest | SpanRequest]]:
    """Rule to the requests that put it to the test."""
    letters = (" A", " B", " C", " D")
    return {
        "one-token options": [ScoreRequest("Question: 1 + 1 = ?\nAnswer:", letters)],
        "options of several tokens": [
            ScoreRequest("The capital of Egypt is", (" Cairo, of course", " the city of Rome", " x"))
        ],
        "options that share leading tokens": [
            ScoreRequest("It is", (" North America", " North Africa", " North", " North Africa, I think"))
        ],
        "options looked up in the vocabulary": [
            ScoreRequest("Answer:", (NextToken("A"), NextToken("B"), NextToken(" A")))
        ],
        "whole texts": [SpanRequest(("It is long.\nAnswer: A", "It is long.\nAnswer: B", "No."))],
        "an empty context": [ScoreRequest("", ("Rome", "Cairo is a city"))],
        "a context that ends in a blank": [ScoreRequest("Answer: ", ("Rome", "Cairo"))],
        "a context shared by many": [
            ScoreRequest(f"{_SHARED}Question: Which city has {n} gates?\nAnswer:", letters) for n in range(6)
        ],
        "the same request twice": [ScoreRequest(f"{_SHARED}Question:", letters)] * 2,
        "a context that another one begins with": [
            ScoreRequest(_SHARED[: len(_SHARED) // 2], (" A", " none of the two")),
            ScoreRequest(_SHARED, (" A", " none of the two")),
        ],
        "text that is not English": [ScoreRequest("题目：哪一个是首都？\n答案是：", ("开罗", "罗马", "A"))],
    }


def check_backend(backend: Backend) -> None:
    """Check that a backend keeps every promise of `evalkit.backends.base.Backend`.

    It must be deterministic, answer each request exactly once with finite scores and right token counts,
    depend neither on the order of requests nor on what is done already, agree with its own plain
    forwards within the tolerance of its dtype, and count what it computes. What its `capabilities` exclude
    is not asked for, and an engine that is not `repeatable` may differ from itself within the tolerance.

    Raises:
        AssertionError: naming the first rule that does not hold.
    """
    _check_info(backend)
    if backend.capabilities.no_scores is None:
        _check_scores(backend)
    if backend.capabilities.no_completions is None:
        _check_generation(backend)


def _check_scores(backend: Backend) -> None:
    groups = _requests()
    rules = [rule for rule, requests in groups.items() for _ in requests]
    texts = [request for requests in groups.values() for request in requests]
    limit = backend.info.max_length
    requests = [e.kept_right(limit) for e in encode(backend.tokenizer, texts)]

    answers = _check_answers(backend, requests, rules)
    same = _Same(backend)
    if backend.capabilities.repeatable:  # for the others the next rule asks for as much
        again = _scored(backend, requests)
        same("deterministic: scoring the same requests twice gives the same scores", answers, again)
    backwards = _scored(backend, requests[::-1])[::-1]
    same("independent of order: the same requests backwards give the same scores", answers, backwards)
    _check_done(backend, requests, answers)
    for rule, request, answer in zip(rules, requests, answers, strict=True):
        _check_reference(backend, rule, request, answer)
    _check_usage(backend, requests[rules.index("a context shared by many")])
    if backend.capabilities.no_token_stats is None:
        _check_token_stats(backend, requests, answers)
    with named("nothing to do"):
        assert list(backend.score([])) == [], "no requests must give no answers"


def _check_info(backend: Backend) -> None:
    with named("info"):
        info = backend.info
        for field in ("name", "backend", "dtype", "fingerprint"):
            value = getattr(info, field)
            assert isinstance(value, str), f"{field} is {value!r}, not a text"
            assert value, f"{field} is empty"
        assert isinstance(info.max_length, int), f"max_length is {info.max_length!r}, not an integer"
        assert info.max_length > 0, f"max_length is {info.max_length}, not positive"
        try:
            copy = json.loads(json.dumps(info.to_json(), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"it cannot be written as JSON: {error}") from error
        assert copy["name"] == info.name, "JSON changes it"
        assert backend.info == info, "it differs when it is read twice"


def _scored(backend: Backend, requests: Sequence[EncodedRequest]) -> list[Response]:
    """All answers by index, each given exactly once."""
    answers: dict[int, Response] = {}
    for i, response in backend.score(requests):
        assert i not in answers, f"every index once: {i} was answered twice"
        answers[i] = response
    assert sorted(answers) == list(range(len(requests))), (
        f"every index once: {len(requests)} requests, answers for {sorted(answers)}"
    )
    return [answers[i] for i in range(len(requests))]


def _check_answers(
    backend: Backend, requests: Sequence[EncodedRequest], rules: Sequence[str]
) -> list[ScoreResponse]:
    checked: list[ScoreResponse] = []
    for rule, request, answer in zip(rules, requests, _scored(backend, requests), strict=True):
        with named(rule):
            assert isinstance(answer, ScoreResponse), f"no scores but {answer}"
            assert len(answer.scores) == len(request.tails), (
                f"{len(answer.scores)} scores for {len(request.tails)} continuations"
            )
            for j, score in enumerate(answer.scores):
                _check_score(score, request.reported_tokens(j))
            checked.append(answer)
    return checked


def _check_score(score: ContinuationScore, n_tokens: int) -> None:
    assert math.isfinite(score.logprob), f"finite: the log-probability is {score.logprob}"
    assert score.logprob <= _ROUNDING, f"a log-probability is at most 0, not {score.logprob}"
    assert score.n_tokens == n_tokens, f"token counts: {score.n_tokens} reported, {n_tokens} scored"


def _check_token_stats(
    backend: Backend, requests: Sequence[EncodedRequest], answers: Sequence[ScoreResponse]
) -> None:
    with named("token statistics"):
        found = dict(backend.token_stats(requests, done={0}))
        assert set(found) == set(range(1, len(requests))), f"answers for {sorted(found)}, all but 0 wanted"
        for i, statistics in found.items():
            assert not isinstance(statistics, Failure), f"no statistics but {statistics}"
            assert len(statistics) == len(requests[i].tails), "one for every sequence"
            for j, (stats, score) in enumerate(zip(statistics, answers[i].scores, strict=True)):
                _check_sequence_stats(stats, score, requests[i].n_scored(j), _tolerance(backend))


def _check_sequence_stats(stats: TokenStats, score: ContinuationScore, n: int, tolerance: float) -> None:
    lengths = [len(column) for column in (stats.logprob, stats.mean, stats.variance, stats.greedy)]
    assert lengths == [n] * 4, f"columns of {lengths} entries for {n} scored tokens"
    assert abs(stats.logprob.sum() - score.logprob) <= tolerance * math.sqrt(n), (
        f"they add up to {stats.logprob.sum()}, the score is {score.logprob}"
    )
    assert bool(stats.greedy.all()) == score.is_greedy, "all tokens are greedy where the sequence is"
    assert np.isfinite([stats.mean, stats.variance]).all(), "a moment is not finite"
    assert (stats.mean <= _ROUNDING).all(), "a mean of log-probabilities is above 0"
    assert (stats.variance >= 0).all(), "a variance is negative"


class _Same:
    """Compares answers: bit by bit, or within the dtype's tolerance where no more is promised."""

    def __init__(self, backend: Backend) -> None:
        self._tolerance = 0.0 if backend.capabilities.repeatable else _tolerance(backend)

    def __call__(self, rule: str, expected: Sequence[Response], got: Sequence[Response]) -> None:
        for i, (a, b) in enumerate(zip(expected, got, strict=True)):
            assert self._equal(a, b), f"{rule}; request {i} got {a} and then {b}"

    def _equal(self, a: Response, b: Response) -> bool:
        if not self._tolerance:
            return a == b
        assert isinstance(a, ScoreResponse), f"no scores but {a}"
        assert isinstance(b, ScoreResponse), f"no scores but {b}"
        return all(
            x.n_tokens == y.n_tokens and abs(x.logprob - y.logprob) <= self._tolerance * math.sqrt(x.n_tokens)
            for x, y in zip(a.scores, b.scores, strict=True)
        )


def _tolerance(backend: Backend) -> float:
    return _TOLERANCE.get(backend.info.dtype, 0.5)


def _check_done(
    backend: Backend, requests: Sequence[EncodedRequest], answers: Sequence[ScoreResponse]
) -> None:
    everything = set(range(len(requests)))
    for done in (set(range(0, len(requests), 2)), set(range(1, len(requests))), everything):
        rest = dict(backend.score(requests, done))
        with named(f"independent of what is done ({len(done)} of {len(requests)})"):
            assert set(rest) == everything - done, f"answers for {sorted(rest)}, wanted {everything - done}"
            kept = sorted(rest)
            before, after = ([found[i] for i in kept] for found in (answers, rest))
            _Same(backend)("identical to a run from the start", before, after)


def _check_reference(backend: Backend, rule: str, request: EncodedRequest, answer: ScoreResponse) -> None:
    reference = backend.score_reference(request)
    (alone,) = _scored(backend, [request])
    with named(rule):
        assert isinstance(alone, ScoreResponse), f"no scores but {alone}"
        triples = zip(answer.scores, alone.scores, reference.scores, strict=True)
        for j, (score, score_alone, plain) in enumerate(triples):
            assert score.n_tokens == plain.n_tokens, f"token counts: {plain.n_tokens} by plain forwards"
            tolerance = _tolerance(backend) * math.sqrt(score.n_tokens)
            for name, one in (("among others", score), ("on its own", score_alone)):
                assert abs(one.logprob - plain.logprob) <= tolerance, (
                    f"agreement with plain forwards: continuation {j} scores {one.logprob} {name} "
                    f"and {plain.logprob} plainly (tolerance {tolerance:.2g})"
                )


def _check_usage(backend: Backend, request: EncodedRequest) -> None:
    """One context asked four times: even a backend that shares nothing computes no more than that.

    A server may take one request per token of a continuation, and generate a token with each.
    """
    requests = [request] * 4
    before = backend.usage.tokens_computed
    _scored(backend, requests)
    computed = backend.usage.tokens_computed - before
    logical = sum(r.n_logical for r in requests)
    if not backend.capabilities.repeatable:
        logical = sum((r.length(j) + 1) * r.reported_tokens(j) for r in requests for j in range(len(r.tails)))
    with named("usage"):
        assert computed > 0, "tokens_computed does not grow"
        assert computed <= logical, f"{computed} tokens computed where nothing shared takes {logical}"


def _prompts(backend: Backend) -> list[EncodedPrompt]:
    """Prompts of several lengths, some of which begin alike, with answers of several lengths."""
    texts = [f"{_SHARED}Question: Which city has {n} gates?\nAnswer:" for n in range(4)]
    texts += ["Once upon a time", "", "题目：哪一个是首都？\n答案是：", texts[0]]
    return [
        EncodedPrompt(encode_prompt(backend.tokenizer, text), 3 + 2 * (i % 3), seed=i)
        for i, text in enumerate(texts)
    ]


def _check_generation(backend: Backend) -> None:
    prompts = _prompts(backend)
    with named("nothing to do"):
        assert list(backend.generate([])) == [], "no requests must give no answers"
    with named("generation"):
        answers = _generated(backend, prompts)
        for prompt, answer in zip(prompts, answers, strict=True):
            (completion,) = answer.completions
            n = completion.n_tokens
            assert 0 < n <= prompt.max_new_tokens, f"{n} tokens of {prompt.max_new_tokens}"
            assert completion.finish_reason in get_args(FinishReason), f"{completion.finish_reason!r}"
            # Some servers do not tell which tokens they generated.
            if completion.token_ids and backend.capabilities.no_scores is None:
                assert len(completion.token_ids) == n, f"{n} tokens, ids of {len(completion.token_ids)}"
                _check_completion_score(backend, prompt, completion)
    drawn = [
        replace(p, sampling=Sampling(temperature=1.0, n=2)) for p in (prompts[0], replace(prompts[0], seed=7))
    ]
    with named("sampling"):
        first, again = (_generated(backend, drawn) for _ in range(2))
        if backend.capabilities.repeatable:
            assert first == again, "the same seeds must draw the same texts"
        assert all(len(answer.completions) == 2 for answer in first), "n completions are n texts"
    with named("generation of the rest"):
        rest = dict(backend.generate(prompts, done={0, 2}))
        assert set(rest) == set(range(len(prompts))) - {0, 2}, f"answers for {sorted(rest)}"


def _generated(backend: Backend, prompts: Sequence[EncodedPrompt]) -> list[GenerateResponse]:
    answers: dict[int, GenerateResponse] = {}
    for i, response in backend.generate(prompts):
        assert i not in answers, f"every index once: {i} was answered twice"
        assert isinstance(response, GenerateResponse), f"no completion but {response}"
        answers[i] = response
    assert sorted(answers) == list(range(len(prompts))), f"every index once: {sorted(answers)}"
    return [answers[i] for i in range(len(prompts))]


def _check_completion_score(backend: Backend, prompt: EncodedPrompt, completion: Completion) -> None:
    ids = np.asarray(completion.token_ids, np.int32)
    plain = backend.score_reference(EncodedRequest(prompt.ids, (ids,), (prompt.n_inputs,)))
    tolerance = _tolerance(backend) * math.sqrt(len(ids))
    assert abs(completion.logprob - plain.scores[0].logprob) <= tolerance, (
        f"agreement with plain forwards: {completion.logprob} and {plain.scores[0].logprob} plainly"
    )
