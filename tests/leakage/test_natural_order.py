from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from evalkit.data.source import open_source
from evalkit.errors import UsageError
from evalkit.leakage import convolution, lattice
from evalkit.leakage.conditional_test import conditional_order_test
from evalkit.leakage.items import Item
from evalkit.leakage.natural_order import OrderDiagnostic, diagnose
from evalkit.leakage.option_text import is_catch_all, number
from evalkit.leakage.order_test import order_test, ranks
from evalkit.leakage.publisher_law import FEATURES, PublisherLaw, fit_publisher, order_features
from evalkit.leakage.scores import Floats, ItemScores, PermutationScores, all_orders, sampled_orders
from evalkit.registry import get_task

ORDERS = all_orders(4)
INDEX = {tuple(order): row for row, order in enumerate(ORDERS.tolist())}
AFTER = np.array([[INDEX[tuple(first[order])] for order in ORDERS] for first in ORDERS])
"""AFTER[s, k]: the order that reads like order k of options that were first put in order s."""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        (" $1,234.50 ", 1234.5),
        ("１２％", 12),
        ("-3.5 m/s", -3.5),
        ("−7", -7),
        ("3/4", 0.75),
        ("1.6 × 10^-19 C", 1.6e-19),
        ("$2.0×10^{-3}$ N", 2e-3),
        ("1e5", 1e5),
        ("1998年", 1998),
        ("公元前206年", -206),
        ("二十三岁", 23),
        ("一千二百", 1200),
        ("十", 10),
        ("5万元", 50_000),
        ("约3亿", 3e8),
        ("about 20", 20),
        ("①②③", 123),
        ("1,2,3", 1),
        ("blue", None),
        ("x = 3", None),
        ("", None),
    ],
)
def test_number_an_option_begins_with(text: str, value: float | None) -> None:
    assert number(text) == (None if value is None else pytest.approx(value, rel=1e-12))


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    value = number(text)
    assert value is None or not math.isnan(value)
    assert is_catch_all(text) in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        "All of the above",
        "none of the above.",
        "None of these",
        "All of the options given are correct",
        "Both (a) and (c)",
        "Neither A nor B",
        "cannot be determined",
        "以上都不对",
        "以上说法均正确。",
        "以上皆是",
        "都不对",
        "其他三个选项都不正确",
        "无法确定",
        "上記のいずれでもない",
        "위의 모두",
    ],
)
def test_catch_all_options(text: str) -> None:
    assert is_catch_all(text)


@pytest.mark.parametrize(
    "text",
    ["20元以上", "都是DNA", "both lungs are inflated", "A above B", "Core", "平均数", "al", "D and E flat"],
)
def test_options_that_only_look_like_catch_alls(text: str) -> None:
    assert not is_catch_all(text)


def test_features_are_counts_of_pairs_out_of_order() -> None:
    features = dict(zip(FEATURES, order_features(["3", "1", "20", "10"], ORDERS).T, strict=True))
    values = np.array([3, 1, 20, 10])
    falls = [sum(a > b for a, b in itertools.combinations(values[order], 2)) for order in ORDERS]
    assert features["numbers that fall"].tolist() == falls
    assert features["numbers all rise"].tolist() == [fall == 0 for fall in falls]
    assert features["numbers all fall"].tolist() == [fall == 6 for fall in falls]
    assert not features["lengths that fall"].any()

    options = ["None of the above", "blue", "green", "red"]
    features = dict(zip(FEATURES, order_features(options, ORDERS).T, strict=True))
    assert features["options after a catch-all"][0] == 3
    assert features["options after a catch-all"].min() == 0
    assert features["lengths that fall"][0] == 3 + 1 + 1
    assert features["texts against the alphabet"][0] == 0  # upper case comes first
    assert features["texts never against the alphabet"].sum() == 1
    assert not features["numbers all rise"].any()


def test_options_that_read_the_same_are_never_out_of_order() -> None:
    features = order_features(["same"] * 4, ORDERS)
    assert (features == features[0]).all()


@given(st.lists(st.sampled_from(["1", "2", "ten", "all of the above", "x", "xx"]), min_size=4, max_size=4))
def test_features_belong_to_what_is_printed(options: list[str]) -> None:
    features = order_features(options, ORDERS)
    for row in (1, 7, 23):
        printed = [options[i] for i in ORDERS[row]]
        np.testing.assert_array_equal(order_features(printed, ORDERS), features[AFTER[row]])


def test_convolution_of_unequal_laws_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    laws = special.softmax(rng.normal(0, 2, (5, 4)), axis=1)
    laws[1] = [0, 1, 0, 0]
    draws = list(itertools.product(range(4), repeat=5))
    weights = [math.prod(laws[i, x] for i, x in enumerate(draw)) for draw in draws]
    for total in range(18):
        tail = sum(p for draw, p in zip(draws, weights, strict=True) if sum(draw) >= total)
        assert math.exp(convolution.log_tail(laws, total)) == pytest.approx(tail, rel=1e-9, abs=1e-300)


def test_convolution_agrees_with_the_lattice_far_out() -> None:
    laws = np.tile([0.5, 0.25, 0.0, 0.25], (301, 1))
    term = lattice.Term(np.array([0, 1, 3]), np.array([0.5, 0.25, 0.25]), 301)
    for total in (250, 301, 500, 700, 902, 903):
        expected = lattice.log_tail([term], total)
        assert convolution.log_tail(laws, total) == pytest.approx(expected, rel=1e-8)


def numeric_items(n: int, rng: np.random.Generator, natural: bool) -> list[Item]:
    """Items of numbers, some with a catch-all option, some of plain words; 40 to a subject."""
    items = []
    for i in range(n):
        options = [str(x) for x in rng.choice(np.arange(1, 1000), 4, replace=False)]
        if i % 3 == 1:
            options[3] = "None of the above"
        if i % 3 == 2:
            options = ["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(4)]
        if natural and i % 3 < 2 and rng.random() < 0.7:
            options.sort(key=lambda text: (is_catch_all(text), number(text)))
        else:
            rng.shuffle(options)
        items.append(Item(f"subject {i // 40}", str(i), "?", tuple(options)))
    return items


def fluent_scores(
    items: Sequence[Item], rng: np.random.Generator, *, leaked: float = 0.0
) -> PermutationScores:
    """A model that likes rising numbers and catch-all options last, and recalls a share of the items."""
    taste = np.zeros(len(FEATURES))
    taste[[FEATURES.index("numbers all rise"), FEATURES.index("options after a catch-all")]] = 2.0, -1.0
    logprobs = np.stack([order_features(item.options, ORDERS) @ taste for item in items])
    logprobs += rng.normal(0, 1, logprobs.shape)
    logprobs[rng.random(len(items)) < leaked, 0] += 3.0
    return scored(items, logprobs)


def scored(items: Sequence[Item], logprobs: Floats) -> PermutationScores:
    rows = zip(items, logprobs, strict=True)
    return PermutationScores(
        "made-up", tuple(ItemScores(item.subset, item.sample_id, ORDERS, row) for item, row in rows)
    )


def test_a_shuffle_is_told_from_natural_order() -> None:
    rng = np.random.default_rng(0)
    natural = diagnose(numeric_items(300, rng, natural=True))
    assert not natural.random
    assert natural.p < 1e-20
    found = {check.habit for check in natural.checks if check.p < 1e-4}
    assert found >= {"numbers ascend", "catch-all option last"}
    assert not found & {"numbers descend", "lengths descend"}
    alarms = sum(not diagnose(numeric_items(120, rng, natural=False)).random for _ in range(30))
    assert alarms == 0


def test_checks_are_exact_binomial_tests() -> None:
    items = numeric_items(200, np.random.default_rng(1), natural=True)
    check = diagnose(items).checks[0]
    expected = stats.binomtest(check.count, check.n, 1 / 24, alternative="greater").pvalue
    assert check.p == pytest.approx(expected, rel=1e-9)
    assert check.expected == pytest.approx(check.n / 24)


def test_items_of_few_and_many_options_are_diagnosed_together() -> None:
    found = diagnose([Item("s", "0", "?", ("1", "2")), Item("s", "1", "?", tuple("123456789"))] * 3)
    assert found.checks[0].count == 6
    assert found.checks[0].p == pytest.approx((0.5 / math.factorial(9)) ** 3, rel=1e-6)


def test_nothing_to_diagnose_is_no_evidence_of_natural_order() -> None:
    assert diagnose([]).random


@pytest.fixture(scope="module")
def natural() -> tuple[list[Item], PublisherLaw]:
    items = numeric_items(600, np.random.default_rng(3), natural=True)
    return items, fit_publisher(items, scored(items, np.zeros((600, 24))))


def test_the_law_is_of_published_orders_alone(natural: tuple[list[Item], PublisherLaw]) -> None:
    items, law = natural
    again = fit_publisher(items, fluent_scores(items, np.random.default_rng(0), leaked=0.5))
    np.testing.assert_array_equal(law.coefficients, again.coefficients)
    assert law.gain > 0.5
    for orders, probabilities in law.items.values():
        assert probabilities.shape == (len(orders),)
        assert probabilities.sum() == pytest.approx(1)


def test_the_law_of_an_item_is_fitted_without_its_subject() -> None:
    mixed = numeric_items(400, np.random.default_rng(3), natural=True)
    # Where no two items share a text, no item sets a precedent for another.
    items = [item for item in mixed if not any(is_catch_all(text) for text in item.options)]
    first = fit_publisher(items, scored(items, np.zeros((len(items), 24))))
    changed = [item if item.subset != "subject 0" else item.ordered((3, 1, 2, 0)) for item in items]
    second = fit_publisher(changed, scored(changed, np.zeros((len(items), 24))))
    same = [(a == b).all() for a, b in zip(first.coefficients, second.coefficients, strict=True)]
    assert same.count(True) == 1


def test_a_shuffled_benchmark_gets_a_uniform_law() -> None:
    items = numeric_items(600, np.random.default_rng(4), natural=False)
    law = fit_publisher(items, scored(items, np.zeros((600, 24))))
    assert abs(law.gain) < 0.03
    scores = fluent_scores(items, np.random.default_rng(5), leaked=0.2)
    conditional = conditional_order_test(scores, law)
    assert conditional.z == pytest.approx(order_test(ranks(scores)).z, abs=1.5)
    assert conditional.information == pytest.approx(1, abs=0.05)


def test_taste_for_natural_order_is_no_leak() -> None:
    rng = np.random.default_rng(6)
    naive, conditional, raw = [], [], []
    for _ in range(24):
        items = numeric_items(240, rng, natural=True)
        scores = fluent_scores(items, rng)
        law = fit_publisher(items, scores)
        naive.append(order_test(ranks(scores)).p)
        conditional.append(conditional_order_test(scores, law).p)
        raw.append(conditional_order_test(scores, law, "raw").p)
    assert np.median(naive) < 1e-4
    assert stats.kstest(conditional, "uniform").pvalue > 0.01
    assert stats.kstest(raw, "uniform", alternative="greater").pvalue > 0.01


def test_a_leak_shows_beyond_natural_order(natural: tuple[list[Item], PublisherLaw]) -> None:
    items, law = natural
    rng = np.random.default_rng(7)
    found = [conditional_order_test(fluent_scores(items, rng, leaked=0.15), law).p for _ in range(10)]
    assert max(found) < 1e-3


def test_p_is_that_of_the_sum_over_all_orders() -> None:
    rng = np.random.default_rng(8)
    items = [Item("s", str(i), "?", ("p", "q", "r")) for i in range(3)]
    orders = all_orders(3)
    logprobs = rng.normal(0, 1, (3, 6))
    logprobs[0, 3] = logprobs[0, 1]  # a tie
    q = special.softmax(rng.normal(0, 1, (3, 6)), axis=1)
    scores = PermutationScores(
        "x", tuple(ItemScores("s", str(i), orders, row) for i, row in enumerate(logprobs))
    )
    law = PublisherLaw((), np.zeros((1, 0)), 0.0, {("s", str(i)): (orders, q[i]) for i in range(3)})
    higher = (logprobs[:, None, :] > logprobs[:, :, None]) @ q[:, :, None]
    equal = (logprobs[:, None, :] == logprobs[:, :, None]) @ q[:, :, None]
    mid_p = (higher + equal / 2)[..., 0]
    phi = np.rint(16 * -np.log(mid_p))
    tail = sum(
        math.prod(q[range(3), draw])
        for draw in itertools.product(range(6), repeat=3)
        if phi[range(3), draw].sum() >= phi[:, 0].sum()
    )
    test = conditional_order_test(scores, law, "raw")
    assert test.p == pytest.approx(tail)
    np.testing.assert_allclose(test.item_p, mid_p[:, 0])
    assert test.weight.sum() == pytest.approx(1)
    assert test.n == len(items)


def test_items_with_one_possible_order_weigh_nothing() -> None:
    q = np.full((2, 24), 1 / 24)
    q[1] = np.eye(24)[0]
    law = PublisherLaw((), np.zeros((1, 0)), 0.0, {("s", str(i)): (ORDERS, q[i]) for i in range(2)})
    items = [Item("s", str(i), "?", tuple("abcd")) for i in range(2)]
    test = conditional_order_test(scored(items, np.random.default_rng(0).normal(size=(2, 24))), law)
    np.testing.assert_allclose(test.weight, [1, 0])
    assert test.information == pytest.approx(0.5, abs=0.1)


def hidden_world(n: int, rng: np.random.Generator) -> tuple[list[Item], Floats]:
    """A publisher with an inclination that no feature sees, and the inclination by printed order."""
    inclination = rng.normal(0, 1, (n, 24))
    published = np.array([rng.choice(24, p=special.softmax(row)) for row in inclination])
    words = rng.permutation(4 * n).reshape(n, 4)
    items = [
        Item(f"s{i // 50}", str(i), "?", tuple(f"word {w:06}" for w in row)) for i, row in enumerate(words)
    ]
    return items, np.take_along_axis(inclination, AFTER[published], axis=1)


def test_references_stand_in_for_what_no_feature_sees() -> None:
    rng = np.random.default_rng(9)
    items, inclination = hidden_world(1000, rng)
    target = scored(items, inclination + rng.normal(0, 0.5, inclination.shape))
    references = [scored(items, inclination + rng.normal(0, 0.5, inclination.shape)) for _ in range(8)]
    alone = conditional_order_test(target, fit_publisher(items, target))
    helped = conditional_order_test(target, fit_publisher(items, target, references))
    assert alone.z > 6
    assert abs(helped.z) < 3
    planted = np.stack([item.logprobs for item in target.items])
    planted[rng.random(1000) < 0.2, 0] += 3
    law = fit_publisher(items, target, references)
    assert conditional_order_test(scored(items, planted), law).p < 1e-6


def test_references_that_saw_the_benchmark_make_the_test_conservative() -> None:
    rng = np.random.default_rng(10)
    items = numeric_items(600, rng, natural=False)
    noise = [rng.normal(0, 1, (600, 24)) for _ in range(2)]
    for values in noise:
        values[:, 0] += 2.0
    target, reference = (scored(items, values) for values in noise)
    alone = conditional_order_test(target, fit_publisher(items, target))
    blurred = conditional_order_test(target, fit_publisher(items, target, [reference]))
    assert blurred.z < alone.z


def test_sampled_orders_of_many_options() -> None:
    rng = np.random.default_rng(11)
    items, scores = [], []
    for i in range(200):
        options = [str(x) for x in sorted(rng.choice(1000, 8, replace=False))]
        if rng.random() < 0.5:
            rng.shuffle(options)
        items.append(Item(f"s{i % 9}", str(i), "?", tuple(options)))
        scores.append(ItemScores(f"s{i % 9}", str(i), sampled_orders(8, 24, rng), rng.normal(0, 1, 24)))
    task = PermutationScores("many", tuple(scores))
    law = fit_publisher(items, task)
    assert law.gain > 1
    assert 0.001 < conditional_order_test(task, law).p < 0.999


def test_what_cannot_be_compared_is_refused() -> None:
    rng = np.random.default_rng(12)
    items = numeric_items(80, rng, natural=True)
    scores = fluent_scores(items, rng)
    with pytest.raises(UsageError, match="same task"):
        fit_publisher(items, replace(scores, items=()))
    turned = replace(scores, items=tuple(replace(item, orders=ORDERS[::-1]) for item in scores.items))
    with pytest.raises(UsageError, match="other orders"):
        fit_publisher(items, scores, [turned])
    law = fit_publisher(items, scores)
    with pytest.raises(UsageError, match="other orders"):
        conditional_order_test(turned, law)
    with pytest.raises(UsageError, match="none of its items"):
        conditional_order_test(replace(scores, items=()), law)


def official_items(name: str, folder: Path, subjects: int | None = None) -> list[Item]:
    task, source = get_task(name), open_source(str(folder), offline=True)
    return [
        Item(subset, sample.id, sample.fields["question"], tuple(sample.fields[x] for x in "ABCD"))
        for subset in list(task.subsets)[:subjects]
        for sample in source.load(task, "test", subset)
    ]


def rates(found: OrderDiagnostic) -> dict[str, float]:
    return {check.habit: check.count / check.n for check in found.checks}


@pytest.mark.data
def test_cmmlu_is_shuffled(official_data: Path) -> None:
    found = diagnose(official_items("cmmlu", official_data))
    assert found.random
    assert found.p > 0.1
    rate = rates(found)
    assert 0.025 < rate["numbers ascend"] < 0.05
    assert 0.025 < rate["numbers descend"] < 0.05
    assert rate["catch-all option last"] < 0.25
    places, lengths = found.spread
    assert places.p > 1e-3
    assert (lengths.df, lengths.chi2) == (23, pytest.approx(18, abs=2))


@pytest.mark.data
@pytest.mark.parametrize("name", ["mmlu", "ceval"])
def test_mmlu_and_ceval_are_in_natural_order(name: str, official_data: Path) -> None:
    found = diagnose(official_items(name, official_data))
    assert not found.random
    rate = rates(found)
    assert rate["numbers ascend"] > 0.5
    assert rate["catch-all option last"] > 0.9


@pytest.mark.data
def test_clean_model_on_mmlu_is_not_accused(official_data: Path) -> None:
    items = official_items("mmlu", official_data, subjects=12)
    law = fit_publisher(items, scored(items, np.zeros((len(items), 24))))
    rng = np.random.default_rng(13)
    clean = [fluent_scores(items, rng) for _ in range(3)]
    assert min(order_test(ranks(scores)).z for scores in clean) > 4
    z = [conditional_order_test(scores, law).z for scores in clean]
    assert abs(np.mean(z)) < 2  # one draw of the publisher, so not centred on zero
    assert conditional_order_test(fluent_scores(items, rng, leaked=0.1), law).p < 1e-2
