"""Every scoring path of every kind of model against one plain forward per sequence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from evalkit.backends.hf.attention import UnsupportedAttention
from evalkit.backends.hf.backend import HfBackend
from evalkit.planner import Step
from evalkit.testing import check_backend
from evalkit.tokens import EncodedRequest, Ids
from evalkit.types import Failure, Response, ScoreResponse

SHARING = ("tree", "expanded", "plain")
MODELS_AND_PATHS = {
    **dict.fromkeys(("llama-grouped", "llama-multihead", "llama-tied", "mixtral", "qwen2", "gpt2"), SHARING),
    **dict.fromkeys(("phi", "gemma", "cohere", "granite", "opt", "latent-attention"), SHARING),
    **dict.fromkeys(("llama-dynamic-rope", "phi3-longrope"), SHARING),
    **dict.fromkeys(("mistral-window", "bloom"), SHARING[1:]),
    **dict.fromkeys(("gemma2", "llama4", "recurrent", "recurrent-gemma", "hybrid"), SHARING[2:]),
}
EVERY_PATH = [(name, path) for name, paths in MODELS_AND_PATHS.items() for path in paths]


# -- requests ---------------------------------------------------------------------------------------


def ids(seed: int, n: int) -> Ids:
    return np.random.default_rng(seed).integers(3, 400, n).astype(np.int32)


def question(base: Ids, *tails: Ids) -> EncodedRequest:
    return EncodedRequest(base, tails, (len(base),) * len(tails))


def whole_texts(*texts: Ids) -> EncodedRequest:
    return EncodedRequest(ids(9, 0), tuple(texts), (1,) * len(texts), whole=True)


LETTERS = [np.asarray([token], np.int32) for token in (11, 12, 13, 14)]


def subjects() -> list[EncodedRequest]:
    """Two subjects with examples of their own below a common header: the cache must be cut back between."""
    header = ids(0, 90)
    shots = [np.concatenate([header, ids(subject, 60 + 10 * subject)]) for subject in (1, 2)]
    return [
        question(np.concatenate([stem, ids(q, 5 + 4 * q)]), *LETTERS) for stem in shots for q in range(3, 8)
    ]


def trees() -> list[EncodedRequest]:
    """Options that share leading tokens, and options in several orders, after nested contexts."""
    bag = []
    for prefix in (20, 150):
        stem = np.concatenate([ids(0, 90), ids(1, 70)])[:prefix]
        lead, options = ids(prefix, 4), [ids(50 + k, 3) for k in range(3)]
        bag.append(question(stem, *(np.concatenate([lead[:k], ids(prefix + k, 3 + k)]) for k in range(4))))
        orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0)]
        bag.append(question(stem, *(np.concatenate([options[k] for k in order]) for order in orders)))
    return bag


def mixed_bag() -> list[EncodedRequest]:
    """All of these, whole texts, a context of one token and a request that is asked twice."""
    texts = whole_texts(ids(0, 60), np.concatenate([ids(0, 50), ids(60, 20)]))
    bag = [*subjects(), *trees(), texts, question(ids(70, 1), *LETTERS, ids(71, 5))]
    return [*bag, bag[0]]


BAG = mixed_bag()


@cache
def references(name: str) -> list[ScoreResponse]:
    """Plain forwards of the mixed bag in float32."""
    return plain_forwards(tiny.backend(name), BAG)


def plain_forwards(backend: HfBackend, requests: Sequence[EncodedRequest]) -> list[ScoreResponse]:
    return [backend.score_reference(r) for r in requests]


def scored(backend: HfBackend, requests: Sequence[EncodedRequest]) -> list[Response]:
    answers = dict(backend.score(requests))
    assert sorted(answers) == list(range(len(requests)))
    return [answers[i] for i in range(len(requests))]


def difference(got: Sequence[Response], expected: Sequence[ScoreResponse]) -> float:
    """Largest difference of a log-probability, after checking that all else is equal."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        assert isinstance(a, ScoreResponse)
        assert [s.n_tokens for s in a.scores] == [s.n_tokens for s in b.scores]
        assert [s.is_greedy for s in a.scores] == [s.is_greedy for s in b.scores]
        worst = max([worst, *(abs(x.logprob - y.logprob) for x, y in zip(a.scores, b.scores, strict=True))])
    return worst


# -- every path says what plain forwards say ----------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), EVERY_PATH)
def test_a_path_equals_plain_forwards(name: str, path: str) -> None:
    backend = tiny.backend(name, batch_tokens=256, path=path)
    assert difference(scored(backend, BAG), references(name)) < 1e-4
    assert tiny.scoring_path(backend) == path


@pytest.mark.parametrize("path", SHARING)
@pytest.mark.parametrize("batch_tokens", [9, 64, 4096])
def test_scores_do_not_depend_on_the_batch_budget(path: str, batch_tokens: int) -> None:
    backend = tiny.backend("llama-grouped", batch_tokens=batch_tokens, path=path)
    assert difference(scored(backend, BAG), references("llama-grouped")) < 1e-4


@pytest.mark.parametrize("name", [name for name in MODELS_AND_PATHS if name != "mistral-window"])
def test_a_model_is_offered_only_the_paths_it_supports(name: str) -> None:
    assert tiny.paths(name) == list(MODELS_AND_PATHS[name])


@pytest.mark.parametrize("name", [name for name in MODELS_AND_PATHS if name != "mistral-window"])
def test_tiny_models_look_at_their_whole_context(name: str) -> None:
    # Otherwise none of these tests would notice a context that is dropped or moved.
    backend = tiny.backend(name, path="plain")
    base, tail = ids(0, 60), ids(1, 4)
    other = base.copy()
    other[5] += 1
    (a,), (b,) = (backend.score_reference(question(x, tail)).scores for x in (base, other))
    assert abs(a.logprob - b.logprob) > 1e-3


@pytest.mark.parametrize("path", SHARING)
def test_bfloat16_stays_close_to_plain_forwards(path: str) -> None:
    backend = tiny.backend("llama-grouped", dtype=torch.bfloat16, path=path)
    for a, b in zip(scored(backend, BAG[8:]), plain_forwards(backend, BAG[8:]), strict=True):
        assert isinstance(a, ScoreResponse)
        for x, y in zip(a.scores, b.scores, strict=True):
            assert x.logprob == pytest.approx(y.logprob, abs=0.5 * x.n_tokens**0.5)


@pytest.mark.parametrize("name", ["llama-grouped", "mixtral", "gpt2", "phi3-longrope"])
@pytest.mark.parametrize("path", SHARING)
def test_a_path_conforms(name: str, path: str) -> None:
    check_backend(tiny.backend(name, path=path))


def test_bfloat16_conforms() -> None:
    check_backend(tiny.backend("llama-grouped", dtype=torch.bfloat16))


# -- falling back -----------------------------------------------------------------------------------


def test_a_window_shorter_than_the_prompt_is_left_to_the_next_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = tiny.backend("mistral-window", batch_tokens=256)
    assert tiny.scoring_path(backend) == "tree"
    assert difference(scored(backend, BAG), references("mistral-window")) < 1e-4
    assert tiny.scoring_path(backend) == "expanded"
    assert "sliding window of 24" in caplog.text


@pytest.mark.usefixtures("two_threads")
def test_a_window_that_only_some_questions_exceed_is_left_to_the_next_path_for_all_that_follow() -> None:
    backend = tiny.backend("mistral-wide-window", batch_tokens=64)
    assert tiny.scoring_path(backend) == "tree"
    assert difference(scored(backend, BAG), references("mistral-wide-window")) < 1e-4
    assert tiny.scoring_path(backend) == "expanded"


def test_a_window_longer_than_the_prompt_changes_nothing() -> None:
    backend = tiny.backend("mistral-window")
    short = [question(ids(q, 18), *LETTERS) for q in range(4)]
    assert difference(scored(backend, short), plain_forwards(backend, short)) < 1e-4
    assert tiny.scoring_path(backend) == "tree"


@pytest.mark.parametrize(("upper", "lower"), [("tree", "expanded"), ("expanded", "plain")])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_path_that_gives_up_in_the_middle_of_a_window_hands_over(
    upper: str, lower: str, after: int
) -> None:
    backend = tiny.backend("llama-grouped", batch_tokens=128, path=upper)
    run, calls = backend._path.run, iter(range(after))

    def giving_up(step: Step, context: Ids) -> torch.Tensor:
        if next(calls, None) is None:
            raise UnsupportedAttention("tired")
        return run(step, context)

    backend._path.run = giving_up  # type: ignore[method-assign]
    assert difference(scored(backend, BAG), references("llama-grouped")) < 1e-4
    assert tiny.scoring_path(backend) == lower


def test_the_simplest_path_has_nothing_below_it() -> None:
    assert tiny.backend("llama-grouped", path="plain").downgrade() is None


# -- running out of memory --------------------------------------------------------------------------


def with_little_memory(backend: HfBackend, most_tokens: int) -> HfBackend:
    """The backend, unable to run steps of more than so many tokens."""
    run = backend._path.run

    def limited(step: Step, context: Ids) -> torch.Tensor:
        if len(step.tokens) > most_tokens:
            raise torch.OutOfMemoryError("no more of it")
        return run(step, context)

    backend._path.run = limited  # type: ignore[method-assign]
    return backend


def long_questions() -> list[EncodedRequest]:
    """Nine questions of 110 tokens and one of 200 below a prefix of 90, and a short one on its own."""
    stems = [np.concatenate([ids(0, 90), ids(q, 110 if q < 10 else 200)]) for q in range(1, 11)]
    return [question(stem, *LETTERS) for stem in [*stems, ids(99, 20)]]


@pytest.mark.parametrize("path", SHARING)
def test_a_step_that_does_not_fit_is_split(path: str) -> None:
    backend, bag = tiny.backend("llama-grouped", batch_tokens=1024, path=path), long_questions()
    with_little_memory(backend, 250)
    assert difference(scored(backend, bag), plain_forwards(backend, bag)) < 1e-4


@pytest.mark.parametrize("path", SHARING)
@pytest.mark.parametrize(
    ("most_tokens", "failing"),
    [(150, {9}), (80, set(range(10))), (0, set(range(11)))],
    ids=["a long question", "a shared prefix", "everything"],
)
def test_what_cannot_be_split_fails_alone(path: str, most_tokens: int, failing: set[int]) -> None:
    backend, bag = tiny.backend("llama-grouped", batch_tokens=1024, path=path), long_questions()
    check_failures(with_little_memory(backend, most_tokens), bag, failing)


def check_failures(backend: HfBackend, bag: list[EncodedRequest], failing: set[int]) -> None:
    """These requests fail for want of memory, and all others have the right scores."""
    answers = scored(backend, bag)
    failures = {i: a.error for i, a in enumerate(answers) if isinstance(a, Failure)}
    assert set(failures) == failing
    assert all("out of memory" in error for error in failures.values())
    survivors = [i for i in range(len(bag)) if i not in failing]
    expected = plain_forwards(backend, [bag[i] for i in survivors])
    assert difference([answers[i] for i in survivors], expected) < 1e-4


@pytest.mark.parametrize("path", SHARING[:2])
def test_questions_that_fit_fail_with_the_prefix_that_does_not(path: str) -> None:
    prefix = ids(0, 90)
    bag = [question(np.concatenate([prefix, ids(q, 30)]), *LETTERS) for q in range(1, 11)]
    backend = tiny.backend("llama-grouped", batch_tokens=100, path=path)
    check_failures(with_little_memory(backend, 80), bag, set(range(10)))


@pytest.mark.parametrize("path", SHARING[:2])
def test_a_prefix_that_breaks_off_between_layers_leaves_no_trace(path: str) -> None:
    backend, bag = tiny.backend("llama-grouped", batch_tokens=128, path=path), subjects()
    first_subject = 70

    def out_of_memory(module: Any, args: tuple[Any, ...]) -> None:
        if args[0].shape[:2] == (1, first_subject):
            raise torch.OutOfMemoryError("no more of it")

    hook = backend._model.model.layers[1].register_forward_pre_hook(out_of_memory)
    check_failures(backend, bag, set(range(5)))
    hook.remove()
    check_failures(backend, bag, set())


def test_any_other_error_is_not_taken_for_want_of_memory() -> None:
    backend = tiny.backend("llama-grouped")

    def broken(step: Step, context: Ids) -> torch.Tensor:
        raise RuntimeError("a bug")

    backend._path.run = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        list(backend.score(BAG))


# -- resuming and counting --------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHARING)
def test_what_is_left_of_a_run_is_computed_exactly_as_before(path: str) -> None:
    resume(tiny.backend("llama-grouped", batch_tokens=64, path=path))


@pytest.mark.usefixtures("two_threads")
def test_steps_side_by_side_say_what_plain_forwards_say_and_can_be_resumed() -> None:
    backend = tiny.backend("llama-grouped", batch_tokens=64)
    assert difference(scored(backend, BAG), references("llama-grouped")) < 1e-4
    resume(backend)


def resume(backend: HfBackend) -> None:
    whole = scored(backend, BAG)
    done = set(range(0, len(BAG), 2))
    assert dict(backend.score(BAG, done)) == {i: r for i, r in enumerate(whole) if i not in done}


def test_the_simpler_the_path_the_more_tokens_are_computed() -> None:
    computed = []
    for path in SHARING:
        backend = tiny.backend("llama-grouped", path=path)
        scored(backend, BAG)
        computed.append(backend.usage.tokens_computed)
    assert computed == sorted(computed)
    assert computed[0] < sum(r.n_logical for r in BAG) / 2
