"""Permutation scores of planted items, kept on disk so that statistics never need a model again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.leakage.formats import FORMATS, encode_items
from evalkit.leakage.items import Item
from evalkit.leakage.scores import ItemScores, PermutationScores, all_orders
from evalkit.types import ScoreResponse


def measure(backend: Any, task: str, items: Sequence[Item], fmt: str) -> PermutationScores:
    """Score items of at most five options in all their orders.

    Raises:
        RuntimeError: the engine could not score an item.
    """
    encoded = encode_items(backend.tokenizer, items, FORMATS[fmt], lambda item: all_orders(len(item.options)))
    responses = dict(backend.score([one.request for one in encoded]))
    found = []
    for i, (item, one) in enumerate(zip(items, encoded, strict=True)):
        response = responses[i]
        if not isinstance(response, ScoreResponse):
            raise RuntimeError(f"{task} {item.subset} {item.sample_id}: {response}")
        logprobs = np.array([score.logprob for score in response.scores])
        found.append(
            ItemScores(item.subset, item.sample_id, all_orders(len(item.options)), logprobs, one.flags)
        )
    return PermutationScores(task, tuple(found))


def kept(path: Path, measured: Callable[[], PermutationScores]) -> PermutationScores:
    """The scores in a file, which is written from `measured` where it is missing."""
    if not path.is_file():
        save(path, measured())
    return load(path)


def save(path: Path, scores: PermutationScores) -> None:
    """Write scores of items that were all scored in the same orders, in one piece."""
    (group,) = scores.groups()
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    with scratch.open("wb") as file:
        np.savez_compressed(
            file,
            task=np.array(scores.task),
            subset=scores.subsets,
            sample_id=np.array([item.sample_id for item in scores.items]),
            orders=group.orders,
            logprobs=group.logprobs,
        )
    scratch.replace(path)


def load(path: Path) -> PermutationScores:
    """Read what `save` wrote."""
    with np.load(path) as columns:
        keys = zip(columns["subset"], columns["sample_id"], columns["logprobs"], strict=True)
        orders = columns["orders"]
        items = tuple(ItemScores(str(subset), str(id_), orders, row) for subset, id_, row in keys)
        return PermutationScores(str(columns["task"]), items)


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
