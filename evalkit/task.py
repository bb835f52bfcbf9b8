"""What a benchmark is: one parser for its official files and several protocols that ask and judge.

A benchmark lives in one file that builds a `Task`. A `Protocol` is one published harness's way of
asking: how a prompt is rendered, what is compared, how an overlong prompt is shortened and how the
scores are averaged.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import UsageError
from evalkit.fewshot import FewShot, first_rows
from evalkit.types import Request, Sample, ScoreResponse

Average = Literal["macro", "micro", "category"]
"""Unweighted mean over subsets, over samples, or over the categories' means over their subsets."""


@dataclass(frozen=True, slots=True)
class PromptInput:
    """All a protocol may look at when it renders the prompt of one sample."""

    subset: str
    """Handle of the subset, for example `computer_network`."""
    title: str
    """Display name of the subset, for example `计算机网络`."""
    shots: tuple[Sample, ...]
    """Few-shot examples in the order they appear in the prompt."""
    sample: Sample


Render = Callable[[PromptInput], Request]
ChoiceScores = Callable[[Sequence[float], Sequence[int]], list[float]]
Combine = Callable[[ScoreResponse], tuple[tuple[float, ...], tuple[int, ...]]]


def per_option(response: ScoreResponse) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """One (log-probability, token count) per option, when the request had one continuation per option."""
    return tuple(s.logprob for s in response.scores), tuple(s.n_tokens for s in response.scores)


def by_logprob(logprobs: Sequence[float], n_tokens: Sequence[int]) -> list[float]:
    """Options compared by their summed log-probability (`acc` of lm-evaluation-harness)."""
    return list(logprobs)


def by_mean_logprob(logprobs: Sequence[float], n_tokens: Sequence[int]) -> list[float]:
    """Options compared by mean log-probability per token, the negative of OpenCompass's PPL value."""
    return [lp / n if n else math.nan for lp, n in zip(logprobs, n_tokens, strict=True)]


@dataclass(frozen=True, slots=True)
class Overlong:
    """What a protocol does with a prompt that does not fit.

    `shots` policies re-render with fewer examples, `left` cuts token ids from the left, `middle` keeps the
    first and the last half of the text's tokens, and `error` refuses before inference starts.
    """

    policy: Literal["error", "left", "middle", "drop_last_shot", "drop_longest_shot"]
    limit: int | Callable[[int], int] | None = None
    """The published token limit, perhaps a function of the model's context length, which applies as well."""
    bare: Render | None = None
    """Rendering used when the prompt does not fit even without examples; None means an error."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """What a judge needs to know of the run."""

    unsafe_local_code: bool = False
    """Whether generated programs may run without a sandbox."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a protocol makes of one sample's completions."""

    prediction: str | None
    """The extracted answer; None counts as unparsed."""
    metrics: Mapping[str, float]
    """Empty where the sample has no target."""


Judge = Callable[[Sequence[tuple[Sample, Sequence[str]]], JudgeSettings], list[Judgement]]
"""Judges (sample, completions) pairs; all at once, since some judges run programs side by side."""


def each(judge: Callable[[Sample, str], Judgement]) -> Judge:
    """Make a judge out of a function of one sample and its first completion."""

    def judge_all(
        answered: Sequence[tuple[Sample, Sequence[str]]], _settings: JudgeSettings
    ) -> list[Judgement]:
        return [judge(sample, completions[0]) for sample, completions in answered]

    return judge_all


def needs(*modules: str) -> Callable[[JudgeSettings], None]:
    """Make a check that the libraries a judge imports are installed."""

    def check(_settings: JudgeSettings) -> None:
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(f"judging needs {', '.join(missing)}: pip install 'evalkit[metrics]'")

    return check


CorpusMetric = Callable[[Sequence[str | None], Sequence[str]], float]
"""(predictions, targets) to one number, for metrics that are no mean over samples."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """How subsets are put together to category scores."""

    members: Mapping[str, tuple[str, ...]]
    """Category name to subset handles; categories may overlap."""
    average: Average


@dataclass(frozen=True)
class Protocol:
    """One published way to run a benchmark."""

    name: str
    source: str
    """Repository and revision (or paper) the protocol was taken from."""
    render: Render
    """Renders the request of one sample."""
    average: Average
    """The average its authors publish: over subsets (macro) or over samples (micro)."""
    groups: Grouping
    overlong: Overlong
    default_split: str
    default_shots: int = 5
    max_shots: int = 5
    combine: Combine = per_option
    """Response to one log-probability and token count per option."""
    choice_scores: ChoiceScores = by_logprob
    """What is maximised over the options."""
    option_texts: Callable[[Sample], Sequence[str]] | None = None
    """The options' texts, where `acc_norm` (log-probability per character) is reported as well."""
    judge: Judge | None = None
    """Judges completions; None for protocols that score options."""
    several_completions: bool = False
    """Whether the judge looks at more than a sample's first completion."""
    headline: str = "acc"
    """The published metric."""
    corpus_metrics: Mapping[str, CorpusMetric] = field(default_factory=dict)
    few_shot: FewShot = first_rows
    """How a sample's examples are chosen."""
    shots_split: str | None = None
    """Where the examples come from, if not from the task's `shots_split`."""
    stratum: Callable[[Sample], str] | None = None
    """Class of a sample that is reported apart."""
    ready: Callable[[JudgeSettings], None] | None = None
    """Checks before inference that judging will be possible; raises EvalkitError if not."""
    summary: str = ""
    """One line for `evalkit tasks show`: what sets this protocol apart."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A record as a question with options of its own, whose order its publisher chose."""

    question: str
    options: tuple[str, ...]
    """In published order."""
    lead: str = ""
    """What the benchmark's own format puts in front of a question."""


@dataclass(frozen=True, slots=True)
class RecordText:
    """A record as its publisher wrote it, without any harness's words around it.

    What a model that was trained on the file has seen: leakage detection asks how well it knows this text.
    """

    prompt: str
    """What is given, for example the question; may be empty."""
    answer: str
    """What was to be answered; empty where it is a mere label."""

    @property
    def text(self) -> str:
        """Both parts, the answer on a line of its own unless the prompt ends in a blank already."""
        joint = "\n" if self.prompt and self.answer and not self.prompt[-1].isspace() else ""
        return self.prompt + joint + self.answer


@dataclass(frozen=True, slots=True)
class HubArchive:
    """The official archive of a benchmark on the Hugging Face hub, at a pinned revision."""

    repo_id: str
    revision: str
    filename: str
    folder: str
    """Folder below the data directory into which the archive is unpacked."""


@dataclass(frozen=True)
class Task:
    """A benchmark: identity, official file layout, parser and protocols."""

    name: str
    title: str
    description: str
    licence: str
    homepage: str
    languages: tuple[str, ...]
    subsets: Mapping[str, str]
    """Subset handle to display name, in official order."""
    splits: tuple[str, ...]
    shots_split: str
    """Split the few-shot examples come from; the protocol says which."""
    folder: str
    """Folder below the data directory, for example `MMLU`."""
    path: Callable[[str, str], str]
    """(split, subset) to the file's path below `folder`."""
    parse: Callable[[Path, str, str], list[Sample]]
    """(file, split, subset) to samples; raises DataError naming file and line."""
    choices: tuple[str, ...]
    """Labels of the options, for example A to D; predictions and targets are among them.

    Empty where every sample has its own number of options: their labels are then "0", "1", … (`labels`).
    """
    protocols: Mapping[str, Protocol]
    default_protocol: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Official number of samples per split."""
    content_sha256: Mapping[str, str] = field(default_factory=dict)
    """Split to the content hash of the official release (see `evalkit.data.content_hash`)."""
    hub: HubArchive | None = None
    submission: bool = False
    """Whether the publisher takes a JSON of predictions for splits without public answers."""
    root: Path | None = None
    """Folder the data of a user's own task lies in; None means the data directory's `folder`."""
    foreign_line: Callable[[str, str, Mapping[str, Any]], tuple[Sample, str]] | None = None
    """Reads a line of predictions as the benchmark's own tools write it, answers included:
    (row, subset, fields) to the sample and its completion. Raises KeyError, TypeError or ValueError."""
    as_choice: Callable[[Sample], Choice | None] | None = None
    """Reads a record as multiple choice, for the detectors that permute options; None for one that is not."""
    record_text: Callable[[Sample], RecordText] | None = None
    """The text of a record, for detecting leakage of texts; None where that reads options instead."""
    variants: Mapping[str, Callable[[str, str], str]] = field(default_factory=dict)
    """Other sets of records in the official format, by name: `path` for `--data-variant NAME`."""

    def labels(self, n_options: int) -> tuple[str, ...]:
        """Return the labels of the options of one sample."""
        return self.choices or tuple(map(str, range(n_options)))
