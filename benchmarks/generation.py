"""How fast is generation, next to lm-eval's `hf` model on the same prompts with the same stop rules?

GSM8K with five examples drawn for every question: no long prefix is shared, so that what is measured is
prefill, decoding and how batches are filled. Timed is the generation phase alone, tokenising included,
loading excluded; every measurement runs in a process of its own and the sides alternate. lm-eval runs at
the best of several batch sizes, chosen on a first slice.
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


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="measurements of each side")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 16], help="tried for lm-eval")
    parser.add_argument("--tune-questions", type=int, default=16, help="slice lm-eval's batch is chosen on")
    parser.add_argument("--worker", help="internal: one measurement, as JSON")
    args = parser.parse_args()
    common.quiet()
    if args.worker:
        return work(json.loads(args.worker))

    job = {key: getattr(args, key) for key in ("model", "dtype", "shots", "data")}
    tuning = {
        size: measured("lm-eval", job | {"questions": args.tune_questions, "batch_size": size})["seconds"]
        for size in args.batch_sizes
    }
    batch = min(tuning, key=tuning.__getitem__)
    runs: dict[str, list[dict[str, Any]]] = {"lm-eval": [], "evalkit": []}
    for _ in range(args.repeats):
        for side, found in runs.items():
            found.append(measured(side, job | {"questions": args.questions, "batch_size": batch}))
            print(f"{side}: {found[-1]['seconds']:.1f} s", flush=True)
    median = {side: statistics.median(run["seconds"] for run in found) for side, found in runs.items()}
    theirs, ours = (runs[side][0]["texts"] for side in runs)
    summary = {
        "speed_up": median["lm-eval"] / median["evalkit"],
        "questions": len(ours),
        "same_prompts": runs["lm-eval"][0]["prompts"] == runs["evalkit"][0]["prompts"],
        "same_completions": sum(a.strip() == b.strip() for a, b in zip(theirs, ours, strict=True)),
        "evalkit_tokens_generated": runs["evalkit"][0]["generated"],
        "evalkit_generated_tokens_per_s": runs["evalkit"][0]["generated"] / median["evalkit"],
        "lm_eval_batch_size": batch,
    }
    rows = [(s, median[s], ", ".join(f"{r['seconds']:.1f}" for r in runs[s])) for s in runs]
    tried = ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in tuning.items())
    common.table(f"GSM8K {args.shots}-shot, {args.dtype} (slice: {tried})", ("", "median s", "runs"), rows)
    common.table("", ("summary", "value"), summary.items())
    kept = {s: [{k: v for k, v in r.items() if k == "seconds"} for r in found] for s, found in runs.items()}
    common.save(args, "generation", {"summary": summary, "tuning_s": tuning, "runs": kept})
    return 0 if summary["same_prompts"] else 1


def measured(side: str, job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        described = json.dumps(job | {"side": side, "answer": str(answer)})
        subprocess.run([sys.executable, __file__, "--worker", described], check=True)
        found: dict[str, Any] = json.loads(answer.read_text())
        return found


def work(job: dict[str, Any]) -> int:
    side = {"lm-eval": lm_eval_side, "evalkit": evalkit_side}[job["side"]]
    Path(job["answer"]).write_text(json.dumps(side(job)))
    return 0


def lm_eval_side(job: dict[str, Any]) -> dict[str, Any]:
    import lm_eval
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    from evalkit.data.source import open_source

    folder = open_source(job["data"], offline=True).root / "GSM8K"
    rows = {
        split: Dataset.from_list([json.loads(line) for line in (folder / f"{split}.jsonl").open()])
        for split in ("train", "test")
    }
    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml")
    config.pop("tag", None)
    task = ConfigurableTask(config=config | {"custom_dataset": lambda **_: rows})
    task.set_config("num_fewshot", job["shots"])
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=job["questions"])
    model = common.lm_eval_model(job["model"], job["dtype"], job["batch_size"])
    instances = list(task.instances)
    began = time.perf_counter()
    texts = model.generate_until(instances, disable_tqdm=True)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "texts": texts, "prompts": [i.args[0] for i in instances], "generated": 0}


def evalkit_side(job: dict[str, Any]) -> dict[str, Any]:
    from evalkit.backends.hf.backend import HfBackend
    from evalkit.prompts import Encoder

    rendered = common.rendered(common.Case("gsm8k", "main", job["shots"], job["questions"]), job["data"])
    backend = HfBackend.from_name(job["model"], dtype=job["dtype"], device="cpu")
    encoder = Encoder(backend.tokenizer, backend.info.max_length)
    began = time.perf_counter()
    encoded = list(encoder.encode_all(rendered))
    answers = dict(backend.generate(encoded))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "texts": [answers[i].completions[0].text for i in range(len(encoded))],
        "prompts": [request.prompt for _, request in rendered],
        "generated": backend.usage.tokens_generated,
    }


if __name__ == "__main__":
    sys.exit(main())
