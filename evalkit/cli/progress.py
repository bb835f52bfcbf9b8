"""What a person sees while a run goes on: one bar per task on stderr, or plain lines in a log."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_LOG_EVERY_S = 30.0


class TerminalProgress:
    """Bars with ETA and tokens per second, as a plain harness would count them and as computed."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._console = Console(stderr=True)
        self._bars: Progress | None = None
        self._bar: TaskID | None = None
        self._task = ""
        self._total = self._done = self._logical = self._computed = self._computed_before = 0
        self._began = self._logged = 0.0

    def stage(self, text: str) -> None:
        """Print a step before scoring begins."""
        self._console.print(f"{text} …", style="dim", markup=False, highlight=False)

    def start(self, task: str, total: int, done: int) -> None:
        """Open a task's bar."""
        self._task, self._total, self._done = task, total, done
        self._logical, self._computed_before = 0, self._computed
        self._began = self._logged = time.monotonic()
        if not self._console.is_terminal:
            already = f", {done} already done" if done else ""
            self._console.print(f"{task}: {total} samples{already}", markup=False)
            return
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[speed]}"),
                console=self._console,
            )
            self._bars.start()
        self._bar = self._bars.add_task(task, total=total, completed=done, speed="")

    def advance(self, n_logical: int, tokens_computed: int) -> None:
        """Count one sample."""
        self._done += 1
        self._logical += n_logical
        self._computed = tokens_computed
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, advance=1, speed=self._speed())
        elif time.monotonic() - self._logged > _LOG_EVERY_S:
            self._logged = time.monotonic()
            self._console.print(f"{self._task}: {self._done}/{self._total}  {self._speed()}", markup=False)

    def _speed(self) -> str:
        seconds = max(1e-6, time.monotonic() - self._began)
        computed = (self._computed - self._computed_before) / seconds
        return f"{self._logical / seconds:,.0f} tok/s logical, {computed:,.0f} computed"

    def finish(self) -> None:
        """Leave the finished bar standing."""
        if self._bars is not None and (self._bar is None or self._done >= self._total):
            self._bars.refresh()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
