"""Does `evalkit diff` find an evalkit run and lm-eval's own log of the same questions equal?

lm-eval evaluates the questions with its own task file, model and writer (`--log_samples`); evalkit runs its
`lm-eval` protocol; the two are compared as a user would. Exits with 1 if a prompt or an outcome differs, or a
log-probability by more than --tolerance.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import _common as common


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["cmmlu:agronomy:5:20", "mmlu:abstract_algebra:0:20"],
        help="task:subset:shots:questions, for example gsm8k:main:5:2",
    )
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest |Δ log p| allowed")
    args = parser.parse_args()
    common.quiet()

    from evalkit.diff.document import compare
    from evalkit.diff.sides import read
    from evalkit.diff.text import render

    theirs = common.lm_eval_model(args.model, "float32", 8)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for text in args.cases:
            case = common.Case.parse(text)
            run, log = Path(folder) / f"run-{len(rows)}", Path(folder) / f"lm-eval-{len(rows)}"
            evalkit_run(case, args, run)
            lm_eval_log(case, args.data, theirs, log)
            document = compare(read(run), read(log), examples=3)
            print(render(document), flush=True)
            (task,) = document["tasks"]
            differing = {f"{rung}_differ": found["differing"] for rung, found in task["rungs"].items()}
            largest = (task["logprobs"] or {}).get("largest", 0.0)  # a task that generates has none
            rows.append(
                {"case": str(case), "questions": task["shared"], "max_difference": largest} | differing
            )
    passed = all(agrees(row, args.tolerance) for row in rows)
    common.save(args, "diff_lm_eval", {"passed": passed, "cases": rows})
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


def evalkit_run(case: common.Case, args: object, output: Path) -> None:
    from evalkit.backends.hf.backend import HfBackend
    from evalkit.data.source import open_source
    from evalkit.preparation import RunOptions
    from evalkit.runner import run
    from evalkit.store import RunStore

    options = RunOptions(
        args.model,
        f"{case.task}@lm-eval",
        shots=case.shots,
        subsets=(case.subset,),
        limit=case.limit,
        log_prompts=True,
    )
    run(
        options,
        open_source(args.data, offline=True),
        lambda: HfBackend.from_name(args.model, dtype="float32", device="cpu"),
        RunStore(output),
    )


def lm_eval_log(case: common.Case, data: str | None, model: object, output: Path) -> None:
    import lm_eval
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(output))
    task = common.lm_eval_task(case, data)
    found = lm_eval.simple_evaluate(model=model, tasks=[task], limit=case.limit, log_samples=True)
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)


def agrees(row: dict[str, object], tolerance: float) -> bool:
    return not row["prompts_differ"] and not row["outcomes_differ"] and row["max_difference"] <= tolerance


if __name__ == "__main__":
    sys.exit(main())
