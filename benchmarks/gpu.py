"""How well is a device used when a model of a real shape, with random weights, scores multiple choice?

The requests have the shape of a few-shot exam: subjects with a long shared prefix, many questions, four
one-token options each. Measured on the `hf` backend are computed tokens per second and the share of the
device's peak they take (model FLOPs utilisation: 2 FLOPs per active parameter and computed token, attention
and output head not counted); beside it plain batched forwards of the same model without its head, at the
best of several shapes, and what a harness without sharing would reach with them.

    python benchmarks/gpu.py                                  # Orion-MoE8x7B's shape; needs some 100 GB
    python benchmarks/gpu.py --model demo-moe --device cpu    # a try without a GPU: its numbers say little
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import _common as common

PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "A10": 125, "RTX 4090": 165}
"""Dense bfloat16 peak by a part of the device's name, from the makers' data sheets."""
SHAPES = ((8, 128), (16, 256), (16, 512), (32, 512), (16, 1024), (8, 2048))
OPTIONS = 4


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="orion-moe", help="preset or folder whose shape is taken")
    parser.add_argument("--device", default="auto", help="as in `evalkit run --device`")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--questions", type=int, default=150, help="per subject")
    parser.add_argument("--prefix", type=int, default=700, help="tokens the questions of a subject share")
    parser.add_argument("--question", type=int, default=90, help="tokens of a question of its own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shapes", nargs="*", help="rows x length of the plain forwards, for example 8x128")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak, where it is not known here")
    args = parser.parse_args()
    common.quiet()

    from evalkit.backends.opening import EngineOptions, open_backend
    from evalkit.errors import EvalkitError

    options = EngineOptions(args.model, dtype=args.dtype, device=args.device, load_format="dummy")
    try:
        backend = open_backend(options)
    except EvalkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    details = backend.info.details
    requests = exam(args, int(_model(backend).config.get_text_config().vocab_size))
    list(backend.score(requests[: args.questions]))  # warm up
    backend.usage.tokens_computed = 0
    scoring = [seconds(lambda: list(backend.score(requests)), details["device"]) for _ in range(args.repeats)]
    computed = backend.usage.tokens_computed / args.repeats
    logical = sum(request.n_logical for request in requests)
    shapes = [tuple(map(int, text.split("x"))) for text in args.shapes or ()] or SHAPES
    rates = {f"{rows}x{length}": plain_rate(backend, rows, length, args.repeats) for rows, length in shapes}

    active = active_parameters(_model(backend))
    peak = args.peak_tflops or next((v for k, v in PEAK_TFLOPS.items() if k in details.get("gpu", "")), None)
    rate, best = computed / statistics.median(scoring), max(rates.values())
    found = {
        "scoring, computed tokens/s": rate,
        "plain forwards at best, tokens/s": best,
        "scoring / plain": rate / best,
        "scoring, logical tokens/s": rate * logical / computed,
        "faster than plain forwards of every prompt": rate * logical / computed / best,
        "model FLOPs utilisation": 2 * active * rate / (peak * 1e12) if peak else None,
        "of the plain forwards": 2 * active * best / (peak * 1e12) if peak else None,
        "active parameters": active,
        "computed tokens": int(computed),
        "logical tokens": logical,
    }
    common.table(
        f"{backend.info.name}, {args.dtype}, {details.get('gpu', details['device'])}",
        ("", "value"),
        found.items(),
    )
    common.table("", ("plain forwards, rows x length", "tokens/s"), rates.items())
    common.save(
        args, "gpu", {"model": backend.info.to_json(), "summary": found, "scoring_s": scoring, "plain": rates}
    )
    return 0


def exam(args: Any, vocabulary: int) -> list[Any]:
    """Requests of random tokens in the shape of a few-shot exam."""
    import numpy as np

    from evalkit.tokens import EncodedRequest

    random = np.random.default_rng(0)
    options = tuple(np.asarray([token], np.int32) for token in range(10, 10 + OPTIONS))
    requests = []
    for _ in range(args.subjects):
        prefix = random.integers(vocabulary, size=args.prefix, dtype=np.int32)
        for _ in range(args.questions):
            length = int(random.integers(args.question // 2, args.question * 3 // 2))
            base = np.concatenate([prefix, random.integers(vocabulary, size=length, dtype=np.int32)])
            requests.append(EncodedRequest(base, options, (len(base),) * OPTIONS))
    return requests


def active_parameters(model: Any) -> int:
    """Parameters a token passes through, embedding and output head left out."""
    config = model.config.get_text_config()
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    ends = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    total = 0.0
    for name, parameter in model.named_parameters():
        if id(parameter) not in ends:
            total += parameter.numel() * (chosen / experts if ".experts." in name else 1)
    return int(total)


def plain_rate(backend: Any, rows: int, length: int, repeats: int) -> float:
    """Tokens per second of the model without its head, on its own attention."""
    import torch

    model = _model(backend)
    model.set_attn_implementation("sdpa")
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (rows, length), device=model.device)
    device = str(model.device)

    def forward() -> None:
        with torch.inference_mode():
            model.base_model(input_ids=ids, use_cache=False)

    forward()
    return rows * length / statistics.median(seconds(forward, device) for _ in range(repeats + 2))


def seconds(work: Callable[[], Any], device: str) -> float:
    """Wall time of some work, what it left running on the device included."""
    import torch

    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _model(backend: Any) -> Any:
    return backend._model


if __name__ == "__main__":
    sys.exit(main())
