"""How long do tables of many runs take, from run directories to text?

Made-up finished runs of many models on the same tasks, half of them with subsets and half without, are read
and rendered in this process, in every format but HTML, with and without marking ties; then all are put on a
leaderboard. Reading is part of the time, importing is not.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common as common
import numpy as np

from evalkit.reports.filling import fill
from evalkit.reports.layouts import DEFAULT
from evalkit.reports.leaderboard import update
from evalkit.reports.renderers import FORMATS
from evalkit.reports.runs import open_runs
from evalkit.stats.intervals import clustered_mean, independent_mean
from evalkit.store import SCHEMA_VERSION, RunStore, digest
from evalkit.types import Outcome

SUBSETS = 20


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--samples", type=int, default=400, help="of every task")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=5.0, help="exit with 1 if a table takes longer")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        paths = [made_up(Path(folder) / f"run-{i:02}", i, args) for i in range(args.runs)]
        sides: dict[str, Callable[[], object]] = {
            "leaderboard": lambda: update(fresh(Path(folder) / "LEADERBOARD.md"), open_runs(paths), DEFAULT)
        }
        for name, render in FORMATS.items():
            for ties in (False, True):
                sides[f"{name}{', ties' if ties else ''}"] = lambda render=render, ties=ties: render(
                    [fill(DEFAULT, open_runs(paths), ties=ties)]
                )
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.repeats):
            for name, side in sides.items():
                began = time.perf_counter()
                side()
                seconds[name].append(time.perf_counter() - began)
        size = (Path(folder) / "LEADERBOARD.md").stat().st_size
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [(name, f"{medians[name]:.2f}", f"{max(times):.2f}") for name, times in seconds.items()]
    title = f"{args.runs} runs of {args.tasks} tasks: seconds, {args.repeats} times"
    common.table(title, ("", "median", "longest"), rows)
    print(f"the leaderboard has {size / 1024:,.0f} KiB")
    common.save(args, "report_tables", {"seconds": seconds, "medians": medians, "leaderboard_bytes": size})
    return 0 if max(medians.values()) <= args.max_seconds else 1


def fresh(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def made_up(root: Path, seed: int, args: Any) -> Path:
    """A finished run of a model that is right as often as its number says."""
    generator = np.random.default_rng(seed)
    outcomes: list[Outcome] = []
    tasks: dict[str, Any] = {}
    for t in range(args.tasks):
        name = f"task{t:02}@official:test:5shot"
        subsets = np.arange(args.samples) % (SUBSETS if t % 2 else 1)
        right = (generator.random(args.samples) < 0.4 + 0.004 * seed).astype(float)
        tasks[name] = entry(name, subsets, right)
        outcomes += [
            Outcome(
                task=name,
                subset=f"subset {subset}",
                sample_id=str(i),
                prompt_sha256="",
                prediction="A",
                target="A" if score else "B",
                correct=score,
                choice_logprobs=None,
                choice_tokens=None,
                metrics={"acc": score},
            )
            for i, (subset, score) in enumerate(zip(subsets, right, strict=True))
        ]
    model = {"name": f"model-{seed:02}", "backend": "mock", "dtype": "float32", "fingerprint": f"mock:{seed}"}
    versions = {"schema_version": SCHEMA_VERSION, "evalkit_version": "0"}
    cost = dict.fromkeys(("wall_s", "load_s", "tokens_logical", "tokens_computed", "tokens_generated"), 0)
    cost["peak_memory_bytes"] = 0
    results = {"run_id": root.name, "status": "complete", "model": model, "tasks": tasks, "cost": cost}
    manifest = {
        "status": "complete",
        "finished_at": "2026-01-01T00:00:00+00:00",
        "tasks": {name: {"hashes": {"data": digest([name.encode()])}} for name in tasks},
    }
    root.mkdir()
    RunStore(root).finish(versions | manifest, versions | results, outcomes, "")
    return root


def entry(name: str, subsets: Any, right: Any) -> dict[str, Any]:
    """A task's entry of the result document."""
    task, rest = name.split("@")
    protocol, split, _ = rest.split(":")
    macro = clustered_mean(right, subsets, 1 / np.bincount(subsets)[subsets])
    counters = ("errors", "truncated", "unfinished", "ties", "non_finite", "unparsed", "close_calls")
    return {
        "task": task,
        "protocol": protocol,
        "split": split,
        "shots": 5,
        "average": "macro",
        "metrics": {"acc": macro.to_json()},
        "groups": {},
        "subsets": {
            f"subset {s}": {"acc": independent_mean(right[subsets == s]).to_json()}
            for s in np.unique(subsets)
        },
        "averages": {"macro": {"acc": macro.value}, "micro": {"acc": float(right.mean())}},
        "counters": {"samples": len(right), **dict.fromkeys(counters, 0)},
        "samples_total": 10 * len(right),  # which is a footnote
    }


if __name__ == "__main__":
    raise SystemExit(main())
