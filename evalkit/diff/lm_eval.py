"""Samples that lm-evaluation-harness wrote with `--log_samples`, read as a side of a comparison.

Its file `samples_<task>_<time>.jsonl` has a line per sample and filter: `doc_id` (row of the split),
`arguments` (context and continuation of each request), `resps`, `filtered_resps`, `target` and the metrics.

Source: lm_eval/loggers/evaluation_tracker.py and lm_eval/evaluator.py, version 0.4.13.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.diff.sides import Key, Side, TaskSide
from evalkit.errors import DataError, UsageError
from evalkit.types import Outcome

_FILE = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d{2}-\d{2}T[\d.-]+)?\.jsonl")

Json = Mapping[str, Any]


# -- what evalkit calls its tasks -------------------------------------------------------------------


def _letter(position: int) -> str:
    return "ABCD"[position]


def _after_hashes(target: str) -> str:
    """The number of a worked answer of GSM8K, as evalkit writes it."""
    return target.rpartition("####")[2].strip().replace(",", "")


@dataclass(frozen=True, slots=True)
class _Mirror:
    """One of lm-eval's tasks, in the words of evalkit."""

    name: str
    """Benchmark and protocol."""
    subset: str
    metric: str = "acc"
    """lm-eval's name of the metric that is the protocol's headline."""
    option: Callable[[int], str] | None = None
    """From the position of an option to the answer it stands for; None where there are no options."""
    target: Callable[[str], str] | None = None
    """From what lm-eval logged as the right answer of a generated one; None where that is something else."""
    first: int = 0
    """Number of the first record, where the official ids count records."""


_SUBJECTS = {"mmlu_": "mmlu", "cmmlu_": "cmmlu", "ceval-valid_": "ceval"}
"""Names of subject tasks begin so."""

_MIRRORS = {
    **{
        f"kobest_{name}": _Mirror(f"kobest_{name}@lm-eval", name, option=str, first=first)
        for name, first in (("boolq", 1), ("copa", 1), ("wic", 1), ("hellaswag", 0), ("sentineg", 0))
    },
    **{
        name: _Mirror(f"gsm8k@{protocol}", "main", "exact_match", target=_after_hashes)
        for name, protocol in (
            ("gsm8k", "lm-eval"),
            ("gsm8k_cot", "cot8"),
            ("gsm8k_cot_zeroshot", "cot-zeroshot"),
        )
    },
    "humaneval": _Mirror("humaneval@base", "humaneval", "pass@1"),
    "humaneval_instruct": _Mirror("humaneval@lm-eval-instruct", "humaneval", "pass@1"),
}
"""Source: the task files of lm_eval/tasks, and the sources that evalkit's protocols name."""


def _mirror(name: str) -> _Mirror:
    for prefix, benchmark in _SUBJECTS.items():
        if name.startswith(prefix):
            return _Mirror(f"{benchmark}@lm-eval", name.removeprefix(prefix), option=_letter)
    return _MIRRORS.get(name) or _Mirror(f"{name}@lm-eval", name)


# -- files ------------------------------------------------------------------------------------------


def is_log(path: Path) -> bool:
    """Whether a file, or a file in a folder, is named as lm-eval names its logs of samples."""
    return any(_files(path))


def read(path: Path) -> Side:
    """Read one file, or the newest file of every task in a folder.

    Raises:
        UsageError: the files lie in several folders, or one cannot be read.
        DataError: a line is not what lm-eval 0.4 writes.
    """
    files = sorted(_files(path))
    folders = list(dict.fromkeys(file.parent for file in files))
    if len(folders) > 1:
        raise UsageError(f"'{path}' holds logs of several models; name one of {', '.join(map(str, folders))}")
    newest = {_task(file): file for file in files}
    # lm-eval names the folder of a log after the model.
    model = {"name": folders[0].resolve().name, "backend": "lm-eval"}
    samples: dict[str, dict[Key, Outcome]] = {}
    for name, file in newest.items():
        mirror = _mirror(name)
        samples.setdefault(mirror.name, {}).update(_outcomes(file, mirror))
    return Side(str(path), model, {name: TaskSide(name, found, model) for name, found in samples.items()})


def _files(path: Path) -> list[Path]:
    candidates = path.rglob("samples_*.jsonl") if path.is_dir() else [path]
    return [file for file in candidates if _FILE.fullmatch(file.name)]


def _task(file: Path) -> str:
    match = _FILE.fullmatch(file.name)
    assert match, "only such files are listed"
    return match["task"]


def _outcomes(file: Path, mirror: _Mirror) -> dict[Key, Outcome]:
    found: dict[Key, Outcome] = {}
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            outcome = _outcome(json.loads(line.decode()), mirror)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise DataError(f"{file}:{number}: not a sample as lm-eval 0.4 logs it ({error!r})") from error
        # One line per filter; the first is the headline's.
        found.setdefault((outcome.subset, outcome.sample_id), outcome)
    return found


def _lines(file: Path) -> list[bytes]:
    """Lines as lm-eval ends them: texts may hold other characters that end a line elsewhere."""
    try:
        return file.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise UsageError(f"'{file}' cannot be read ({error.strerror}); name a file that can") from error


# -- samples ----------------------------------------------------------------------------------------


def _outcome(record: Json, mirror: _Mirror) -> Outcome:
    requests = [record["arguments"][f"gen_args_{i}"] for i in range(len(record["arguments"]))]
    context = _text(requests[0]["arg_0"])
    # What follows the context: a text to score, or settings to generate with.
    asked = [request.get("arg_1") for request in requests]
    answer = _generated(record, mirror) if isinstance(asked[0], dict) else _scored(record, asked, mirror)
    return Outcome(
        task=mirror.name,
        subset=mirror.subset,
        sample_id=_id(record, mirror),
        prompt_sha256=hashlib.sha256(context.encode()).hexdigest(),
        correct=_fraction(record.get(mirror.metric)),
        choice_tokens=None,
        prompt=context,
        **answer,
    )


def _scored(record: Json, continuations: Sequence[Any], mirror: _Mirror) -> dict[str, Any]:
    """Options by their log-probability; the first of the best is the answer."""
    logprobs = tuple(float(_first(_first(response))) for response in record["resps"])
    target = prediction = None
    if mirror.option is not None:
        options = [continuation.strip() for continuation in continuations]
        target = mirror.option(_position(str(record["target"]), options))
        prediction = mirror.option(max(range(len(logprobs)), key=logprobs.__getitem__))
    return {"target": target, "prediction": prediction, "choice_logprobs": logprobs}


def _position(target: str, options: Sequence[str]) -> int:
    """Place of the right option, which lm-eval logs by its number or its text."""
    return int(target) if target.isdecimal() and target not in options else options.index(target.strip())


def _generated(record: Json, mirror: _Mirror) -> dict[str, Any]:
    """Completions, and what the filter took out of the first."""
    target = prediction = None
    if mirror.target is not None:
        target = mirror.target(str(record["target"]))
        found = str(_first(record["filtered_resps"]))
        prediction = None if found == "[invalid]" else found.replace(",", "")
    completions = tuple(str(text) for texts in record["resps"] for text in texts)
    return {
        "target": target,
        "prediction": prediction,
        "choice_logprobs": None,
        "completions": completions,
    }


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) else values


def _text(context: Any) -> str:
    """A prompt; turns of a conversation as the JSON they are sent as."""
    if not isinstance(context, str | list):
        raise TypeError(f"a context that is {context!r}")
    return context if isinstance(context, str) else json.dumps(context, ensure_ascii=False)


def _fraction(score: Any) -> float | None:
    # Written so that what is not a number fails as well.
    return float(score) if isinstance(score, int | float) and 0 <= score <= 1 else None


def _id(record: Json, mirror: _Mirror) -> str:
    """The record's official id, else its row."""
    doc = record["doc"] or {}
    official = next((doc[name] for name in ("task_id", "id") if doc.get(name) not in (None, "")), None)
    return str(official if official is not None else int(record["doc_id"]) + mirror.first)
