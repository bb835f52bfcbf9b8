"""Do other records of the same set help a model with a record, or disturb it?

Other records show a model what such texts look like, which helps it unless it knows the set by heart. The
share of records whose log-probability falls when another one is put before them is therefore high for sets a
model was trained on. How high it is for sets it was not trained on depends on the set, hence the control.

Source: Zawalski et al., "Detecting Data Contamination in LLMs via In-Context Learning", arXiv 2510.27055
(CoDeC).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from evalkit.backends.base import Backend
from evalkit.errors import UsageError
from evalkit.leakage.scores import Floats
from evalkit.leakage.texts.asking import Progress, after, ignore, logprobs, whole
from evalkit.leakage.texts.contrast import FEWEST
from evalkit.leakage.texts.records import Text
from evalkit.stats.intervals import Estimate, wilson

SEPARATOR = "\n\n"


def context_gains(
    backend: Backend, texts: Sequence[Text], seed: int = 0, progress: Progress = ignore
) -> Floats:
    """Log-probability that each text gains by another one in front, in nats per token, shape (n,).

    The other text is drawn from the same subset. Both times the same tokens are scored: those of the text
    on its own, the last ones left out where the window does not hold both texts.

    Raises:
        UsageError: a subset has a single text.
    """
    ids = backend.tokenizer.encode([text.text for text in texts])
    (separator,) = backend.tokenizer.encode([SEPARATOR])
    # Half the window for either text.
    half = backend.info.max_length // 2 - len(separator)
    own = [i[:half] for i in ids]
    contexts = [np.concatenate([own[other], separator]) for other in _others(texts, seed)]
    window = backend.info.max_length
    alone = [whole(backend.tokenizer, i, window) for i in own]
    led = [after(backend.tokenizer, c, i, window) for c, i in zip(contexts, own, strict=True)]
    both = logprobs(backend, [*alone, *led], progress)
    n_tokens = np.array([len(i) for i in own])
    return np.asarray((both[len(own) :] - both[: len(own)]) / n_tokens, np.float64)


def _others(texts: Sequence[Text], seed: int) -> list[int]:
    """For each text another one of its subset: the next in a random circle."""
    generator = np.random.default_rng(seed)
    members: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        members[text.subset].append(i)
    others = [0] * len(texts)
    for subset, rows in members.items():
        if len(rows) < 2:
            raise UsageError(f"the subset {subset!r} has a single text, and no other to put before it")
        circle = generator.permutation(rows)
        for row, other in zip(circle, np.roll(circle, 1), strict=True):
            others[row] = int(other)
    return others


@dataclass(frozen=True, slots=True)
class ContextGain:
    """How many texts another one disturbs, in the benchmark and in the control."""

    share: Estimate
    """Of the benchmark's texts whose log-probability falls."""
    control_share: Estimate
    difference: Estimate
    """Benchmark minus control."""
    mean_gain: float
    """Of the benchmark's texts, in nats per token."""
    control_mean_gain: float
    p: float
    """One-sided, of Fisher's exact test that the benchmark's share is not higher."""

    def to_json(self) -> dict[str, Any]:
        """As written to `leakage.json`."""
        estimates = {k: getattr(self, k).to_json() for k in ("share", "control_share", "difference")}
        return asdict(self) | estimates


def context_gain(target: Floats, control: Floats) -> ContextGain:
    """Compare the gains (see `context_gains`) of the benchmark's texts with those of the control's.

    The interval of the difference is Newcombe's hybrid of the two Wilson intervals (Statistics in Medicine 17
    (1998), method 10).

    Raises:
        UsageError: a set has fewer than `FEWEST` texts.
    """
    if min(target.size, control.size) < FEWEST:
        raise UsageError(f"{target.size} texts and {control.size} of control are too few: {FEWEST} at least")
    falls, control_falls = (target < 0).sum(), (control < 0).sum()
    a, b = _share(int(falls), target.size), _share(int(control_falls), control.size)
    table = [[falls, target.size - falls], [control_falls, control.size - control_falls]]
    value = a.value - b.value
    low = value - math.hypot(a.value - a.ci95[0], b.ci95[1] - b.value)
    high = value + math.hypot(a.ci95[1] - a.value, b.value - b.ci95[0])
    stderr = math.hypot(a.stderr or 0.0, b.stderr or 0.0)
    return ContextGain(
        share=a,
        control_share=b,
        difference=Estimate(value, stderr, (low, high), target.size + control.size),
        mean_gain=float(target.mean()),
        control_mean_gain=float(control.mean()),
        p=float(stats.fisher_exact(table, alternative="greater").pvalue),
    )


def _share(hits: int, n: int) -> Estimate:
    p = hits / n
    return Estimate(p, math.sqrt(p * (1 - p) / n), wilson(hits, n), n)
