"""The planner against an engine in pure Python that does exactly what the steps say and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalkit import planner
from evalkit.planner import Family, Step, Window, plan
from evalkit.tokens import EncodedRequest, Ids

Path = tuple[int, ...]


@dataclass
class Engine:
    """Runs windows, keeping of the cache only what the steps keep."""

    done: Collection[int] = ()
    edges: dict[int, tuple[Path, int]] = field(default_factory=dict)
    """Of the current window: edge to (the tokens before it, the token it scores)."""
    computed: int = 0
    positions: list[int] = field(default_factory=list)
    scored: dict[int, list[list[tuple[Path, int]]]] = field(default_factory=dict)
    """Finished request to, per sequence, its (history, token) pairs."""

    def run(self, windows: Sequence[Window]) -> Engine:
        for window in windows:
            self._run_window(window)
        return self

    def _run_window(self, window: Window) -> None:
        self.edges = {}
        cache: Path = ()
        for step in window.steps:
            if all(i in self.done for i in step.requests):
                continue
            assert len(cache) >= step.context_len, "the cache does not hold the step's context"
            context = cache[: step.context_len]
            assert context == tokens_of_chain(window, step)
            self._run_step(step, context)
            if step.keep:
                cache = context + tuple(step.tokens.tolist())
            for i in set(step.finishes).difference(self.done):
                self._finish(i, window)
        if not self.done:
            assert sorted(self.edges) == list(range(window.n_edges))

    def _run_step(self, step: Step, context: Path) -> None:
        histories = histories_of(step, context)
        self.computed += len(step.tokens)
        self.positions += step.positions.tolist()
        for row, token, edge in zip(
            step.edge_rows.tolist(), step.edge_tokens.tolist(), step.edge_ids.tolist(), strict=True
        ):
            assert edge not in self.edges, "an edge is scored twice"
            self.edges[edge] = histories[row], token

    def _finish(self, i: int, window: Window) -> None:
        assert i not in self.scored, "a request finishes twice"
        self.scored[i] = [[self.edges[e] for e in ids.tolist()] for ids in window.sequence_edges[i]]


def tokens_of_chain(window: Window, step: Step) -> Path:
    """The context that a step names, read from the prefill steps it stands on."""
    pieces: list[Path] = []
    while step.context >= 0:
        below = window.steps[step.context]
        assert below.keep
        assert step.context_len == below.context_len + len(below.tokens)
        assert set(step.requests) <= set(below.requests), "a context is skipped though a request needs it"
        pieces.append(tuple(below.tokens.tolist()))
        step = below
    assert step.context_len == 0
    return tuple(chain.from_iterable(reversed(pieces)))


def histories_of(step: Step, context: Path) -> list[Path]:
    """All tokens that each row sees, itself included."""
    histories: list[Path] = []
    assert [f.begin for f in step.families] == [0, *(f.end for f in step.families)][:-1]
    assert step.families[-1].end == len(step.tokens) == len(step.positions)
    for family in step.families:
        parents = range(-1, len(family) - 1) if family.parents is None else family.parents.tolist()
        for local, parent in enumerate(parents):
            assert -1 <= parent < local
            above = context if parent < 0 else histories[family.begin + parent]
            row = family.begin + local
            assert step.positions[row] == len(above)
            histories.append((*above, int(step.tokens[row])))
    if step.keep:
        assert len(step.families) == 1
        assert step.families[0].parents is None
    return histories


def expected(request: EncodedRequest) -> list[list[tuple[Path, int]]]:
    found = []
    for j, start in enumerate(request.starts):
        ids = tuple(request.sequence(j).tolist())
        found.append([(ids[:k], ids[k]) for k in range(start, len(ids))])
    return found


def check(requests: Sequence[EncodedRequest], batch_tokens: int) -> Engine:
    engine = Engine().run(list(plan(requests, batch_tokens)))
    assert engine.scored == {i: expected(r) for i, r in enumerate(requests)}
    return engine


def ids(values: Sequence[int]) -> Ids:
    return np.asarray(values, np.int32)


def request(base: Sequence[int], *tails: Sequence[int]) -> EncodedRequest:
    """A request whose tails are scored."""
    return EncodedRequest(ids(base), tuple(map(ids, tails)), (max(1, len(base)),) * len(tails))


# -- random sets of sequences -----------------------------------------------------------------------

SMALL = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@st.composite
def request_sets(draw: st.DrawFn) -> list[EncodedRequest]:
    """Requests over three tokens and a few long blocks, so that almost everything is shared."""
    blocks = draw(st.lists(st.tuples(SMALL.filter(len), st.sampled_from([1, 2, 15, 90])), max_size=3))
    pieces = st.sampled_from([(), *(block * times for block, times in blocks)])
    bases = draw(st.lists(st.lists(st.one_of(pieces, SMALL), max_size=4), min_size=1, max_size=5))
    return draw(st.lists(one_request(bases), min_size=1, max_size=12))


@st.composite
def one_request(draw: st.DrawFn, bases: list[list[Path]]) -> EncodedRequest:
    base = sum(draw(st.sampled_from(bases)), ()) + draw(SMALL)
    tails = draw(st.lists(SMALL.filter(len), min_size=1, max_size=5))
    if not base:
        tails = [(0, *tail) for tail in tails]
    starts = tuple(
        draw(st.one_of(st.just(max(1, len(base))), st.integers(1, len(base) + len(tail) - 1)))
        for tail in tails
    )
    return EncodedRequest(ids(base), tuple(map(ids, tails)), starts)


budgets = st.sampled_from([1, 3, 16, 100, 2048])
thorough = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(params=[(256, 256), (2, 2), (8, 3)], ids=["as shipped", "all small", "small savings"])
def _limits(request: pytest.FixtureRequest) -> object:
    """Small limits reach, with short sequences, every decision that long ones meet."""
    saving, window = request.param
    with mock.patch.multiple(planner, MIN_SAVING=saving, _WINDOW_REQUESTS=window, _WINDOW_SHARED=2):
        yield


@pytest.mark.usefixtures("_limits")
class TestAnySetOfSequences:
    @given(requests=request_sets(), batch_tokens=budgets)
    @thorough
    def test_every_scored_token_gets_one_edge_with_its_own_history(
        self, requests: list[EncodedRequest], batch_tokens: int
    ) -> None:
        check(requests, batch_tokens)

    @given(requests=request_sets(), batch_tokens=budgets)
    @thorough
    def test_no_more_tokens_are_computed_than_a_plain_harness_computes(
        self, requests: list[EncodedRequest], batch_tokens: int
    ) -> None:
        assert check(requests, batch_tokens).computed <= sum(r.n_logical for r in requests)

    @given(requests=request_sets(), batch_tokens=budgets)
    @thorough
    def test_no_step_exceeds_the_budget(self, requests: list[EncodedRequest], batch_tokens: int) -> None:
        for window in plan(requests, batch_tokens):
            assert max(len(step.tokens) for step in window.steps) <= batch_tokens

    @given(requests=request_sets(), batch_tokens=budgets, data=st.data())
    @thorough
    def test_the_steps_do_not_depend_on_the_order_of_requests(
        self, requests: list[EncodedRequest], batch_tokens: int, data: st.DataObject
    ) -> None:
        shuffled = data.draw(st.permutations(requests))
        assert arithmetic(plan(requests, batch_tokens)) == arithmetic(plan(shuffled, batch_tokens))

    @given(requests=request_sets(), batch_tokens=budgets, data=st.data())
    @thorough
    def test_a_resumed_run_finishes_the_rest_without_what_only_the_done_needed(
        self, requests: list[EncodedRequest], batch_tokens: int, data: st.DataObject
    ) -> None:
        done = data.draw(st.sets(st.integers(0, len(requests) - 1)))
        engine = Engine(done).run(list(plan(requests, batch_tokens)))
        rest = set(range(len(requests))) - done
        assert engine.scored == {i: expected(requests[i]) for i in rest}

    @given(requests=request_sets(), batch_tokens=budgets)
    @thorough
    def test_the_halves_of_a_step_do_its_work(
        self, requests: list[EncodedRequest], batch_tokens: int
    ) -> None:
        for window in plan(requests, batch_tokens):
            for step in window.steps:
                if len(step.families) > 1:
                    context = tokens_of_chain(window, step)
                    first, second = step.halves()
                    assert edges_of(first, context) | edges_of(second, context) == edges_of(step, context)
                    assert len(first.edge_ids) + len(second.edge_ids) == len(step.edge_ids)
                    assert len(first.tokens) + len(second.tokens) == len(step.tokens)
                    assert first.requests == second.requests == step.requests


def arithmetic(windows: object) -> list[list[object]]:
    """What a plan makes an engine compute, without the numbers that it hands out."""
    return [[_step_arithmetic(step) for step in window.steps] for window in windows]  # type: ignore[attr-defined]


def _step_arithmetic(step: Step) -> object:
    families = [(f.begin, f.end, None if f.parents is None else f.parents.tolist()) for f in step.families]
    scored = sorted(zip(step.edge_rows.tolist(), step.edge_tokens.tolist(), strict=True))
    rows = step.tokens.tolist(), step.positions.tolist()
    return step.context, step.context_len, step.keep, rows, families, scored


def edges_of(step: Step, context: Path) -> dict[int, tuple[Path, int]]:
    histories = histories_of(step, context)
    triples = zip(step.edge_ids.tolist(), step.edge_rows.tolist(), step.edge_tokens.tolist(), strict=True)
    return {edge: (histories[row], token) for edge, row, token in triples}


# -- shapes with a name -----------------------------------------------------------------------------


def random_ids(seed: int, n: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 30_000, n).tolist()


def questions(n: int, prefix: Sequence[int]) -> list[EncodedRequest]:
    return [request([*prefix, *random_ids(q, 20 + q % 30)], [1], [2]) for q in range(n)]


def test_a_few_shot_prefix_is_computed_once_for_a_hundred_questions() -> None:
    engine = check(questions(100, random_ids(0, 400)), 512)
    assert sum(position < 400 for position in engine.positions) == 400


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_packs_come_in_even_rounds_of_lanes(lanes: int) -> None:
    requests = questions(100, random_ids(0, 400))
    (window,) = plan(requests, 512, lanes)
    sizes = [len(step.tokens) for step in window.steps if not step.keep]
    assert len(sizes) % lanes == 0
    assert max(sizes) - min(sizes) <= 2 * max(len(f) for step in window.steps for f in step.families[1:])
    assert Engine().run([window]).scored == {i: expected(r) for i, r in enumerate(requests)}


def test_little_work_is_not_spread_over_many_lanes() -> None:
    (window,) = plan(questions(10, []), 2048, 64)
    assert len(window.steps) == 1


def test_requests_that_share_a_prefix_stay_in_one_window() -> None:
    requests = questions(600, random_ids(0, 400))
    assert len(list(plan(requests, 2048))) == 1
    assert sum(position < 400 for position in check(requests, 2048).positions) == 400


def test_subjects_are_planned_window_by_window() -> None:
    requests = [r for subject in range(4) for r in questions(200, random_ids(1000 + subject, 100))]
    windows = list(plan(requests, 2048))
    assert len(windows) == 2
    check(requests, 2048)


def test_one_token_options_share_the_input_that_predicts_them() -> None:
    (window,) = plan([request([5, 6, 7], [1], [2], [3], [4])], 2048)
    (step,) = window.steps
    assert step.tokens.tolist() == [5, 6, 7]
    assert step.edge_rows.tolist() == [2, 2, 2, 2]


def test_equal_requests_are_computed_once() -> None:
    engine = check([request([5, 6, 7], [8, 9])] * 5, 2048)
    assert engine.computed == 4


def test_options_that_share_leading_tokens_share_their_edges() -> None:
    (window,) = plan([request(random_ids(0, 50), [7, 8, 1], [7, 8, 2, 3])], 2048)
    first, second = window.sequence_edges[0]
    assert first[:2].tolist() == second[:2].tolist()
    assert window.n_edges == 2 + 1 + 2


def test_a_path_longer_than_the_budget_is_cut_into_cached_pieces() -> None:
    engine = check([request(random_ids(0, 1000), [1, 2])], 64)
    assert engine.computed == 1001


def test_very_deep_chains_of_prefixes_do_not_exhaust_the_stack() -> None:
    path = random_ids(0, 1200)
    check([request(path[:n], [1], [2]) for n in range(1, len(path))], 2048)


@pytest.mark.parametrize("build", [tuple, list], ids=["tuple", "list"])
def test_any_sequence_of_requests_can_be_planned(
    build: Callable[[list[EncodedRequest]], Sequence[EncodedRequest]],
) -> None:
    check(build(questions(3, [])), 2048)


def test_nothing_to_score_is_no_window() -> None:
    assert list(plan([], 2048)) == []


def test_a_family_counts_its_rows() -> None:
    assert len(Family(3, 10, None)) == 7
