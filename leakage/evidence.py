"""All that was measured of a benchmark, on the examined model and on its references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evalkit.leakage.benchmark import Benchmark
from evalkit.leakage.items import Item
from evalkit.leakage.measuring import Measured
from evalkit.leakage.scores import PermutationScores


@dataclass(frozen=True, slots=True)
class Reference:
    """What an earlier run measured on a model that has not seen the benchmarks."""

    name: str
    fingerprint: str
    request: Mapping[str, Any]
    """How it was measured."""
    scores: Mapping[str, PermutationScores]
    controls: Mapping[str, PermutationScores]


@dataclass(frozen=True)
class Evidence:
    """All that was measured of one benchmark."""

    benchmark: Benchmark
    scores: PermutationScores
    controls: PermutationScores | None = None
    references: Sequence[Reference] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    sequential: Mapping[str, Any] | None = None
    texts: Mapping[str, Any] | None = None
    """Results of the detectors on texts."""
    tokens_logical: int = 0

    @classmethod
    def measured(
        cls,
        benchmark: Benchmark,
        measured: Measured,
        controls: Measured | None,
        references: Sequence[Reference],
    ) -> Evidence:
        """Put together what was just measured."""
        excluded = Counter(benchmark.excluded) + measured.excluded
        tokens = measured.tokens_logical + (controls.tokens_logical if controls else 0)
        return cls(
            benchmark,
            measured.scores,
            controls.scores if controls else None,
            references,
            excluded,
            measured.errors + (controls.errors if controls else Counter()),
            measured.sequential,
            tokens_logical=tokens,
        )

    @classmethod
    def of_texts(cls, benchmark: Benchmark, found: Mapping[str, Any]) -> Evidence:
        """Put together what the detectors on texts found."""
        return cls(benchmark, PermutationScores(benchmark.name, ()), texts=found)

    @classmethod
    def again(
        cls,
        benchmark: Benchmark,
        scores: PermutationScores | None,
        controls: PermutationScores | None,
        references: Sequence[Reference],
        before: Mapping[str, Any],
    ) -> Evidence:
        """Put together what an earlier run wrote down."""
        return cls(
            benchmark,
            scores or PermutationScores(benchmark.name, ()),
            controls,
            references,
            before["excluded"],
            before["errors"],
            before.get("sequential"),
            None if benchmark.is_multiple_choice else before["texts"],
        )

    @property
    def items(self) -> list[Item]:
        """The scored items, aligned with `scores`."""
        known = {(item.subset, item.sample_id): item for item in self.benchmark.items}
        return [known[item.subset, item.sample_id] for item in self.scores.items]
