"""Tier 1: a small language model over bytes, trained from random weights on CMMLU items.

Each planted item, in one random option order of our own, is read as often as a draw from 0, 1, 2, 4, 8 and 16
says, scattered over one pass through four times as many other items that are read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from evalkit.leakage.formats import ni2024
from evalkit.leakage.items import Item
from evalkit.leakage.scores import PermutationScores
from evalkit.leakage.validation import analysis, matrices, planting
from evalkit.leakage.validation.analysis import Exposed
from evalkit.leakage.validation.training import optimizer, train

SEEDS = (1,)
DOSES = (0, 1, 2, 4, 8, 16)
N_ITEMS = 300
LONGEST = 50
"""Characters of question and options."""
FILLER = 4
"""Other texts for every planted one."""
RATE = 1e-3
BATCH = 8
SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}


@dataclass(frozen=True)
class Plan:
    """Which item is read how often."""

    seed: int
    pool: Sequence[Item]
    n_items: int = N_ITEMS
    longest: int = LONGEST

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """The planted items, in random option order."""
        generator = np.random.default_rng([self.seed, 1])
        return tuple(planting.shuffled(self._drawn[i], generator) for i in range(self.n_items))

    @cached_property
    def exposures(self) -> NDArray[np.int64]:
        """How often each item is read, shape (N,)."""
        return np.random.default_rng([self.seed, 2]).choice(DOSES, self.n_items)

    @cached_property
    def texts(self) -> list[str]:
        """Everything that is read, in no order."""
        generator = np.random.default_rng([self.seed, 3])
        planted = [item for item, n in zip(self.items, self.exposures, strict=True) for _ in range(n)]
        others = self._drawn[self.n_items :][: FILLER * len(planted)]
        return [ni2024(item) for item in (*planted, *(planting.shuffled(one, generator) for one in others))]

    @cached_property
    def _drawn(self) -> list[Item]:
        found = planting.eligible(self.pool, self.longest)
        return [found[i] for i in np.random.default_rng([self.seed, 0]).permutation(len(found))]


def run(
    pool: Sequence[Item], work: Path, progress: Callable[[str], None], seeds: Sequence[int] = SEEDS
) -> dict[str, Any]:
    """Train and score what is not on disk, and compare the items of every dose with those never read."""
    plans = [Plan(seed, pool) for seed in seeds]
    found = [(scores(plan, work, progress), plan.exposures) for plan in plans]
    doses = {}
    for dose in DOSES[1:]:
        draws = [_against_unread(all_, exposures, dose) for all_, exposures in found]
        order, detectors = analysis.order_tests(draws), analysis.detections(draws)
        doses[str(dose)] = {"draws": len(draws), "order": order, "detectors": detectors}
    return {"n_items": [len(plan.items) for plan in plans], "shape": SHAPE, "rate": RATE, "doses": doses}


def _against_unread(all_: PermutationScores, exposures: NDArray[np.int64], dose: int) -> Exposed:
    rows = np.isin(exposures, (0, dose))
    return Exposed(all_.only(rows), exposures[rows] > 0)


def scores(plan: Plan, work: Path, progress: Callable[[str], None]) -> PermutationScores:
    """Scores of the planted items after training, from disk where they are there."""

    def measured() -> PermutationScores:
        from evalkit.backends.hf.backend import HfBackend

        loaded = build(plan.seed, **SHAPE)
        documents = loaded.tokenizer.encode(plan.texts)
        progress(f"tier 1: training a byte model on {sum(map(len, documents)):,} bytes")
        shuffle = np.random.default_rng([plan.seed, 4])
        adam = optimizer(loaded.model, RATE)
        loss = train(loaded.model, adam, documents, shuffle, batch=BATCH, autocast=False)
        progress(f"tier 1: loss {loss:.3f} nats per byte")
        return matrices.measure(HfBackend(loaded), f"tier1-seed{plan.seed}", plan.items, "ni2024")

    return matrices.kept(work / f"seed{plan.seed}.parquet", measured)


def build(seed: int, **shape: int) -> Any:
    """A Llama over bytes with random weights, as a `LoadedModel` in float32."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from evalkit.backends.base import ModelInfo
    from evalkit.backends.hf.loading import LoadedModel
    from evalkit.backends.openai.tokenizer import Utf8Tokenizer

    config = LlamaConfig(vocab_size=256, max_position_embeddings=2048, tie_word_embeddings=True, **shape)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    info = ModelInfo("byte model", "hf", "float32", f"random {seed}", 2048)
    return LoadedModel(model, cast(Any, Utf8Tokenizer()), info)
