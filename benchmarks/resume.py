"""Does a run that was killed again and again end with the very same results?

Runs once undisturbed, then again while killing the process (SIGKILL, no warning) at random points of its
progress, each time continuing with --resume, and compares samples.parquet row by row, floats included.
If a round finishes before all kills are spent, another round begins.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument("--task", default="cmmlu:test:5shot", help="task spec")
    parser.add_argument("--subset", default="agronomy")
    parser.add_argument("--limit", type=int, default=40, help="questions")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-tokens", type=int, default=256, help="small, so that there are many steps")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the points at which the process is killed")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        subprocess.run(command(args, whole), check=True, stdout=subprocess.DEVNULL)
        cost = json.loads((whole / "results.json").read_text("utf-8"))["cost"]
        expected = samples(whole)
        kills, rounds = tortured(args, Path(scratch), expected, cost)

    table_columns = ("kill", "round", "journal lines before", "when killed", "seconds after start")
    common.table("killed runs", table_columns, [(str(i + 1), *kill.values()) for i, kill in enumerate(kills)])
    differing = sum(entry["differing_rows"] for entry in rounds)
    passed = len(kills) == args.kills and differing == 0
    print(
        f"\n{'PASS' if passed else 'FAIL'}: {len(kills)} kills in {len(rounds)} round(s), "
        f"{differing} of {len(expected)} rows differ from the undisturbed run"
    )
    record = {
        "passed": passed,
        "samples": len(expected),
        "undisturbed": cost,
        "kills": kills,
        "rounds": rounds,
    }
    common.save(args, "resume", record)
    return 0 if passed else 1


def command(args: Any, output: Path) -> list[str]:
    made = [common.EVALKIT, "run", "--model", args.model, "--tasks", args.task, "--subsets", args.subset]
    made += ["--limit", str(args.limit), "--dtype", args.dtype, "--batch-tokens", str(args.batch_tokens)]
    made += ["--output", str(output), "--offline", "--quiet"]
    return made + (["--data", args.data] if args.data else [])


def tortured(
    args: Any, scratch: Path, expected: list[dict[str, Any]], cost: dict[str, float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Kill until all kills are spent, then let the last round finish."""
    rng = random.Random(args.seed)
    kills: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    while len(kills) < args.kills and len(rounds) < 2 * args.kills:
        output = scratch / f"round{len(rounds)}"
        points = sorted(rng.randrange(args.limit) for _ in range(args.kills - len(kills)))
        for point in points:
            # Half of the kills that come before any progress strike while the process starts up.
            target = max(point, lines(output) + rng.randrange(2))
            longest = cost["score_s"] / args.limit if target > lines(output) else cost["load_s"]
            killed = run_and_kill(args, output, target, rng.uniform(0, longest))
            if killed is None:
                break
            kills.append({"round": len(rounds), **killed})
        else:
            subprocess.run([*command(args, output), "--resume"], check=True, stdout=subprocess.DEVNULL)
        rounds.append({"differing_rows": differing_rows(expected, samples(output))})
        shutil.rmtree(output)
    return kills, rounds


def run_and_kill(args: Any, output: Path, target: int, delay: float) -> dict[str, Any] | None:
    """Start or continue a run, kill it `delay` s after sample `target`; None if it ended before that."""
    before, began = lines(output), time.perf_counter()
    process = subprocess.Popen([*command(args, output), "--resume"], stdout=subprocess.DEVNULL)
    while process.poll() is None and lines(output) < target:
        time.sleep(0.005)
    time.sleep(delay)
    if process.poll() is None:
        process.kill()
    if (code := process.wait()) == 0:
        return None
    if code > 0:
        raise SystemExit(f"the run ended with {code}")
    return {"lines_before": before, "lines": lines(output), "seconds": time.perf_counter() - began}


def lines(output: Path) -> int:
    """Samples in the journal; 0 before it exists and once the run is complete."""
    journal = output / "journal" / "responses.jsonl"
    try:
        return journal.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def samples(output: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(output / "samples.parquet").to_pylist())


def differing_rows(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> int:
    return abs(len(expected) - len(found)) + sum(a != b for a, b in zip(expected, found, strict=False))


if __name__ == "__main__":
    sys.exit(main())
