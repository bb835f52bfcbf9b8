"""What happens before a model is loaded and before inference starts: names, data, prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from evalkit.backends.base import Backend
from evalkit.chat import all_separable
from evalkit.data.content import check_split
from evalkit.data.source import DataSource
from evalkit.errors import DataError, UsageError, unknown_name
from evalkit.fewshot import Examples
from evalkit.judge import Samples
from evalkit.prompts import Encoder, Prompt, Rendered, prepare, render
from evalkit.spec import ResolvedTask, resolve_all
from evalkit.task import JudgeSettings, PromptInput
from evalkit.tokens import bos_at_start
from evalkit.types import Outcome, Request, Sample


@dataclass(frozen=True, slots=True)
class Selection:
    """Samples that were picked one by one."""

    samples: Mapping[str, Mapping[str, Collection[str]]]
    """Ids by resolved task and subset."""
    origin: Mapping[str, Any]
    """Who picked them and why, for the manifest."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a user asked for."""

    model: str
    tasks: str
    """Comma-separated task specs or suites."""
    shots: int | None = None
    split: str | None = None
    subsets: tuple[str, ...] = ()
    limit: int | None = None
    """First N samples of each subset."""
    selection: Selection | None = None
    """Only these samples, of every task that is run."""
    seed: int = 0
    chat: bool | None = None
    """Whether prompts go through the model's chat template; None leaves it to the protocol."""
    system: str | None = None
    """System prompt of every conversation."""
    answer_prefix: str | None = None
    """Beginning of every answer, put into the model's mouth."""
    reasoning_tags: tuple[str, str] | None = None
    """Texts between which the model reasons before it answers."""
    max_length: int | None = None
    """Longest prompt and answer in tokens, where that is less than the model's own limit."""
    unsafe_local_code: bool = False
    """Whether generated programs may run without a sandbox."""
    log_prompts: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)
    """What the backend was told (dtype, device, …), recorded to tell runs apart."""

    def to_json(self) -> dict[str, Any]:
        """As written to the manifest."""
        lists: dict[str, Any] = {"subsets": list(self.subsets), "engine": dict(self.engine)}
        lists["selection"] = dict(self.selection.origin) if self.selection else None
        tags = {"reasoning_tags": list(self.reasoning_tags)} if self.reasoning_tags else {}
        return asdict(self) | lists | tags

    @property
    def judging(self) -> JudgeSettings:
        """The part a judge needs."""
        return JudgeSettings(self.unsafe_local_code)


@dataclass
class Job:
    """One task of a run on its way from samples to outcomes."""

    resolved: ResolvedTask
    samples: dict[str, list[Sample]]
    shots: dict[str, Examples]
    data: dict[str, Any]
    prompts: list[Prompt] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Resolved task name."""
        return self.resolved.name


def load_jobs(options: RunOptions, source: DataSource) -> list[Job]:
    """Resolve the tasks and read their data.

    Raises:
        UsageError: unknown task, protocol, split or subset.
        DataError: data missing or corrupt.
        UntrustedResultError: answers could not be judged on this machine.
    """
    resolved = resolve_all(options.tasks, shots=options.shots, split=options.split)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit}: at least one sample per subset is needed")
    _check_chat_options(options)
    for one in resolved:
        if one.protocol.ready is not None:
            one.protocol.ready(options.judging)
    check_variant(resolved, source)
    chosen = chosen_subsets(resolved, source, options.subsets)
    if options.selection is not None:
        picked = options.selection.samples
        chosen = {name: [s for s in subsets if s in picked[name]] for name, subsets in chosen.items()}
    return [_load_job(r, source, chosen[r.name], options) for r in resolved]


def _check_chat_options(options: RunOptions) -> None:
    given = {"--system": options.system, "--answer-prefix": options.answer_prefix}
    for option, text in given.items():
        if text is not None and not options.chat:
            raise UsageError(f"{option} is part of a conversation, and plain prompts are none; add --chat")


def check_variant(resolved: Sequence[ResolvedTask], source: DataSource) -> None:
    """Refuse a data variant that none of the tasks knows."""
    known = {variant for r in resolved for variant in r.task.variants}
    if source.variant is not None and source.variant not in known:
        raise unknown_name("data variant of these tasks", source.variant, known)


def chosen_subsets(
    resolved: Sequence[ResolvedTask], source: DataSource, wanted: Sequence[str]
) -> dict[str, list[str]]:
    """Subsets to read of every task, by resolved name.

    Raises:
        UsageError: an unknown subset, or a task that has none of those wanted.
    """
    available = {r.name: source.available(r.task, r.split) for r in resolved}
    if not wanted:
        return available
    known = {subset for r in resolved for subset in r.task.subsets}
    for subset in wanted:
        if subset not in known:
            raise unknown_name("subset", subset, known)
    chosen = {r.name: [s for s in r.task.subsets if s in wanted] for r in resolved}
    for name, subsets in chosen.items():
        if not subsets:
            raise UsageError(f"{name} has none of the subsets asked for ({', '.join(wanted)})")
    return chosen


def _load_job(resolved: ResolvedTask, source: DataSource, subsets: Sequence[str], options: RunOptions) -> Job:
    task = resolved.task
    samples = load_samples(resolved, source, subsets)
    shots = {subset: source.shots(resolved, subset, rows) for subset, rows in samples.items()}
    data: dict[str, Any] = {"source": source.kind, "official": is_official(resolved, samples)}
    if source.variant in task.variants:
        data["variant"] = source.variant
    places = _places(resolved, samples, options)
    return Job(
        resolved,
        {subset: [samples[subset][i] for i in chosen] for subset, chosen in places.items()},
        {subset: [shots[subset][i] for i in chosen] for subset, chosen in places.items()},
        data,
    )


def _places(
    resolved: ResolvedTask, samples: Mapping[str, list[Sample]], options: RunOptions
) -> dict[str, list[int]]:
    """Which samples of every subset are run.

    Raises:
        UsageError: samples that were picked are not in the data.
    """
    if options.selection is None:
        return {subset: list(range(len(rows)))[: options.limit] for subset, rows in samples.items()}
    picked = options.selection.samples[resolved.name]
    places = {
        subset: [i for i, sample in enumerate(rows) if sample.id in picked[subset]]
        for subset, rows in samples.items()
    }
    wanted, found = sum(map(len, picked.values())), sum(map(len, places.values()))
    if found != wanted:
        raise UsageError(
            f"{resolved.name}: only {found:,} of the {wanted:,} samples that the plan picked are in the "
            "data; the baseline was run on other files"
        )
    return places


def load_samples(
    resolved: ResolvedTask, source: DataSource, subsets: Sequence[str]
) -> dict[str, list[Sample]]:
    """Read whole subsets.

    Raises:
        DataError: a file is missing, corrupt or empty.
    """
    samples = {subset: source.load(resolved.task, resolved.split, subset) for subset in subsets}
    for subset, rows in samples.items():
        if not rows:
            file = source.file(resolved.task, resolved.split, subset)
            raise DataError(f"{file}: holds no samples; put the whole file back in its place")
    return samples


def is_official(resolved: ResolvedTask, samples: Mapping[str, list[Sample]]) -> bool | None:
    """Whether these are the published records; None when only a part was read."""
    if len(samples) < len(resolved.task.subsets) or resolved.split not in resolved.task.content_sha256:
        return None
    return check_split(resolved.task, resolved.split, samples).ok


def render_prompts(job: Job, backend: Backend, options: RunOptions) -> list[Prompt]:
    """Render and encode every sample.

    Raises:
        UsageError: a prompt that cannot be made to fit or has two BOS tokens, a chat template that does not
            suit the prompts, or an engine that cannot answer such requests.
    """
    _check_capable(job.resolved, backend)
    rendered: list[tuple[PromptInput, Request]] = [
        pair
        for subset, samples in job.samples.items()
        for pair in render(job.resolved, samples, job.shots[subset])
    ]
    encoder = Encoder(
        tokenizer=backend.tokenizer,
        window=min(backend.info.max_length, options.max_length or backend.info.max_length),
        chat=options.chat,
        seed=options.seed,
        system=options.system,
        answer_prefix=options.answer_prefix or "",
        reasoning=options.reasoning_tags,
    )
    job.data["chat_template"] = any(encoder.uses_template(request) for _, request in rendered)
    if job.data["chat_template"]:
        encoder, job.data["chat"] = _conversing(encoder, job.resolved, rendered)
    prompts = prepare(job.resolved, rendered, encoder)
    job.data["bos"] = _checked_bos(job, prompts, backend)
    return prompts


def _conversing(
    encoder: Encoder, resolved: ResolvedTask, rendered: Rendered
) -> tuple[Encoder, dict[str, str | None]]:
    """Choose how examples are asked in a chat template, and put it down."""
    render = resolved.protocol.render
    template = encoder.tokenizer.chat_template
    examples = None
    if any(p.shots for p, _ in rendered):
        examples = "turns" if all_separable(render, rendered) else "one turn"
    described = {
        "template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        "examples": examples,
    }
    return replace(encoder, render=render if examples == "turns" else None), described


def _checked_bos(job: Job, prompts: Sequence[Prompt], backend: Backend) -> int | None:
    """How many BOS tokens (0 or 1) the prompts begin with; None where the model has none.

    A prompt cut from the left may have lost the one it had.
    """
    tokenizer = backend.tokenizer
    if tokenizer.bos_id is None:
        return None
    found = 0
    for prompt in prompts:
        here = bos_at_start(tokenizer, prompt.encoded)
        if here > 1:
            raise UsageError(
                f"{job.name}: the prompt of {prompt.sample.subset} sample {prompt.sample.id} begins with "
                f"{here} BOS tokens: {_bos_writers(job, backend)}"
            )
        found = max(found, here)
    return found


def _bos_writers(job: Job, backend: Backend) -> str:
    if job.data["chat_template"]:
        return (
            f"the chat template of {backend.info.name} writes one, and so does the text it is given (the "
            "system prompt or the data); take it out there, or use --no-chat"
        )
    return "the text has more than one at its beginning; take them out of the data"


def _check_capable(resolved: ResolvedTask, backend: Backend) -> None:
    generates = resolved.protocol.judge is not None
    lack = backend.capabilities.no_completions if generates else backend.capabilities.no_scores
    if lack is None:
        return
    others = [
        f"{resolved.task.name}@{name}"
        for name, protocol in resolved.task.protocols.items()
        if (protocol.judge is not None) is not generates
    ]
    need = "generates text" if generates else "compares the log-probabilities of given options"
    raise UsageError(
        f"{resolved.name} {need}, and {lack}; "
        + (f"{' or '.join(others)} would do" if others else "this task needs another --backend")
    )


def by_id(samples: Mapping[str, Sequence[Sample]]) -> Samples:
    """Samples by subset and id."""
    return {(s.subset, s.id): s for rows in samples.values() for s in rows}
