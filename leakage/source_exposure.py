"""Whether a model has seen a benchmark's items in some other order: in the exams the benchmark was made from.

Such a model is surer of one order of an item's options than of all others, whichever it is. How sure a
clean model would be is not known, so it is measured on controls: the same questions with options from other
questions of the subject, which nobody has seen together. What counts is the excess over the controls, not
the raw rate.

Swapped options do not control everything. Options that belong together read more fluently in some orders
than options that do not (numbers that rise, lists of one pattern), which makes an order stand out without
any exposure. Reference models feel that, too, so the excess of the model under test is compared with
theirs. Without references an excess can be no more than consistent with exposure.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import UsageError
from evalkit.leakage.isolation import isolation_score
from evalkit.leakage.items import Item
from evalkit.leakage.order_test import order_values, sign_flip
from evalkit.leakage.published import SCENARIO_B_THRESHOLDS, scenario_b
from evalkit.leakage.scores import Floats, PermutationScores
from evalkit.stats.intervals import clustered_mean

Key = tuple[str, str]
Peak = Literal["height", "gap", "isolation"]
Controlled = Literal["swapped options", "swapped options and reference models"]

_USED = 0.5
"""What one earlier use of an option costs, in units of log length: none is to be used often."""


def swapped(items: Sequence[Item], seed: int = 0) -> list[Item]:
    """Make matched controls: every question with options that were never printed together.

    The option in each place comes from the same place of another item of the subset with as many options,
    of a length near that of the option it replaces; no two options of a control come from one item or stand
    together in any item, and all differ. Subset and id are those of the item, so that pairs can be found.

    Args:
        items: items of one benchmark.
        seed: decides among options that fit alike.

    Returns:
        Controls in the order of `items`. Items for which no such options are found, as in subsets of fewer
        items than options, have none: `len(items) - len(controls)` of them.
    """
    generator = np.random.default_rng(seed)
    alike: dict[tuple[str, int], list[int]] = defaultdict(list)
    for row, item in enumerate(items):
        alike[item.subset, len(item.options)].append(row)
    together: dict[str, set[frozenset[str]]] = defaultdict(set)
    for item in items:
        pairs = itertools.combinations(map(_normal, item.options), 2)
        together[item.subset].update(map(frozenset, pairs))
    controls: dict[int, Item] = {}
    for (subset, _), rows in alike.items():
        group = [items[row] for row in rows]
        for place, options in _swapped_options(group, together[subset], generator).items():
            controls[rows[place]] = replace(items[rows[place]], options=options)
    return [controls[row] for row in sorted(controls)]


def peak(scores: PermutationScores, statistic: Peak = "height") -> Floats:
    """How much one order of each item stands out, whichever it is, shape (N,).

    With f an item's log-probabilities, less their mean:

    - `height`: max f / sd(f),
    - `gap`: (largest f - second largest) / sd(f),
    - `isolation`: minus the outlier score of the largest f (`evalkit.leakage.isolation`).

    None depends on the scale of the log-probabilities, which differs between items and their controls. Of
    items planted in another order, `height` tells those read three times with AUC 0.64 to 0.74, where `gap`
    reaches 0.51 to 0.61 and `isolation` 0.56 to 0.67 (SmolLM2-135M, see `docs/leakage-validation.md`).
    """
    found = np.empty(len(scores))
    for group in scores.groups():
        values = order_values(group.orders, group.logprobs)
        found[group.rows] = -isolation_score(values) if statistic == "isolation" else _rise(values, statistic)
    return found


@dataclass(frozen=True, slots=True)
class Excess:
    """A mean over items of what the benchmark shows beyond its controls."""

    value: float
    ci95: tuple[float, float]
    """From the spread between subsets (between items, if there is one subset)."""
    p: float
    """One-sided, by flipping the signs of whole subsets (of items, if there is one subset)."""


@dataclass(frozen=True, slots=True)
class SourceExposure:
    """What a model knows of items in an unknown order."""

    controlled: Controlled
    """With swapped options alone, an excess may as well be fluency."""
    n: int
    """Items that have a control and were scored by all models."""
    n_subsets: int
    peak: Excess
    """Excess of `peak`, of all references' mean excess where there are references."""
    effect: float
    """The same in standard deviations of the items' excesses."""
    flagged: Excess
    """The same of the share that the published rule b flags (threshold -0.2, seed-free scores)."""
    flagged_benchmark: float
    """Share of the model's items that the rule flags: not to be read without the next."""
    flagged_control: float


def source_exposure(
    benchmark: PermutationScores,
    control: PermutationScores,
    references: Sequence[tuple[PermutationScores, PermutationScores]] = (),
    seed: int = 0,
    statistic: Peak = "height",
) -> SourceExposure:
    """Estimate how much surer a model is of some order of the benchmark's items than of their controls'.

    Items and controls are paired by subset and id. With references, each item's excess is that of the model
    less the references' mean (difference in differences), so that what all models find fluent drops out.
    The intervals take subsets as independent; below about ten of them they are too narrow.

    Args:
        benchmark: the model's scores of the items.
        control: its scores of the items' controls (`swapped`).
        references: (items, controls) as scored by models that cannot have seen the sources.
        seed: of the sign flips.
        statistic: see `peak`.

    Raises:
        UsageError: if fewer than two items are shared by all.
    """
    pairs = [(benchmark, control), *references]
    keys = _shared_keys([scores for pair in pairs for scores in pair])
    if len(keys) < 2:
        raise UsageError(
            f"{benchmark.task}: {len(keys)} items were scored with their controls by the model and all "
            f"{len(references)} references; score the same subsets and --limit, with controls of one seed"
        )
    units = _units(keys)
    peaks = [_aligned(pair, keys, lambda scores: peak(scores, statistic)) for pair in pairs]
    flags = [_aligned(pair, keys, _flagged) for pair in pairs]
    excess = _beyond_references(peaks)
    spread = float(excess.std(ddof=1))
    return SourceExposure(
        controlled="swapped options and reference models" if references else "swapped options",
        n=len(keys),
        n_subsets=len({subset for subset, _ in keys}),
        peak=_excess(excess, units, seed),
        effect=float(excess.mean()) / spread if spread else 0.0,
        flagged=_excess(_beyond_references(flags), units, seed),
        flagged_benchmark=float(flags[0][0].mean()),
        flagged_control=float(flags[0][1].mean()),
    )


def _swapped_options(
    group: Sequence[Item], together: set[frozenset[str]], generator: np.random.Generator
) -> dict[int, tuple[str, ...]]:
    """New options by place in the group, where some are found."""
    texts = [[_normal(text) for text in item.options] for item in group]
    lengths = np.log1p([[len(text) for text in item.options] for item in group])
    cost = generator.uniform(0, 0.1, lengths.shape)
    found = {}
    for place in generator.permutation(len(group)).tolist():
        preferred = np.argsort(np.abs(lengths - lengths[place]) + cost, axis=0, kind="stable").T
        donors = _donors(place, preferred, texts, together)
        if donors is not None:
            found[place] = tuple(group[donor].options[slot] for slot, donor in enumerate(donors))
            cost[donors, np.arange(len(donors))] += _USED
    return found


def _donors(
    place: int,
    preferred: NDArray[np.intp],
    texts: Sequence[Sequence[str]],
    together: set[frozenset[str]],
) -> list[int] | None:
    """For each slot the first preferred item whose option there goes with those chosen before."""
    donors: list[int] = []
    chosen: list[str] = []
    for slot, candidates in enumerate(preferred):
        for donor in candidates.tolist():
            text = texts[donor][slot]
            met = text in chosen or any(frozenset((text, other)) in together for other in chosen)
            if donor != place and donor not in donors and not met:
                donors.append(donor)
                chosen.append(text)
                break
        else:
            return None
    return donors


def _normal(text: str) -> str:
    return text.strip().casefold()


def _rise(values: Floats, statistic: Peak) -> Floats:
    """Height or gap of each row's largest value, in standard deviations; 0 where all are equal."""
    second, first = np.partition(values, [-2, -1], axis=1)[:, -2:].T
    rise = first if statistic == "height" else first - second
    spread = values.std(axis=1)
    # Of log-probabilities that are all equal the residuals are rounding.
    return np.asarray(np.divide(rise, spread, out=np.zeros_like(rise), where=spread > 1e-12))


def _flagged(scores: PermutationScores) -> Floats:
    found = np.empty(len(scores))
    for group in scores.groups():
        found[group.rows] = scenario_b(isolation_score(group.logprobs), SCENARIO_B_THRESHOLDS[0])
    return found


def _keys(scores: PermutationScores) -> list[Key]:
    return [(item.subset, item.sample_id) for item in scores.items]


def _shared_keys(every: Sequence[PermutationScores]) -> list[Key]:
    """Items that all have, in the order of the first."""
    known = [set(_keys(scores)) for scores in every]
    return [key for key in _keys(every[0]) if all(key in keys for keys in known)]


def _aligned(
    pair: tuple[PermutationScores, PermutationScores],
    keys: Sequence[Key],
    statistic: Callable[[PermutationScores], Floats],
) -> Floats:
    """A statistic of items and of controls, shape (2, N)."""
    found = []
    for scores in pair:
        place = {key: row for row, key in enumerate(_keys(scores))}
        found.append(statistic(scores.only([place[key] for key in keys])))
    return np.stack(found)


def _beyond_references(values: Sequence[Floats]) -> Floats:
    """Benchmark less control of the first model, less the others' mean of the same, shape (N,)."""
    own, *others = [benchmark - control for benchmark, control in values]
    return np.asarray(own - np.mean(others, axis=0) if others else own, np.float64)


def _units(keys: Sequence[Key]) -> NDArray[np.intp]:
    """What is taken as independent: the subset of each item, or the item where there is but one."""
    subsets, unit = np.unique([subset for subset, _ in keys], return_inverse=True)
    return np.asarray(unit if subsets.size > 1 else np.arange(len(keys)), np.intp)


def _excess(values: Floats, units: NDArray[np.intp], seed: int) -> Excess:
    low, span = float(values.min()), float(np.ptp(values)) or 1.0
    # The clustered mean is one of values in [0, 1].
    estimate = clustered_mean(np.clip((values - low) / span, 0, 1), units)
    ends = (low + span * estimate.ci95[0], low + span * estimate.ci95[1])
    return Excess(float(values.mean()), ends, sign_flip(np.bincount(units, values).astype(np.float64), seed))
