"""Does vLLM give the numbers transformers gives, and how fast is scoring on it next to lm-eval's?

Fidelity: the same encoded requests on the `hf` and the `vllm` backend, both in float32; what counts are the
largest difference of an option's log-probability, and predictions that differ where the two best options
are further apart than the tolerance.

Speed: the scoring phase alone, from rendered prompts in memory to log-probabilities, tokenising included,
loading excluded; lm-eval's `vllm` model and evalkit's backend run the same engine with the same settings
(what evalkit adds by default is measured apart). Every measurement runs in a process of its own, and the
sides alternate.
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

FIDELITY = (
    "mmlu:high_school_geography:5", "mmlu:college_biology:5", "mmlu:marketing:5",
    "ceval:computer_network:5", "ceval:law:5", "ceval:high_school_biology:5",
    "cmmlu:agronomy:5", "cmmlu:astronomy:5", "cmmlu:world_history:5",
    "kobest_hellaswag:kobest_hellaswag:0",
)  # fmt: skip
TOLERANCE = 1e-2
MAX_LENGTH = 4096
SIDES = {
    "lm-eval": "lm_eval_side",
    "evalkit": "evalkit_side",
    "evalkit, lm-eval's settings": "evalkit_side",
}


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument("--fidelity", nargs="*", default=list(FIDELITY), help="task:subset:shots[:questions]")
    parser.add_argument(
        "--speed", nargs="*", default=["cmmlu:agronomy:5"], help="task:subset:shots[:questions]"
    )
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], help="for --speed")
    parser.add_argument("--limit", type=int, help="at most N questions of every case")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side")
    parser.add_argument("--worker", help="internal: one measurement, as JSON")
    args = parser.parse_args()
    common.quiet()
    os.environ.pop("TQDM_DISABLE")  # vLLM divides by what its progress bar has counted
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    if args.worker:
        job = json.loads(args.worker)
        Path(job["answer"]).write_text(json.dumps(globals()[job["side"]](job)))
        return 0
    document: dict[str, Any] = {}
    if args.fidelity:
        cases = [vars(common.Case.parse(text).limited(args.limit)) for text in args.fidelity]
        document["fidelity"] = fidelity({"cases": cases, "model": args.model, "data": args.data})
    document["speed"] = [
        speed(common.Case.parse(text).limited(args.limit), dtype, args)
        for text in args.speed
        for dtype in args.dtypes
    ]
    common.save(args, "engines", document)
    return 0


def in_subprocess(side: str, job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        described = json.dumps(job | {"side": side, "answer": str(answer)})
        subprocess.run([sys.executable, __file__, "--worker", described], check=True)
        return json.loads(answer.read_text())


# -- fidelity ---------------------------------------------------------------------------------------


def fidelity(job: dict[str, Any]) -> list[dict[str, Any]]:
    hf, vllm = (in_subprocess("score_cases", job | {"backend": name}) for name in ("hf", "vllm"))
    rows, found = [], []
    for case, plain, fast in zip(job["cases"], hf["cases"], vllm["cases"], strict=True):
        a, b = plain["scores"], fast["scores"]
        differ = [i for i in common.flips(a, b) if _margin(a[i]) > TOLERANCE]
        entry = {
            "case": str(common.Case(**case)),
            "questions": len(a),
            "max_difference": common.max_difference(a, b),
            "predictions_differ": len(common.flips(a, b)),
            "differ_beyond_tolerance": len(differ),
            "contexts": fast["contexts"],
            "requests": fast["requests"],
            "hit_share": fast["hit_share"],
        }
        found.append(entry)
        rows.append(list(entry.values()))
    columns = ("hf and vllm, float32", *list(found[0])[1:])
    common.table("", columns, rows)
    return found


def _margin(options: list[float]) -> float:
    first, second = sorted(options, reverse=True)[:2]
    return first - second


def score_cases(job: dict[str, Any]) -> dict[str, Any]:
    backend = open_backend(job["backend"], job["model"], "float32")
    return {"cases": [_scored(backend, common.Case(**case), job["data"]) for case in job["cases"]]}


def _scored(backend: Any, case: common.Case, data: str | None) -> dict[str, Any]:
    requests = [p.encoded for p in common.prompts(case, data, backend)]
    before = backend.info.details.get("prefix_cache")
    scores = common.score_all(backend, requests)
    answer = {"scores": scores, "contexts": len({r.base.tobytes() for r in requests})}
    if before is not None:
        after = backend.info.details["prefix_cache"]
        asked, cached = (after[key] - before[key] for key in ("prompt_tokens", "cached_tokens"))
        answer |= {"requests": after["requests"] - before["requests"], "hit_share": cached / asked}
    return answer


def open_backend(backend: str, model: str, dtype: str, **engine_args: str) -> Any:
    from evalkit.backends.opening import EngineOptions
    from evalkit.backends.opening import open_backend as opened

    if backend == "vllm":
        engine_args = {"max_model_len": str(MAX_LENGTH)} | engine_args
    return opened(EngineOptions(model, backend, dtype=dtype, engine_args=engine_args))


# -- speed ------------------------------------------------------------------------------------------


def speed(case: common.Case, dtype: str, args: Any) -> dict[str, Any]:
    job = {"case": vars(case), "dtype": dtype, "model": args.model, "data": args.data}
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.repeats):
        for side, function in SIDES.items():
            settings = {"hf_overrides": "{}", "block_size": "128"} if "settings" in side else {}
            runs.setdefault(side, []).append(in_subprocess(function, job | {"engine_args": settings}))
            print(f"{case} {dtype}, {side}: {runs[side][-1]['seconds']:.2f} s", flush=True)
    median = {side: statistics.median(run["seconds"] for run in some) for side, some in runs.items()}
    scores = [runs[side][0]["scores"] for side in ("lm-eval", "evalkit, lm-eval's settings")]
    summary = {
        "speed_up": median["lm-eval"] / median["evalkit"],
        "speed_up_same_settings": median["lm-eval"] / median["evalkit, lm-eval's settings"],
        "max_difference": common.max_difference(*scores),
        "predictions_differ": len(common.flips(*scores)),
    }
    rows = [
        (
            side,
            median[side],
            ", ".join(f"{run['seconds']:.2f}" for run in some),
            median["lm-eval"] / median[side],
        )
        for side, some in runs.items()
    ]
    common.table(f"{case}, {dtype}", ("", "median s", "runs", "speed-up"), rows)
    common.table("", ("summary", "value"), summary.items())
    kept = {s: [{k: v for k, v in run.items() if k != "scores"} for run in some] for s, some in runs.items()}
    return {"case": str(case), "dtype": dtype, "summary": summary, "runs": kept}


def lm_eval_side(job: dict[str, Any]) -> dict[str, Any]:
    model = _lm_eval_vllm()(
        pretrained=common.model_path(job["model"]),
        dtype=job["dtype"],
        max_model_len=MAX_LENGTH,
        batch_size="auto",
        enforce_eager=True,
        device="cpu",
    )
    instances = common.lm_eval_instances(common.Case(**job["case"]), job["data"])
    model.loglikelihood(instances[:4], disable_tqdm=True)  # warm up
    began = time.perf_counter()
    answers = model.loglikelihood(instances, disable_tqdm=True)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "scores": common.in_fours([logprob for logprob, _ in answers])}


def _lm_eval_vllm() -> Any:
    """lm-eval's model class; on import it asks for the version of `vllm`, which has another name on CPUs."""
    from importlib import metadata
    from unittest import mock

    import vllm
    from vllm.platforms import current_platform

    print(f"vLLM on {current_platform.device_name}")  # which is found out now, by the same version
    known = {"vllm": vllm.__version__}
    ask = metadata.version
    with mock.patch("importlib.metadata.version", side_effect=lambda name: known.get(name) or ask(name)):
        from lm_eval.models.vllm_causallms import VLLM
    return VLLM


def evalkit_side(job: dict[str, Any]) -> dict[str, Any]:
    from evalkit.tokens import encode

    backend = open_backend("vllm", job["model"], job["dtype"], **job["engine_args"])
    requests = [request for _, request in common.rendered(common.Case(**job["case"]), job["data"])]
    common.score_all(backend, list(encode(backend.tokenizer, requests[:1])))  # warm up
    began = time.perf_counter()
    scores = common.score_all(backend, list(encode(backend.tokenizer, requests)))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "scores": scores, "prefix_cache": backend.info.details["prefix_cache"]}


if __name__ == "__main__":
    sys.exit(main())
