"""The option-order test for benchmarks whose publisher did not shuffle.

Where numbers ascend and "all of the above" comes last, a model prefers the published order without having
seen it. So the published order is compared not with all orders alike but with those the publisher might as
well have printed: a law Q_i(s) over the orders of each item is estimated from the published orders of other
subjects, never from the model under test, and the rank of the published order is judged by Q_i. This is the
conditional randomisation test of Candès, Fan, Janson and Lv, "Panning for Gold", JRSS B 80 (2018).

The exact test (`evalkit.leakage.order_test`) assumes nothing about the publisher but a shuffle. This one is
as valid as the estimated law is true: an inclination of the publisher that the law misses and the model
shares looks like a leak. Preferences of reference models enter the law to close that gap. One reference
closes about half of it in simulations, ten nearly all; references that have themselves seen the benchmark
make the test conservative.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from evalkit.errors import UsageError
from evalkit.leakage import convolution
from evalkit.leakage.items import Item
from evalkit.leakage.option_text import is_catch_all, number
from evalkit.leakage.order_test import Statistic, order_values
from evalkit.leakage.scores import Floats, ItemScores, Orders, PermutationScores

Ints = NDArray[np.int64]
Key = tuple[str, str]

FEATURES = (
    "numbers that fall",
    "numbers all rise",
    "numbers all fall",
    "options after a catch-all",
    "lengths that fall",
    "lengths never fall",
    "texts against the alphabet",
    "texts never against the alphabet",
)
"""What `order_features` counts, in its columns."""

NOT_RANDOM = 1e-3
"""Level at which a publisher's order counts as natural, over all checks together (Holm)."""

_PRECEDENT = ("agreement with other items",)
_REFERENCES = ("references' log-probability",)
_FOLDS = 5
_RIDGE = 1.0
_TIE = 1e-9
_STEPS = 16
"""Steps per nat on which the scores of items lie."""


def order_features(options: Sequence[str], orders: Orders) -> Floats:
    """Count what makes an order of options look natural, shape (m, 8), columns as in `FEATURES`.

    Pairs out of order are counted: a smaller number, a shorter text or an earlier one (by code point) that is
    printed later, and options printed after one that speaks of the others, such as "all of the above". The
    flags are set where all options are numbers that differ. Options that read the same are never out of
    order.

    Args:
        options: texts of the options, in published order.
        orders: shape (m, n).
    """
    n = len(options)
    numbers = np.array([math.nan if (value := number(text)) is None else value for text in options])
    numeric = np.bool_(_all_numbers(options) is not None)
    # What digits there are follows from the size.
    lengths = np.array([0 if numeric else len(text) for text in options])
    alphabet = np.zeros(n) if numeric else np.unique(np.array(options, np.str_), return_inverse=True)[1]
    catch_all = np.array([is_catch_all(text) for text in options])
    bad_pairs = [
        numbers[:, None] > numbers,
        catch_all[:, None] & ~catch_all,
        lengths[:, None] > lengths,
        alphabet[:, None] > alphabet,
    ]
    falls, after, longer, against = np.stack(bad_pairs).reshape(4, -1) @ _before(orders).T
    rising, falling = numeric & (falls == 0), numeric & (falls == n * (n - 1) / 2)
    lengthening, alphabetical = ~numeric & (longer == 0), ~numeric & (against == 0)
    columns = [falls, rising, falling, after, longer, lengthening, against, alphabetical]
    return np.column_stack(columns).astype(np.float64)


@dataclass(frozen=True, slots=True)
class OrderCheck:
    """How often published orders follow one habit of publishers."""

    habit: str
    count: int
    n: int
    """Items on which the habit could show."""
    expected: float
    """Count to expect of a shuffle."""
    p: float
    """Exact one-sided p-value of `count` under a shuffle."""


@dataclass(frozen=True, slots=True)
class Uniformity:
    """How evenly published orders are spread: shown, but not decided by."""

    what: str
    counts: tuple[int, ...]
    chi2: float
    df: int
    p: float


@dataclass(frozen=True, slots=True)
class OrderDiagnostic:
    """Whether a publisher's order of options looks like a shuffle."""

    random: bool
    """Whether no habit stands out; the exact test may then be used."""
    p: float
    """Smallest p-value of the checks, corrected for their number (Holm)."""
    checks: tuple[OrderCheck, ...]
    spread: tuple[Uniformity, ...]


def diagnose(items: Sequence[Item]) -> OrderDiagnostic:
    """Look for natural order in published orders alone.

    Each habit's count is compared with the law of a shuffle, in which an item of n options is in any one
    order with probability 1/n!. The order counts as random unless a habit is followed more often than that
    with p < 0.001 after correction. A benchmark without numbers, catch-all options and the like may pass
    unseen.

    Args:
        items: items of one benchmark; those with two options that read the same are left out.
    """
    clean = [item for item in items if item.n_distinct == len(item.options)]
    numbers, lengths, texts = [], [], []
    catch_alls: list[tuple[int, int]] = []
    for item in clean:
        if (values := _all_numbers(item.options)) is not None:
            numbers.append(_ranks(values))
        if len({len(text) for text in item.options}) == len(item.options):
            lengths.append(_ranks([len(text) for text in item.options]))
        texts.append(_ranks(item.options))
        places = [place for place, text in enumerate(item.options) if is_catch_all(text)]
        if len(places) == 1:
            catch_alls.append((places[0], len(item.options)))
    last = [place == n - 1 for place, n in catch_alls]
    checks = (
        _sorted_check("numbers ascend", numbers),
        _sorted_check("numbers descend", numbers, reverse=True),
        _check("catch-all option last", last, [1 / n for _, n in catch_alls]),
        _sorted_check("lengths ascend", lengths),
        _sorted_check("lengths descend", lengths, reverse=True),
        _sorted_check("texts in alphabetical order", texts),
    )
    p = min(1.0, len(checks) * min(check.p for check in checks))
    spread = (*_place_of_catch_all(catch_alls), *_order_of_lengths(lengths))
    return OrderDiagnostic(p >= NOT_RANDOM, p, checks, spread)


@dataclass(frozen=True, slots=True)
class PublisherLaw:
    """How a publisher might have ordered the options of each item."""

    columns: tuple[str, ...]
    coefficients: Floats
    """Log-odds per unit of each column, fitted on the other folds, shape (folds, d)."""
    gain: float
    """Mean log-probability of published orders above that of a shuffle, in nats per item, cross-fitted."""
    items: Mapping[Key, tuple[Orders, Floats]]
    """By subset and id: the scored orders and the probability Q_i(s) of each, shape (m,)."""


def fit_publisher(
    items: Sequence[Item],
    scores: PermutationScores,
    references: Sequence[PermutationScores] = (),
    seed: int = 0,
) -> PublisherLaw:
    """Estimate from published orders in which orders the publisher prints options.

    A conditional logit over each item's scored orders (McFadden, "Conditional logit analysis of qualitative
    choice behavior", 1974; valid over a random sample of orders, too): log Q_i(s) = beta · g(s) + constant,
    where g is

    - `order_features`,
    - how far s agrees with the order in which other items print the same texts, such as "True, False" and
      "False, True": the sum over its pairs of log((agreeing + 1) / (opposing + 1)), counted in other items,
    - with references, the mean over them of the order's log-probability, standardised within the item.

    Each of five groups of subjects (of items, if there is one subject) has coefficients fitted on the others.

    Args:
        items: the benchmark's items.
        scores: says which orders were scored; its log-probabilities are not looked at.
        references: other models' scores of the same orders, at best of models too old to have seen the
            benchmark.
        seed: of the grouping.

    Raises:
        UsageError: if fewer than two items are in `items`, `scores` and all `references`, or if a reference
            was scored in other orders.
    """
    texts = {(item.subset, item.sample_id): item for item in items}
    tables = [{_key(item): row for row, item in enumerate(reference.items)} for reference in references]
    known_keys = [texts.keys(), *(table.keys() for table in tables)]
    rows = [row for row, item in enumerate(scores.items) if all(_key(item) in known for known in known_keys)]
    if len(rows) < 2:
        raise UsageError(
            f"{scores.task}: {len(rows)} of {len(scores)} scored items are in the data and in all of "
            f"{len(references)} reference runs; run the references on the same task, subsets and --limit"
        )
    shared = scores.only(rows)
    keys = [_key(item) for item in shared.items]
    aligned = [
        _same_orders(shared, reference.only([table[key] for key in keys]))
        for reference, table in zip(references, tables, strict=True)
    ]
    design, starts = _design([texts[key] for key in keys], shared, aligned)
    folds = _folds(keys, seed)
    of_row = np.repeat(folds, np.diff(starts, append=len(design)))
    coefficients = np.stack(
        [_fit(design[of_row != fold], _starts(shared, folds != fold)) for fold in range(folds.max() + 1)]
    )
    logits = np.einsum("ij,ij->i", design, coefficients[of_row])
    log_laws = [special.log_softmax(part) for part in np.split(logits, starts[1:])]
    return PublisherLaw(
        columns=FEATURES + _PRECEDENT + (_REFERENCES if references else ()),
        coefficients=coefficients,
        gain=float(np.mean([law[0] + math.log(law.size) for law in log_laws])),
        items={
            key: (item.orders, np.exp(law))
            for key, item, law in zip(keys, shared.items, log_laws, strict=True)
        },
    )


@dataclass(frozen=True, slots=True)
class ConditionalOrderTest:
    """Whether published orders stand higher than the publisher's law puts them."""

    n: int
    p: float
    """One-sided p-value, exact if the law is true; 0 where it is below the smallest float."""
    log10_p: float
    z: float
    """(sum of phi_i - its mean) / its standard deviation, both under the law."""
    information: float
    """Variance of the sum under the law, as a share of that under a shuffle."""
    keys: tuple[Key, ...]
    """Subset and id of each item."""
    item_p: Floats
    """Mid-p-value of each item's published order, shape (N,)."""
    weight: Floats
    """Share of each item in the variance of the sum, shape (N,): 0 where the law leaves one order only."""


def conditional_order_test(
    scores: PermutationScores, law: PublisherLaw, statistic: Statistic = "raw"
) -> ConditionalOrderTest:
    """Test that a model is independent of the published order beyond the publisher's law.

    With f the statistic of an order, p_i = Q_i(f > f_i) + Q_i(f = f_i) / 2 for the published order's f_i.
    The sum of phi_i = -log p_i is judged by its law under all Q_i, a convolution. A phi_i is at most log(10
    m) with m orders, lest one order that the law misjudges decides alone, and rounded to 1/16 nat; both are
    part of the statistic, so its law is exact.

    The p-value is exact if Q is the publisher's law, and wrong by as much as it is not. Check it on models
    that cannot have seen the benchmark: theirs must look uniform.

    Raises:
        UsageError: if no item of `scores` is in the law, or one was scored in other orders.
    """
    rows = [row for row, item in enumerate(scores.items) if _key(item) in law.items]
    if not rows:
        raise UsageError(
            f"{scores.task}: none of its items is in the publisher's law; fit it on the same task"
        )
    shared = scores.only(rows)
    keys = tuple(_key(item) for item in shared.items)
    most = max(item.orders.shape[0] for item in shared.items)
    laws, shuffled = np.zeros((2, len(rows), int(_scores(np.zeros(1), most)[0]) + 1))
    item_p, total = np.empty(len(rows)), 0
    for group in shared.groups():
        q = np.stack([_law_of(law, keys[row], group.orders) for row in group.rows])
        values = order_values(group.orders, group.logprobs, statistic)
        tied = _tie_classes(values, _TIE * np.abs(group.logprobs).max(axis=1, keepdims=True))
        mid_p = _mid_p(tied, q)
        item_p[group.rows] = mid_p[:, 0]
        total += int(_scores(mid_p[:, 0], q.shape[1]).sum())
        laws[group.rows] = _law_of_score(mid_p, q, laws.shape[1])
        uniform = np.full_like(q, 1 / q.shape[1])
        shuffled[group.rows] = _law_of_score(_mid_p(tied, uniform), uniform, laws.shape[1])
    mean, variance = convolution.moments(laws)
    spread = float(variance.sum())
    most_spread = float(convolution.moments(shuffled)[1].sum())
    log_p = convolution.log_tail(laws, total)
    return ConditionalOrderTest(
        n=len(rows),
        p=math.exp(log_p),
        log10_p=log_p / math.log(10),
        z=(total - float(mean.sum())) / math.sqrt(spread) if spread else 0.0,
        information=spread / most_spread if most_spread else 0.0,
        keys=keys,
        item_p=item_p,
        weight=variance / spread if spread else variance,
    )


def _all_numbers(options: Sequence[str]) -> list[float] | None:
    """The options' numbers, where all have one and all differ."""
    values = [value for text in options if (value := number(text)) is not None]
    return values if len(set(values)) == len(options) else None


def _before(orders: Orders) -> Floats:
    """Which option stands before which: column a·n + b says whether a comes before b, shape (m, n²)."""
    return _before_cached(orders.shape[1], np.ascontiguousarray(orders, np.int8).tobytes())


@lru_cache(maxsize=64)
def _before_cached(n: int, order_bytes: bytes) -> Floats:
    place = np.argsort(np.frombuffer(order_bytes, np.int8).reshape(-1, n), axis=1)
    return (place[:, :, None] < place[:, None, :]).reshape(-1, n * n).astype(np.float64)


def _ranks(values: Sequence[float] | Sequence[str]) -> tuple[int, ...]:
    """Places of distinct values among each other, from 0."""
    return tuple(int(place) for place in np.argsort(np.argsort(np.array(values))))


def _sorted_check(habit: str, ranked: Sequence[tuple[int, ...]], reverse: bool = False) -> OrderCheck:
    hits = [list(ranks) == sorted(ranks, reverse=reverse) for ranks in ranked]
    return _check(habit, hits, [1 / math.factorial(len(ranks)) for ranks in ranked])


def _check(habit: str, hits: Sequence[bool], chances: Sequence[float]) -> OrderCheck:
    count = sum(hits)
    laws = np.column_stack([1 - np.array(chances), chances]) if chances else np.ones((1, 1))
    return OrderCheck(habit, count, len(hits), sum(chances), math.exp(convolution.log_tail(laws, count)))


def _place_of_catch_all(places: Sequence[tuple[int, int]]) -> list[Uniformity]:
    return [
        _uniformity(f"place of the catch-all option among {n}", [place for place, of in places if of == n], n)
        for n in sorted({n for _, n in places})
    ]


def _order_of_lengths(ranked: Sequence[tuple[int, ...]]) -> list[Uniformity]:
    found = []
    for n in sorted({len(ranks) for ranks in ranked}):
        names = {ranks: index for index, ranks in enumerate(itertools.permutations(range(n)))}
        seen = [names[ranks] for ranks in ranked if len(ranks) == n]
        found.append(_uniformity(f"order of {n} lengths", seen, len(names)))
    return found


def _uniformity(what: str, seen: Sequence[int], cells: int) -> Uniformity:
    counts = np.bincount(seen, minlength=cells)
    chi2 = float(((counts - counts.mean()) ** 2).sum() / counts.mean())
    return Uniformity(what, tuple(counts.tolist()), chi2, cells - 1, float(stats.chi2.sf(chi2, cells - 1)))


def _key(item: ItemScores) -> Key:
    return item.subset, item.sample_id


def _same_orders(scores: PermutationScores, reference: PermutationScores) -> PermutationScores:
    for ours, theirs in zip(scores.items, reference.items, strict=True):
        if not np.array_equal(ours.orders, theirs.orders):
            raise UsageError(_other_orders(reference.task, _key(ours)))
    return reference


def _other_orders(task: str, key: Key) -> str:
    return (
        f"{task}: item {key[1]} of {key[0]} was scored in other orders; score all models with the same seed"
    )


def _law_of(law: PublisherLaw, key: Key, orders: Orders) -> Floats:
    known, probabilities = law.items[key]
    if not np.array_equal(known, orders):
        raise UsageError(_other_orders("publisher's law", key))
    return probabilities


def _design(
    items: Sequence[Item], scores: PermutationScores, references: Sequence[PermutationScores]
) -> tuple[Floats, Ints]:
    """Columns of all items' orders one below the other, shape (sum of m, d), and each item's first row."""
    orders = [item.orders for item in scores.items]
    columns = [
        np.concatenate([order_features(item.options, of) for item, of in zip(items, orders, strict=True)]),
        np.concatenate([_before(of) @ pairs for of, pairs in zip(orders, _precedents(items), strict=True)])[
            :, None
        ],
    ]
    if references:
        columns.append(np.mean([_preferences(reference) for reference in references], axis=0)[:, None])
    return np.hstack(columns), _starts(scores, np.ones(len(items), np.bool_))


def _starts(scores: PermutationScores, chosen: NDArray[np.bool_]) -> Ints:
    """First row of each chosen item when their orders stand one below the other."""
    sizes = np.array([item.orders.shape[0] for item in scores.items], np.int64)[chosen]
    return np.cumsum(sizes) - sizes


def _precedents(items: Sequence[Item]) -> list[Floats]:
    """How much other items print each option before each other one, shape (n²,) per item, in [-1, 1]."""
    texts = [[text.strip().casefold() for text in item.options] for item in items]
    seen = Counter(pair for options in texts for pair in itertools.combinations(options, 2))
    found = []
    for options in texts:
        if _all_numbers(options) is not None:  # whose order is their size
            found.append(np.zeros(len(options) ** 2))
            continue
        own = Counter(itertools.combinations(options, 2))
        counts = np.array([[seen[a, b] - own[a, b] for b in options] for a in options], np.float64)
        found.append(np.log((counts + 1) / (counts.T + 1)).ravel())
    return found


def _preferences(reference: PermutationScores) -> Floats:
    """A model's log-probabilities of orders, standardised within each item, shape (sum of m,)."""
    return np.concatenate([_standardised(item.logprobs) for item in reference.items])


def _standardised(values: Floats) -> Floats:
    spread = values.std()
    return (
        (values - values.mean()) / spread if spread > _TIE * np.abs(values).max() else np.zeros_like(values)
    )


def _folds(keys: Sequence[Key], seed: int) -> NDArray[np.intp]:
    """Group of each item, shape (N,): subjects, largest first, go to the group with the fewest items."""
    subjects = [subset for subset, _ in keys]
    units: Sequence[object] = subjects if len(set(subjects)) > 1 else keys
    sizes = Counter(units)
    generator = np.random.default_rng(seed)
    lot = dict(zip(sizes, generator.permutation(len(sizes)), strict=True))
    filled = np.zeros(min(_FOLDS, len(sizes)))
    fold_of = {}
    for unit in sorted(sizes, key=lambda unit: (-sizes[unit], lot[unit])):
        fold_of[unit] = int(filled.argmin())
        filled[fold_of[unit]] += sizes[unit]
    return np.array([fold_of[unit] for unit in units], np.intp)


def _fit(design: Floats, starts: Ints) -> Floats:
    """Ridge-penalised maximum likelihood of the first order of each item, shape (d,)."""
    item = np.repeat(np.arange(starts.size), np.diff(starts, append=len(design)))
    contrast = design - design[starts[item]]

    def loss(beta: Floats) -> tuple[float, Floats]:
        logits = contrast @ beta
        peak = np.maximum.reduceat(logits, starts)[item]
        weights = np.exp(logits - peak)
        totals = np.add.reduceat(weights, starts)[item]
        nll = float((peak + np.log(totals))[starts].sum())
        return nll + _RIDGE / 2 * float(beta @ beta), contrast.T @ (weights / totals) + _RIDGE * beta

    zero = np.zeros(design.shape[1])
    return np.asarray(optimize.minimize(loss, zero, jac=True, method="L-BFGS-B").x, np.float64)


def _tie_classes(values: Floats, tolerance: Floats) -> NDArray[np.intp]:
    """Class of each order, 0 the highest, shape (N, m); neighbours within the tolerance share one."""
    descending = np.argsort(-values, axis=1)
    gaps = -np.diff(np.take_along_axis(values, descending, axis=1), axis=1)
    classes = np.zeros(values.shape, np.intp)
    np.put_along_axis(classes, descending[:, 1:], np.cumsum(gaps > tolerance, axis=1), axis=1)
    return classes


def _mid_p(classes: NDArray[np.intp], q: Floats) -> Floats:
    """Q(higher class) + Q(same class) / 2 of every order, shape (N, m)."""
    n, m = q.shape
    cells = classes + m * np.arange(n)[:, None]
    mass = np.bincount(cells.ravel(), q.ravel(), n * m).reshape(n, m)
    return np.take_along_axis(np.cumsum(mass, axis=1) - mass / 2, classes, axis=1)


def _scores(mid_p: Floats, m: int) -> Ints:
    """-log p in steps of 1/16 nat, at most log(10 m)."""
    return np.asarray(np.rint(-_STEPS * np.log(np.maximum(mid_p, 1 / (10 * m)))), np.int64)


def _law_of_score(mid_p: Floats, q: Floats, width: int) -> Floats:
    """Probability of each score when orders are drawn from Q, shape (N, width)."""
    n, m = q.shape
    cells = _scores(mid_p, m) + width * np.arange(n)[:, None]
    return np.bincount(cells.ravel(), q.ravel(), n * width).reshape(n, width).astype(np.float64)
