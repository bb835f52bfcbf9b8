"""Permutation scores of planted items, kept on disk so that statistics never need a model again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evalkit.backends.base import Backend
from evalkit.errors import UntrustedResultError
from evalkit.leakage.files import read_scores, write_scores
from evalkit.leakage.formats import FORMATS
from evalkit.leakage.items import Item
from evalkit.leakage.scores import ItemScores, PermutationScores
from evalkit.leakage.scoring import Measure, score


def measure(backend: Backend, task: str, items: Sequence[Item], fmt: str) -> PermutationScores:
    """Score items of at most five options in all their orders.

    Raises:
        UntrustedResultError: the engine could not score an item.
    """
    how = Measure(FORMATS[fmt], sampled=0, seed=0)
    (scored,) = score(backend, items, [range(len(items))], how, {}, lambda *_: None)
    if failed := [one for one in scored if one.problem]:
        raise UntrustedResultError(f"{task}, item {items[failed[0].index].sample_id}: {failed[0].problem}")
    return PermutationScores(task, tuple(one.scores for one in scored if one.scores))


def kept(path: Path, measured: Callable[[], PermutationScores]) -> PermutationScores:
    """The scores in a file, which is written from `measured` where it is missing."""
    if not path.is_file():
        write_scores(path, [measured()])
    return load(path)


def load(path: Path) -> PermutationScores:
    """The one table of a file."""
    (scores,) = read_scores(path).values()
    return scores


def republished(scores: PermutationScores, generator: np.random.Generator) -> PermutationScores:
    """The same scores with another order of each item, drawn at random, called the published one.

    Needs items that were scored in all orders: nothing has to be scored again.
    """
    return PermutationScores(scores.task, tuple(_republished(item, generator) for item in scores.items))


def _republished(item: ItemScores, generator: np.random.Generator) -> ItemScores:
    row = {order.tobytes(): k for k, order in enumerate(item.orders)}
    published = item.orders[generator.integers(len(item.orders))]
    rows = [row[published[order].tobytes()] for order in item.orders]
    return replace(item, logprobs=item.logprobs[rows])
