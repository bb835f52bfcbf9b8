"""What does evalkit itself cost, without a model? The largest suites through the command line, mocked.

Runs all of MMLU (test), CMMLU (test) and C-Eval (val) at five shots with the mock backend: reading,
rendering, tokenising, planning, judging, intervals and writing. Also times `evalkit --help` and checks
that it imports neither torch nor pandas.

This process stays small on purpose: on Linux a child's peak memory never reads below its parent's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common

TASKS = "mmlu:test:5shot,cmmlu:test:5shot,ceval:val:5shot"
HEAVY = ("torch", "pandas", "transformers", "datasets", "pyarrow", "scipy")
FORBIDDEN = {"torch", "pandas"}
_IMPORTED = f"""
import sys
sys.argv = ["evalkit", "--help"]
from evalkit.cli import main
try:
    main()
except SystemExit:
    pass
print(",".join(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)
"""


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--tasks", default=TASKS, help="task specs as in `evalkit run`")
    parser.add_argument("--limit", type=int, help="at most N questions of each subset")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the suite")
    parser.add_argument(
        "--max-seconds", type=float, default=60.0, help="exit with 1 if the median takes longer"
    )
    parser.add_argument("--max-mib", type=float, default=1536.0, help="exit with 1 if it takes more memory")
    parser.add_argument("--max-help-seconds", type=float, default=0.3, help="exit with 1 if --help is slower")
    args = parser.parse_args()

    runs = [mock_run(args) for _ in range(args.repeats)]
    middle = sorted(runs, key=lambda run: run["wall_s"])[len(runs) // 2]
    help_s = [finished([common.EVALKIT, "--help"])["wall_s"] for _ in range(5)]
    imported = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True)
    heavy = [name for name in imported.stderr.strip().rpartition("\n")[2].split(",") if name]

    rows = [
        ("samples", middle["samples"]),
        ("logical tokens", middle["cost"]["tokens_logical"]),
        ("tokens computed", middle["cost"]["tokens_computed"]),
        ("wall s (median)", middle["wall_s"]),
        ("user + system s", middle["cpu_s"]),
        ("µs per sample", 1e6 * middle["wall_s"] / middle["samples"]),
        ("peak memory MiB", middle["peak_mib"]),
        ("--help s (median)", statistics.median(help_s)),
        ("--help imports", ", ".join(heavy) or "none of " + ", ".join(HEAVY)),
    ]
    common.table(f"evalkit's own cost: {args.tasks}", ("", "value"), rows)
    small = middle["wall_s"] <= args.max_seconds and middle["peak_mib"] <= args.max_mib
    quick = statistics.median(help_s) <= args.max_help_seconds
    passed = small and quick and not FORBIDDEN & set(heavy)
    record = {"passed": passed, "runs": runs, "help_s": help_s, "help_imports": heavy}
    common.save(args, "overhead", record)
    return 0 if passed else 1


def mock_run(args: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "run"
        command = [common.EVALKIT, "run", "--model", "mock", "--backend", "mock", "--tasks", args.tasks]
        command += ["--output", str(output), "--offline", "--quiet"]
        command += ["--data", args.data] if args.data else []
        command += ["--limit", str(args.limit)] if args.limit else []
        cost = finished(command)
        results = json.loads((output / "results.json").read_text("utf-8"))
    samples = sum(task["counters"]["samples"] for task in results["tasks"].values())
    return cost | {"samples": samples, "cost": results["cost"]}


def finished(command: list[str]) -> dict[str, Any]:
    """Run a command to its end: wall and processor time, and peak memory of that process alone."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    kib = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": kib / 1024}


if __name__ == "__main__":
    sys.exit(main())
