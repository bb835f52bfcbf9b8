"""Finished runs as small as a test needs them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markdown_it import MarkdownIt

from evalkit.stats.intervals import clustered_mean, independent_mean
from evalkit.store import SCHEMA_VERSION, RunStore
from evalkit.types import Outcome

CMMLU = "cmmlu@official:test:5shot"
CEVAL = "ceval@official:val:5shot"
GSM8K = "gsm8k@cot8:test:8shot"

Scores = Sequence[float | None]
"""Of the samples of a subset; None where one failed."""

HOSTILE = "<script>alert(1)</script> a|b `c` \\| **d** __e__\nf\x1b[31m\x00\u202eg \ud800 [x](y) $1$ &amp;"


def write_run(
    root: Path,
    tasks: Mapping[str, Mapping[str, Scores]],
    model: str = "m",
    *,
    day: int = 1,
    dtype: str = "float32",
    average: str = "macro",
    data: str = "0123456789abcdef",
    verdict: str | None = None,
    manifest: bool = True,
    samples: bool = True,
) -> Path:
    """A finished run of these tasks: subset to the scores of its samples."""
    outcomes = [
        _outcome(task, subset, str(i), score)
        for task, subsets in tasks.items()
        for subset, scores in subsets.items()
        for i, score in enumerate(scores)
    ]
    failed = any(outcome.error for outcome in outcomes)
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "evalkit_version": "0",
        "run_id": root.name,
        "status": "partial" if failed else "complete",
        "model": {"name": model, "backend": "mock", "dtype": dtype, "fingerprint": f"mock:{model}"},
        "tasks": {task: _entry(task, subsets, average) for task, subsets in tasks.items()},
        "cost": {
            **{"wall_s": 1.0, "load_s": 0.0, "peak_memory_bytes": 2**30},
            **dict.fromkeys(("tokens_logical", "tokens_computed", "tokens_generated"), 0),
        },
    }
    if verdict:
        verdicts = {"short": verdict, "sentence": verdict}
        results["leakage"] = {"tasks": {task: {"verdict": verdicts, "methods": {}} for task in tasks}}
    document = {
        "schema_version": SCHEMA_VERSION,
        "finished_at": f"2026-01-{day:02}T00:00:00+00:00",
        "tasks": {task: {"hashes": {"data": data}} for task in tasks},
    }
    root.mkdir(parents=True)
    if samples:
        RunStore(root).write_samples(outcomes)
    # In ASCII, so that half a surrogate pair can stand there.
    (root / "results.json").write_text(json.dumps(results))
    if manifest:
        (root / "manifest.json").write_text(json.dumps(document))
    return root


def _outcome(task: str, subset: str, sample_id: str, score: float | None) -> Outcome:
    return Outcome(
        task=task,
        subset=subset,
        sample_id=sample_id,
        prompt_sha256="",
        prediction="A",
        target="A",
        correct=score,
        choice_logprobs=None,
        choice_tokens=None,
        metrics={} if score is None else {"acc": score, "half": score / 2},
        error="out of memory" if score is None else None,
    )


def _entry(name: str, subsets: Mapping[str, Scores], average: str) -> dict[str, Any]:
    task, _, rest = name.partition("@")
    protocol, split, shots = rest.split(":") if rest else ("p", "test", "0shot")
    scored = {subset: [s for s in scores if s is not None] for subset, scores in subsets.items()}
    of = [subset for subset, scores in scored.items() for _ in scores]
    values = np.array([score for scores in scored.values() for score in scores])
    sizes = {subset: len(scores) for subset, scores in scored.items()}
    weights = [1 / sizes[subset] for subset in of] if average == "macro" else None
    n = sum(map(len, subsets.values()))
    counters = ("truncated", "unfinished", "ties", "non_finite", "unparsed", "close_calls")
    return {
        "task": task,
        "protocol": protocol,
        "split": split,
        "shots": int(re.sub(r"\D", "", shots) or 0),
        "average": average,
        "metrics": {
            "acc": clustered_mean(values, of, weights).to_json(),
            "half": clustered_mean(values / 2, of, weights).to_json(),
        },
        "groups": {"All of it": {"acc": clustered_mean(values, of, weights).to_json()}},
        "subsets": {
            subset: {
                "acc": independent_mean(scores).to_json(),
                "half": independent_mean(np.array(scores) / 2).to_json(),
            }
            for subset, scores in scored.items()
            if scores
        },
        "averages": {
            "micro": {"acc": values.mean(), "half": values.mean() / 2},
            "macro": {
                "acc": (macro := np.mean([np.mean(x) for x in scored.values() if x])),
                "half": macro / 2,
            },
        },
        "counters": {"samples": n, "errors": n - len(values), **dict.fromkeys(counters, 0)},
    }


def right(share: float, n: int = 100, seed: int = 0) -> list[float]:
    """Scores of a model that is right this often, alike for equal seeds: the same samples are hard."""
    return [float(x < share) for x in np.random.default_rng(seed).random(n)]


GFM = MarkdownIt("commonmark").enable(["table", "strikethrough"])
"""A parser of Markdown as GitHub reads it."""


def cells(markdown: str) -> list[list[str]]:
    """Text of the cells of every table row, as a reader of the rendered page sees it."""
    rows: list[list[str]] = []
    for token in GFM.parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows and token.level > 3:
            rows[-1].append(plain(token))
    return rows


def plain(token: Any) -> str:
    """Text of an inline token, without emphasis and the spaces of no width that break links."""
    shown = "".join(
        child.content
        for child in token.children or ()
        if child.type in ("text", "code_inline", "text_special")
    )
    return shown.replace("\u200b", "")


def kinds(markdown: str) -> set[str]:
    """Types of everything a document is made of."""
    tokens = GFM.parse(markdown)
    return {one.type for token in tokens for one in (token, *(token.children or ()))}
