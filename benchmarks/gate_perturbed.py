"""Does the gate catch a model that really became worse, and sooner than an unpaired test?

The demo model against itself with noise in the weights of one layer, at several strengths, and against
itself in another precision, on ARC-Easy without examples. Every pair of runs is judged by `evalkit gate`
and, for comparison, by a z-test of the two accuracies as if they came from different questions; then both
tests judge resamples of the questions, which says how often each would have caught the drop.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
from scipy import stats

TASK = """\
name: arc_easy
data: {test: %s}
choices: choices.text
target: "{{ choices.label.index(answerKey) }}"
prompt: "Question: {{ question }}\\nAnswer:"
"""
ALPHA = 0.05
RESAMPLES = 2000


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--limit", type=int, default=1000, help="questions")
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=[0.0, 0.1, 0.2, 0.3, 0.5, 0.8],
        help="noise / sd of a matrix",
    )
    parser.add_argument("--seeds", type=int, default=2, help="draws of the noise of each strength")
    parser.add_argument("--keep", type=Path, help="folder of the runs; those that are there are not repeated")
    args = parser.parse_args()
    common.quiet()

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        data = Path(args.data or os.environ["EVALKIT_DATA"]).resolve() / "ARC/ARC-Easy/test.jsonl"
        task = folder / "arc_easy.yaml"
        task.write_text(TASK % data)
        baseline = run(folder / "baseline", "demo", "bfloat16", task, args.limit)
        rows = [judged("float32", baseline, run(folder / "float32", "demo", "float32", task, args.limit))]
        for strength, seed in itertools.product(args.strengths, range(args.seeds)):
            if strength == 0 and seed:
                continue  # no noise has one draw only
            name = f"noise {strength:g}, draw {seed + 1}" if strength else "noise 0"
            candidate = folder / f"noise-{strength:g}-{seed}"
            if not finished(candidate):
                model = perturbed(folder / "model", args.layer, strength, seed)
                run(candidate, str(model), "bfloat16", task, args.limit)
                shutil.rmtree(model)
            rows.append(judged(name, baseline, candidate))
    common.table("Gate against unpaired z-test", list(rows[0]), [list(row.values()) for row in rows])
    common.save(args, "gate_perturbed", {"rows": rows})


def perturbed(folder: Path, layer: int, strength: float, seed: int) -> Path:
    """The demo model with noise of `strength` times its sd in every matrix of a layer."""
    import torch
    from safetensors.torch import load_file, save_file

    from evalkit import demo_models

    shutil.copytree(demo_models.ensure("demo"), folder, dirs_exist_ok=True)
    path = next(folder.glob("*.safetensors"))
    weights, generator = load_file(path), torch.Generator().manual_seed(seed)
    for name in sorted(weights):
        if f".layers.{layer}." in name and weights[name].dim() == 2:
            exact = weights[name].float()
            noise = torch.randn(exact.shape, generator=generator) * exact.std() * strength
            weights[name] = (exact + noise).to(weights[name].dtype)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def run(output: Path, model: str, dtype: str, task: Path, limit: int) -> Path:
    """Run the task, unless the run is there."""
    if not finished(output):
        options = ["--dtype", dtype, "--limit", str(limit), "--output", str(output), "--quiet", "--offline"]
        command = [common.EVALKIT, "run", "--model", model, "--tasks", str(task), *options]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return output


def finished(output: Path) -> bool:
    return (output / "results.json").is_file()


def judged(name: str, baseline: Path, candidate: Path) -> dict[str, Any]:
    """One row of the table."""
    command = [common.EVALKIT, "gate", "--json", "--baseline", str(baseline), "--candidate", str(candidate)]
    verdict = json.loads(subprocess.run(command, check=False, capture_output=True, text=True).stdout)
    (task,) = verdict["tasks"]
    found = task["measured"]
    a, b = (correct(path) for path in (baseline, candidate))
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, a.size, a.size) for _ in range(RESAMPLES)]
    return {
        "candidate": name,
        "acc": found["candidate"],
        "difference": found["difference"],
        "worse": found["losses"],
        "better": found["gains"],
        "gate": task["verdict"],
        "p paired": found["p"],
        "p unpaired": unpaired(a, b),
        "paired sees, %": 100 * float(np.mean([paired(a[rows], b[rows]) <= ALPHA for rows in draws])),
        "unpaired sees, %": 100 * float(np.mean([unpaired(a[rows], b[rows]) <= ALPHA for rows in draws])),
    }


def correct(path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    import pyarrow.parquet as pq

    return np.array(pq.read_table(path / "samples.parquet", columns=["correct"])["correct"].to_pylist())


def paired(a: Any, b: Any) -> float:
    from evalkit.stats.paired import mcnemar

    return mcnemar(int((a > b).sum()), int((b > a).sum()))[0]


def unpaired(a: Any, b: Any) -> float:
    """One-sided z-test of two proportions."""
    pooled = (a.mean() + b.mean()) / 2
    stderr = np.sqrt(pooled * (1 - pooled) * 2 / a.size)
    return float(stats.norm.cdf((b.mean() - a.mean()) / stderr)) if stderr else 1.0


if __name__ == "__main__":
    main()
