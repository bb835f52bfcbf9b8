"""Is this the official release? Content hashes of parsed records, and their comparison with a task's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.task import Task
from evalkit.types import Sample


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """What one split on disk holds, beside what the official release holds."""

    task: str
    split: str
    samples: int
    expected_samples: int | None
    """None where the task states no size, as a user's own task may."""
    sha256: str
    expected_sha256: str | None

    @property
    def ok(self) -> bool:
        """Whether the records are exactly the official ones, or nothing is known to compare them with."""
        return self.expected_sha256 in (None, self.sha256) and self.expected_samples in (None, self.samples)

    @property
    def problem(self) -> str | None:
        """What differs, in words; None when nothing does."""
        if self.ok:
            return None
        if self.expected_samples not in (None, self.samples):
            return f"{self.samples} samples instead of {self.expected_samples}"
        return f"content sha256 {self.sha256[:16]}… instead of {(self.expected_sha256 or '')[:16]}…"


def content_hash(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return the sha256 of one whole split, given as subset to samples.

    It covers subset, id, fields and target of every record in file order, subsets sorted by handle, and
    nothing of the file format: the same records from any source give the same hash.
    """
    digest = hashlib.sha256()
    for subset in sorted(samples):
        for sample in samples[subset]:
            record = [subset, sample.id, dict(sample.fields), sample.target]
            line = json.dumps(record, ensure_ascii=False, sort_keys=True)
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def check_split(task: Task, split: str, samples: Mapping[str, Sequence[Sample]]) -> SplitCheck:
    """Compare one whole split, given as subset to samples, with the official release."""
    return SplitCheck(
        task=task.name,
        split=split,
        samples=sum(map(len, samples.values())),
        expected_samples=task.sizes.get(split),
        sha256=content_hash(samples),
        expected_sha256=task.content_sha256.get(split),
    )
