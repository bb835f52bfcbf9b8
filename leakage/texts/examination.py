"""Everything that is asked of a benchmark of texts, and what each answer may be taken for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np

from evalkit.backends.base import Backend
from evalkit.errors import UsageError, unknown_name
from evalkit.leakage.scores import Floats
from evalkit.leakage.texts import completion
from evalkit.leakage.texts.asking import Progress, fitted, logprobs, token_stats, whole
from evalkit.leakage.texts.context_gain import context_gain, context_gains
from evalkit.leakage.texts.contrast import Blind, blind, contrast
from evalkit.leakage.texts.item_order import item_order_test
from evalkit.leakage.texts.loss_gap import loss_gap
from evalkit.leakage.texts.records import Text
from evalkit.leakage.texts.token_battery import battery
from evalkit.tokens import EncodedRequest
from evalkit.types import TokenStats

ALPHA = 0.01
"""Level below which a p-value is called evidence; a table of many needs a stricter one."""
BLIND_ALPHA = 0.05
"""Level at which a test without the model counts: here it is the null that claims something."""


def examine(
    backend: Backend,
    texts: Sequence[Text],
    control: Sequence[Text] | None = None,
    reference: Sequence[Text] | None = None,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Apply the detectors to the texts of a benchmark.

    Args:
        backend: the engine to ask.
        texts: the benchmark's records in file order.
        control: texts of the same kind that the model has certainly not seen.
        reference: texts that say the same as the benchmark's, or are made like them; those with the id of a
            record are compared with that record.
        methods: some of `METHODS`; None takes all and puts those that cannot be applied under `not_run`.
        seed: of everything random.
        progress: told of each stage how many of how many requests are answered.

    Returns:
        per method what it found, ready for JSON, with `claim`: what it may be taken for.

    Raises:
        UsageError: an unknown method, or one asked for by name that cannot be applied, and why.
    """
    for name in methods or ():
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    subject = _Subject(backend, texts, control, reference, seed, progress)
    results: dict[str, Any] = {}
    not_run: dict[str, str] = {}
    for name in methods or METHODS:
        try:
            results[name] = METHODS[name](subject)
        except UsageError as error:
            if methods is not None:
                raise
            not_run[name] = str(error)
    return results | {"not_run": not_run}


class _Subject:
    """A benchmark's texts, what they are compared with, and what several methods read."""

    def __init__(
        self,
        backend: Backend,
        texts: Sequence[Text],
        control: Sequence[Text] | None,
        reference: Sequence[Text] | None,
        seed: int,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.backend = backend
        self.seed = seed
        self._progress = progress
        self.texts = self._fitted(texts)
        self._control = None if control is None else self._fitted(control)
        self._reference = None if reference is None else self._fitted(reference)

    def _fitted(self, texts: Sequence[Text]) -> list[Text]:
        window = self.backend.info.max_length
        cut = fitted(self.backend.tokenizer, [text.text for text in texts], window)
        return [replace(text, text=short) for text, short in zip(texts, cut, strict=True)]

    @property
    def control(self) -> list[Text]:
        if self._control is None:
            raise UsageError("needs a control set: texts of the same kind that the model has not seen")
        return self._control

    @property
    def reference(self) -> list[Text]:
        if self._reference is None:
            raise UsageError("needs a reference set: the benchmark rephrased, or texts made like its own")
        return self._reference

    @cached_property
    def stats(self) -> list[TokenStats]:
        return token_stats(self.backend, self._requests(self.texts), self.stage("texts"))

    @cached_property
    def control_stats(self) -> list[TokenStats]:
        return token_stats(self.backend, self._requests(self.control), self.stage("control texts"))

    @cached_property
    def blind(self) -> Blind:
        return blind([t.text for t in self.texts], [t.text for t in self.control], self.seed)

    @property
    def losses(self) -> Floats:
        """Loss of each text in nats per token."""
        if self.backend.capabilities.no_token_stats is None:
            return np.array([-s.logprob.mean() for s in self.stats])
        return self.losses_of(self.texts, "texts")

    def losses_of(self, texts: Sequence[Text], stage: str) -> Floats:
        """Loss of each of some texts; an engine need not tell more than scores for it."""
        requests = self._requests(texts)
        n_tokens = [request.n_scored(0) for request in requests]
        return np.asarray(-logprobs(self.backend, requests, self.stage(stage)) / n_tokens, np.float64)

    def stage(self, name: str) -> Progress:
        return lambda done, total: self._progress(name, done, total)

    def _requests(self, texts: Sequence[Text]) -> list[EncodedRequest]:
        window = self.backend.info.max_length
        ids = self.backend.tokenizer.encode([text.text for text in texts])
        return [whole(self.backend.tokenizer, i, window) for i in ids]


def _item_order(subject: _Subject) -> dict[str, Any]:
    found = item_order_test(subject.backend, subject.texts, subject.seed, subject.stage("orders of records"))
    if found.test.p >= ALPHA:
        claim = "no evidence that the model has seen the records in the published order"
    elif found.blind.p < BLIND_ALPHA:
        claim = "no evidence: the published order is recognisable without having been seen (see blind)"
    else:
        claim = "evidence of training on the published file, if its publisher put the records in random order"
    return asdict(found) | {"claim": claim}


def _token_battery(subject: _Subject) -> dict[str, Any]:
    measured = battery(subject.stats, [t.text for t in subject.texts])
    control = battery(subject.control_stats, [t.text for t in subject.control])
    contrasts = {name: contrast(measured[name], control[name], subject.seed) for name in measured}
    return {
        "statistics": {name: found.to_json() for name, found in contrasts.items()},
        "blind": subject.blind.to_json(),
        "claim": _contrast_claim(min(c.p for c in contrasts.values()) * len(contrasts), subject.blind),
    }


def _completion(subject: _Subject) -> dict[str, Any]:
    rates, control = (completion.hit_rates(s) for s in (subject.stats, subject.control_stats))
    found = contrast(rates[~np.isnan(rates)], control[~np.isnan(control)], subject.seed)
    return found.to_json() | {
        "too_short": int(np.isnan(rates).sum()),
        "blind": subject.blind.to_json(),
        "claim": _contrast_claim(found.p, subject.blind),
    }


def _loss_gap(subject: _Subject) -> dict[str, Any]:
    reference = subject.reference
    found = loss_gap(
        subject.losses.tolist(),
        subject.losses_of(reference, "reference texts").tolist(),
        [text.id for text in subject.texts],
        [text.id for text in reference],
        subject.seed,
    )
    apart = blind([t.text for t in subject.texts], [t.text for t in reference], subject.seed)
    return found.to_json() | {"blind": apart.to_json(), "claim": _contrast_claim(found.p, apart)}


def _context_gain(subject: _Subject) -> dict[str, Any]:
    target, control = (
        context_gains(subject.backend, texts, subject.seed, subject.stage(stage))
        for texts, stage in ((subject.texts, "texts in context"), (subject.control, "control in context"))
    )
    found = context_gain(target, control)
    return found.to_json() | {
        "blind": subject.blind.to_json(),
        "claim": _contrast_claim(found.p, subject.blind),
    }


METHODS: Mapping[str, Callable[[_Subject], dict[str, Any]]] = {
    "item_order": _item_order,
    "token_battery": _token_battery,
    "completion": _completion,
    "loss_gap": _loss_gap,
    "context_gain": _context_gain,
}
"""Detectors of leaked texts by name."""


def _contrast_claim(p: float, apart: Blind) -> str:
    """Say what a contrast with other texts may be taken for: never for evidence on its own."""
    if p >= ALPHA:
        return "no difference from the texts compared with"
    if apart.confounded:
        return "no evidence: the two sets of texts differ without the model, too (confounded, see blind)"
    return "consistent with exposure; supports other evidence, and is none on its own"
