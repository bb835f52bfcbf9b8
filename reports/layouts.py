"""Layouts: which tables there are, and what each place of them takes from a run or from a publication."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evalkit.configs import shipped
from evalkit.errors import UsageError, unknown_name
from evalkit.reports.documents import problem

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Label(_Part):
    """A text in two languages; one text stands for both."""

    en: str
    zh: str

    @model_validator(mode="before")
    @classmethod
    def _one_for_both(cls, value: object) -> object:
        if isinstance(value, str):
            return {"en": value, "zh": value}
        if not isinstance(value, dict | Label):
            raise ValueError("must be a text, or a text in each language: {en: …, zh: …}")
        return value

    def text(self, language: Language) -> str:
        """The text in one language."""
        return self.zh if language == "zh" else self.en


_EXCLUSIVE = {
    "mean_of": ("runs", "metric", "category", "subsets", "average", "model", "leakage", "text"),
    "model": ("runs", "metric", "category", "subsets", "average", "leakage"),
    "leakage": ("metric", "category", "subsets", "average"),
    "category": ("subsets", "average"),
    "subsets": ("average",),
}
"""What an entry can be, and what it cannot be then."""


class Entry(_Part):
    """One benchmark of a table, or another thing that is said of every model."""

    key: str
    """Its name in the published table."""
    label: Label
    """Its heading; by default the key."""
    group: Label | None = None
    """Heading above several entries."""
    runs: tuple[str, ...] = ()
    """Resolved task names of runs that may fill it, as shell patterns, best first; a plain task name takes
    any protocol."""
    metric: str | None = None
    """Metric of those tasks; by default their first."""
    category: str | None = None
    """Category of those tasks instead of the whole."""
    subsets: tuple[str, ...] = ()
    """Subsets of those tasks instead of the whole; of several, the mean."""
    average: Literal["macro", "micro"] | None = None
    """How subsets make up the whole; by default as the protocol says."""
    mean_of: tuple[str, ...] = ()
    """Keys of entries this is the mean of; for runs it is computed, and missing if one of them is."""
    model: Literal["dtype", "backend", "memory_gb"] | None = None
    """What is said of a run's model instead of a score."""
    leakage: float | None = Field(default=None, gt=0, le=100)
    """Threshold of the published leakage rule, whose flagged share is shown instead of a score."""
    scale: float = Field(default=100, gt=0, le=1e6)
    """Metric values are multiplied by this."""
    digits: int | None = Field(default=None, ge=0, le=10)
    """Decimal places; by default the layout's."""
    best: Literal["higher", "lower", "none"] | None = None
    """Which value is emphasised; by default the layout's."""
    text: bool = False
    """Whether its cells are words."""
    notes: tuple[Label, ...] = ()
    """Footnotes of its heading."""

    @model_validator(mode="before")
    @classmethod
    def _label_from_key(cls, value: object) -> object:
        return {"label": str(value.get("key", "")), **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) not in (None, (), False)]
        for one, others in _EXCLUSIVE.items():
            if one in given and (clash := [name for name in others if name in given]):
                raise ValueError(f"'{one}' and '{clash[0]}' exclude each other")
        for name in ("subsets", "mean_of"):
            named: tuple[str, ...] = getattr(self, name)
            if repeated := {key for key in named if named.count(key) > 1}:
                raise ValueError(f"'{name}' names '{min(repeated)}' twice")
        return self


class Layout(_Part):
    """One table: models along one side, entries along the other."""

    name: str
    title: Label
    corner: Label
    models: Literal["rows", "columns"]
    entries: tuple[Entry, ...] = ()
    """Empty: every task and metric of the runs."""
    published: str | None = None
    """The published table that it repeats, as card/table."""
    digits: int = Field(default=1, ge=0, le=10)
    best: Literal["higher", "lower", "none"] = "higher"
    notes: tuple[Label, ...] = ()

    @model_validator(mode="after")
    def _means_are_of_entries(self) -> Self:
        keys = [entry.key for entry in self.entries]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"two entries have the key '{min(repeated)}'")
        for entry in self.entries:
            if unknown := set(entry.mean_of).difference(keys):
                raise ValueError(f"entry '{entry.key}' is the mean of '{min(unknown)}', which is no entry")
        without = {entry.key for entry in self.entries if entry.mean_of or entry.model or entry.text}
        for entry in self.entries:
            if found := without.intersection(entry.mean_of):
                raise ValueError(
                    f"entry '{entry.key}' is the mean of '{min(found)}', which has no score of its own"
                )
        return self


DEFAULT = Layout(
    name="scores",
    title=Label(en="Scores", zh="评测结果"),
    corner=Label(en="Benchmark", zh="评测集"),
    models="columns",
    digits=2,
)
"""Every task and metric of the runs, one line each."""


def load(name: str) -> Layout:
    """Read a layout that ships with evalkit, or a YAML file of the user's.

    Raises:
        UsageError: there is none of this name, or the file is not a layout, and where.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        try:
            return _parse(path.stem, path.read_text("utf-8"), name)
        except OSError as error:
            raise UsageError(f"--layout {name}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"--layout {name}: not UTF-8 text: {error}") from error
    known = layouts()
    if name not in known:
        raise unknown_name("layout", name, known)
    return known[name]


@cache
def layouts() -> dict[str, Layout]:
    """The layouts that ship with evalkit, by name."""
    read = {name: _parse(name, text, f"layout {name}") for name, text in shipped("layouts").items()}
    return {DEFAULT.name: DEFAULT} | read


def _parse(name: str, text: str, where: str) -> Layout:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{where}: not a layout, which has a title, a corner, models and entries")
    try:
        return Layout.model_validate({"name": name, **content})
    except ValidationError as error:
        raise UsageError(f"{where}: {problem(error)}") from error
