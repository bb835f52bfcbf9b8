"""Multiple-choice items as the detectors see them: a question and its options in published order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Item:
    """One multiple-choice question."""

    subset: str
    sample_id: str
    question: str
    options: tuple[str, ...]
    """Option texts in the order in which the publisher prints them."""
    lead: str = ""
    """What the benchmark's own format puts in front of a question."""

    @property
    def n_distinct(self) -> int:
        """Options that differ from each other."""
        return len(set(self.options))

    def ordered(self, order: Sequence[int]) -> Item:
        """The same item with its options in another order: option `order[k]` comes k-th."""
        return replace(self, options=tuple(self.options[i] for i in order))
