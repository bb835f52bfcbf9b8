from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evalkit.data.source import open_source
from evalkit.errors import UsageError
from evalkit.leakage.isolation import isolation_score
from evalkit.leakage.items import Item
from evalkit.leakage.order_test import order_test, ranks
from evalkit.leakage.scores import Floats, ItemScores, PermutationScores, all_orders
from evalkit.leakage.simulate import simulate
from evalkit.leakage.source_exposure import Peak, peak, source_exposure, swapped
from evalkit.registry import get_task

ORDERS = all_orders(4)
INDEX = {tuple(order): row for row, order in enumerate(ORDERS.tolist())}
AFTER = np.array([[INDEX[tuple(first[order])] for order in ORDERS] for first in ORDERS])
"""AFTER[s, k]: the order that reads like order k of options that were first put in order s."""


def exam(sizes: Sequence[int], rng: np.random.Generator) -> list[Item]:
    def options(s: int, i: int) -> tuple[str, ...]:
        return tuple(f"{'x' * rng.integers(1, 40)} {s} {i} {k}" for k in range(4))

    return [
        Item(f"subject {s}", str(i), f"question {i}", options(s, i))
        for s, size in enumerate(sizes)
        for i in range(size)
    ]


def check_controls(items: Sequence[Item], controls: Sequence[Item]) -> None:
    by_key = {(item.subset, item.sample_id): item for item in items}
    owners: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    together = defaultdict(set)
    for item in items:
        for slot, text in enumerate(item.options):
            owners[item.subset, slot, text].add(item.sample_id)
        for pair in itertools.combinations(item.options, 2):
            together[item.subset].add(frozenset(pair))
    for control in controls:
        item = by_key[control.subset, control.sample_id]
        assert (control.question, control.lead) == (item.question, item.lead)
        assert len(control.options) == len(item.options) == control.n_distinct
        for slot, text in enumerate(control.options):
            assert owners[item.subset, slot, text] - {item.sample_id}
        for pair in itertools.combinations(control.options, 2):
            assert frozenset(pair) not in together[control.subset]


def test_controls_mix_options_that_never_met() -> None:
    items = exam([30, 12], np.random.default_rng(0))
    controls = swapped(items)
    check_controls(items, controls)
    assert [(c.subset, c.sample_id) for c in controls] == [(i.subset, i.sample_id) for i in items]
    assert swapped(items) == controls
    assert swapped(items, seed=1) != controls


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=4), max_size=12), st.integers(0, 3)
)
def test_controls_of_any_items(options: list[list[str]], seed: int) -> None:
    items = [Item("s", str(i), "?", tuple(texts)) for i, texts in enumerate(options)]
    check_controls(items, swapped(items, seed))


def test_items_that_cannot_be_swapped_have_no_control() -> None:
    rng = np.random.default_rng(0)
    assert swapped([]) == []
    assert swapped(exam([4], rng)) == []  # four options need four other items
    assert len(swapped(exam([5], rng))) == 5
    judged = [Item("morals", str(i), f"{i}?", ("both", "first", "second", "none")) for i in range(20)]
    controls = swapped([*judged, *exam([9], rng)])
    assert {control.subset for control in controls} == {"subject 0"}


def test_controls_have_options_of_like_length_and_reuse_few() -> None:
    items = exam([60], np.random.default_rng(2))
    controls = swapped(items)
    own = np.array([[len(text) for text in item.options] for item in items])
    new = np.array([[len(text) for text in item.options] for item in controls])
    assert np.abs(new - own).mean() < 0.25 * np.abs(own - np.roll(own, 1, axis=0)).mean()
    uses = Counter(text for control in controls for text in control.options)
    assert max(uses.values()) <= 4


def scored(logprobs: Floats, subjects: int = 10) -> PermutationScores:
    return PermutationScores(
        "made-up",
        tuple(ItemScores(f"s{i % subjects}", str(i), ORDERS, row) for i, row in enumerate(logprobs)),
    )


def test_peaks_by_hand() -> None:
    logprobs = np.random.default_rng(0).normal(0, 1, (5, 24))
    scores = scored(logprobs)
    f = logprobs - logprobs.mean(axis=1, keepdims=True)
    ordered = np.sort(f, axis=1)
    np.testing.assert_allclose(peak(scores), ordered[:, -1] / f.std(axis=1))
    np.testing.assert_allclose(peak(scores, "gap"), (ordered[:, -1] - ordered[:, -2]) / f.std(axis=1))
    np.testing.assert_allclose(peak(scores, "isolation"), -isolation_score(f))


@pytest.mark.parametrize("statistic", get_args(Peak))
def test_peaks_depend_neither_on_scale_nor_on_the_published_order(statistic: Peak) -> None:
    logprobs = np.random.default_rng(1).normal(0, 1, (20, 24))
    expected = peak(scored(logprobs), statistic)
    np.testing.assert_allclose(peak(scored(5 * logprobs - 300), statistic), expected, rtol=1e-9)
    np.testing.assert_allclose(peak(scored(logprobs[:, AFTER[13]]), statistic), expected, rtol=1e-9)


def test_an_item_whose_orders_are_all_alike_has_no_peak() -> None:
    assert peak(scored(np.full((1, 24), -123.4))).tolist() == [0.0]


def model(
    n: int, rng: np.random.Generator, *, exposed: float = 0.0, fluency: Floats | None = None
) -> tuple[PermutationScores, PermutationScores]:
    """Scores of items and of controls; an exposed item is remembered in some order, not the published."""
    own = simulate(n, 4, exposed, rng, slot_sd=0.3, adjacency_sd=0.3, spike=1.0, prefix_bump=0.7).scores
    logprobs = np.stack([item.logprobs for item in own.items])
    logprobs = np.take_along_axis(logprobs, AFTER[rng.integers(0, 24, n)], axis=1)
    if fluency is not None:
        logprobs += fluency
    control = simulate(n, 4, 0.0, rng, slot_sd=0.3, adjacency_sd=0.3).scores
    return scored(logprobs), scored(np.stack([item.logprobs for item in control.items]))


def test_without_exposure_p_is_uniform_and_the_interval_covers_zero() -> None:
    rng = np.random.default_rng(3)
    found = [source_exposure(*model(120, rng)) for _ in range(60)]
    assert stats.kstest([result.peak.p for result in found], "uniform").pvalue > 0.01
    covered = [result.peak.ci95[0] <= 0 <= result.peak.ci95[1] for result in found]
    assert np.mean(covered) >= 0.87
    assert found[0].controlled == "swapped options"
    assert (found[0].n, found[0].n_subsets) == (120, 10)


def test_exposure_in_another_order_is_found_where_the_order_test_sees_nothing() -> None:
    rng = np.random.default_rng(4)
    benchmark, control = model(600, rng, exposed=0.5)
    assert order_test(ranks(benchmark)).p > 0.01
    found = source_exposure(benchmark, control)
    assert found.peak.p < 0.005
    assert found.peak.ci95[0] > 0
    assert found.effect > 0.2
    assert found.flagged_benchmark - found.flagged_control == pytest.approx(found.flagged.value)
    # A third of items is flagged without any exposure: the rate alone says nothing.
    assert found.flagged_control > 0.15


def test_height_needs_fewer_items_than_the_alternatives() -> None:
    benchmark, control = model(3000, np.random.default_rng(5), exposed=1.0)
    effects = {s: source_exposure(benchmark, control, statistic=s).effect for s in get_args(Peak)}
    assert effects["height"] > 1.1 * max(effects["gap"], effects["isolation"])


def test_fluent_lists_look_like_exposure_to_swaps_alone_but_not_beside_references() -> None:
    rng = np.random.default_rng(6)
    n = 400
    alone, beside, exposed = [], [], []
    for _ in range(12):
        # Each list reads well in one order, to every model.
        fluency = np.zeros((n, 24))
        fluency[np.arange(n), rng.integers(0, 24, n)] = rng.exponential(1.5, n)
        references = [model(n, rng, fluency=fluency) for _ in range(3)]
        clean = model(n, rng, fluency=fluency)
        alone.append(source_exposure(*clean))
        beside.append(source_exposure(*clean, references))
        exposed.append(source_exposure(*model(n, rng, exposed=0.6, fluency=fluency), references))
    assert np.median([found.peak.p for found in alone]) < 0.01
    assert alone[0].controlled == "swapped options"
    assert stats.kstest([found.peak.p for found in beside], "uniform").pvalue > 0.01
    assert beside[0].controlled == "swapped options and reference models"
    assert np.median([found.peak.p for found in exposed]) < 0.01


def test_pairs_are_found_by_subset_and_id() -> None:
    rng = np.random.default_rng(7)
    benchmark, control = model(100, rng, exposed=1.0)
    turned = replace(control, items=control.items[::-1][20:])
    expected = source_exposure(benchmark.only(range(80)), control.only(range(80)))
    assert source_exposure(benchmark, turned) == expected


def test_one_subject_is_resampled_by_item() -> None:
    rng = np.random.default_rng(8)
    benchmark, control = (
        scored(np.stack([item.logprobs for item in scores.items]), subjects=1)
        for scores in model(300, rng, exposed=1.0)
    )
    found = source_exposure(benchmark, control)
    excess = peak(benchmark) - peak(control)
    assert found.n_subsets == 1
    assert found.peak.value == pytest.approx(excess.mean())
    width = found.peak.ci95[1] - found.peak.ci95[0]
    assert width == pytest.approx(2 * 1.96 * excess.std() / np.sqrt(300), rel=0.1)
    assert found.peak.p == 1 / 20_000


def test_nothing_in_common_is_refused() -> None:
    benchmark, control = model(60, np.random.default_rng(9))
    with pytest.raises(UsageError, match="--limit"):
        source_exposure(benchmark, replace(control, items=()))


@pytest.mark.data
def test_official_items_have_controls(official_data: Path) -> None:
    task, source = get_task("mmlu"), open_source(str(official_data), offline=True)
    items = [
        Item(subset, sample.id, sample.fields["question"], tuple(sample.fields[x] for x in "ABCD"))
        for subset in ("abstract_algebra", "college_chemistry", "moral_scenarios")
        for sample in source.load(task, "test", subset)
    ]
    controls = swapped(items)
    check_controls(items, controls)
    kept = Counter(control.subset for control in controls)
    # Every question on morals has the same four options.
    assert kept == {"abstract_algebra": 100, "college_chemistry": 100}
