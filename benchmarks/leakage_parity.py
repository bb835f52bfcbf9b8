"""Does evalkit say of leakage what the published code says? Every log-probability and every flagged item.

The published method (arXiv 2409.01790) runs one forward per order of the options, in batches of one, and
judges each item with scikit-learn. That is done here once more, in float32, and compared with shared-prefix
scoring and evalkit's own rules. Exits with 1 if a log-probability differs by more than --tolerance or a flag
differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _common as common
import numpy as np

EXAMPLES = "Benchmark-leakage-detection/data/example_data.json"
THRESHOLDS = (-0.25, -0.2, -0.17, -0.15)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="demo", help="demo model, folder or hub id")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--items", type=int, default=200, help="four-option items, spread over CMMLU")
    parser.add_argument("--five", type=int, default=5, help="five-option items of the published examples")
    parser.add_argument("--shortest", action="store_true", help="the shortest such items, not the first")
    parser.add_argument("--most-orders", type=int, default=120, help="of an item, at most so many orders")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest |Δ log p| allowed, in nats")
    args = parser.parse_args()
    common.quiet()

    import torch

    from evalkit.backends.hf.backend import HfBackend

    if args.threads:
        torch.set_num_threads(args.threads)
    items = [*four_options(args), *five_options(args)]
    orders = {n: _orders(n, args.most_orders) for n in {len(item.options) for item in items}}
    backend = HfBackend.from_name(args.model, dtype="float32", device=args.device)
    shared, flags, seconds = with_shared_prefixes(backend, items, orders)
    flat, flat_seconds = one_by_one(args, items, orders)

    worst = max(float(np.abs(a - b).max()) for a, b in zip(shared, flat, strict=True))
    different = flagged_differently(shared, flat)
    document = {
        "items": len(items),
        "forwards": sum(map(len, flat)),
        "max_difference": worst,
        "flagged_differently": different,
        "flags": flags,
        "seconds": {"shared": seconds, "one_by_one": flat_seconds},
    }
    rows = [[name, value] for name, value in different.items()]
    common.table("items flagged by only one of the two", ["rule", "items"], rows)
    passed = worst <= args.tolerance and not any(different.values())
    print(f"\n{'PASS' if passed else 'FAIL'}: {document['forwards']:,} texts, largest |Δ log p| {worst:.2g}")
    common.save(args, "leakage_parity", {"passed": passed, **document})
    return 0 if passed else 1


def four_options(args: argparse.Namespace) -> list[Any]:
    """CMMLU's items, taking the n-th of every subject before the next of any."""
    from evalkit import spec
    from evalkit.data.source import open_source

    (resolved,) = spec.resolve("cmmlu@official")
    source = open_source(args.data, offline=True)
    subjects = [source.load(resolved.task, "test", subset) for subset in resolved.task.subsets]
    found = [
        _item(sample.subset, sample.id, sample.fields["question"], [sample.fields[x] for x in "ABCD"])
        for samples in subjects
        for sample in samples
    ]
    places = [place for samples in subjects for place in range(len(samples))]
    spread = [item for _, item in sorted(zip(places, found, strict=True), key=lambda pair: pair[0])]
    return chosen(spread, args.items, args.shortest)


def five_options(args: argparse.Namespace) -> list[Any]:
    from evalkit.data.source import open_source

    file = Path(open_source(args.data, offline=True).root) / EXAMPLES
    records = json.loads(file.read_text(encoding="utf-8"))
    found = [
        _item("example", str(i), record["question"], list(record["option"].values()))
        for i, record in enumerate(records)
        if len(record["option"]) == 5
    ]
    return chosen(found, args.five, args.shortest)


def chosen(items: Sequence[Any], n: int, shortest: bool) -> list[Any]:
    from evalkit.leakage.formats import excluded, ni2024

    usable = [item for item in items if not excluded(item)]
    return (sorted(usable, key=lambda item: len(ni2024(item))) if shortest else usable)[:n]


def _item(subset: str, sample_id: str, question: str, options: Sequence[str]) -> Any:
    from evalkit.leakage.items import Item

    return Item(subset, sample_id, question, tuple(options))


def _orders(n: int, most: int) -> Any:
    from evalkit.leakage.scores import all_orders

    return all_orders(n)[:most]


def with_shared_prefixes(backend: Any, items: list, orders: dict) -> tuple[list, dict[str, int], float]:
    """evalkit's log-probabilities of every order of every item."""
    from evalkit.leakage.formats import FORMATS, encode_items

    began = time.perf_counter()
    encoded = encode_items(
        backend.tokenizer, items, FORMATS["ni2024"], lambda item: orders[len(item.options)]
    )
    scores = common.score_all(backend, [e.request for e in encoded])
    flags = Counter(flag for e in encoded for flag in e.flags)
    return [np.array(row) for row in scores], dict(flags), time.perf_counter() - began


def one_by_one(args: argparse.Namespace, items: list, orders: dict) -> tuple[list, float]:
    """The same, one forward of the whole text each, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = common.model_path(args.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(args.device).eval()
    began = time.perf_counter()
    found = []
    for item in items:
        texts = [
            printed(item.question, [item.options[i] for i in order]) for order in orders[len(item.options)]
        ]
        found.append(np.array([logprob(model, tokenizer, text) for text in texts]))
    return found, time.perf_counter() - began


def printed(question: str, options: Sequence[str]) -> str:
    """The published prompt, with an E line where there are five options."""
    a, b, c, d, *more = options
    return f"\n{question}:\nA:{a}\nB:{b}\nC:{c} \nD:{d}\n" + "".join(f"E:{e}\n" for e in more)


def logprob(model: Any, tokenizer: Any, text: str) -> float:
    """Sum over the tokens behind the first 'A' that a colon follows."""
    import torch

    ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
    pieces = [tokenizer.decode([token]) for token in ids[0].tolist()]
    anchor = next(
        i
        for i in range(len(pieces))
        if pieces[i] == "A:" or (pieces[i] == "A" and pieces[i + 1].startswith(":"))
    )
    with torch.inference_mode():
        logps = model(ids).logits[0].double().log_softmax(dim=1)
    return sum(float(logps[k, ids[0, k + 1]]) for k in range(anchor, ids.shape[1] - 1))


def flagged_differently(shared: list, flat: list) -> dict[str, int]:
    """How many items only one of the two flags, by rule."""
    from evalkit.leakage.published import outlier_scores, scenario_a, scenario_b

    found: Counter[str] = Counter({"a": 0, **{f"b {t}": 0 for t in THRESHOLDS}})
    for ours, theirs in zip(shared, flat, strict=True):
        found["a"] += bool(scenario_a(ours[None])[0]) != bool((theirs[1:] <= theirs[0]).all())
        mine, reference = outlier_scores(ours[None]), forest_score(theirs)
        for t in THRESHOLDS:
            found[f"b {t}"] += bool(scenario_b(mine, t)[0]) != (reference < t)
    return dict(found)


def forest_score(logprobs: Any) -> float:
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=100, contamination="auto", random_state=42)
    forest.fit(logprobs[:, None])
    return float(forest.decision_function(logprobs[:, None])[np.argmax(logprobs)])


if __name__ == "__main__":
    sys.exit(main())
