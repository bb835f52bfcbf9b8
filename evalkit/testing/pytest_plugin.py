"""The gate in pytest: `pytest --evalkit-run RUN --evalkit-baseline FILE`, one test item per task.

Loaded by every pytest where evalkit is installed: nothing is imported, and nothing done, unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from evalkit.gate.limits import Check
    from evalkit.gate.verdict import TaskVerdict, Verdict


_OPTIONS = ("--evalkit-run", "--evalkit-baseline", "--evalkit-policy")
_NOTES = pytest.StashKey[tuple[str, ...]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the gate's options."""
    group = parser.getgroup("evalkit", "evalkit gate")
    group.addoption("--evalkit-run", metavar="RUN", help="run directory of what is to be judged")
    group.addoption(
        "--evalkit-baseline", metavar="RUN|FILE", help="what it is compared with, else what the policy names"
    )
    group.addoption("--evalkit-policy", metavar="FILE|NAME", help="what is demanded (default: default)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the items of the gate, before others select among all items."""
    given = [name for name in _OPTIONS if config.getoption(name) is not None]
    if not given:
        return
    if "--evalkit-run" not in given:
        raise pytest.UsageError(f"{given[0]} needs --evalkit-run, what is to be judged")
    gate: Gate = Gate.from_parent(session, name="evalkit-gate", nodeid="evalkit-gate")
    items.extend(gate.collect())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what no item says, such as that a rule holds for no task."""
    for note in config.stash.get(_NOTES, ()):
        terminalreporter.write_line(f"evalkit gate: note: {note}")


class Gate(pytest.Collector):
    """One item per task, and per limit of the whole run."""

    def collect(self) -> Iterator[pytest.Item]:
        """Judge the run.

        Raises:
            pytest.UsageError: it cannot be compared.
        """
        from evalkit.errors import EvalkitError
        from evalkit.gate.outputs import plain

        try:
            verdict = self._verdict()
        except EvalkitError as error:
            raise pytest.UsageError(plain(f"evalkit gate: {error}")) from None
        self.config.stash[_NOTES] = tuple(map(plain, verdict.notes))
        for part in verdict.parts:
            yield GateItem.from_parent(self, verdict=verdict, part=part)

    def _verdict(self) -> Verdict:
        from evalkit.gate.baseline import chosen
        from evalkit.gate.outcomes import read_run
        from evalkit.gate.policy import load
        from evalkit.gate.verdict import judge

        option = self.config.getoption
        policy, baseline = load(option("--evalkit-policy") or "default"), option("--evalkit-baseline")
        outcomes = chosen(Path(baseline) if baseline else None, policy)
        return judge(outcomes, read_run(Path(option("--evalkit-run"))), policy)


class GateItem(pytest.Item):
    """The verdict on one task, or one limit."""

    def __init__(self, *, verdict: Verdict, part: TaskVerdict | Check, **others: Any) -> None:
        from evalkit.gate.outputs import case_of

        self.case = case_of(verdict, part)
        super().__init__(name=self.case.name, **others)

    def runtest(self) -> None:
        """Fail with what stops the pipeline; skip what was inconclusive and does not."""
        if self.case.outcome == "failed":
            raise GateFailure("\n".join(self.case.details))
        if self.case.outcome == "skipped":
            pytest.skip(self.case.details[0])
        self.add_report_section("call", "evalkit gate", "\n".join(self.case.details))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The reason without a traceback."""
        if isinstance(excinfo.value, GateFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where a report says the item stands."""
        return Path(self.config.getoption("--evalkit-run")), None, f"evalkit gate: {self.name}"


class GateFailure(Exception):
    """A task or limit that stops the pipeline."""
