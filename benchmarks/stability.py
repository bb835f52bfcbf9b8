"""Do batch size and request order change results? They should not, beyond rounding that is announced.

Scores one subject with several token budgets and in shuffled order. In float32 nothing may move but the
last digits; in bfloat16 the answers that move must be close calls, and the accuracies must stay inside
the range that evalkit states for them. Last, the demo mixture of experts, whose float32 logits equal the
dense model's by construction, is scored on the same requests.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import _common as common

FLOAT32_TOLERANCE = 1e-4
MIXTURE_TOLERANCE = 1e-3


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument("--case", default="cmmlu:agronomy:5", help="task:subset:shots[:questions]")
    parser.add_argument("--limit", type=int, help="at most N questions")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--batch-tokens", type=int, nargs="+", default=[2048, 512, 6000], help="first is the base"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the shuffled order")
    parser.add_argument("--moe-limit", type=int, default=40, help="questions for demo-moe; 0 leaves it out")
    args = parser.parse_args()
    common.quiet()

    case = common.Case.parse(args.case).limited(args.limit)
    by_dtype = {dtype: vary(case, dtype, args) for dtype in args.dtypes}
    moe = mixture(case.limited(args.moe_limit), args.data) if args.moe_limit else None
    passed = all(entry["passed"] for entry in by_dtype.values()) and (moe is None or moe["passed"])
    print(f"\n{'PASS' if passed else 'FAIL'}")
    common.save(args, "stability", {"passed": passed, "case": str(case), "dtypes": by_dtype, "mixture": moe})
    return 0 if passed else 1


def vary(case: common.Case, dtype: str, args: Any) -> dict[str, Any]:
    """Score the case in every way and compare with the first."""
    from evalkit import equality

    backend, prompts = load(args.model, dtype, args.batch_tokens[0], case, args.data)
    gate = equality.check(backend, [(common.resolve(case), prompts)])
    (noise,) = gate.noise.values()
    variants = {f"budget {args.batch_tokens[0]}": common.score_all(backend, [p.encoded for p in prompts])}
    order = list(range(len(prompts)))
    random.Random(args.seed).shuffle(order)
    shuffled = common.score_all(backend, [prompts[i].encoded for i in order])
    variants["shuffled order"] = [row for _, row in sorted(zip(order, shuffled, strict=True))]
    for budget in args.batch_tokens[1:]:
        backend, _ = load(args.model, dtype, budget, case, args.data)
        variants[f"budget {budget}"] = common.score_all(backend, [p.encoded for p in prompts])

    base = next(iter(variants.values()))
    stated = aggregated(case, prompts, base, noise)
    rows = [described(name, scores, base, noise, prompts) for name, scores in variants.items()]
    accuracies = [row["acc"] for row in rows]
    low, high = stated["score_range"]["low"], stated["score_range"]["high"]
    entry = {
        "gate": gate.to_json(),
        "noise": noise,
        "close_calls": stated["counters"]["close_calls"],
        "stated_range": [low, high],
        "spread": max(accuracies) - min(accuracies),
        "within_range": all(low <= acc <= high for acc in accuracies),
        "variants": rows,
    }
    still = all(row["flips"] == 0 and row["max_difference"] <= FLOAT32_TOLERANCE for row in rows)
    entry["passed"] = (
        still
        if dtype == "float32"
        else (entry["within_range"] and all(row["flips_not_close"] == 0 for row in rows))
    )
    common.table(f"{case}, {dtype}", list(rows[0]), [row.values() for row in rows])
    print(
        f"  gate noise {noise:.3g}, {entry['close_calls']} close calls, range {low:.4f} to {high:.4f}, "
        f"spread of accuracies {entry['spread']:.4f}"
    )
    return entry


def load(model: str, dtype: str, budget: int, case: common.Case, data: str | None) -> tuple[Any, list[Any]]:
    from evalkit.backends.hf.backend import HfBackend

    backend = HfBackend.from_name(model, dtype=dtype, device="cpu", batch_tokens=budget)
    return backend, common.prompts(case, data, backend)


def described(
    name: str, scores: list[list[float]], base: list[list[float]], noise: float, prompts: list[Any]
) -> dict[str, Any]:
    flips = common.flips(base, scores)
    return {
        "variant": name,
        "acc": common.accuracy(scores, [p.sample.target for p in prompts]),
        "max_difference": common.max_difference(base, scores),
        "flips": len(flips),
        "flips_not_close": sum(margin(base[i]) > noise for i in flips),
        "largest_flipped_margin": max((margin(base[i]) for i in flips), default=0.0),
    }


def margin(options: list[float]) -> float:
    first, second = sorted(options, reverse=True)[:2]
    return first - second


def aggregated(
    case: common.Case, prompts: list[Any], scores: list[list[float]], noise: float
) -> dict[str, Any]:
    """evalkit's own result entry of these scores, with its range for close calls."""
    from evalkit.judge import judge, recorded
    from evalkit.results import aggregate
    from evalkit.types import ContinuationScore, ScoreResponse

    resolved = common.resolve(case)
    responses = (ScoreResponse(tuple(ContinuationScore(x, 1, is_greedy=False) for x in r)) for r in scores)
    outcomes = [recorded(resolved, p, r, keep_prompt=False) for p, r in zip(prompts, responses, strict=True)]
    return aggregate(resolved, judge(resolved, outcomes, {}), noise)


def mixture(case: common.Case, data: str | None) -> dict[str, Any]:
    """The up-cycled mixture against the dense model it was made of."""
    scores = []
    for model in ("demo", "demo-moe"):
        backend, prompts = load(model, "float32", 2048, case, data)
        scores.append(common.score_all(backend, [p.encoded for p in prompts]))
    difference, flips = common.max_difference(*scores), len(common.flips(*scores))
    common.table(
        f"demo-moe against demo, {case}, float32",
        ("questions", "max |Δ log p|", "flips"),
        [(str(len(prompts)), difference, flips)],
    )
    passed = difference <= MIXTURE_TOLERANCE and flips == 0
    return {"questions": len(prompts), "max_difference": difference, "flips": flips, "passed": passed}


if __name__ == "__main__":
    sys.exit(main())
