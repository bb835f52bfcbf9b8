"""How much does sharing prefixes between option orders save?

The same items of a multiple-choice benchmark, every order of their options, the log-probability of the
option block: by evalkit's shared-prefix trie, by plain right-padded batches of whole texts (at the best of
several batch sizes, chosen on a first item) and by one plain forward per order, as the published method does.
All in one process, alternating; tokenising and loading are left out of the time, for all sides alike. The
last table says how many items a sequential run needs, in simulation, for several leaked fractions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import _common as common
import numpy as np


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument("--task", default="cmmlu")
    parser.add_argument("--items", type=int, default=8, help="drawn at random from the whole benchmark")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[4, 8, 24], help="tried for the batches"
    )
    parser.add_argument("--simulations", type=int, default=200, help="sequential runs per leaked fraction")
    args = parser.parse_args()
    common.quiet()

    from evalkit.backends.hf.backend import HfBackend

    backend = HfBackend.from_name(args.model, dtype=args.dtype, device="cpu")
    requests = encoded(args, backend)
    model = plain_model(args)
    tuning = {size: timed(lambda size=size: flat(model, requests[:1], size))[0] for size in args.batch_sizes}
    best = min(tuning, key=tuning.__getitem__)
    sides: dict[str, Callable[[], list[list[float]]]] = {
        "shared prefixes": lambda: common.score_all(backend, requests),
        f"batches of {best}": lambda: flat(model, requests, best),
        "one by one": lambda: flat(model, requests, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    scores: dict[str, list[list[float]]] = {}
    backend.usage.reset()
    for _ in range(args.repeats):
        for name, side in sides.items():
            took, scores[name] = timed(side)
            seconds[name].append(took)
            print(f"{name}: {took:.1f} s", flush=True)
    ours, batched, single = (statistics.median(seconds[name]) for name in sides)
    computed = backend.usage.tokens_computed / args.repeats
    whole = sum(r.length(j) - 1 for r in requests for j in range(len(r.tails)))
    mine, *others = scores.values()
    summary = {
        "items": len(requests),
        "tokens_flat": whole,
        "tokens_computed": computed,
        "fewer_tokens": whole / computed,
        "faster_than_batches": batched / ours,
        "faster_than_one_by_one": single / ours,
        "max_difference_nats": max(common.max_difference(mine, other) for other in others),
    }
    common.table(
        f"{args.task}, {args.dtype}",
        ("side", "median s"),
        [(n, statistics.median(seconds[n])) for n in sides],
    )
    common.table("", ("summary", "value"), summary.items())
    stops = sequential(args.simulations)
    common.table(
        "items until a sequential run stops (median)", ("leaked fraction", "t=.262", "t=.538"), stops
    )
    common.save(
        args, "leakage_speed", {"summary": summary, "seconds": seconds, "tuning_s": tuning, "stops": stops}
    )
    return 0


def encoded(args: Any, backend: Any) -> list[Any]:
    """Items of the benchmark in all orders, as every side gets them."""
    from evalkit.data.source import open_source
    from evalkit.leakage.benchmark import load
    from evalkit.leakage.formats import FORMATS, encode_items
    from evalkit.leakage.scores import all_orders

    source = open_source(args.data, offline=True)
    (benchmark,) = load(args.task, source, split=None, subsets=(), limit=None)
    chosen = np.random.default_rng(0).choice(len(benchmark.items), args.items, replace=False)
    items = [benchmark.items[i] for i in chosen]
    found = encode_items(
        backend.tokenizer, items, FORMATS["ni2024"], lambda item: all_orders(len(item.options))
    )
    return [one.request for one in found]


def plain_model(args: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, args.dtype)
    return AutoModelForCausalLM.from_pretrained(common.model_path(args.model), dtype=dtype).eval()


def flat(model: Any, requests: Sequence[Any], batch_size: int) -> list[list[float]]:
    """Score whole texts in right-padded batches, longest first so that little is padded."""
    import torch

    texts = [(i, j) for i, r in enumerate(requests) for j in range(len(r.tails))]
    texts.sort(key=lambda place: -requests[place[0]].length(place[1]))
    found = [[0.0] * len(r.tails) for r in requests]
    with torch.inference_mode():
        for begin in range(0, len(texts), batch_size):
            batch = texts[begin : begin + batch_size]
            rows = [torch.from_numpy(requests[i].sequence(j).astype(np.int64)) for i, j in batch]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
            logits = model(ids[:, :-1], attention_mask=mask[:, :-1], use_cache=False).logits
            for row, (i, j) in enumerate(batch):
                first, last = requests[i].starts[j] - 1, len(rows[row]) - 1
                some = logits[row, first:last].float()
                chosen = some.gather(1, rows[row][first + 1 :].unsqueeze(1)).squeeze(1)
                found[i][j] = float((chosen - some.logsumexp(1)).double().sum())
    return found


def sequential(simulations: int) -> list[tuple[float, float, float]]:
    """Median number of items at which the evidence suffices, by leaked fraction and sensitivity."""
    from evalkit.leakage.validation.tier0 import stopping_times

    return [
        (
            fraction,
            *(float(np.median(stopping_times(fraction, t, simulations, seed=0))) for t in (0.262, 0.538)),
        )
        for fraction in (1.0, 0.5, 0.1)
    ]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


if __name__ == "__main__":
    raise SystemExit(main())
