"""Multiple-choice tasks from one YAML file with Jinja2 templates, no Python needed.

Prompts are put together the way lm-evaluation-harness does it::

    description_prompt  (prompt target_delimiter answer shot_separator) × k  prompt

and the texts compared are `target_delimiter + option`. Templates see the fields of the record and
`subset` and `subset_title`. `choices` has three forms:

* a list of plain labels, `[A, B, C, D]`: the labels are compared, and `target` renders to one of them;
* a list of templates, `["{{ right }}", "{{ wrong }}"]`: the rendered texts are compared;
* one expression that gives a list of any length per record, `options` or `choices.text`.

In the last two forms predictions and targets are the 0-based index of the option, as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import yaml
from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.environment import TemplateExpression
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from evalkit.data.csvfile import corrupt, read_table, read_text
from evalkit.data.jsonfile import parse, read_json_lines
from evalkit.errors import DataError, UsageError
from evalkit.task import Average, Grouping, Overlong, PromptInput, Protocol, Task
from evalkit.types import Sample, ScoreRequest

MAX_SHOTS = 64

Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]


class YamlTask(BaseModel):
    """The keys of a task file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    title: str = ""
    description: str = ""
    licence: str = ""
    homepage: str = ""
    languages: tuple[str, ...] = ()
    data: dict[Name, str] = Field(min_length=1)
    """Split to a CSV (with header), JSON (list of records) or JSON Lines file, relative to the task file.

    `{subset}` in the path stands for every subset in turn.
    """
    subsets: dict[Name, str] | list[Name] = Field(default_factory=dict)
    """Subset handles, or handle to display name."""
    id: str | None = None
    """Template of a record's unique id; the default is its 0-based row."""
    target: str
    """Template of the right answer: a label, or the 0-based index of the right option."""
    choices: list[str] | str
    """Labels, one template per option, or an expression that gives the list of options."""
    description_prompt: str = ""
    prompt: str
    target_delimiter: str = " "
    shot_separator: str = "\n\n"
    shots_split: str | None = None
    """Split whose first rows are the few-shot examples; without it there are none."""
    shots: int = Field(default=0, ge=0, le=MAX_SHOTS)
    """Default number of examples."""
    split: str | None = None
    """Default split; without it `test`, else the first one examples do not come from."""
    average: Average = "micro"

    @model_validator(mode="after")
    def _consistent(self) -> YamlTask:
        for key, split in (("shots_split", self.shots_split), ("split", self.split)):
            if split is not None and split not in self.data:
                raise ValueError(f"{key} '{split}' is not a split of data ({', '.join(self.data)})")
        if self.shots and self.shots_split is None:
            raise ValueError("shots needs shots_split, the split the examples come from")
        if not self.choices:
            raise ValueError("choices is empty")
        for split, path in self.data.items():
            if ("{subset}" in path) != bool(self.subsets):
                raise ValueError(f"data.{split}: {{subset}} in the path and the key subsets go together")
        return self

    @property
    def default_split(self) -> str:
        """The split that is evaluated unless another one is asked for."""
        others = [split for split in self.data if split != self.shots_split] or list(self.data)
        return self.split or ("test" if "test" in others else others[0])

    @property
    def subset_titles(self) -> dict[str, str]:
        """Subset handle to display name; the task itself where there are no subsets."""
        if isinstance(self.subsets, dict):
            return dict(self.subsets) or {self.name: self.title or self.name}
        return {subset: subset for subset in self.subsets}


def load_yaml_task(file: Path) -> Task:
    """Build the task a YAML file describes; raises UsageError naming file, line and problem."""
    keys, content = _read(file)
    try:
        config = YamlTask.model_validate(content)
    except ValidationError as error:
        raise UsageError(_first_problem(file, keys, error)) from None
    return _Builder(file, keys, config).task()


def _read(file: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the line of every top-level key, and the content."""
    try:
        node = yaml.compose(read_text(file), Loader=yaml.SafeLoader)
        content = yaml.safe_load(read_text(file))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{file}:{line}: not valid YAML: {error.problem}") from None
    except (DataError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: not valid YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(
            f"{file}:1: a task file is a mapping with the keys name, data, prompt, choices, target"
        )
    return {key.value: key.start_mark.line + 1 for key, _ in node.value}, content


def _first_problem(file: Path, keys: Mapping[str, int], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(map(str, problem["loc"]))
    line = keys.get(str(problem["loc"][0]), 1) if problem["loc"] else 1
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"unknown key; known: {', '.join(YamlTask.model_fields)}"
    return f"{file}:{line}: {where + ': ' if where else ''}{message}"


@dataclass(frozen=True)
class _Choices:
    """Labels, templates or an expression; exactly one of them is set."""

    labels: tuple[str, ...] = ()
    templates: tuple[Template, ...] = ()
    expression: TemplateExpression | None = None

    def texts(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts to compare for one record."""
        if self.expression is None:
            return self.labels or tuple(template.render(values) for template in self.templates)
        found = self.expression(**values)
        if not isinstance(found, list | tuple) or not found:
            raise TemplateError(f"choices must give a list of options, not {found!r}")
        return tuple(map(str, found))


class _Builder:
    """Compiles the templates of one file and hands them to the functions of a `Task`."""

    def __init__(self, file: Path, keys: Mapping[str, int], config: YamlTask) -> None:
        self.file, self.keys, self.config = file, keys, config
        self.environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        self.id = None if config.id is None else self._compile("id", config.id)
        self.target = self._compile("target", config.target)
        self.description = self._compile("description_prompt", config.description_prompt)
        self.prompt = self._compile("prompt", config.prompt)
        self.choices = self._compile_choices(config.choices)

    def task(self) -> Task:
        config = self.config
        return Task(
            name=config.name,
            title=config.title or config.name,
            description=config.description,
            licence=config.licence,
            homepage=config.homepage,
            languages=config.languages,
            subsets=config.subset_titles,
            splits=tuple(config.data),
            shots_split=config.shots_split or "",
            folder=".",
            path=lambda split, subset: config.data[split].replace("{subset}", subset),
            parse=self.parse,
            choices=self.choices.labels or tuple(map(str, range(len(self.choices.templates)))),
            protocols={"default": self._protocol()},
            default_protocol="default",
            root=self.file.parent,
        )

    def _protocol(self) -> Protocol:
        config = self.config
        return Protocol(
            name="default",
            source=self.file.name,
            summary=f"the prompt written in {self.file.name}",
            render=self.render,
            average=config.average,
            groups=Grouping({}, config.average),
            overlong=Overlong("left"),
            default_split=config.default_split,
            default_shots=config.shots,
            max_shots=MAX_SHOTS if config.shots_split else 0,
        )

    def parse(self, path: Path, _split: str, subset: str) -> list[Sample]:
        samples: dict[str, Sample] = {}
        for row, (line, fields) in enumerate(_records(path)):
            values = self._values(fields, subset)
            where = f"{path}:{line}"
            identifier = str(row) if self.id is None else self._render("id", self.id, values, where)
            if identifier in samples:
                raise corrupt(path, line, f"repeated id {identifier!r}")
            samples[identifier] = Sample(identifier, subset, fields, self._target(values, where))
        return list(samples.values())

    def render(self, p: PromptInput) -> ScoreRequest:
        config = self.config
        values = self._values(p.sample.fields, p.subset)
        where = f"{p.subset}, sample {p.sample.id}"
        description = self._render("description_prompt", self.description, values, where)
        shots = "".join(
            self._open(shot) + config.target_delimiter + self._answer(shot) + config.shot_separator
            for shot in p.shots
        )
        options = (config.target_delimiter + text for text in self._options(values, where))
        return ScoreRequest(description + shots + self._open(p.sample), tuple(options))

    def _open(self, sample: Sample) -> str:
        values = self._values(sample.fields, sample.subset)
        return self._render("prompt", self.prompt, values, f"{sample.subset}, sample {sample.id}")

    def _answer(self, shot: Sample) -> str:
        if self.choices.labels:
            return str(shot.target)
        values = self._values(shot.fields, shot.subset)
        return self._options(values, f"{shot.subset}, sample {shot.id}")[int(str(shot.target))]

    def _target(self, values: Mapping[str, Any], where: str) -> str:
        target = self._render("target", self.target, values, where).strip()
        labels = self.choices.labels or tuple(map(str, range(len(self._options(values, where)))))
        if target not in labels:
            self._fail("target", f"{target!r} is not one of {', '.join(labels)} ({where})")
        return target

    def _options(self, values: Mapping[str, Any], where: str) -> tuple[str, ...]:
        try:
            return self.choices.texts(values)
        except Exception as error:  # noqa: BLE001 - a template fails in any way its values can
            self._fail("choices", f"{error} ({where})")

    def _render(self, key: str, template: Template, values: Mapping[str, Any], where: str) -> str:
        try:
            return template.render(values)
        except Exception as error:  # noqa: BLE001 - a template fails in any way its values can
            self._fail(key, f"{error} ({where})")

    def _values(self, fields: Mapping[str, Any], subset: str) -> dict[str, Any]:
        return {"subset": subset, "subset_title": self.config.subset_titles[subset], **fields}

    def _compile(self, key: str, text: str) -> Template:
        try:
            return self.environment.from_string(text)
        except TemplateSyntaxError as error:
            self._fail(key, f"template error: {error.message}")

    def _compile_choices(self, choices: list[str] | str) -> _Choices:
        if isinstance(choices, str):
            try:
                return _Choices(
                    expression=self.environment.compile_expression(choices, undefined_to_none=False)
                )
            except TemplateSyntaxError as error:
                self._fail("choices", f"expression error: {error.message}")
        if any("{{" in choice or "{%" in choice for choice in choices):
            return _Choices(templates=tuple(self._compile("choices", choice) for choice in choices))
        return _Choices(labels=tuple(choices))

    def _fail(self, key: str, problem: str) -> NoReturn:
        raise UsageError(f"{self.file}:{self.keys.get(key, 1)}: {key}: {problem}") from None


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, fields) of every record; raises DataError naming file and line."""
    if path.suffix == ".csv":
        for row in read_table(path):
            yield row.line, dict(row.cells)
    elif path.suffix == ".jsonl":
        for record in read_json_lines(path, ()):
            yield record.line, record.fields
    elif path.suffix == ".json":
        content = parse(path, 1, read_text(path))
        if not isinstance(content, list):
            raise corrupt(path, 1, "a JSON data file is one list of records")
        for number, record in enumerate(content, start=1):
            if not isinstance(record, dict):
                raise corrupt(path, 1, f"record {number} is not a JSON object")
            yield 1, record
    else:
        raise DataError(f"{path}: cannot tell the format; name data files .csv, .jsonl or .json")
