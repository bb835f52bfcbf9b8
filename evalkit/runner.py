"""Run benchmarks on a model: load, render, check, answer, judge and write the run directory."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from evalkit import equality, manifest
from evalkit.backends.base import Backend
from evalkit.data.source import DataSource
from evalkit.errors import UsageError
from evalkit.judge import judge, recorded
from evalkit.preparation import Job, RunOptions, by_id, load_jobs, render_prompts
from evalkit.prompts import Prompt
from evalkit.publish import finish
from evalkit.store import FIRST_FILES, Answer, RunStore, interruptible
from evalkit.tokens import EncodedPrompt, EncodedRequest
from evalkit.types import Failure, Outcome, Response


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
        UntrustedResultError: the equality gate failed on every scoring path, or no sandbox is there.
        RunInterrupted: Ctrl-C, termination or a full disk; everything scored so far is in the journal.
    """
    progress = progress or Silent()
    began = time.monotonic()
    check_output(store, resume)
    jobs = load_jobs(options, source)
    if resume and store.is_complete:
        manifest.check_finished(store, options, jobs)
        return store.read_json("results.json")

    progress.stage(f"loading {options.model}")
    backend = load_backend()
    load_s = time.monotonic() - began
    progress.stage("rendering and encoding prompts")
    for job in jobs:
        job.prompts = render_prompts(job, backend, options)
    progress.stage("equality gate: comparing with plain forwards")
    gate = equality.check(backend, [(job.resolved, job.prompts) for job in jobs])
    described = manifest.build(options, source, backend, jobs) | {"equality_gate": gate.to_json()}
    manifest.check_resumable(store, described)
    backend.usage.reset()  # what the gate took is no part of the cost

    with interruptible(store):
        store.begin(described)
        answer_began = time.monotonic()
        earlier = store.responses()
        for job in jobs:
            job.outcomes = _answer(job, backend, store, earlier.get(job.name, {}), options, progress)
        answer_s = time.monotonic() - answer_began
        described["model"] = backend.info.to_json()  # a path may have been given up on the way
        for job in jobs:
            if job.resolved.protocol.judge is not None:
                progress.stage(f"judging {job.name}")
            job.outcomes = judge(job.resolved, job.outcomes, by_id(job.samples), options.judging)
        cost = {
            "load_s": round(load_s, 3),
            "score_s": round(answer_s, 3),
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
            "peak_memory_bytes": peak_memory(backend),
            "wall_s": round(time.monotonic() - began, 3),
        }
        return finish(store, described, jobs, gate.noise, cost)


def check_output(store: RunStore, resume: bool) -> None:
    """Refuse a run directory that cannot be written to or holds something else.

    Raises:
        UsageError: naming the remedy.
    """
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


def _answer(
    job: Job,
    backend: Backend,
    store: RunStore,
    earlier: Mapping[int, Answer],
    options: RunOptions,
    progress: Progress,
) -> list[Outcome]:
    """Get every sample answered and put down, whatever was answered before included."""
    progress.start(job.name, len(job.prompts), len(earlier))
    responses: dict[int, Response] = dict(earlier)
    for index, response in _responses(job.prompts, backend, earlier):
        responses[index] = response
        if not isinstance(response, Failure):
            store.append(job.name, index, response)
        progress.advance(job.prompts[index].encoded.n_logical, backend.usage.tokens_computed)
    progress.finish()
    return [
        recorded(job.resolved, prompt, responses[i], keep_prompt=options.log_prompts)
        for i, prompt in enumerate(job.prompts)
    ]


def _responses(
    prompts: list[Prompt], backend: Backend, earlier: Mapping[int, Answer]
) -> Iterator[tuple[int, Response]]:
    """Answers in completion order; a task's requests are all of one kind."""
    generated = [p.encoded for p in prompts if isinstance(p.encoded, EncodedPrompt)]
    if generated:
        return backend.generate(generated, earlier.keys())
    return backend.score(
        [p.encoded for p in prompts if isinstance(p.encoded, EncodedRequest)], earlier.keys()
    )


def peak_memory(backend: Backend) -> int:
    """Highest memory use of the process, or of the GPU where the model runs on one."""
    device = str(backend.info.details.get("device", ""))
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
