"""Does evalkit say exactly what lm-eval says? Every prompt, token and log-probability, in float32.

lm-eval renders its prompts from its own task files and scores them with its own `hf` model; evalkit
does both by itself. Exits with 1 if a prompt or token differs, if a log-probability differs by more
than --tolerance, or if a single prediction differs.
"""

from __future__ import annotations

import sys

import _common as common

CASES = (
    "cmmlu:agronomy:5",
    "cmmlu:agronomy:0",
    "cmmlu:marxist_theory:5",
    "cmmlu:marxist_theory:0",
    "mmlu:abstract_algebra:5",
    "mmlu:high_school_european_history:0",
    "mmlu:high_school_european_history:5:40",
    "ceval:computer_network:5",
)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="task:subset:shots[:questions]")
    parser.add_argument("--limit", type=int, help="at most N questions of each case")
    parser.add_argument("--batch-size", type=int, default=8, help="lm-eval's batch size")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest |Δ log p| allowed")
    args = parser.parse_args()
    common.quiet()

    from evalkit.backends.hf.backend import HfBackend

    theirs = common.lm_eval_model(args.model, "float32", args.batch_size)
    ours = HfBackend.from_name(args.model, dtype="float32", device="cpu")
    rows = []
    for text in args.cases:
        rows.append(compare(common.Case.parse(text).limited(args.limit), args.data, theirs, ours))
        print(f"{rows[-1]['case']}: max |Δ log p| {rows[-1]['max_difference']:.2g}", flush=True)

    columns = [c for c in rows[0] if c != "worst"]
    common.table("evalkit against lm-eval, float32", columns, [[row[c] for c in columns] for row in rows])
    passed = all(agrees(row, args.tolerance) for row in rows)
    worst = max(row["max_difference"] for row in rows)
    options = sum(row["options"] for row in rows)
    print(f"\n{'PASS' if passed else 'FAIL'}: {options:,} log-probabilities, largest difference {worst:.2g}")
    common.save(args, "fidelity", {"passed": passed, "max_difference": worst, "cases": rows})
    return 0 if passed else 1


def compare(case: common.Case, data: str | None, theirs: object, ours: object) -> dict[str, object]:
    instances = common.lm_eval_instances(case, data)
    prompts = common.prompts(case, data, ours)
    asked = [(p.request.context, option) for p in prompts for option in p.request.continuations]
    encoded = [p.encoded.sequence(j).tolist() for p in prompts for j in range(4)]
    expected = [theirs.tok_encode(context + option) for context, option in (i.args for i in instances)]
    targets = [p.sample.target for p in prompts]

    plain = common.in_fours([logprob for logprob, _ in theirs.loglikelihood(instances, disable_tqdm=True)])
    fast = common.score_all(ours, [p.encoded for p in prompts])
    return {
        "case": str(case),
        "questions": len(prompts),
        "options": len(asked),
        "longest": max(map(len, encoded)),
        "texts_differ": _differing([i.args for i in instances], asked),
        "tokens_differ": _differing(expected, encoded),
        "max_difference": common.max_difference(plain, fast),
        "predictions_differ": len(common.flips(plain, fast)),
        "acc_lm_eval": common.accuracy(plain, targets),
        "acc_evalkit": common.accuracy(fast, targets),
        "worst": _worst(plain, fast, prompts, ours),
    }


def _worst(plain: list, fast: list, prompts: list, ours: object) -> dict[str, object]:
    """The question with the largest difference, and what one unshared forward says of it."""
    i = max(range(len(plain)), key=lambda i: common.max_difference([plain[i]], [fast[i]]))
    forward = common.logprobs(ours.score_reference(prompts[i].encoded))
    return {"question": i, "lm_eval": plain[i], "evalkit": fast[i], "plain_forward": forward}


def _differing(expected: list[object], found: list[object]) -> int:
    return sum(a != b for a, b in zip(expected, found, strict=True))


def agrees(row: dict[str, object], tolerance: float) -> bool:
    differing = row["texts_differ"] + row["tokens_differ"] + row["predictions_differ"]
    return differing == 0 and row["max_difference"] <= tolerance


if __name__ == "__main__":
    sys.exit(main())
