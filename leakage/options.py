"""What a user may ask of the leakage module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from evalkit.errors import UsageError, unknown_name
from evalkit.leakage.formats import FORMATS
from evalkit.leakage.scoring import Measure

ON_OPTIONS = {
    "published": "flagged fraction of arXiv 2409.01790 (scenarios a and b) beside its null floor",
    "order": "randomisation test on the publisher's option order: was the file seen?",
    "source": "sharpness against swapped options and reference models: was the source seen in any order?",
}
"""Detectors for benchmarks whose records have options of their own."""

ON_TEXTS = {
    "item_order": "are records likelier in the file's order than in others: was the file seen?",
    "token_battery": "loss, zlib ratio, Min-K % and Min-K %++ against a control set; no evidence alone",
    "completion": "n-grams completed word for word, against a control set; no evidence alone",
    "loss_gap": "loss against a rephrased or reference file; no evidence alone",
    "context_gain": "records that others in front make less likely (CoDeC), against a control set; the same",
}
"""Detectors for all others."""

METHODS = ON_OPTIONS | ON_TEXTS


@dataclass(frozen=True, slots=True)
class LeakageOptions:
    """What is examined, and how."""

    model: str
    tasks: str
    """Comma-separated task specs, suites, or JSON files of items."""
    split: str | None = None
    subsets: tuple[str, ...] = ()
    limit: int | None = None
    """First N items of each subset."""
    methods: tuple[str, ...] = ()
    """Names of `METHODS`; none means all that apply."""
    format: str = "ni2024"
    """How an item is written (see `evalkit.leakage.formats`)."""
    permutations: int = 120
    """Orders in which items with more than five options are scored."""
    controls: int = 200
    """Items per task that are scored again with swapped options."""
    alpha: float = 0.01
    """Share of clean benchmarks that may be called leaked."""
    smallest: float = 0.1
    """Leaked fraction that a run should be able to see."""
    sequential: bool = False
    """Stop when the evidence suffices, or is not to come."""
    seed: int = 0
    references: tuple[str, ...] = ()
    """Folders that earlier leakage runs of other models wrote."""
    control: str | None = None
    """Texts the model has not seen: a task spec or a file of JSON lines."""
    rephrased: str | None = None
    """The benchmark in other words: a file of JSON lines."""
    engine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for method in self.methods:
            if method not in METHODS:
                raise unknown_name("value for --method", method, METHODS)
        if self.format not in FORMATS:
            raise unknown_name("value for --format", self.format, FORMATS)
        if not 0 < self.alpha < 1 or not 0 < self.smallest <= 1:
            raise UsageError("--alpha and --smallest are fractions between 0 and 1")
        if self.permutations < 2 or self.controls < 0:
            raise UsageError("--permutations needs at least 2, --controls at least 0")

    def to_json(self) -> dict[str, Any]:
        """As written to the manifest."""
        return asdict(self) | {
            "subsets": list(self.subsets),
            "methods": list(self.methods),
            "references": list(self.references),
            "engine": dict(self.engine),
        }

    def chosen(self, known: Mapping[str, str]) -> list[str] | None:
        """Those of some methods that were asked for by name; None if no method was."""
        return [name for name in known if name in self.methods] if self.methods else None

    def wants(self, method: str) -> bool:
        """Whether a method was asked for, by name or by naming none."""
        return not self.methods or method in self.methods

    @property
    def measure(self) -> Measure:
        """How items are put to the model."""
        return Measure(FORMATS[self.format], self.permutations, self.seed)
