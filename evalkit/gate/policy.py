"""What a gate demands: a YAML file of rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from evalkit.configs import shipped
from evalkit.errors import UsageError, unknown_name
from evalkit.gate.strict_yaml import KeyPath, read, where
from evalkit.stats.power import POWER
from evalkit.validation import first_problem

Points = Annotated[float, Field(ge=0, lt=100)]
"""Hundredths of a score."""
Level = Annotated[float, Field(ge=1e-6, lt=0.5)]


def _limit(value: Any) -> str:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]+|[0-9]+(\.[0-9]+)?%", text):
        raise ValueError("must be a number of samples, or a percentage such as 1%")
    return text


Limit = Annotated[str, BeforeValidator(_limit)]
"""So many samples, or so many per cent of them."""
Correction = Literal["holm", "bh", "none"]
Contamination = Literal["file leak", "source exposure", "inconclusive", "not examined"]
Test = Literal["regression", "non-inferiority", "equivalence"]


class _Part(BaseModel):
    # Strict, for `margin: yes` is no point, and a number in quotes is perhaps none.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Rule(_Part):
    """What is demanded of some tasks."""

    tasks: tuple[str, ...] = ("*",)
    """Resolved or plain task names, as shell patterns."""
    metric: str | None = None
    """By default the task's headline."""
    direction: Literal["higher", "lower"] = "higher"
    """Which scores are better."""
    test: Test = "regression"
    """`regression` fails what is worse; `non-inferiority` passes what is shown not to be worse by the margin,
    `equivalence` what is shown to be neither worse nor better by it."""
    margin: Points = 0
    """How many points worse a candidate may be."""
    detect: Points = 2
    """A drop in points that a pass of a `regression` test rules out, or would have seen with enough power."""
    alpha: Level | None = None
    """Level; by default the policy's."""
    min_samples: int = Field(default=2, ge=2)
    """Fewer samples with a score in both runs are refused."""
    floor: Points | None = None
    """The least score in points, or where lower is better the greatest, that passes."""
    max_errors: Limit = "0"
    """Samples of the candidate that may have failed."""
    max_unparsed: Limit | None = None
    max_truncated: Limit | None = None
    contamination: tuple[Contamination, ...] = ()
    """Verdicts of `evalkit leakage` that fail."""

    @model_validator(mode="after")
    def _test_has_its_margin(self) -> Self:
        if self.test == "regression":
            if self.detect <= self.margin:
                raise ValueError(f"detect {self.detect:g} must be more than the margin of {self.margin:g}")
        elif self.margin == 0:
            raise ValueError(f"test {self.test} needs a margin above 0")
        elif "detect" in self.model_fields_set:
            raise ValueError(f"detect belongs to the test regression, not to {self.test}")
        return self


class Policy(_Part):
    """The keys of a policy file."""

    alpha: Level = 0.05
    """Chance of failing a candidate that is no worse, over all tasks where corrected for their number."""
    correction: Correction = "holm"
    power: Annotated[float, Field(ge=0.5, lt=1)] = POWER
    """Chance of seeing a difference that counts as enough."""
    inconclusive: Literal["fail", "pass"] = "pass"
    """What becomes of a comparison that could not tell."""
    baseline: str | None = None
    """What candidates are compared with, where no other is named: a path from the policy's folder."""
    subset: bool = False
    """Whether the candidate may have run only some of the baseline's tasks and samples."""
    max_cost: dict[
        Literal["wall_s", "tokens_computed", "tokens_generated", "peak_memory_bytes"],
        Annotated[float, Field(ge=0)],
    ] = Field(default_factory=dict)
    """Ceilings of what the candidate's run may have cost."""
    rules: tuple[Rule, ...] = ()
    """The first that matches a task holds; a task that none matches is held to the defaults."""


@dataclass(frozen=True)
class PolicyFile:
    """A policy with its place, for messages."""

    name: str
    policy: Policy
    lines: Mapping[KeyPath, int]
    """Line of every key, by its path."""

    def rule(self, task: str, plain: str) -> tuple[int | None, Rule]:
        """The rule of a task, by resolved and plain name, and its place; None for the defaults."""
        for place, rule in enumerate(self.policy.rules):
            if any(fnmatchcase(name, pattern) for pattern in rule.tasks for name in (task, plain)):
                return place, rule
        return None, Rule()

    @property
    def baseline(self) -> Path | None:
        """What the policy compares candidates with."""
        return Path(self.name).parent / self.policy.baseline if self.policy.baseline else None

    def at(self, key: str) -> str:
        """File, line and key of something that holds for all tasks."""
        return self._place((key,))

    def where(self, place: int | None, key: str) -> str:
        """File, line and key of a rule's demand."""
        if place is None:
            return f"{self.name}: {key} (by default)"
        return self._place(("rules", place, key))

    def _place(self, path: KeyPath) -> str:
        return where(self.name, self.lines, path) + ("" if path in self.lines else " (by default)")


def load(name: str) -> PolicyFile:
    """Read a policy that ships with evalkit, or a YAML file of the user's.

    Raises:
        UsageError: there is none of this name, or it is wrong, with file, line and key.
    """
    known = shipped("gates")
    if name in known:
        return parse(known[name], name)
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if path.suffix or path.name != name or path.exists():
            raise UsageError(f"--policy {name}: a policy of your own is a file that ends in .yaml or .yml")
        raise unknown_name("policy", name, known)
    try:
        return parse(path.read_text("utf-8-sig"), name)
    except OSError as error:
        raise UsageError(f"--policy {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--policy {name}: not a text in UTF-8 ({error.reason})") from error


def parse(text: str, name: str) -> PolicyFile:
    """Read a policy.

    Raises:
        UsageError: it is wrong, with file, line and key.
    """
    content, lines = read(text, name)
    if not isinstance(content, dict):
        raise UsageError(f"{name}:1: a policy is a mapping with the keys {', '.join(Policy.model_fields)}")
    try:
        return PolicyFile(name, Policy.model_validate(content), lines)
    except ValidationError as error:
        place, what = first_problem(error)
        path = tuple(part for part in place if part != "[key]")
        if error.errors()[0]["type"] == "extra_forbidden":
            what = f"unknown key; known: {', '.join((Rule if path[0] == 'rules' else Policy).model_fields)}"
        raise UsageError(f"{where(name, lines, path)}: {what}") from None
