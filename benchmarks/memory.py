"""How much memory does scoring take beyond the model itself, and what does it grow with?

A harness that keeps logits for every position needs batch x length x vocabulary floats, twice with the
softmax. Scores eight questions at two lengths with tiny random models of two vocabulary sizes, each in a
process of its own, and reports peak resident memory above what the process held with the model loaded
and warmed up. Tiny layers leave the output side as the only thing that could grow; `--model` adds rows
for a real model. lm-eval runs at batch size 1, its smallest.

Needs Linux, where a process can reset its own peak.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _common as common

SIDES = ("evalkit", "lm-eval")


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", help="also measure this model, for example demo")
    parser.add_argument("--vocabularies", type=int, nargs=2, default=[8_000, 150_000])
    parser.add_argument("--lengths", type=int, nargs=2, default=[1024, 4096], help="context tokens")
    parser.add_argument("--requests", type=int, default=8, help="questions of four one-token options")
    parser.add_argument("--batch-size", type=int, default=1, help="lm-eval's batch size")
    parser.add_argument("--worker", help="internal: one measurement, as JSON")
    args = parser.parse_args()
    common.quiet()
    if args.worker:
        return work(json.loads(args.worker))

    with tempfile.TemporaryDirectory() as scratch:
        models = {f"random, {v:,} entries": build(Path(scratch) / str(v), v) for v in args.vocabularies}
        models |= {args.model: common.model_path(args.model)} if args.model else {}
        rows = [
            measure(name, path, side, length, args, Path(scratch) / "answer.json")
            for name, path in models.items()
            for side in SIDES
            for length in args.lengths
        ]
    common.table("peak memory of scoring, MiB", list(rows[0]), [row.values() for row in rows])
    slopes = {side: vocabulary_slope(rows, side, args) for side in SIDES}
    print("\nbytes per vocabulary entry and context token (a kept float32 logit is 4):")
    for side, slope in slopes.items():
        print(f"  {side}: {slope:.3f}")
    passed = slopes["evalkit"] < 0.4
    common.save(args, "memory", {"passed": passed, "rows": rows, "bytes_per_logit": slopes})
    return 0 if passed else 1


def build(folder: Path, vocabulary: int) -> str:
    """Make a two-layer random model whose tokenizer knows `vocabulary` words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", pad_token="w0").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def measure(name: str, path: str, side: str, length: int, args: Any, answer: Path) -> dict[str, Any]:
    job = {"model": path, "side": side, "length": length, "requests": args.requests}
    job |= {"batch_size": args.batch_size, "answer": str(answer)}
    subprocess.run([sys.executable, __file__, "--worker", json.dumps(job)], check=True)
    measured = json.loads(answer.read_text())
    growth = measured["peak_mib"] - measured["baseline_mib"]
    return {"model": name, "side": side, "length": length, **measured, "growth_mib": growth}


def vocabulary_slope(rows: list[dict[str, Any]], side: str, args: Any) -> float:
    """Growth that comes with vocabulary times length, in bytes per unit; 0 if nothing does."""
    small, large = args.vocabularies
    short, long = args.lengths
    growth = {(row["model"], row["length"]): row["growth_mib"] for row in rows if row["side"] == side}
    extra = {
        n: growth[f"random, {large:,} entries", n] - growth[f"random, {small:,} entries", n]
        for n in args.lengths
    }
    return (extra[long] - extra[short]) * 2**20 / ((large - small) * (long - short))


# -- one measurement, in its own process ------------------------------------------------------------


def work(job: dict[str, Any]) -> int:
    rng = random.Random(0)
    contexts = [
        " ".join(f"w{rng.randrange(1, 8000)}" for _ in range(job["length"])) for _ in range(job["requests"])
    ]
    score = {"evalkit": evalkit_side, "lm-eval": lm_eval_side}[job["side"]](job)
    score([" ".join(contexts[0].split()[:16])])  # warm up: threads, kernels, lazy imports
    reset_peak()
    baseline = memory_mib("VmRSS")
    score(contexts)
    measured = {"baseline_mib": baseline, "peak_mib": memory_mib("VmHWM")}
    Path(job["answer"]).write_text(json.dumps(measured))
    return 0


def evalkit_side(job: dict[str, Any]) -> Any:
    from evalkit.backends.hf.backend import HfBackend
    from evalkit.tokens import encode
    from evalkit.types import ScoreRequest

    backend = HfBackend.from_name(job["model"], dtype="float32", device="cpu")

    def score(contexts: list[str]) -> None:
        requests = [ScoreRequest(c, tuple(f" w{i}" for i in range(1, 5))) for c in contexts]
        assert len(common.score_all(backend, list(encode(backend.tokenizer, requests)))) == len(contexts)

    return score


def lm_eval_side(job: dict[str, Any]) -> Any:
    from lm_eval.api.instance import Instance

    model = common.lm_eval_model(job["model"], "float32", job["batch_size"])

    def score(contexts: list[str]) -> None:
        pairs = [(c, f" w{i}") for c in contexts for i in range(1, 5)]
        model.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)

    return score


def reset_peak() -> None:
    """Let the kernel forget this process's peak (see proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(value) / 1024


if __name__ == "__main__":
    sys.exit(main())
