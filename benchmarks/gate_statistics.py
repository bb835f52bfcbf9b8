"""How often the gate cries wolf, and how often it sees a planted drop: tables of docs/statistics.md.

Every row judges made-up pairs of runs with the code of `evalkit gate`, test by test. Null pairs are two runs
of one model whose answers differ by noise; planted pairs lose a point. No model and no data are needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _common import parser, save
from numpy.typing import NDArray

from evalkit.gate.comparison import Comparison, p_lower
from evalkit.metrics.classification import macro_f1_of
from evalkit.stats.multiple import benjamini_hochberg, holm
from evalkit.stats.paired import bootstrap_difference, mcnemar, paired_difference, randomisation_p
from evalkit.stats.power import power

ALPHA = 0.05
Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator], tuple[Floats, Floats, Floats]]
"""Scores of the baseline and of the candidate, and weights, shape (n,) each."""


@dataclass(frozen=True)
class Case:
    name: str
    n: int
    draw: Draw


# -- made-up pairs ----------------------------------------------------------------------------------


def right_or_wrong(n: int, differ: float, drop: float = 0.0, subsets: int = 1) -> Case:
    """So large a share of the samples differs; weights of a macro average over subsets of unequal size."""
    sizes = np.random.default_rng(0).dirichlet(np.full(subsets, 3.0))
    subset = np.random.default_rng(1).choice(subsets, n, p=sizes)
    weights = 1.0 / np.bincount(subset, minlength=subsets)[subset]

    def draw(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        baseline = (rng.random(n) < 0.5).astype(np.float64)
        kind = rng.choice(3, n, p=[1 - differ, (differ + drop) / 2, (differ - drop) / 2])
        baseline[kind == 1], baseline[kind == 2] = 1.0, 0.0
        candidate = np.where(kind == 0, baseline, 1 - baseline)
        return baseline, candidate, weights

    average = f", macro over {subsets}" if subsets > 1 else ""
    return Case(f"right or wrong{average}, {100 * differ:g} % differ", n, draw)


def rounding(n: int, noise: float) -> Case:
    """One model in two precisions: four option scores per question, each rounded differently."""

    def draw(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        exact = rng.normal(0, 0.8, (n, 4))
        answers = [(exact + rng.normal(0, noise, (n, 4))).argmax(1) for _ in range(2)]
        target = np.where(rng.random(n) < 0.3, exact.argmax(1), rng.integers(0, 4, n))
        return (answers[0] == target).astype(float), (answers[1] == target).astype(float), np.ones(n)

    return Case(f"rounding noise of {noise:g} in every log-probability", n, draw)


def real_rounding(n: int, float32: Path, bfloat16: Path) -> Case:
    """A real model's option scores in float32, each rounded as its bfloat16 run rounded another option's."""
    import pyarrow.parquet as pq

    columns = ["choice_logprobs", "target"]
    exact, rounded = (pq.read_table(run / "samples.parquet", columns=columns) for run in (float32, bfloat16))
    rows = exact["choice_logprobs"].to_pylist()
    scores = np.full((len(rows), max(map(len, rows))), -np.inf)
    for at, row in enumerate(rows):
        scores[at, : len(row)] = row
    noise = np.concatenate(rounded["choice_logprobs"].to_pylist()) - np.concatenate(rows)
    targets = [int(t) if t.isdigit() else ord(t) - ord("A") for t in exact["target"].to_pylist()]

    def draw(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        at = rng.integers(0, len(rows), n)
        answers = ((scores[at] + rng.choice(noise, (n, scores.shape[1]))).argmax(1) for _ in "ab")
        a, b = ((answer == np.array(targets)[at]).astype(float) for answer in answers)
        return a, b, np.ones(n)

    return Case("a real model's bfloat16 rounding", n, draw)


def fractions(n: int, spread: float, drop: float = 0.0) -> Case:
    """Scores such as ROUGE: what a sample gets varies more between samples than between runs."""

    def draw(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        quality = rng.beta(2, 4, n)
        a, b = (np.clip(quality + rng.normal(0, spread, n) - d, 0, 1) for d in (0.0, drop))
        return a, b, np.ones(n)

    return Case(f"fractions, sd {spread:g} within a sample", n, draw)


def exact_and_f1(n: int, differ: float) -> Case:
    """Mostly 0 or 1, sometimes between, as token F1 is."""

    def draw(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        def once() -> Floats:
            return rng.choice([0.0, 0.4, 0.67, 0.8, 1.0], n, p=[0.3, 0.1, 0.1, 0.1, 0.4])

        a, other = once(), once()
        return a, np.where(rng.random(n) < differ, other, a), np.ones(n)

    return Case(f"token F1, {100 * differ:g} % asked anew", n, draw)


def pass_at_k(n: int, samples: int, k: int) -> Case:
    """Unbiased estimates of pass@k from several programs per problem."""
    passed = np.arange(samples + 1)
    estimate = np.array([1 - math.comb(samples - c, k) / math.comb(samples, k) for c in passed])

    def draw(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
        chance = rng.beta(0.5, 1.0, n)
        a, b = (estimate[rng.binomial(samples, chance)] for _ in range(2))
        return a, b, np.ones(n)

    return Case(f"pass@{k} of {samples} programs", n, draw)


# -- tables -----------------------------------------------------------------------------------------


def size(case: Case, pairs: int, rng: np.random.Generator) -> list[str]:
    """False alarms of the gate's test, and of Student's paired test for comparison."""
    alarms = student = 0
    for _ in range(pairs):
        a, b, weights = case.draw(rng)
        alarms += p_lower(b - a, weights) <= ALPHA
        student += paired_difference(b, a, weights=weights).p_below(0.0) <= ALPHA
    return [case.name, f"{case.n:,}", _share(alarms, pairs), _share(student, pairs)]


def macro_f1_size(n: int, differ: float, pairs: int, rng: np.random.Generator) -> list[str]:
    """The same for macro-F1 of three classes."""
    alarms = normal = 0
    for _ in range(pairs):
        gold = rng.choice(3, n, p=[0.6, 0.3, 0.1])
        a = np.where(rng.random(n) < 0.7, gold, rng.integers(0, 3, n))
        b = a.copy()
        changed = rng.random(n) < differ
        a[changed], b[changed] = (
            np.where(rng.random(n) < 0.5, gold, rng.integers(0, 3, n))[changed] for _ in "ab"
        )
        places = np.flatnonzero(a != b)

        def gain(flips: NDArray[np.int8], a=a, b=b, gold=gold, places=places) -> Floats:  # type: ignore[no-untyped-def]
            found = []
            for swapped in flips.astype(bool):
                one, other = a.copy(), b.copy()
                one[places[swapped]], other[places[swapped]] = b[places[swapped]], a[places[swapped]]
                found.append(macro_f1_of(other, gold) - macro_f1_of(one, gold))
            return np.array(found)

        alarms += randomisation_p(gain, np.ones(places.size, np.int64), 199) <= ALPHA
        drawn = bootstrap_difference(
            lambda rows, a=a, b=b, gold=gold: (
                macro_f1_of(b[rows], gold[rows]) - macro_f1_of(a[rows], gold[rows])
            ),
            np.arange(n),
            100,
        )
        normal += drawn.p_below(0.0) <= ALPHA
    return [
        f"macro-F1, {100 * differ:g} % answered anew",
        f"{n:,}",
        _share(alarms, pairs),
        _share(normal, pairs),
    ]


def many_tasks(tasks: int, pairs: int, rng: np.random.Generator) -> list[list[str]]:
    """Any false alarm over several tasks without a drop."""
    n, differ = 1000, 0.1
    counts = rng.multinomial(n, [differ / 2, differ / 2, 1 - differ], (pairs, tasks))
    p = np.array([[mcnemar(losses, gains)[0] for losses, gains, _ in row] for row in counts])
    return [
        [f"{tasks} tasks, {name}", f"{n:,}", _share(int((adjusted.min(1) <= ALPHA).sum()), pairs), ""]
        for name, adjusted in (
            ("uncorrected", p),
            ("holm", np.array([holm(row) for row in p])),
            ("bh", np.array([benjamini_hochberg(row) for row in p])),
        )
    ]


def margins(pairs: int, rng: np.random.Generator) -> list[list[str]]:
    """Claims that a candidate is not worse by a margin, made of one that is worse by exactly the margin."""
    rows = []
    for n, differ, margin in (
        (20, 0.01, 0.01), (100, 0.01, 0.01), (300, 0.01, 0.01),
        (300, 0.02, 0.01), (300, 0.2, 0.03), (1000, 0.02, 0.01), (1000, 0.1, 0.02), (14_042, 0.05, 0.01),
    ):  # fmt: skip
        counts = rng.multinomial(n, [(differ + margin) / 2, (differ - margin) / 2, 1 - differ], pairs)
        wrong = sum(_right_or_wrong(*row).p_not_worse(margin) <= ALPHA for row in counts)
        rows.append([f"{100 * margin:g} points, {100 * differ:g} % differ", f"{n:,}", _share(wrong, pairs)])
    return rows


def _right_or_wrong(losses: int, gains: int, same: int) -> Comparison:
    changes = np.repeat([-1.0, 1.0, 0.0], [losses, gains, same])
    return Comparison(
        baseline=0.5,
        candidate=0.5 + float(changes.mean()),
        difference=paired_difference(changes, np.zeros_like(changes)),
        effective_n=changes.size,
        p_lower=mcnemar(losses, gains)[0],
        rows=np.arange(changes.size),
        changes=changes,
        is_mcnemar=True,
    )


def planted(
    n: int, differ: float, drop: float, pairs: int, rng: np.random.Generator, subsets: int = 1
) -> list[str]:
    """How often a planted drop is seen, against what the gate computes."""
    case = right_or_wrong(n, differ, drop, subsets)
    weights = case.draw(rng)[2]
    effective_n = weights.sum() ** 2 / (weights**2).sum()
    if subsets == 1:
        counts = rng.multinomial(n, [(differ + drop) / 2, (differ - drop) / 2, 1 - differ], pairs)
        seen = sum(mcnemar(losses, gains)[0] <= ALPHA for losses, gains, _ in counts)
    else:
        draws = (case.draw(rng) for _ in range(pairs))
        seen = sum(p_lower(b - a, weights) <= ALPHA for a, b, weights in draws)
    computed = power(drop, math.sqrt(differ - drop**2), effective_n, ALPHA, lost=float(subsets == 1))
    # What is seen with runs of independent samples: two proportions of one half.
    unpaired = power(drop, math.sqrt(0.5), effective_n, ALPHA)
    gap = 100 * (seen / pairs - computed)
    return [case.name, f"{n:,}", f"{100 * drop:g}", f"{100 * computed:.1f}", f"{100 * seen / pairs:.1f}",
            f"{gap:+.1f}", f"{100 * unpaired:.1f}"]  # fmt: skip


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.2f}"


def table(title: str, headings: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(headings)} |\n|---|{'--:|' * (len(headings) - 1)}")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows), flush=True)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--pairs", type=int, default=2000, help="pairs per row")
    arguments.add_argument(
        "--runs", nargs=2, metavar=("FLOAT32", "BFLOAT16"), help="two real runs of one model"
    )
    args = arguments.parse_args()
    rng, pairs, began = np.random.default_rng(7), args.pairs, time.monotonic()
    real = [real_rounding(n, *map(Path, args.runs)) for n in (1000, 14_042)] if args.runs else []
    null = [
        size(case, pairs, rng)
        for case in (
            *real,
            rounding(1000, 0.03), rounding(14_042, 0.03), rounding(1000, 0.003),
            right_or_wrong(200, 0.1), right_or_wrong(1000, 0.02), right_or_wrong(14_042, 0.1),
            right_or_wrong(1000, 0.005, subsets=20), right_or_wrong(2000, 0.1, subsets=57),
            exact_and_f1(1000, 0.02), fractions(500, 0.1), pass_at_k(164, 10, 5),
        )
    ]  # fmt: skip
    null.append(macro_f1_size(500, 0.1, pairs, rng))
    null += many_tasks(3, pairs, rng) + many_tasks(20, pairs, rng)
    headings = ["scores", "samples", "false alarms, %", "Student or bootstrap, %"]
    table(f"Size at alpha = {ALPHA:g}, {pairs:,} null pairs", headings, null)
    passed = margins(pairs, rng)
    table("Non-inferiority shown wrongly", ["margin", "samples", "shown, %"], passed)
    seen = [
        planted(n, differ, drop, pairs, rng)
        for n, differ, drop in (
            (14_042, 0.02, 0.01), (14_042, 0.1, 0.01), (14_042, 0.2, 0.01), (14_042, 0.3, 0.01),
            (14_042, 0.4, 0.01), (11_582, 0.2, 0.01), (1346, 0.1, 0.02), (1319, 0.2, 0.03),
            (1000, 0.05, 0.01),
        )
    ]  # fmt: skip
    seen.append(planted(2000, 0.1, 0.02, pairs, rng, subsets=57))
    headings = ["scores", "samples", "drop", "computed, %", "seen, %", "gap", "unpaired, computed, %"]
    table(f"Power at alpha = {ALPHA:g}, {pairs:,} planted pairs", headings, seen)
    save(args, "gate_statistics", {"size": null, "margins": passed, "power": seen,
                                   "wall_s": round(time.monotonic() - began, 1)})  # fmt: skip


if __name__ == "__main__":
    main()
