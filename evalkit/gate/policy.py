"""What a gate demands: a YAML file of rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from evalkit.configs import shipped
from evalkit.errors import UsageError, unknown_name
from evalkit.stats.power import POWER

Points = Annotated[float, Field(ge=0, lt=100)]
"""Hundredths of a score."""
Level = Annotated[float, Field(gt=0, lt=0.5)]
Limit = Annotated[
    str, BeforeValidator(lambda value: str(value)), StringConstraints(pattern=r"^\d+$|^\d+(\.\d+)?%$")
]
"""So many samples, or so many per cent of them."""
Correction = Literal["holm", "bh", "none"]
Contamination = Literal["file leak", "source exposure", "inconclusive", "not examined"]
Test = Literal["regression", "non-inferiority", "equivalence"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    lines: Mapping[tuple[str | int, ...], int]
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
        return _where(self.name, self.lines, (key,))

    def where(self, place: int | None, key: str) -> str:
        """File, line and key of a rule's demand."""
        if place is None:
            return f"{self.name}: {key} (by default)"
        return _where(self.name, self.lines, ("rules", place, key))


def load(name: str) -> PolicyFile:
    """Read a policy that ships with evalkit, or a YAML file of the user's.

    Raises:
        UsageError: there is none of this name, or it is wrong, with file, line and key.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            return parse(Path(name).read_text("utf-8"), name)
        except OSError as error:
            raise UsageError(f"--policy {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"--policy {name}: not a text in UTF-8 ({error.reason})") from error
    known = shipped("gates")
    if name not in known:
        raise unknown_name("policy", name, known)
    return parse(known[name], f"{name}.yaml")


def parse(text: str, name: str) -> PolicyFile:
    """Read a policy.

    Raises:
        UsageError: it is wrong, with file, line and key.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{name}: not valid YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{name}:1: a policy is a mapping with the keys {', '.join(Policy.model_fields)}")
    lines = dict(_lines(name, node, ()))
    try:
        return PolicyFile(name, Policy.model_validate(content), lines)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise UsageError(f"{_where(name, lines, problem['loc'])}: {_message(problem)}") from None


def _lines(name: str, node: yaml.Node, path: tuple[str | int, ...]) -> Iterator[tuple[Any, int]]:
    """Path and line of every key and list entry below a node."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise UsageError(f"{name}:{line}: {key.value}: the key is given twice")
            seen.add(key.value)
            yield (*path, key.value), line
            yield from _lines(name, value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield (*path, place), value.start_mark.line + 1
            yield from _lines(name, value, (*path, place))


def _where(name: str, lines: Mapping[Any, int], path: tuple[str | int, ...]) -> str:
    """File, line and key; the line of what holds a key that is not written down."""
    known = next(path[:end] for end in range(len(path), -1, -1) if path[:end] in lines or end == 0)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return f"{name}:{lines.get(known, 1)}" + (f": {key}" if key else "")


def _message(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        known = Rule if problem["loc"][0] == "rules" else Policy
        return f"unknown key; known: {', '.join(known.model_fields)}"
    return str(problem["msg"]).removeprefix("Value error, ")
