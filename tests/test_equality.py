"""The equality gate, on stub backends whose paths say what a test wants them to say."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import pytest
from toy import resolved_toy

from evalkit import equality
from evalkit.backends.base import Capabilities, ModelInfo, Usage
from evalkit.backends.mock import WordTokenizer
from evalkit.errors import UntrustedResultError
from evalkit.prompts import Prompt
from evalkit.spec import ResolvedTask
from evalkit.task import Grouping, Overlong, Protocol
from evalkit.tokens import EncodedRequest
from evalkit.types import ContinuationScore, Failure, Response, Sample, ScoreRequest, ScoreResponse

TRUE_LOGPROBS = (-1.0, -2.0, -3.0)
Answer = Callable[[int, tuple[float, ...]], Response]
"""(index of the request, true log-probabilities) to a path's answer."""


def says(*changes: float, n_tokens: int = 1) -> Answer:
    """A path whose log-probabilities are off by these amounts."""
    return lambda i, true: response(
        [t + c for t, c in zip(true, changes or (0.0,) * 3, strict=True)], n_tokens
    )


def response(logprobs: Sequence[float], n_tokens: int = 1) -> ScoreResponse:
    return ScoreResponse(tuple(ContinuationScore(lp, n_tokens, is_greedy=False) for lp in logprobs))


class StubBackend:
    """A backend with a list of paths."""

    def __init__(self, *paths: Answer, dtype: str = "float32", n_tokens: int = 1) -> None:
        self.tokenizer = WordTokenizer()
        self.usage = Usage()
        self.capabilities = Capabilities()
        self.scored: list[Sequence[EncodedRequest]] = []
        self._paths = list(paths)
        self._taken = 0
        self._dtype = dtype
        self._n_tokens = n_tokens

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("stub", "stub", self._dtype, "stub", 100, {"scoring_path": f"path {self._taken}"})

    def score(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, Response]]:
        self.scored.append(requests)
        for i in reversed(range(len(requests))):
            yield i, self._paths[self._taken](i, TRUE_LOGPROBS)

    def score_reference(self, request: EncodedRequest) -> ScoreResponse:
        return response(TRUE_LOGPROBS, self._n_tokens)

    def downgrade(self) -> str | None:
        if self._taken + 1 == len(self._paths):
            return None
        self._taken += 1
        return f"path {self._taken}"


def task(n_prompts: int = 20) -> tuple[ResolvedTask, list[Prompt]]:
    protocol = Protocol(
        name="plain",
        source="tests",
        render=lambda p: ScoreRequest("", ("A", "B", "C")),
        average="micro",
        groups=Grouping({}, "micro"),
        overlong=Overlong("error"),
        default_split="test",
    )
    return resolved_toy(protocol, subsets=["one"]), [prompt(i) for i in range(n_prompts)]


def prompt(i: int) -> Prompt:
    tails = tuple(np.asarray([t], np.int32) for t in (1, 2, 3))
    encoded = EncodedRequest(np.asarray([i, 7], np.int32), tails, (2, 2, 2))
    sample = Sample(str(i), "one", {}, "A")
    return Prompt(sample, ScoreRequest("", ("A", "B", "C")), encoded, truncated=False)


def gate(backend: StubBackend) -> equality.GateReport:
    return equality.check(backend, [task()])


def test_a_path_that_says_what_plain_forwards_say_passes() -> None:
    report = gate(StubBackend(says()))
    assert (report.passed, report.path, report.max_difference) == (True, "path 0", 0.0)
    assert report.rejected == ()


def test_rounding_passes_and_is_reported() -> None:
    report = gate(StubBackend(says(0.0, 5e-4, 0.0)))
    assert report.passed
    assert report.max_difference == pytest.approx(5e-4)


@pytest.mark.parametrize("wrong", [0.01, -0.01, math.nan, math.inf, -math.inf])
def test_a_broken_path_is_rejected_for_the_next_one(wrong: float) -> None:
    report = gate(StubBackend(says(0.0, 0.0, wrong), says()))
    assert (report.passed, report.path, report.rejected) == (True, "path 1", ("path 0",))


def test_one_wrong_answer_among_many_is_enough() -> None:
    def broken(i: int, true: tuple[float, ...]) -> Response:
        return says(1.0, 0.0, 0.0)(i, true) if i == 4 else says()(i, true)

    assert gate(StubBackend(broken, says())).rejected == ("path 0",)


def test_nothing_is_trusted_when_every_path_is_broken() -> None:
    with pytest.raises(UntrustedResultError, match="path 0, path 1") as raised:
        gate(StubBackend(says(1.0, 0, 0), says(0, 2.0, 0)))
    assert "differ by up to 2" in str(raised.value)
    assert raised.value.exit_code == 3


def test_a_gate_that_cannot_run_trusts_nothing() -> None:
    with pytest.raises(UntrustedResultError, match="out of memory"):
        gate(StubBackend(lambda i, true: Failure("out of memory"), says()))


@pytest.mark.parametrize(("dtype", "passes"), [("float32", False), ("float16", False), ("bfloat16", True)])
def test_half_precision_may_differ_by_more(dtype: str, passes: bool) -> None:
    report = gate(StubBackend(says(0.3, 0.0, 0.0), says(), dtype=dtype))
    assert (report.rejected == ()) is passes


def test_sums_of_many_tokens_may_differ_by_more() -> None:
    long = StubBackend(says(0.0, 0.0, 0.004, n_tokens=25), says(), n_tokens=25)
    assert gate(long).tolerance == pytest.approx(5e-3)
    assert gate(long).rejected == ()
    assert gate(StubBackend(says(0.0, 0.0, 0.004), says())).rejected == ("path 0",)


def test_every_request_is_measured_by_its_own_tolerance() -> None:
    # Long sums and single tokens in one run: neither may be held against the other's tolerance.
    n_long = 6

    class Mixed(StubBackend):
        def score_reference(self, request: EncodedRequest) -> ScoreResponse:
            return response(TRUE_LOGPROBS, 400 if request.base[0] < 100 else 1)

    def drifting(i: int, true: tuple[float, ...]) -> Response:
        return says(0.01 if i < n_long else 0.0, 0.0, 0.0)(i, true)

    long_task, long_prompts = task()
    short_prompts = [prompt(100 + i) for i in range(20)]
    backend = Mixed(drifting, says())
    report = equality.check(backend, [(long_task, long_prompts), (long_task, short_prompts)])
    assert report.rejected == ()
    assert (report.max_difference, report.tolerance) == (pytest.approx(0.01), pytest.approx(0.02))

    def wrong_on_short(i: int, true: tuple[float, ...]) -> Response:
        return says(0.01 if i >= n_long else 0.0, 0.0, 0.0)(i, true)

    backend = Mixed(wrong_on_short, says())
    report = equality.check(backend, [(long_task, long_prompts), (long_task, short_prompts)])
    assert report.rejected == ("path 0",)


def test_noise_is_the_largest_change_of_a_winning_margin() -> None:
    report = gate(StubBackend(says(0.1, -0.1, 0.4), dtype="bfloat16"))
    assert report.noise == {"toy@plain:test:0shot": pytest.approx(0.2)}


def test_neighbours_that_share_a_prefix_are_scored_together() -> None:
    backend = StubBackend(says())
    gate(backend)
    firsts = [int(r.base[0]) for r in backend.scored[0]]
    assert firsts == [0, 1, 5, 6, 10, 11, 15, 16]


@pytest.mark.parametrize("n_prompts", [0, 1, 2])
def test_few_prompts_are_enough_to_run(n_prompts: int) -> None:
    assert equality.check(StubBackend(says()), [task(n_prompts)]).passed
