"""Tier 2: a pre-trained model of 135 million weights reads MMLU items a known number of times.

SmolLM2-135M is fine-tuned in full (adapters of low rank hide what is memorised: Sela, arXiv 2603.03203) on 150 of
300 items, chosen by coin flip within subjects, each in one random option order of our own, among as many texts of
other items. After 1, 2, 3, 5 and 10 exposures all 300 are scored in all 24 orders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.leakage.formats import ni2024
from evalkit.leakage.items import Item
from evalkit.leakage.scores import PermutationScores
from evalkit.leakage.validation import matrices, planting
from evalkit.leakage.validation.training import optimizer, train
from evalkit.tokens import Ids

SEEDS = (1, 2, 3)
DOSES = (0, 1, 2, 3, 5, 10)
"""Exposures after which the items are scored; 0 is the untouched model."""

N_PAIRS = 150
LONGEST = 120
"""Characters of question and options: short items, so that a processor can train and score them."""

MODEL = "demo"
RATE = 2e-4
"""Learning rate, chosen in a pilot on the items of another seed."""
BATCH = 8

VIEWS = {"planted": (), "lettered": (1, 3, 10), "swapped": (0, 1, 3, 10)}
"""Ways to test beside the planted text, and the doses of the first seed they are tried at: the options after
`A. ` instead of `A:`, and with options of other items."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One draw of items, coins, orders and training shuffles."""

    seed: int
    test: Sequence[Item]
    """Where items are drawn from."""
    other: Sequence[Item]
    """Where texts between them are drawn from."""
    n_pairs: int = N_PAIRS
    longest: int = LONGEST

    @cached_property
    def planted(self) -> planting.Planted:
        """The items and which of them are trained on."""
        pool = planting.eligible(self.test, self.longest)
        return planting.plant(pool, self.n_pairs, self._generator(0))

    @cached_property
    def members(self) -> list[Item]:
        """The items trained on."""
        return [item for item, member in zip(self.planted.items, self.planted.member, strict=True) if member]

    @cached_property
    def swapped(self) -> tuple[Item, ...]:
        """The items with options that were never printed together."""
        return planting.with_foreign_options(self.planted.items, self._generator(0, 1))

    def texts(self, epoch: int) -> list[str]:
        """What is read in one epoch: each member once, and as many others in fresh orders."""
        generator = self._generator(epoch, 0)
        chosen = generator.choice(len(self._filler), len(self.members), replace=False)
        between = [planting.shuffled(self._filler[i], generator) for i in chosen]
        return [ni2024(item) for item in (*self.members, *between)]

    def shuffle(self, epoch: int) -> np.random.Generator:
        """What the documents of an epoch are shuffled with."""
        return self._generator(epoch, 1)

    @cached_property
    def _filler(self) -> list[Item]:
        drawn = {item.question for item in self.planted.items}
        return [item for item in planting.eligible(self.other, self.longest) if item.question not in drawn]

    def _generator(self, *path: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *path])


def views(trial: Trial, dose: int) -> Iterator[str]:
    """What is scored after `dose` exposures."""
    yield "planted"
    if trial.seed == SEEDS[0]:
        yield from (view for view, doses in VIEWS.items() if dose in doses)


class Study:
    """Trains and scores one trial, and takes up what an earlier start has left in its folder."""

    def __init__(self, trial: Trial, work: Path, progress: Progress, *, rate: float = RATE) -> None:
        self._trial = trial
        self._folder = work / "tier2" / f"seed{trial.seed}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._progress = progress
        self._rate = rate

    def scores(self, dose: int, view: str = "planted") -> PermutationScores:
        """The scores after `dose` exposures, from disk."""
        return matrices.load(self._matrix(dose, view))

    def missing(self) -> list[tuple[int, str]]:
        """Pairs of dose and view that are not on disk yet, the planted ones first."""
        pairs = [(dose, view) for dose in DOSES for view in views(self._trial, dose)]
        left = [pair for pair in pairs if not self._matrix(*pair).is_file()]
        return sorted(left, key=lambda pair: pair[1] != "planted")

    def train(self, longest: int = DOSES[-1]) -> None:
        """Train up to the highest dose that is missing, keeping the weights of every dose to score."""
        import torch

        doses = {dose for dose, _ in self.missing()}
        wanted = {dose for dose in doses if 0 < dose <= longest and not self._weights(dose).is_file()}
        if not wanted:
            return
        loaded = _load("float32")
        model, adam, done = loaded.model, optimizer(loaded.model, self._rate), 0
        if self._state.is_file():
            state = torch.load(self._state, weights_only=True)
            model.load_state_dict(state["model"])
            adam.load_state_dict(state["optimizer"])
            done = state["epoch"]
        for epoch in range(done + 1, max(wanted) + 1):
            documents = loaded.tokenizer.encode(self._trial.texts(epoch))
            loss = train(model, adam, documents, self._trial.shuffle(epoch), batch=BATCH, autocast=True)
            self._progress(f"seed {self._trial.seed}: exposure {epoch}, loss {loss:.3f}")
            if epoch in wanted:
                _write(self._weights(epoch), {k: v.bfloat16() for k, v in model.state_dict().items()})
                state = {"model": model.state_dict(), "optimizer": adam.state_dict(), "epoch": epoch}
                _write(self._state, state)
        if epoch == DOSES[-1]:
            self._state.unlink()

    def score(self, dose: int, view: str) -> None:
        """Score the items after `dose` exposures, in bfloat16."""
        import torch

        from evalkit.backends.hf.backend import HfBackend

        loaded = _load("bfloat16")
        if dose:
            loaded.model.load_state_dict(torch.load(self._weights(dose), weights_only=True))
        items = self._trial.swapped if view == "swapped" else self._trial.planted.items
        fmt = "lettered" if view == "lettered" else "ni2024"
        backend = HfBackend(loaded)
        scores = matrices.measure(backend, f"seed{self._trial.seed}-dose{dose}-{view}", items, fmt)
        matrices.save(self._matrix(dose, view), scores)
        self._progress(f"seed {self._trial.seed}: {view} scored after {dose} exposures")
        if dose not in {left for left, _ in self.missing()}:
            self._weights(dose).unlink(missing_ok=True)

    @property
    def _state(self) -> Path:
        return self._folder / "state.pt"

    def _weights(self, dose: int) -> Path:
        return self._folder / f"weights-{dose}.pt"

    def _matrix(self, dose: int, view: str) -> Path:
        return self._folder / f"{view}-{dose}.npz"


def _load(dtype: str) -> Any:
    from evalkit.backends.hf.loading import LoadOptions, load

    return load(MODEL, LoadOptions(dtype=dtype, device="cpu"))


def _write(path: Path, value: Any) -> None:
    """Save in one piece."""
    import torch

    scratch = path.with_suffix(".part")
    torch.save(value, scratch)
    scratch.replace(path)


def read_items(source: Any, split: str) -> list[Item]:
    """MMLU's items of one split, in the order of the files."""
    from evalkit.registry import get_task

    task = get_task("mmlu")
    return [
        Item(subset, sample.id, sample.fields["question"], tuple(sample.fields[k] for k in "ABCD"))
        for subset in task.subsets
        for sample in source.load(task, split, subset)
    ]
