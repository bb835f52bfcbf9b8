"""The conformance suites accept what conforms and name the rule that something else breaks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from evalkit.backends.base import ModelInfo
from evalkit.backends.mock import MockBackend
from evalkit.registry import get_task
from evalkit.task import Grouping, PromptInput, Task
from evalkit.testing import check_backend, check_task
from evalkit.tokens import EncodedRequest
from evalkit.types import Failure, Response, ScoreRequest, ScoreResponse, TokenStats

Answers = Iterator[tuple[int, Response]]


class Changed(MockBackend):
    """A mock that breaks one rule."""

    def score(self, requests: Sequence[EncodedRequest], done: Collection[int] = ()) -> Answers:
        for i, response in super().score(requests, done):
            assert isinstance(response, ScoreResponse)
            yield i, self.change(i, response)

    def change(self, i: int, response: ScoreResponse) -> Response:
        return response


def with_first(response: ScoreResponse, **changes: Any) -> ScoreResponse:
    first, *others = response.scores
    return ScoreResponse((replace(first, **changes), *others))


class Repeats(Changed):
    def score(self, requests: Sequence[EncodedRequest], done: Collection[int] = ()) -> Answers:
        for answer in super().score(requests, done):
            yield answer
            yield answer


class Forgets(Changed):
    def score(self, requests: Sequence[EncodedRequest], done: Collection[int] = ()) -> Answers:
        yield from (answer for answer in super().score(requests, done) if answer[0] != 3)


class Restarts(Changed):
    def score(self, requests: Sequence[EncodedRequest], done: Collection[int] = ()) -> Answers:
        return super().score(requests)


class Drifts(Changed):
    calls = 0

    def change(self, i: int, response: ScoreResponse) -> Response:
        self.calls += 1
        return with_first(response, logprob=response.scores[0].logprob - self.calls * 1e-9)


class DependsOnPlace(Changed):
    def change(self, i: int, response: ScoreResponse) -> Response:
        return with_first(response, logprob=response.scores[0].logprob - i * 1e-9)


class DependsOnDone(Changed):
    def score(self, requests: Sequence[EncodedRequest], done: Collection[int] = ()) -> Answers:
        for i, response in super().score(requests, done):
            assert isinstance(response, ScoreResponse)
            yield i, with_first(response, logprob=response.scores[0].logprob - len(done) * 1e-9)


class Wrong(Changed):
    def change(self, i: int, response: ScoreResponse) -> Response:
        return with_first(response, logprob=response.scores[0].logprob - 0.5)


class Infinite(Changed):
    def change(self, i: int, response: ScoreResponse) -> Response:
        return with_first(response, logprob=-math.inf)


class Certain(Changed):
    def change(self, i: int, response: ScoreResponse) -> Response:
        return with_first(response, logprob=0.5)


class Miscounts(Changed):
    def change(self, i: int, response: ScoreResponse) -> Response:
        return with_first(response, n_tokens=response.scores[0].n_tokens + 1)


class DropsAnOption(Changed):
    def change(self, i: int, response: ScoreResponse) -> Response:
        return ScoreResponse(response.scores[:-1])


class Fails(Changed):
    def change(self, i: int, response: ScoreResponse) -> Response:
        return Failure("out of memory")


class CountsNothing(Changed):
    def score(self, requests: Sequence[EncodedRequest], done: Collection[int] = ()) -> Answers:
        answers = list(super().score(requests, done))
        self.usage.tokens_computed = 0
        yield from answers


class CountsTooMuch(Changed):
    def score(self, requests: Sequence[EncodedRequest], done: Collection[int] = ()) -> Answers:
        self.usage.tokens_computed += 100_000
        return super().score(requests, done)


class WrongTokens(MockBackend):
    def token_stats(
        self, requests: Sequence[EncodedRequest], done: Collection[int] = ()
    ) -> Iterator[tuple[int, tuple[TokenStats, ...] | Failure]]:
        for i, answer in super().token_stats(requests, done):
            assert not isinstance(answer, Failure)
            yield i, tuple(replace(stats, logprob=stats.logprob - 1) for stats in answer)


class NoLength(Changed):
    @property
    def info(self) -> ModelInfo:
        return replace(super().info, max_length=0)


class NotJson(Changed):
    @property
    def info(self) -> ModelInfo:
        return replace(super().info, details={"dtype": object})


def test_the_mock_backend_conforms() -> None:
    check_backend(MockBackend())


@pytest.mark.parametrize(
    ("backend", "rule"),
    [
        (Repeats, "every index once: .* twice"),
        (Forgets, "every index once"),
        (Restarts, "independent of what is done"),
        (Drifts, "deterministic"),
        (DependsOnPlace, "independent of order"),
        (DependsOnDone, "independent of what is done .* identical"),
        (Wrong, "one-token options: agreement with plain forwards"),
        (Infinite, "finite"),
        (Certain, "at most 0"),
        (Miscounts, "token counts"),
        (DropsAnOption, "3 scores for 4 continuations"),
        (Fails, "no scores but .*out of memory"),
        (WrongTokens, "token statistics: they add up to"),
        (CountsNothing, "usage: tokens_computed does not grow"),
        (CountsTooMuch, "usage: .* computed where nothing shared takes"),
        (NoLength, "info: max_length is 0"),
        (NotJson, "info: it cannot be written as JSON"),
    ],
)
def test_a_broken_backend_is_told_which_rule_it_breaks(backend: type[MockBackend], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_backend(backend())


# -- tasks ------------------------------------------------------------------------------------------

MMLU = get_task("mmlu")


@pytest.mark.parametrize("name", ["mmlu", "ceval", "cmmlu"])
def test_our_tasks_conform(name: str) -> None:
    check_task(get_task(name))


def with_protocol(**changes: Any) -> Task:
    name = MMLU.default_protocol
    return replace(MMLU, protocols={name: replace(MMLU.protocols[name], **changes)})


def gives_itself_away(p: PromptInput) -> ScoreRequest:
    return ScoreRequest(f"The answer is {p.sample.target}:", ("A", "B", "C", "D"))


@pytest.mark.parametrize(
    ("task", "rule"),
    [
        (replace(MMLU, name="mm lu"), "no blank"),
        (replace(MMLU, title=""), "title is empty"),
        (replace(MMLU, splits=("test", "test")), "splits repeat"),
        (replace(MMLU, shots_split="train"), "unknown split 'train'"),
        (replace(MMLU, sizes={"train": 1}), "sizes name unknown splits"),
        (replace(MMLU, subsets={}), "no subset"),
        (replace(MMLU, default_protocol="none"), "no default protocol 'none'"),
        (with_protocol(name="other"), "calls itself 'other'"),
        (with_protocol(source=" "), "source is missing"),
        (with_protocol(default_split="train"), "unknown default split"),
        (with_protocol(default_shots=9), "9 examples by default, at most 5"),
        (with_protocol(groups=Grouping({"x": ("nothing",)}, "micro")), "unknown subsets"),
        (with_protocol(groups=Grouping({"x": ()}, "micro")), "is empty"),
        (with_protocol(render=gives_itself_away), "depends on the answer"),
        (with_protocol(render=lambda p: ScoreRequest("Q", ())), "asks nothing"),
        (with_protocol(render=lambda p: ScoreRequest("Q", ("A", ""))), "empty text"),
        (with_protocol(render=lambda p: ScoreRequest("Q", ("A", "B"))), "for 4 options"),
    ],
)
def test_a_broken_task_is_told_which_rule_it_breaks(task: Task, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_task(task)
