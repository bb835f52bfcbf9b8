"""Tier 2: a pre-trained model of 135 million weights reads MMLU items a known number of times.

SmolLM2-135M is fine-tuned in full (adapters of low rank hide what is memorised: Sela, arXiv 2603.03203) on
150 of 300 items, chosen by coin flip within subjects, each in one random option order of our own, among as
many texts of other items. After 1, 2, 3, 5 and 10 exposures all 300 are scored in all 24 orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.data.source import DataSource
from evalkit.leakage.files import write_scores
from evalkit.leakage.formats import ni2024
from evalkit.leakage.items import Item
from evalkit.leakage.scores import PermutationScores
from evalkit.leakage.source_exposure import source_exposure, swapped
from evalkit.leakage.validation import analysis, matrices, planting
from evalkit.leakage.validation.analysis import Exposed
from evalkit.leakage.validation.detectors import blind_auc
from evalkit.leakage.validation.training import optimizer, train

SEEDS = (1, 2, 3)
DOSES = (0, 1, 2, 3, 5, 10)
"""Exposures after which the items are scored; 0 is the untouched model."""

N_PAIRS = 150
LONGEST = 120
"""Characters of question and options: short items, so that a processor can train and score them."""

MODEL = "demo"
RATE = 2e-4
"""Learning rate: of 1e-4, 2e-4 and 5e-4 the one with the least mean loss over one exposure (2.27, 2.22 and
2.34 nats per token) in a pilot on the draw of another seed."""
BATCH = 8

Views = Mapping[str, Sequence[int]]
"""Ways to test, and the doses after which each is tried.

`planted` is the text that was read, `lettered` has the options behind `A. ` instead of `A:`, and `swapped`
the questions with options of other items.
"""

PLANTED: Views = {"planted": DOSES}
HARD: Views = {"lettered": (1, 3, 10), "swapped": (0, 1, 3, 10)}
"""What is tried in addition, in the first draw."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One draw of items, coins, orders and training shuffles."""

    seed: int
    test: Sequence[Item]
    """Where items are drawn from."""
    other: Sequence[Item]
    """Where texts between them are drawn from."""
    views: Views = field(default_factory=lambda: PLANTED)
    n_pairs: int = N_PAIRS
    longest: int = LONGEST
    rate: float = RATE

    @cached_property
    def planted(self) -> planting.Planted:
        """The items and which of them are trained on."""
        return planting.plant(self._pool, self.n_pairs, self._generator(0))

    @cached_property
    def members(self) -> list[Item]:
        """The items trained on."""
        return [item for item, member in zip(self.planted.items, self.planted.member, strict=True) if member]

    @cached_property
    def swapped(self) -> list[Item]:
        """Items with options of others, which were never printed together; some items have none."""
        drawn = {(item.subset, item.sample_id) for item in self.planted.items}
        controls = swapped(self._pool, self.seed)
        return [item for item in controls if (item.subset, item.sample_id) in drawn]

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
    def _pool(self) -> list[Item]:
        return planting.eligible(self.test, self.longest)

    @cached_property
    def _filler(self) -> list[Item]:
        drawn = {item.question for item in self.planted.items}
        return [item for item in planting.eligible(self.other, self.longest) if item.question not in drawn]

    def _generator(self, *path: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *path])


class Study:
    """Trains and scores one trial, and takes up what an earlier start has left in its folder."""

    def __init__(
        self, trial: Trial, folder: Path, loaded: Callable[[str], Any], progress: Progress = lambda _: None
    ) -> None:
        """`loaded` gives a fresh copy of the untouched model (a `LoadedModel`) in a precision."""
        self.trial = trial
        self.folder = folder
        self._loaded = loaded
        self._progress = progress
        folder.mkdir(parents=True, exist_ok=True)

    def complete(self) -> None:
        """Train and score what is not on disk yet."""
        self.train()
        for dose, view in self.missing():
            self.score(dose, view)

    def scores(self, dose: int, view: str = "planted") -> PermutationScores | None:
        """The scores after `dose` exposures, if they are on disk."""
        path = self._matrix(dose, view)
        return matrices.load(path) if path.is_file() else None

    def missing(self) -> list[tuple[int, str]]:
        """Pairs of dose and view that are not on disk yet."""
        pairs = [(dose, view) for view, doses in self.trial.views.items() for dose in doses]
        return [pair for pair in pairs if not self._matrix(*pair).is_file()]

    def train(self, most: float = math.inf) -> None:
        """Train as far as something is missing, up to `most` exposures; weights to score stay on disk."""
        import torch

        doses = {dose for dose, _ in self.missing()}
        wanted = {dose for dose in doses if 0 < dose <= most and not self._weights(dose).is_file()}
        if not wanted:
            return
        loaded = self._loaded("float32")
        model, adam, done = loaded.model, optimizer(loaded.model, self.trial.rate), 0
        if self._state.is_file():
            state = torch.load(self._state, weights_only=True)
            if state["epoch"] < min(wanted):
                model.load_state_dict(state["model"])
                adam.load_state_dict(state["optimizer"])
                done = state["epoch"]
        for epoch in range(done + 1, max(wanted) + 1):
            documents = loaded.tokenizer.encode(self.trial.texts(epoch))
            loss = train(model, adam, documents, self.trial.shuffle(epoch), batch=BATCH, autocast=True)
            self._progress(f"seed {self.trial.seed}: exposure {epoch}, loss {loss:.3f}")
            if epoch in wanted:
                _write(self._weights(epoch), {k: v.bfloat16() for k, v in model.state_dict().items()})
                state = {"model": model.state_dict(), "optimizer": adam.state_dict(), "epoch": epoch}
                _write(self._state, state)
        if max(wanted) == max(doses):
            self._state.unlink()

    def score(self, dose: int, view: str) -> None:
        """Score the items after `dose` exposures, in bfloat16."""
        import torch

        from evalkit.backends.hf.backend import HfBackend

        loaded = self._loaded("bfloat16")
        if dose:
            loaded.model.load_state_dict(torch.load(self._weights(dose), weights_only=True))
        items = self.trial.swapped if view == "swapped" else self.trial.planted.items
        fmt = "lettered" if view == "lettered" else "ni2024"
        task = f"seed{self.trial.seed}-{view}-{dose}"
        write_scores(self._matrix(dose, view), [matrices.measure(HfBackend(loaded), task, items, fmt)])
        self._progress(f"seed {self.trial.seed}: {view} scored after {dose} exposures")
        if dose not in {left for left, _ in self.missing()}:
            self._weights(dose).unlink(missing_ok=True)

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def _weights(self, dose: int) -> Path:
        return self.folder / f"weights-{dose}.pt"

    def _matrix(self, dose: int, view: str) -> Path:
        return self.folder / f"{view}-{dose}.parquet"


def studies(source: DataSource, work: Path, progress: Progress) -> list[Study]:
    """The study of every seed.

    Args:
        source: where MMLU is read from.
        work: folder of matrices and checkpoints.
        progress: told what was done.
    """
    test, val, dev = (planting.read_items(source, "mmlu", split) for split in ("test", "val", "dev"))
    trials = [
        Trial(seed, test, [*val, *dev], {**PLANTED, **HARD} if seed == SEEDS[0] else PLANTED)
        for seed in SEEDS
    ]
    return [Study(trial, work / f"seed{trial.seed}", load, progress) for trial in trials]


def load(dtype: str) -> Any:
    """The untouched model."""
    from evalkit.backends.hf import loading

    return loading.load(MODEL, loading.LoadOptions(dtype=dtype))


def analyse(found: Sequence[Study], seed: int = 0) -> dict[str, Any]:
    """Everything the matrices on disk say, ready for JSON; a dose without any is left out."""
    rng = np.random.default_rng(seed)
    trials = [study.trial for study in found]
    doses = _draws(found, "planted")
    read = {dose: draws for dose, draws in doses.items() if dose}
    return {
        "model": MODEL,
        "rate": trials[0].rate,
        "batch": BATCH,
        "longest": trials[0].longest,
        "n_items": [len(trial.planted.items) for trial in trials],
        "blind_auc": [blind_auc(trial.planted.items, trial.planted.member) for trial in trials],
        "doses": {str(dose): _dose(draws, rng) for dose, draws in doses.items()},
        "null": {str(dose): analysis.null(_unexposed(draws, dose), rng) for dose, draws in doses.items()},
        "lift_explained": {str(dose): analysis.lift_explained(draws) for dose, draws in read.items()},
        "reordered": {str(dose): _dose(_reordered(draws, rng)) for dose, draws in read.items()},
        "lettered": {str(dose): _dose(draws) for dose, draws in _draws(found, "lettered").items()},
        "swapped": {
            str(dose): against
            for dose in sorted({dose for trial in trials for dose in trial.views.get("swapped", ())})
            if (against := _against_swapped(found, dose))
        },
    }


def _draws(found: Sequence[Study], view: str) -> dict[int, list[Exposed]]:
    """The draws that were scored, by dose."""
    doses = sorted({dose for study in found for dose in study.trial.views.get(view, ())})
    by_dose = {dose: [_exposed(study.scores(dose, view), study) for study in found] for dose in doses}
    kept = {dose: [draw for draw in draws if draw] for dose, draws in by_dose.items()}
    return {dose: draws for dose, draws in kept.items() if draws}


def _exposed(scores: PermutationScores | None, study: Study) -> Exposed | None:
    return Exposed(scores, study.trial.planted.member) if scores else None


def _unexposed(draws: Sequence[Exposed], dose: int) -> list[Exposed]:
    """Before training no item is exposed."""
    return [Exposed(draw.scores, draw.member & (dose > 0)) for draw in draws]


def _reordered(draws: Sequence[Exposed], rng: np.random.Generator) -> list[Exposed]:
    """As if the model had read every item in another order than the published one."""
    return [Exposed(matrices.republished(draw.scores, rng), draw.member) for draw in draws]


def _dose(draws: Sequence[Exposed], rng: np.random.Generator | None = None) -> dict[str, Any]:
    return {
        "draws": len(draws),
        "order": analysis.order_tests(draws),
        "detectors": analysis.detections(draws),
        **({"roc": analysis.curves(draws), "power": analysis.power(draws, rng)} if rng else {}),
    }


def _against_swapped(found: Sequence[Study], dose: int) -> dict[str, Any] | None:
    """Source exposure of the first draw with controls, members and unseen items apart."""
    for study in found:
        scores, control = study.scores(dose), study.scores(dose, "swapped")
        if scores and control:
            member = study.trial.planted.member
            sides = {"members": scores.only(member), "unseen": scores.only(~member)}
            tested = {side: source_exposure(chosen, control) for side, chosen in sides.items()}
            return {side: {"n": one.n, "effect": one.effect, "p": one.peak.p} for side, one in tested.items()}
    return None


def _write(path: Path, value: Any) -> None:
    """Save in one piece."""
    import torch

    scratch = path.with_suffix(".part")
    torch.save(value, scratch)
    scratch.replace(path)
