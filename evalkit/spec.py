"""Task specs: `<task>[@<protocol>][:<split>][:<k>shot]`, from text to everything a run needs to know."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from evalkit import registry
from evalkit.errors import UsageError, unknown_name
from evalkit.task import Protocol, Task

_SPEC = re.compile(
    r"(?P<task>.+\.(?:py|yaml|yml)|[^@:\s]+)"
    r"(?:@(?P<protocol>[^@:\s]+))?"
    r"(?::(?P<split>[A-Za-z_][^@:\s]*))?"
    r"(?::(?P<shots>\d+)shot)?"
)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task spec as written; None stands for a part that was left out."""

    task: str
    """Name of a task or suite, or the path of a user's task file."""
    protocol: str | None = None
    split: str | None = None
    shots: int | None = None

    @classmethod
    def parse(cls, text: str) -> TaskSpec:
        """Parse one spec; raises UsageError if it does not follow the grammar."""
        match = _SPEC.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"cannot read task spec '{text}'; write <task>[@<protocol>][:<split>][:<k>shot], "
                "for example ceval or cmmlu@lm-eval:test:5shot"
            )
        shots = match["shots"]
        return cls(match["task"], match["protocol"], match["split"], None if shots is None else int(shots))

    def filled(self, other: TaskSpec) -> TaskSpec:
        """Return this spec with the parts it leaves open taken from `other`."""
        return replace(
            self,
            protocol=self.protocol if self.protocol is not None else other.protocol,
            split=self.split if self.split is not None else other.split,
            shots=self.shots if self.shots is not None else other.shots,
        )


@dataclass(frozen=True)
class ResolvedTask:
    """A task with every choice made."""

    task: Task
    protocol: Protocol
    split: str
    shots: int

    @property
    def name(self) -> str:
        """The full name that stands in every result, for example `cmmlu@official:test:5shot`."""
        return f"{self.task.name}@{self.protocol.name}:{self.split}:{self.shots}shot"


def resolve_all(specs: str, *, shots: int | None = None, split: str | None = None) -> list[ResolvedTask]:
    """Resolve comma-separated specs; a task that is named twice, for example by two suites, runs once."""
    resolved: dict[str, ResolvedTask] = {}
    for spec in specs.split(","):
        if not spec.strip():
            raise UsageError(f"empty task spec in '{specs}'; separate specs by single commas")
        for one in resolve(spec, shots=shots, split=split):
            first = resolved.setdefault(one.name, one)
            if first.task is not one.task:
                raise UsageError(f"two tasks are called '{one.task.name}'; rename one of them")
    return list(resolved.values())


def resolve(spec: str, *, shots: int | None = None, split: str | None = None) -> list[ResolvedTask]:
    """Resolve one spec, which is several tasks if it names a suite or a file that defines several.

    What the spec says wins over `shots` and `split`, and these win over the protocol's defaults. Parts
    written after a suite's name hold for all its tasks. Raises UsageError for anything unknown.
    """
    asked = TaskSpec.parse(spec)
    options = TaskSpec(asked.task, split=split, shots=shots)
    if suite := registry.suites().get(asked.task):
        members = [replace(asked, task=m.task).filled(m) for m in map(TaskSpec.parse, suite.tasks)]
        return [_resolve(registry.get_task(m.task), m.filled(options)) for m in members]
    if registry.is_file_spec(asked.task):
        return [_resolve(task, asked.filled(options)) for task in registry.load_file(asked.task)]
    return [_resolve(registry.get_task(asked.task), asked.filled(options))]


def _resolve(task: Task, spec: TaskSpec) -> ResolvedTask:
    protocol = _protocol(task, spec.protocol or task.default_protocol)
    split = spec.split or protocol.default_split
    if split not in task.splits:
        raise unknown_name(f"split of {task.name}", split, task.splits)
    shots = protocol.default_shots if spec.shots is None else spec.shots
    name = f"{task.name}@{protocol.name}"
    if not 0 <= shots <= protocol.max_shots:
        raise UsageError(f"{name} takes 0 to {protocol.max_shots} shots, not {shots}")
    if shots and split == task.shots_split:
        raise UsageError(
            f"{name}:{split}: the few-shot examples come from the {split} split itself, so prompts would "
            f"hold their own answers; use {name}:{split}:0shot"
        )
    return ResolvedTask(task, protocol, split, shots)


def _protocol(task: Task, name: str) -> Protocol:
    if name not in task.protocols:
        raise unknown_name(f"protocol of {task.name}", name, task.protocols)
    return task.protocols[name]
