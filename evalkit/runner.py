"""Run benchmarks on a model: load, render, check, score, judge and write the run directory."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from evalkit import equality
from evalkit._version import __version__
from evalkit.backends.base import Backend
from evalkit.data.content import check_split, content_hash
from evalkit.data.source import DataSource
from evalkit.errors import DataError, RunInterrupted, UsageError, unknown_name
from evalkit.judge import failed, judge, rejudge
from evalkit.prompts import Prompt, prepare, render
from evalkit.results import aggregate
from evalkit.spec import ResolvedTask, resolve_all
from evalkit.store import (
    DISK_FULL,
    FIRST_FILES,
    SCHEMA_VERSION,
    RunStore,
    digest,
    outcome_bytes,
    response_bytes,
)
from evalkit.types import Outcome, Response, Sample, ScoreResponse


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
    seed: int = 0
    log_prompts: bool = False


class Progress(Protocol):
    """Told how a run goes; `evalkit.cli.progress` draws it."""

    def stage(self, text: str) -> None:
        """A step before scoring begins."""
        ...

    def start(self, task: str, total: int, done: int) -> None:
        """A task begins; `done` of its samples came from an earlier, interrupted run."""
        ...

    def advance(self, n_logical: int, tokens_computed: int) -> None:
        """One sample is scored; token counts are that sample's and the run's total so far."""
        ...

    def finish(self) -> None:
        """The current task is done."""
        ...


class Silent:
    """Progress for library use."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def start(self, task: str, total: int, done: int) -> None:
        """Say nothing."""

    def advance(self, n_logical: int, tokens_computed: int) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""


@dataclass
class _Job:
    """One task of a run on its way from samples to outcomes."""

    resolved: ResolvedTask
    samples: dict[str, list[Sample]]
    shots: dict[str, tuple[Sample, ...]]
    data: dict[str, Any]
    prompts: list[Prompt] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.resolved.name


def run(
    options: RunOptions,
    source: DataSource,
    load_backend: Callable[[], Backend],
    store: RunStore,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run everything and return the result document.

    Names and data are checked before the model is loaded, and every prompt before inference starts.

    Raises:
        UsageError: unknown names, an output folder in use, a prompt that cannot fit.
        DataError: data missing or corrupt.
        UntrustedResultError: the equality gate failed on every scoring path.
        RunInterrupted: Ctrl-C, termination or a full disk; everything scored so far is in the journal.
    """
    progress = progress or Silent()
    began = time.monotonic()
    _check_output(store, resume)
    jobs = _load_jobs(options, source)
    if resume and store.is_complete:
        _check_finished(store, options, jobs)
        return store.read_json("results.json")

    progress.stage(f"loading {options.model}")
    backend = load_backend()
    load_s = time.monotonic() - began
    progress.stage("rendering and encoding prompts")
    for job in jobs:
        job.prompts = _prompts(job, backend)
    manifest = _manifest(options, source, backend, jobs)
    _check_resumable(store, manifest)

    progress.stage("equality gate: comparing with plain forwards")
    gate = equality.check(backend, [(job.resolved, job.prompts) for job in jobs])
    manifest |= {"equality_gate": gate.to_json(), "model": backend.info.to_json()}
    backend.usage.tokens_computed = 0

    with _interruptible(store):
        store.begin(manifest)
        score_began = time.monotonic()
        earlier = store.responses()
        for job in jobs:
            job.outcomes = _score(job, backend, store, earlier.get(job.name, {}), options, progress)
        score_s = time.monotonic() - score_began
        cost = {
            "load_s": round(load_s, 3),
            "score_s": round(score_s, 3),
            # Like all costs, of this process: what an interrupted one scored before is not counted again.
            "tokens_logical": sum(
                p.encoded.n_logical
                for job in jobs
                for i, p in enumerate(job.prompts)
                if i not in earlier.get(job.name, {})
            ),
            "tokens_computed": backend.usage.tokens_computed,
            "tokens_generated": backend.usage.tokens_generated,
            "samples_resumed": sum(map(len, earlier.values())),
            "peak_memory_bytes": _peak_memory(backend),
            "wall_s": round(time.monotonic() - began, 3),
        }
        return _finish(store, manifest, jobs, gate.noise, cost)


def rescore(store: RunStore) -> dict[str, Any]:
    """Judge and aggregate a finished run again from its stored scores, without inference.

    Raises:
        UsageError: not a finished run, or a task it used is no longer there.
    """
    manifest = store.read_json("manifest.json")
    before = store.read_json("results.json")
    outcomes = store.read_samples()
    asked = manifest["request"]
    known = {r.name: r for r in resolve_all(asked["tasks"], shots=asked["shots"], split=asked["split"])}
    by_task: dict[str, list[Outcome]] = {name: [] for name in before["tasks"]}
    for outcome in outcomes:
        if outcome.task not in known or outcome.subset not in known[outcome.task].task.subsets:
            raise UsageError(
                f"{store.root}: {outcome.task} ({outcome.subset}) of this run is no longer what "
                f"'{asked['tasks']}' resolves to; restore the task as it was, or run again"
            )
        by_task[outcome.task].append(rejudge(known[outcome.task], outcome))
    noise = manifest["equality_gate"]["noise"]
    tasks = {name: aggregate(known[name], rows, noise.get(name)) for name, rows in by_task.items()}
    for name, entry in tasks.items():
        if submission := _write_submission(store, known[name], by_task[name]):
            entry["submission"] = submission
        manifest["tasks"][name]["hashes"]["outcomes"] = digest(outcome_bytes(by_task[name]))
    manifest["rescored"] = {"evalkit_version": __version__, "at": _now()}
    manifest["status"] = _status(tasks)
    results = before | {"evalkit_version": __version__, "status": _status(tasks), "tasks": tasks}
    with _interruptible(store):
        _write(store, manifest, results, [o for rows in by_task.values() for o in rows])
    return results


# -- preparation ------------------------------------------------------------------------------------


def _check_output(store: RunStore, resume: bool) -> None:
    root = store.root
    if root.exists() and not root.is_dir():
        raise UsageError(f"--output {root} is a file; name a folder")
    above = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"--output {root}: cannot write to {above}; name another folder")
    content = {path.name for path in root.iterdir()} if root.exists() else set()
    if "manifest.json" in content:
        if not resume:
            raise UsageError(
                f"--output {root} already holds a run; continue it with --resume or name another folder"
            )
    elif content and not (resume and content <= FIRST_FILES):
        raise UsageError(f"--output {root} is not empty and holds no run; name a new folder")


def _load_jobs(options: RunOptions, source: DataSource) -> list[_Job]:
    resolved = resolve_all(options.tasks, shots=options.shots, split=options.split)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit}: at least one sample per subset is needed")
    chosen = _chosen_subsets(resolved, source, options.subsets)
    return [_load_job(r, source, chosen[r.name], options) for r in resolved]


def _chosen_subsets(
    resolved: Sequence[ResolvedTask], source: DataSource, wanted: Sequence[str]
) -> dict[str, list[str]]:
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


def _load_job(
    resolved: ResolvedTask, source: DataSource, subsets: Sequence[str], options: RunOptions
) -> _Job:
    task, split = resolved.task, resolved.split
    samples = {subset: source.load(task, split, subset) for subset in subsets}
    shots = {subset: source.shots(task, subset, resolved.shots) for subset in subsets}
    for subset, rows in samples.items():
        if not rows:
            file = source.folder(task) / task.path(split, subset)
            raise DataError(f"{file}: holds no samples; put the whole file back in its place")
    data = {"source": source.kind, "official": _official(resolved, samples)}
    limited = {subset: rows[: options.limit] for subset, rows in samples.items()}
    return _Job(resolved, limited, shots, data)


def _official(resolved: ResolvedTask, samples: Mapping[str, list[Sample]]) -> bool | None:
    """Whether these are the published records; None when only a part was read."""
    if len(samples) < len(resolved.task.subsets) or resolved.split not in resolved.task.content_sha256:
        return None
    return check_split(resolved.task, resolved.split, samples).ok


def _prompts(job: _Job, backend: Backend) -> list[Prompt]:
    rendered = [
        pair
        for subset, samples in job.samples.items()
        for pair in render(job.resolved, samples, job.shots[subset])
    ]
    return prepare(job.resolved, rendered, backend.tokenizer, backend.info.max_length)


def _manifest(
    options: RunOptions, source: DataSource, backend: Backend, jobs: Sequence[_Job]
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "evalkit_version": __version__,
        "status": "running",
        "started_at": _now(),
        "request": {
            "model": options.model,
            "tasks": options.tasks,
            "shots": options.shots,
            "split": options.split,
            "subsets": list(options.subsets),
            "limit": options.limit,
            "seed": options.seed,
            "log_prompts": options.log_prompts,
        },
        "data": source.describe(),
        "model": backend.info.to_json(),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "tasks": {
            job.name: {
                "source": job.resolved.protocol.source,
                "data": job.data,
                "hashes": {
                    "data": content_hash(job.samples),
                    "prompts": digest(bytes.fromhex(p.sha256) for p in job.prompts),
                    "token_ids": digest(
                        part.tobytes() for p in job.prompts for part in (p.encoded.base, *p.encoded.tails)
                    ),
                },
            }
            for job in jobs
        },
    }


def _check_finished(store: RunStore, options: RunOptions, jobs: Sequence[_Job]) -> None:
    """A finished run answers only for what it was asked; the model is not loaded for this."""
    before = store.read_json("manifest.json")
    for what, old, new in (
        ("another model", before["request"]["model"], options.model),
        (
            "other tasks or samples",
            {name: task["hashes"]["data"] for name, task in before["tasks"].items()},
            {job.name: content_hash(job.samples) for job in jobs},
        ),
    ):
        if old != new:
            raise UsageError(
                f"{store.root} holds a finished run, but of {what}; name another --output folder"
            )


def _check_resumable(store: RunStore, manifest: Mapping[str, Any]) -> None:
    """A journal may only be continued by the same model on the same token ids."""
    if not (store.root / "manifest.json").is_file():
        return
    before = store.read_json("manifest.json")
    for what, old, new in (
        ("the tasks or samples", _token_hashes(before), _token_hashes(manifest)),
        ("the model", before["model"]["fingerprint"], manifest["model"]["fingerprint"]),
        ("--batch-tokens", *(m["model"]["details"].get("batch_tokens") for m in (before, manifest))),
        ("--log-prompts", *(m["request"]["log_prompts"] for m in (before, manifest))),
    ):
        if old != new:
            raise UsageError(
                f"cannot resume {store.root}: {what} differ from the interrupted run's; "
                "repeat its command line, or start anew in another --output folder"
            )


def _token_hashes(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (t["hashes"]["data"], t["hashes"]["token_ids"]) for name, t in manifest["tasks"].items()}


# -- scoring ----------------------------------------------------------------------------------------


def _score(
    job: _Job,
    backend: Backend,
    store: RunStore,
    earlier: Mapping[int, ScoreResponse],
    options: RunOptions,
    progress: Progress,
) -> list[Outcome]:
    progress.start(job.name, len(job.prompts), len(earlier))
    responses: dict[int, Response] = dict(earlier)
    for index, response in backend.score([p.encoded for p in job.prompts], earlier.keys()):
        responses[index] = response
        if isinstance(response, ScoreResponse):
            store.append(job.name, index, response)
        progress.advance(job.prompts[index].encoded.n_logical, backend.usage.tokens_computed)
    progress.finish()
    return [_judged(job.resolved, p, responses[i], options) for i, p in enumerate(job.prompts)]


def _judged(resolved: ResolvedTask, prompt: Prompt, response: Response, options: RunOptions) -> Outcome:
    record: dict[str, Any] = {
        "prompt_sha256": prompt.sha256,
        "truncated": prompt.truncated,
        "prompt": prompt.text if options.log_prompts else None,
    }
    if isinstance(response, ScoreResponse):
        return judge(resolved, prompt.sample, response, **record)
    return failed(resolved, prompt.sample, response.error, **record)


@contextlib.contextmanager
def _interruptible(store: RunStore) -> Iterator[None]:
    """Turn what stops a run from outside into one clear error; the journal keeps what was scored."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise RunInterrupted(f"interrupted; what was scored is kept in {store.root}") from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise RunInterrupted(
            f"the disk of {store.root} is full; what was scored is kept, free some space"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a full disk also refuses the last flush
            store.close()


# -- results ----------------------------------------------------------------------------------------


def _finish(
    store: RunStore,
    manifest: dict[str, Any],
    jobs: Sequence[_Job],
    noise: Mapping[str, float],
    cost: dict[str, Any],
) -> dict[str, Any]:
    tasks = {}
    for job in jobs:
        entry = aggregate(job.resolved, job.outcomes, noise.get(job.name))
        if submission := _write_submission(store, job.resolved, job.outcomes):
            entry["submission"] = submission
        tasks[job.name] = entry
        manifest["tasks"][job.name]["hashes"] |= {
            "responses": digest(response_bytes(job.outcomes)),
            "outcomes": digest(outcome_bytes(job.outcomes)),
        }
    model = manifest["model"]
    results = {
        "schema_version": SCHEMA_VERSION,
        "evalkit_version": __version__,
        "run_id": store.run_id,
        "status": _status(tasks),
        "model": {key: model[key] for key in ("name", "backend", "dtype", "fingerprint")},
        "tasks": tasks,
        "cost": cost,
    }
    manifest |= {"status": results["status"], "finished_at": _now(), "cost": cost}
    _write(store, manifest, results, [o for job in jobs for o in job.outcomes])
    return results


def _status(tasks: Mapping[str, Any]) -> str:
    return "partial" if any(task["counters"]["errors"] for task in tasks.values()) else "complete"


def _write(
    store: RunStore, manifest: Mapping[str, Any], results: Mapping[str, Any], outcomes: Sequence[Outcome]
) -> None:
    from evalkit.reports.summary import markdown

    store.finish(manifest, results, outcomes, markdown(results, manifest))


def _write_submission(store: RunStore, resolved: ResolvedTask, outcomes: Sequence[Outcome]) -> str | None:
    """Write the publisher's JSON of predictions where the labels are withheld; return the file's name."""
    if not resolved.task.submission or all(o.target is not None for o in outcomes):
        return None
    predictions: dict[str, dict[str, str | None]] = {}
    for o in outcomes:
        predictions.setdefault(o.subset, {})[o.sample_id] = o.prediction
    name = f"submission-{resolved.task.name}-{resolved.protocol.name}-{resolved.shots}shot.json"
    store.write_json(name, predictions)
    return name


def _peak_memory(backend: Backend) -> int:
    """Highest memory use of the process, or of the GPU where the model runs on one."""
    if str(backend.info.details.get("device", "")).startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
