"""In which orders a publisher prints options, estimated from published orders alone.

Never from the model under test: the law is what its preferences are compared with.
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
from scipy import optimize, special

from evalkit.errors import UsageError
from evalkit.leakage.items import Item
from evalkit.leakage.option_text import all_numbers, is_catch_all, number
from evalkit.leakage.scores import Floats, Ints, ItemScores, Orders, PermutationScores

Key = tuple[str, str]
"""Subset and id of an item."""

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

_PRECEDENT = ("agreement with other items",)
_REFERENCES = ("references' log-probability",)
_FOLDS = 5
_RIDGE = 1.0
_FLAT = 1e-9
"""Log-probabilities of an item that differ by less, relative to their size, say nothing of orders."""


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
    numeric = np.bool_(all_numbers(options) is not None)
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
    tables = [{key_of(item): row for row, item in enumerate(reference.items)} for reference in references]
    known = [texts.keys(), *(table.keys() for table in tables)]
    rows = [row for row, item in enumerate(scores.items) if all(key_of(item) in one for one in known)]
    if len(rows) < 2:
        raise UsageError(
            f"{scores.task}: {len(rows)} of {len(scores)} scored items are in the data and in all of "
            f"{len(references)} reference runs; run the references on the same task, subsets and --limit"
        )
    shared = scores.only(rows)
    keys = [key_of(item) for item in shared.items]
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


def law_of(law: PublisherLaw, key: Key, orders: Orders) -> Floats:
    """Probability of each of an item's orders, shape (m,).

    Raises:
        UsageError: the law is of other orders.
    """
    known, probabilities = law.items[key]
    if not np.array_equal(known, orders):
        raise UsageError(_other_orders("publisher's law", key))
    return probabilities


def key_of(item: ItemScores) -> Key:
    """What an item is found by."""
    return item.subset, item.sample_id


def _before(orders: Orders) -> Floats:
    """Which option stands before which: column a·n + b says whether a comes before b, shape (m, n²)."""
    return _before_cached(orders.shape[1], np.ascontiguousarray(orders, np.int8).tobytes())


@lru_cache(maxsize=64)
def _before_cached(n: int, order_bytes: bytes) -> Floats:
    place = np.argsort(np.frombuffer(order_bytes, np.int8).reshape(-1, n), axis=1)
    return (place[:, :, None] < place[:, None, :]).reshape(-1, n * n).astype(np.float64)


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
        if all_numbers(options) is not None:  # whose order is their size
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
        (values - values.mean()) / spread if spread > _FLAT * np.abs(values).max() else np.zeros_like(values)
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


def _same_orders(scores: PermutationScores, reference: PermutationScores) -> PermutationScores:
    for ours, theirs in zip(scores.items, reference.items, strict=True):
        if not np.array_equal(ours.orders, theirs.orders):
            raise UsageError(_other_orders(reference.task, key_of(ours)))
    return reference


def _other_orders(task: str, key: Key) -> str:
    return (
        f"{task}: item {key[1]} of {key[0]} was scored in other orders; score all models with the same seed"
    )
