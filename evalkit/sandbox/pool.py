"""Many programs on a few cores."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import psutil

from evalkit.sandbox import bubblewrap, process
from evalkit.sandbox.program import Limits, Program, Verdict

RETRY_FACTOR = 3


def run_programs(
    programs: Sequence[Program],
    *,
    limits: Limits | None = None,
    workers: int | None = None,
    unsafe: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """Run every program in a fresh process of its own; `progress` hears how many are done.

    Time-outs are wall-clock, so a busy machine makes false ones: programs that ran into it get one
    more try with three times the time, after all others are done.

    Args:
        programs: what to run.
        limits: what each may use up.
        workers: how many run at once; one per physical core if None.
        unsafe: run them without a sandbox, with this user's rights.
        progress: called with the number of programs that have their final verdict.

    Raises:
        SandboxUnavailable: the sandbox is not there or does not start.
    """
    if not programs:
        return []
    limits = limits or Limits()
    if not unsafe:
        bubblewrap.find()
    pool = _Pool(min(workers or physical_cores(), len(programs)), unsafe)
    verdicts: dict[int, Verdict] = {}

    def report() -> None:
        if progress is not None:
            progress(sum(v.retried or v.status != "timeout" for v in verdicts.values()))

    def first(i: int, verdict: Verdict) -> None:
        verdicts[i] = verdict
        report()

    def second(i: int, verdict: Verdict) -> None:
        verdicts[i] = replace(verdict, retried=True)
        report()

    pool.run(dict(enumerate(programs)), limits, first)
    again = {i: programs[i] for i, verdict in verdicts.items() if verdict.status == "timeout"}
    pool.run(again, replace(limits, timeout_s=RETRY_FACTOR * limits.timeout_s), second)
    return [verdicts[i] for i in range(len(programs))]


def physical_cores() -> int:
    """Physical cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


class _Pool:
    def __init__(self, workers: int, unsafe: bool) -> None:
        self.workers = workers
        self.unsafe = unsafe
        self._stop = threading.Event()
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(workers):
            self._slots.put(slot)

    def run(
        self, programs: Mapping[int, Program], limits: Limits, done: Callable[[int, Verdict], None]
    ) -> None:
        """Report each program's number and verdict as they come; called off, all end at once."""
        # A sandbox dies with the thread that started it, so threads live until all are done.
        executor = ThreadPoolExecutor(self.workers, thread_name_prefix="sandbox")
        try:
            futures = {executor.submit(self._run_one, p, limits): i for i, p in programs.items()}
            for future in as_completed(futures):
                done(futures[future], future.result())
        finally:
            self._stop.set()
            executor.shutdown(cancel_futures=True)
            self._stop.clear()

    def _run_one(self, program: Program, limits: Limits) -> Verdict:
        slot = self._slots.get()
        try:
            return process.run(program, limits, slot, unsafe=self.unsafe, stop=self._stop)
        finally:
            self._slots.put(slot)
