"""Small runs to plant differences in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from helpers import cli, mock_run

from evalkit.diff.document import compare
from evalkit.diff.sides import read_run

SUBJECTS = {"agronomy": 8, "anatomy": 6}


def mock(output: Path, data: Path, tasks: str = "cmmlu", **options: Any) -> None:
    mock_run(output, tasks, data=data, subsets=tuple(SUBJECTS), **options)


def parted(a: Path, b: Path) -> tuple[str | None, list[str], dict[str, Any]]:
    """Rung, kinds of causes, and everything said of the one task."""
    document = compare(read_run(a), read_run(b), 3)
    json.dumps(document, allow_nan=False)
    (task,) = document["tasks"]
    return task["first"], [cause["kind"] for cause in task["causes"]], task


def run_model(folder: Path, data: Path, output: Path, *options: str) -> Path:
    done = cli(
        *("run", "--model", folder, "--tasks", "cmmlu", "--data", data, "--output", output, "--quiet"),
        *("--subsets", ",".join(SUBJECTS), "--dtype", "float32", "--log-prompts", *options),
    )
    assert done.code == 0, done.err
    return output


def tiny_folder(folder: Path, seed: int = 0, change: Callable[[Any], None] = lambda tokenizer: None) -> Path:
    torch.manual_seed(seed)
    tokenizer = tiny.tokenizer().tokenizer
    change(tokenizer)
    tiny.model("llama-grouped").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
