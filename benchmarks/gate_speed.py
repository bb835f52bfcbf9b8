"""How long `evalkit gate` takes on runs of MMLU, C-Eval, CMMLU and GSM8K size, and how large a baseline is.

The runs are made up: one in ten answers differs. The whole command is timed, from the start of Python.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import _common as common
import numpy as np

from evalkit.store import RunStore
from evalkit.types import Outcome

SIZES = {
    "mmlu@official:test:5shot": [246] * 57 + [20],
    "ceval@official:val:5shot": [26] * 51 + [20],
    "cmmlu@official:test:5shot": [173] * 66 + [164],
    "gsm8k@lm-eval:test:5shot": [1319],
}
"""Samples per subset."""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        answers = {name: rng.choice(list("ABCD"), (2, sum(sizes))) for name, sizes in SIZES.items()}
        write(folder / "a", {name: one for name, (one, _) in answers.items()}, answers)
        changed = {
            name: np.where(rng.random(one.size) < 0.1, rng.choice(list("ABCD"), one.size), one)
            for name, (one, _) in answers.items()
        }
        write(folder / "b", changed, answers)
        baseline = folder / "a.baseline.parquet"
        subprocess.run([common.EVALKIT, "baseline", "save", str(folder / "a"), str(baseline)], check=True)
        rows = [
            ("run directory", seconds(folder / "a", folder / "b", args.repeats)),
            ("baseline file", seconds(baseline, folder / "b", args.repeats)),
        ]
        samples = sum(map(sum, SIZES.values()))
        size_bytes = baseline.stat().st_size
    common.table(f"evalkit gate, {samples:,} samples", ["compared with", "median s"], rows)
    print(f"\nbaseline: {size_bytes:,} bytes")
    record = {"samples": samples, "baseline_bytes": size_bytes, "seconds": dict(rows)}
    common.save(args, "gate_speed", record)


def seconds(baseline: Path, candidate: Path, repeats: int) -> float:
    """Median wall-clock time of the command."""
    command = [common.EVALKIT, "gate", "--baseline", str(baseline), "--candidate", str(candidate)]
    times = []
    for _ in range(repeats):
        began = time.monotonic()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        times.append(time.monotonic() - began)
        assert done.returncode in (0, 1), done.stderr
    return statistics.median(times)


def write(root: Path, predictions: dict[str, np.ndarray], answers: dict[str, np.ndarray]) -> None:
    """A run directory of these predictions."""
    outcomes, entries = [], {}
    for name, sizes in SIZES.items():
        subsets = [f"subset_{i}" for i, size in enumerate(sizes) for _ in range(size)]
        ids = [str(row) for size in sizes for row in range(size)]
        correct = (predictions[name] == answers[name][1]).astype(float)
        rows = zip(subsets, ids, predictions[name], answers[name][1], correct, strict=True)
        outcomes += [
            Outcome(
                name, subset, at, "0" * 64, str(said), str(right), score, None, None, metrics={"acc": score}
            )
            for subset, at, said, right, score in rows
        ]
        means = [part.mean() for part in np.split(correct, np.cumsum(sizes)[:-1])]
        zero = ("errors", "unparsed", "truncated", "ties", "non_finite", "close_calls")
        score = float(np.mean(means))
        task, protocol, split, shots = re.split("[@:]", name)
        entries[name] = {
            "task": task,
            "protocol": protocol,
            "split": split,
            "shots": int(shots.removesuffix("shot")),
            "average": "macro",
            "metrics": {"acc": {"value": score, "stderr": 0.0, "ci95": [score, score], "n": len(ids)}},
            **{part: {} for part in ("groups", "subsets", "averages")},
            "counters": {"samples": len(ids)} | dict.fromkeys(zero, 0),
        }
    store = RunStore(root)
    root.mkdir()
    store.write_samples(outcomes)
    hashes = {name: {"hashes": {"data": "0" * 64}} for name in SIZES}
    store.write_json("manifest.json", {"schema_version": 1, "tasks": hashes})
    counted = (
        "wall_s",
        "load_s",
        "tokens_logical",
        "tokens_computed",
        "tokens_generated",
        "peak_memory_bytes",
    )
    results = {"schema_version": 1, "evalkit_version": "0", "status": "complete", "run_id": root.name}
    results |= {"model": {"name": "made up"}, "cost": dict.fromkeys(counted, 0), "tasks": entries}
    store.write_json("results.json", results)


if __name__ == "__main__":
    main()
