"""From judged outcomes to the files of a finished run, and judging a finished run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evalkit._version import __version__
from evalkit.data.source import DataSource, recorded_source
from evalkit.errors import UsageError
from evalkit.judge import Samples, judge
from evalkit.manifest import now
from evalkit.preparation import Job, by_id
from evalkit.results import aggregate
from evalkit.spec import ResolvedTask, resolve_all
from evalkit.store import SCHEMA_VERSION, RunStore, digest, interruptible, outcome_bytes, response_bytes
from evalkit.task import JudgeSettings
from evalkit.types import Outcome


def finish(
    store: RunStore,
    manifest: dict[str, Any],
    jobs: Sequence[Job],
    noise: Mapping[str, float],
    cost: dict[str, Any],
) -> dict[str, Any]:
    """Aggregate, write everything and return the result document."""
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
    manifest |= {"status": results["status"], "finished_at": now(), "cost": cost}
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
    what = (resolved.task.name, resolved.protocol.name, resolved.split, f"{resolved.shots}shot")
    name = f"submission-{'-'.join(what)}.json"
    store.write_json(name, predictions)
    return name


def rescore(
    store: RunStore, source: DataSource | None = None, settings: JudgeSettings | None = None
) -> dict[str, Any]:
    """Judge and aggregate a finished run again from its stored answers, without inference.

    Args:
        store: the finished run.
        source: where the benchmark's answers are, to judge completions; None takes the run's own source.
        settings: what the judge may do.

    Raises:
        UsageError: not a finished run, or a task it used is no longer there.
        DataError: the data to judge completions with are gone.
    """
    manifest = store.read_json("manifest.json")
    before = store.read_json("results.json")
    known = _tasks_of(manifest)
    by_task: dict[str, list[Outcome]] = {name: [] for name in before["tasks"]}
    for outcome in store.read_samples():
        if outcome.task not in known or outcome.subset not in known[outcome.task].task.subsets:
            raise UsageError(
                f"{store.root}: {outcome.task} ({outcome.subset}) of this run is no longer what "
                f"'{manifest['request']['tasks']}' resolves to; restore the task as it was, or run again"
            )
        by_task[outcome.task].append(outcome)
    settings = settings or JudgeSettings()
    recorded = recorded_source(manifest["data"])
    source = replace(source, variant=recorded.variant) if source else recorded
    for name, rows in by_task.items():
        samples = _judging_samples(known[name], rows, source, settings)
        by_task[name] = judge(known[name], rows, samples, settings)
    noise = manifest["equality_gate"]["noise"]
    tasks = {name: aggregate(known[name], rows, noise.get(name)) for name, rows in by_task.items()}
    for name, entry in tasks.items():
        if submission := _write_submission(store, known[name], by_task[name]):
            entry["submission"] = submission
        manifest["tasks"][name]["hashes"]["outcomes"] = digest(outcome_bytes(by_task[name]))
    manifest["rescored"] = {"evalkit_version": __version__, "at": now()}
    manifest["status"] = _status(tasks)
    results = before | {"evalkit_version": __version__, "status": _status(tasks), "tasks": tasks}
    with interruptible(store):
        _write(store, manifest, results, [o for rows in by_task.values() for o in rows])
    return results


def _tasks_of(manifest: Mapping[str, Any]) -> dict[str, ResolvedTask]:
    asked = manifest["request"]
    return {r.name: r for r in resolve_all(asked["tasks"], shots=asked["shots"], split=asked["split"])}


def _judging_samples(
    resolved: ResolvedTask, outcomes: Sequence[Outcome], source: DataSource, settings: JudgeSettings
) -> Samples:
    """The records that completions are judged by; log-probabilities need none."""
    subsets = {o.subset for o in outcomes if o.completions is not None}
    if not subsets:
        return {}
    if resolved.protocol.ready is not None:
        resolved.protocol.ready(settings)
    samples = by_id({s: source.load(resolved.task, resolved.split, s) for s in subsets})
    for o in outcomes:
        if o.completions is not None and (o.subset, o.sample_id) not in samples:
            raise UsageError(
                f"the data hold no {o.subset} sample {o.sample_id} any more; name the data of the run "
                "with --data"
            )
    return samples
