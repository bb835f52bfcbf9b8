"""How fast is scoring, next to lm-eval's `hf` model and to what the machine can do at best?

Timed is the scoring phase alone: from rendered prompts in memory to log-probabilities, tokenising
included on both sides, loading excluded. Every measurement runs in a process of its own and the sides
alternate (A B A B). evalkit changes an allocator setting of its process (freed memory is kept); lm-eval
is measured without it, as users run it, and once more with it, so that both effects can be told apart.

The roofline is the same number of tokens at the best rate of plain forwards without the output head,
in evalkit's own process. Attention over the shared prefix, which those forwards lack, is timed apart.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _common as common

CASES = ("cmmlu:agronomy:5",)
SHAPES = ((8, 64), (8, 128), (16, 64), (32, 64), (32, 32), (16, 128))
SIDES = {"lm-eval": "lm_eval_side", "evalkit": "evalkit_side", "lm-eval + allocator": "lm_eval_side"}


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="task:subset:shots[:questions]")
    parser.add_argument("--mmlu-subject", default="high_school_psychology", help="'' leaves MMLU out")
    parser.add_argument("--mmlu-limit", type=int, default=150, help="questions of the MMLU subject")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="for --cases")
    parser.add_argument("--mmlu-dtypes", nargs="+", default=["bfloat16"], help="for the MMLU subject")
    parser.add_argument("--limit", type=int, help="at most N questions of every case")
    parser.add_argument("--repeats", type=int, default=2, help="measurements of each side")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 16], help="tried for lm-eval")
    parser.add_argument(
        "--tune-questions", type=int, default=24, help="first slice lm-eval's batch is chosen on"
    )
    parser.add_argument("--baseline-limit", type=int, help="time lm-eval on the first N questions only")
    parser.add_argument("--extrapolate", action="store_true", help="scale such a time up to all questions")
    parser.add_argument(
        "--no-allocator-row", action="store_true", help="skip lm-eval with evalkit's allocator"
    )
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--worker", help="internal: one measurement, as JSON")
    args = parser.parse_args()
    common.quiet()
    if args.worker:
        return work(json.loads(args.worker))
    if args.baseline_limit and not args.extrapolate:
        print("note: --baseline-limit without --extrapolate: times are compared per question")

    cases = [(common.Case.parse(text), dtype) for text in args.cases for dtype in args.dtypes]
    if args.mmlu_subject:
        subject = common.Case("mmlu", args.mmlu_subject, 5, args.mmlu_limit)
        cases += [(subject, dtype) for dtype in args.mmlu_dtypes]
    measured = [measure(case.limited(args.limit), dtype, args) for case, dtype in cases]
    common.save(args, "speed", {"cases": measured})
    return 0


# -- the parent: alternate the sides, then compare --------------------------------------------------


def measure(case: common.Case, dtype: str, args: Any) -> dict[str, Any]:
    job = {
        "case": vars(case),
        "dtype": dtype,
        "model": args.model,
        "data": args.data,
        "threads": args.threads,
    }
    baseline = job | {"case": vars(case.limited(args.baseline_limit))}
    tuned = job | {"case": vars(case.limited(args.tune_questions)), "batch_sizes": args.batch_sizes}
    tuning = in_subprocess("lm-eval", tuned)["seconds_by_batch_size"]
    batch = min(tuning, key=tuning.get)
    runs: dict[str, list[dict[str, Any]]] = {}
    for repeat in range(args.repeats):
        for side in SIDES:
            if side.endswith("allocator") and args.no_allocator_row:
                continue
            own = (
                job | {"roofline": repeat == 0}
                if side == "evalkit"
                else baseline | {"batch_sizes": [int(batch)]}
            )
            runs.setdefault(side, []).append(in_subprocess(side, own))
            print(f"{case} {dtype}, {side}: {runs[side][-1]['seconds']:.2f} s", flush=True)
    return compare(case, dtype, runs, tuning, batch, args)


def in_subprocess(side: str, job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        described = json.dumps(job | {"side": side, "answer": str(answer)})
        subprocess.run([sys.executable, __file__, "--worker", described], check=True)
        return json.loads(answer.read_text())


def compare(
    case: common.Case, dtype: str, runs: dict[str, Any], tuning: dict[str, float], batch: str, args: Any
) -> dict[str, Any]:
    asked = {side: len(some[0]["scores"]) for side, some in runs.items()}
    median = {side: statistics.median(run["seconds"] for run in some) for side, some in runs.items()}
    speed_up = {side: median[side] / asked[side] / (median["evalkit"] / asked["evalkit"]) for side in runs}
    roofline = runs["evalkit"][0]["roofline"]
    best, prefix = roofline["roofline_s"], roofline["prefix_attention_s"]
    scores = [runs[side][0]["scores"][: asked["lm-eval"]] for side in ("lm-eval", "evalkit")]
    summary = {
        "speed_up": speed_up["lm-eval"],
        "speed_up_same_allocator": speed_up.get("lm-eval + allocator"),
        "roofline_s": best,
        "prefix_attention_s": prefix,
        "times_roofline": median["evalkit"] / best,
        "times_roofline_and_prefix": median["evalkit"] / (best + prefix),
        "predictions_differ": len(common.flips(*scores)),
        "max_difference": common.max_difference(*scores),
        "lm_eval_ties": sum(row.count(max(row)) > 1 for row in scores[0]),
    }
    if args.extrapolate and asked["lm-eval"] < asked["evalkit"]:
        summary["lm_eval_s_extrapolated"] = median["lm-eval"] / asked["lm-eval"] * asked["evalkit"]

    times = {side: ", ".join(f"{run['seconds']:.2f}" for run in some) for side, some in runs.items()}
    rows = [
        (side, median[side], times[side], asked[side], 1000 * median[side] / asked[side], speed_up[side])
        for side in runs
    ]
    tried = ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in tuning.items())
    columns = ("", "median s", "runs", "questions", "ms/question", "evalkit's speed-up")
    common.table(f"{case}, {dtype}, lm-eval at batch {batch} (slice: {tried})", columns, rows)
    common.table("", ("plain forwards, rows x length", "tokens/s"), roofline["rates"].items())
    common.table("", ("summary", "value"), summary.items())
    kept = {s: [{k: v for k, v in run.items() if k != "scores"} for run in some] for s, some in runs.items()}
    head = {"case": str(case), "dtype": dtype, "questions": asked, "batch_size": int(batch)}
    return head | {"tuning_s": tuning, "summary": summary, "runs": kept}


# -- the children: one side, measured once ----------------------------------------------------------


def work(job: dict[str, Any]) -> int:
    import torch

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    case = common.Case(**job["case"])
    answer = globals()[SIDES[job["side"]]](job, case) | {"threads": torch.get_num_threads()}
    Path(job["answer"]).write_text(json.dumps(answer))
    return 0


def lm_eval_side(job: dict[str, Any], case: common.Case) -> dict[str, Any]:
    if job["side"].endswith("allocator"):
        from evalkit.backends.hf.memory import keep_freed_memory

        keep_freed_memory()
    model = common.lm_eval_model(job["model"], job["dtype"], job["batch_sizes"][0])
    instances = common.lm_eval_instances(case, job["data"])
    model.loglikelihood(instances[:4], disable_tqdm=True)  # warm up
    seconds = {}
    for size in job["batch_sizes"]:
        model.batch_size_per_gpu = size
        began = time.perf_counter()
        answers = model.loglikelihood(instances, disable_tqdm=True)
        seconds[size] = time.perf_counter() - began
    scores = common.in_fours([logprob for logprob, _ in answers])
    return {"seconds": seconds[size], "seconds_by_batch_size": seconds, "scores": scores}


def evalkit_side(job: dict[str, Any], case: common.Case) -> dict[str, Any]:
    from evalkit.backends.hf.backend import HfBackend
    from evalkit.backends.hf.loading import LoadOptions, load
    from evalkit.tokens import encode

    loaded = load(job["model"], LoadOptions(dtype=job["dtype"], device="cpu"))
    native = loaded.model.config._attn_implementation
    backend = HfBackend(loaded)
    requests = [request for _, request in common.rendered(case, job["data"])]
    list(backend.score(list(encode(backend.tokenizer, requests[:1]))))  # warm up
    backend.usage.tokens_computed = 0

    began = time.perf_counter()
    encoded = list(encode(backend.tokenizer, requests))
    scores = common.score_all(backend, encoded)
    answer = {"seconds": time.perf_counter() - began, "scores": scores}

    answer |= {
        "tokens_computed": backend.usage.tokens_computed,
        "tokens_logical": sum(e.n_logical for e in encoded),
    }
    answer |= {"path": backend.info.details["scoring_path"]}
    if job["roofline"]:
        attention = prefix_attention(loaded.model, encoded, backend.info.details["batch_tokens"])
        loaded.model.set_attn_implementation(native)
        rates = {f"{b}x{t}": plain_rate(loaded.model, b, t) for b, t in SHAPES}
        roofline = answer["tokens_computed"] / max(rates.values())
        answer["roofline"] = {"rates": rates, "roofline_s": roofline, "prefix_attention_s": attention}
    return answer


def plain_rate(model: Any, rows: int, length: int, seconds: float = 4.0) -> float:
    """Tokens per second of the model without its head: the median over as many forwards as fit."""
    import torch

    ids = torch.randint(0, model.config.vocab_size, (rows, length))
    times: list[float] = []
    with torch.inference_mode():
        model.base_model(input_ids=ids, use_cache=False)
        while sum(times) < seconds or len(times) < 3:
            began = time.perf_counter()
            model.base_model(input_ids=ids, use_cache=False)
            times.append(time.perf_counter() - began)
    return rows * length / statistics.median(times)


def prefix_attention(model: Any, encoded: list[Any], batch_tokens: int) -> float:
    """Seconds that attention of all planned steps to their cached contexts takes, over all layers."""
    import torch

    from evalkit.backends.hf.attention import attention_with_lse
    from evalkit.planner import plan

    config, total = model.config, 0.0
    heads, kv_heads, layers = (
        config.num_attention_heads, config.num_key_value_heads, config.num_hidden_layers,
    )  # fmt: skip
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    with torch.inference_mode():
        for step in (
            step
            for window in plan(encoded, batch_tokens, torch.get_num_threads())
            for step in window.steps
            if step.context_len
        ):
            query = torch.randn(1, len(step.tokens), heads, dim, dtype=model.dtype).transpose(1, 2)
            cache = torch.randn(layers, 2, 1, kv_heads, step.context_len, dim, dtype=model.dtype)
            attention_with_lse(query, cache[0, 0], cache[0, 1], dim**-0.5)
            began = time.perf_counter()
            for keys, values in cache:
                attention_with_lse(query, keys, values, dim**-0.5)
            total += time.perf_counter() - began
    return total


if __name__ == "__main__":
    sys.exit(main())
