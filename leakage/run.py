"""Examine benchmarks for contamination: measure once, then draw every conclusion from what was measured."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit import equality
from evalkit._version import __version__
from evalkit.backends.base import Backend
from evalkit.data.source import DataSource, recorded_source
from evalkit.errors import UsageError
from evalkit.leakage.analysis import analyse, conclude, level_needed
from evalkit.leakage.benchmark import Benchmark, load
from evalkit.leakage.evidence import Evidence, Reference
from evalkit.leakage.files import read_scores, write_scores
from evalkit.leakage.measuring import Measurer
from evalkit.leakage.options import ON_OPTIONS, ON_TEXTS, LeakageOptions
from evalkit.leakage.power import items_needed, one_exposure
from evalkit.leakage.scores import MOST_PERMUTED
from evalkit.leakage.scoring import gate_requests
from evalkit.leakage.texts.examination import examine
from evalkit.leakage.texts.records import Text, benchmark_texts, read_texts
from evalkit.manifest import now, refuse_differences
from evalkit.reports.contamination import markdown
from evalkit.runner import Progress, Silent, check_output, peak_memory
from evalkit.store import SCHEMA_VERSION, RunStore, interruptible

PERMUTATIONS = "permutations.parquet"
CONTROLS = "controls.parquet"
DOCUMENT = "leakage.json"
REPORT = "leakage.md"


def run(
    options: LeakageOptions,
    source: DataSource,
    load_backend: Callable[[], Backend],
    store: RunStore,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure everything, write the folder and return the leakage document.

    Raises:
        UsageError: unknown names, nothing to permute, too few items, a reference that is the model itself,
            or an engine that cannot score given texts.
        DataError: data missing or corrupt.
        UntrustedResultError: the equality gate failed on every scoring path.
        RunInterrupted: all items scored so far are in the journal (of benchmarks of texts nothing is).
    """
    progress = progress or Silent()
    began = time.monotonic()
    check_output(store, resume)
    benchmarks = load(
        options.tasks, source, split=options.split, subsets=options.subsets, limit=options.limit
    )
    for benchmark in benchmarks:
        _check_examinable(benchmark, options)
    references = [open_reference(Path(folder)) for folder in options.references]
    compared = _texts_to_compare(options, source, benchmarks)

    progress.stage(f"loading {options.model}")
    backend = load_backend()
    _check_capable(backend)
    for reference in references:
        _check_reference(reference, backend, options, benchmarks)
    progress.stage("equality gate: comparing with plain forwards")
    chosen = {b.name: gate_requests(backend, b.items, options.measure) for b in benchmarks if b.items}
    gate = equality.check_requests(backend, chosen) if chosen else None
    manifest = _manifest(options, source, backend, benchmarks)
    manifest["equality_gate"] = gate.to_json() if gate else None
    _check_resumable(store, manifest)
    backend.usage.reset()

    with interruptible(store):
        store.begin(manifest)
        measurer = Measurer(backend, store, options, progress, _n_hypotheses(benchmarks, options))
        evidence = [
            _examine(b, backend, measurer, references, compared, options, progress) for b in benchmarks
        ]
        cost = {
            "tokens_logical": sum(e.tokens_logical for e in evidence),
            "tokens_computed": backend.usage.tokens_computed,
            "peak_memory_bytes": peak_memory(backend),
            "wall_s": round(time.monotonic() - began, 3),
        }
        progress.stage("drawing conclusions")
        write_scores(store.root / PERMUTATIONS, [e.scores for e in evidence if e.benchmark.items])
        write_scores(store.root / CONTROLS, [e.controls for e in evidence if e.controls is not None])
        document = _document(
            store, manifest, conclude({e.benchmark.name: analyse(e, options) for e in evidence}, options)
        )
        return _finish(store, manifest, document | {"cost": cost})


def analyse_again(folder: Path, source: DataSource | None = None) -> dict[str, Any]:
    """Draw all conclusions anew from what a run measured; no model is needed.

    Args:
        folder: what `run` wrote.
        source: where the benchmark's records are; None takes the run's own source.

    Raises:
        UsageError: not a finished leakage run, or the data are no longer those of the run.
        DataError: a file is damaged or data are missing.
    """
    store = RunStore(folder)
    before = store.read_json(DOCUMENT)
    manifest = store.read_json("manifest.json")
    options = LeakageOptions(**{k: _tuple(v) for k, v in manifest["request"].items()})
    source = source or recorded_source(manifest["data"])
    benchmarks = load(
        options.tasks, source, split=options.split, subsets=options.subsets, limit=options.limit
    )
    refuse_differences(
        f"{{what}} are not what {folder} examined; name the data of the run with --data",
        [("the records", _data_hashes(manifest), {b.name: b.sha256 for b in benchmarks})],
    )
    references = [open_reference(Path(path)) for path in options.references]
    scores, controls = read_scores(folder / PERMUTATIONS), read_scores(folder / CONTROLS)
    evidence = [
        Evidence.again(b, scores.get(b.name), controls.get(b.name), references, before["tasks"][b.name])
        for b in benchmarks
    ]
    document = _document(
        store, manifest, conclude({e.benchmark.name: analyse(e, options) for e in evidence}, options)
    )
    return _finish(store, manifest, document | {"cost": before["cost"]})


def open_reference(folder: Path) -> Reference:
    """Read what an earlier run measured on another model.

    Raises:
        UsageError: this is no finished leakage run.
    """
    store = RunStore(folder)
    store.read_json(DOCUMENT)
    manifest = store.read_json("manifest.json")
    return Reference(
        str(manifest["model"]["name"]),
        str(manifest["model"]["fingerprint"]),
        manifest["request"],
        read_scores(folder / PERMUTATIONS),
        read_scores(folder / CONTROLS),
    )


def _examine(
    benchmark: Benchmark,
    backend: Backend,
    measurer: Measurer,
    references: Sequence[Reference],
    compared: Compared,
    options: LeakageOptions,
    progress: Progress,
) -> Evidence:
    if not benchmark.is_multiple_choice:
        return Evidence.of_texts(benchmark, _examine_texts(benchmark, backend, compared, options, progress))
    assert benchmark.order is not None
    measured = measurer.benchmark(benchmark, shuffled=benchmark.order.random)
    controls = None
    if options.wants("source") and options.controls:
        controls = measurer.controls(benchmark, measured)
    return Evidence.measured(benchmark, measured, controls, references)


@dataclass(frozen=True, slots=True)
class Compared:
    """Texts that a benchmark's own are compared with."""

    control: list[Text] | None
    rephrased: list[Text] | None


def _texts_to_compare(
    options: LeakageOptions, source: DataSource, benchmarks: Sequence[Benchmark]
) -> Compared:
    given = options.control or options.rephrased
    if given and all(b.is_multiple_choice for b in benchmarks):
        raise UsageError(
            f"'{given}': --control and --rephrased are for benchmarks of texts; options are compared with "
            "swapped ones (--controls) and with other models (--reference)"
        )
    return Compared(
        _texts(options.control, source, options.limit), _texts(options.rephrased, source, options.limit)
    )


def _texts(given: str | None, source: DataSource, limit: int | None) -> list[Text] | None:
    """Texts of a file of JSON lines, or of a task."""
    if given is None:
        return None
    if (path := Path(given)).is_file():
        return read_texts(path)
    if path.suffix in (".jsonl", ".json"):
        raise UsageError(f"'{given}' does not exist; give a file of JSON lines or a task")
    # Without examples, which would stand in the way of the split they come from.
    benchmarks = load(given, source, split=None, subsets=(), limit=limit, shots=0)
    return [text for b in benchmarks if b.task is not None for text in benchmark_texts(b.task, b.samples)]


def _examine_texts(
    benchmark: Benchmark,
    backend: Backend,
    compared: Compared,
    options: LeakageOptions,
    progress: Progress,
) -> dict[str, Any]:
    assert benchmark.task is not None
    texts = benchmark_texts(benchmark.task, benchmark.samples)
    _check_control(benchmark, texts, compared.control or ())
    stages = _Stages(benchmark.name, backend, progress)
    found = examine(
        backend,
        texts,
        compared.control,
        compared.rephrased,
        options.chosen(ON_TEXTS),
        options.seed,
        stages,
    )
    progress.finish()
    return found | {"n_texts": len(texts)}


def _check_control(benchmark: Benchmark, texts: Sequence[Text], control: Sequence[Text]) -> None:
    """A control that shares texts with the benchmark is no control."""
    if shared := {one.text for one in texts} & {one.text for one in control}:
        raise UsageError(
            f"--control: {len(shared):,} of its {len(control):,} texts are in {benchmark.name} itself; "
            "give texts that the model has certainly not seen"
        )


class _Stages:
    """Shows the stages of the detectors on texts one after another."""

    def __init__(self, name: str, backend: Backend, progress: Progress) -> None:
        self._name, self._backend, self._progress = name, backend, progress
        self._stage, self._done = "", 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._progress.finish()
            self._progress.start(f"{self._name}: {stage}", total, 0)
            self._stage, self._done = stage, 0
        for _ in range(self._done, done):
            self._progress.advance(0, self._backend.usage.tokens_computed)
        self._done = done


def _check_examinable(benchmark: Benchmark, options: LeakageOptions) -> None:
    known = ON_OPTIONS if benchmark.is_multiple_choice else ON_TEXTS
    if options.chosen(known) == []:
        raise UsageError(
            f"{benchmark.name}: none of the methods asked for ({', '.join(options.methods)}) applies to it; "
            f"these do: {', '.join(known)}"
        )
    if not benchmark.is_multiple_choice:
        assert benchmark.task is not None
        benchmark_texts(benchmark.task, benchmark.samples[:1])
    elif not benchmark.items:
        raise UsageError(f"{benchmark.name}: no item can be examined ({_reasons(benchmark)})")
    elif options.wants("order"):
        _check_enough(benchmark, options)


def _n_hypotheses(benchmarks: Sequence[Benchmark], options: LeakageOptions) -> int:
    """How many detectors will have evidence on how many benchmarks, at most."""
    detectors = 2 if options.references and options.wants("source") else 1
    return max(1, detectors * len(benchmarks))


def _check_enough(benchmark: Benchmark, options: LeakageOptions) -> None:
    """Refuse a benchmark on which the order test could show nothing even if every item had leaked."""
    n_options = Counter(len(item.options) for item in benchmark.items).most_common(1)[0][0]
    m = math.factorial(n_options)
    if n_options > MOST_PERMUTED:
        m = min(m, options.permutations)
    needed = items_needed(1.0, one_exposure(1 / m), level_needed(1, options.alpha), m)
    if needed is not None and len(benchmark.items) < needed:
        left_out = f" (left out: {_reasons(benchmark)})" if benchmark.excluded else ""
        raise UsageError(
            f"{benchmark.name}: the order test needs at least {needed} items with {n_options} options to "
            f"show anything, and {len(benchmark.items)} are there{left_out}; raise --limit, examine more "
            "subsets, or leave the test out (--method published)"
        )


def _reasons(benchmark: Benchmark) -> str:
    """Why items cannot be examined, with their numbers."""
    return ", ".join(f"{n} {reason}" for reason, n in benchmark.excluded.items()) or "it has no items"


def _check_capable(backend: Backend) -> None:
    if lack := backend.capabilities.no_scores:
        raise UsageError(
            f"leakage detection compares log-probabilities of given texts, and {lack}; use a server that "
            "gives prompt log-probabilities (such as vLLM's), or --backend hf"
        )


def _check_reference(
    reference: Reference, backend: Backend, options: LeakageOptions, benchmarks: Sequence[Benchmark]
) -> None:
    if reference.fingerprint == backend.info.fingerprint:
        raise UsageError(
            f"--reference: {reference.name} is the examined model itself; name a leakage run of a model "
            "that cannot have seen the benchmark, such as an older one"
        )
    asked = options.to_json()
    refuse_differences(
        f"--reference: the run of {reference.name} was made with another {{what}}; examine that model in the "
        "same way",
        [(f"--{key}", reference.request[key], asked[key]) for key in ("format", "permutations", "seed")],
    )
    if not any(_common(b, reference) for b in benchmarks):
        raise UsageError(
            f"--reference: the run of {reference.name} has none of the examined items, but some of "
            f"{', '.join(reference.scores)}"
        )


def _common(benchmark: Benchmark, reference: Reference) -> bool:
    theirs = reference.scores.get(benchmark.name)
    known = {(item.subset, item.sample_id) for item in benchmark.items}
    return theirs is not None and any((i.subset, i.sample_id) in known for i in theirs.items)


def _manifest(
    options: LeakageOptions, source: DataSource, backend: Backend, benchmarks: Sequence[Benchmark]
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "evalkit_version": __version__,
        "kind": "leakage",
        "status": "running",
        "started_at": now(),
        "request": options.to_json(),
        "data": source.describe(),
        "model": backend.info.to_json(),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "tasks": {b.name: b.describe() for b in benchmarks},
    }


def _check_resumable(store: RunStore, manifest: Mapping[str, Any]) -> None:
    """A journal may only be continued by the same model on the same items, put in the same way."""
    if not (store.root / "manifest.json").is_file():
        return
    before = store.read_json("manifest.json")
    refuse_differences(
        f"cannot resume {store.root}: {{what}} differ from the interrupted run's; repeat its command line, "
        "or start anew in another --output folder",
        [
            ("the records", _data_hashes(before), _data_hashes(manifest)),
            ("the model", before["model"]["fingerprint"], manifest["model"]["fingerprint"]),
            *((f"--{name}", before["request"].get(name), manifest["request"][name]) for name in _AS_BEFORE),
        ],
    )


_AS_BEFORE = (
    "format",
    "permutations",
    "controls",
    "sequential",
    "alpha",
    "smallest",
    "methods",
    "seed",
    "limit",
    "subsets",
)
"""Options that decide what is measured, or when measuring stops."""


def _data_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {name: task["hashes"]["data"] for name, task in manifest["tasks"].items()}


def _document(store: RunStore, manifest: Mapping[str, Any], conclusions: Mapping[str, Any]) -> dict[str, Any]:
    model = manifest["model"]
    return {
        "schema_version": SCHEMA_VERSION,
        "evalkit_version": __version__,
        "run_id": store.run_id,
        "model": {key: model[key] for key in ("name", "backend", "dtype", "fingerprint")},
        **conclusions,
    }


def _finish(store: RunStore, manifest: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Write the documents; what failed can be tried again as long as the journal stands."""
    store.close()
    failed = any(task["n_errors"] for task in document["tasks"].values())
    document["status"] = manifest["status"] = "partial" if failed else "complete"
    manifest["finished_at"] = now()
    store.write_text(REPORT, markdown(document))
    store.write_json("manifest.json", manifest)
    store.write_json(DOCUMENT, document)
    if not failed:
        store.drop_journal()
    return document


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
