"""What the benchmark scripts share: arguments, the same requests for both harnesses, records and tables.

lm-eval's side is lm-eval's own code from prompt to score; only its dataset is read from the local
official files, through the task's `custom_dataset` hook, so that nothing depends on a download.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

Scores = Sequence[Sequence[float]]
LETTERS = ("A", "B", "C", "D")
EVALKIT = str(Path(sys.executable).with_name("evalkit"))  # the command line of this environment


# -- arguments, records, tables ---------------------------------------------------------------------


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options every script takes."""
    layout, out = argparse.RawDescriptionHelpFormatter, Path(__file__).parent / "out"
    made = argparse.ArgumentParser(description=description.strip(), formatter_class=layout)
    made.add_argument("--out", type=Path, default=out, help="folder of the JSON record")
    made.add_argument("--data", help="benchmark data as in `evalkit run --data` (default: $EVALKIT_DATA)")
    return made


def save(args: argparse.Namespace, name: str, document: dict[str, Any]) -> None:
    """Write the record of one benchmark, with the machine and the versions it ran on."""
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{name}.json"
    header = {
        "benchmark": name,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "machine": machine(),
    }
    path.write_text(json.dumps(header | document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


def machine() -> dict[str, Any]:
    """Describe the machine and the software."""
    import psutil

    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        **{name: _version(name) for name in ("evalkit", "lm_eval", "torch", "transformers", "numpy")},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under a title, numbers to the right."""
    cells = [list(columns), *([_cell(x) for x in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for first, *others in cells:
        numbers = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        print("  ".join(["", first.ljust(widths[0]), *numbers]), flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 0.01 or abs(value) >= 1e6 else f"{value:,.3f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


# -- the same requests for both harnesses -----------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One subject of a benchmark at some number of shots."""

    task: str
    subset: str
    shots: int
    limit: int | None = None

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read `task:subset:shots[:limit]`."""
        task, subset, shots, *limit = text.split(":")
        return cls(task, subset, int(shots), int(limit[0]) if limit else None)

    def limited(self, limit: int | None) -> Case:
        """Return the case with at most `limit` questions."""
        smallest = min((n for n in (self.limit, limit) if n is not None), default=None)
        return Case(self.task, self.subset, self.shots, smallest)

    def __str__(self) -> str:
        return f"{self.task}/{self.subset} {self.shots}-shot"


def resolve(case: Case) -> Any:
    """Return evalkit's resolved task, in the protocol that mirrors lm-eval."""
    from evalkit import spec

    (resolved,) = spec.resolve(f"{case.task}@lm-eval:{case.shots}shot")
    return resolved


def rendered(case: Case, data: str | None) -> list[Any]:
    """Render evalkit's (input, request) pairs of a case."""
    from evalkit.data.source import open_source
    from evalkit.prompts import render

    resolved, source = resolve(case), open_source(data, offline=True)
    samples = source.load(resolved.task, resolved.split, case.subset)
    shots = source.shots(resolved, case.subset, samples)
    return render(resolved, samples[: case.limit], shots[: case.limit])


def prompts(case: Case, data: str | None, backend: Any) -> list[Any]:
    """Return evalkit's encoded prompts of a case."""
    from evalkit.prompts import Encoder, prepare

    encoder = Encoder(backend.tokenizer, backend.info.max_length)
    return prepare(resolve(case), rendered(case, data), encoder)


def model_path(name: str) -> str:
    """Return what both harnesses can load: the folder of a demo model, or the name as it is."""
    from evalkit import demo_models

    return str(demo_models.ensure(name)) if name in demo_models.NAMES else name


def lm_eval_instances(case: Case, data: str | None) -> list[Any]:
    """Build lm-eval's requests; four per question, in order."""
    task = lm_eval_task(case, data)
    task.build_all_requests(limit=case.limit)
    return list(task.instances)


def lm_eval_task(case: Case, data: str | None) -> Any:
    """Build lm-eval's task by its own class from its own yaml, on the official files."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    folder, split, _ = _LM_EVAL[case.task]
    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / folder.format(case.subset))
    config.pop("tag", None)
    dataset = {name: _dataset(case, data, name) for name in (resolve(case).task.shots_split, split)}
    task = ConfigurableTask(config=config | {"custom_dataset": lambda **_: dataset})
    task.set_config("num_fewshot", case.shots)
    return task


def _dataset(case: Case, data: str | None, split: str) -> Any:
    """Read an official file, independently of evalkit's parser, into the schema of lm-eval's hub dataset."""
    from datasets import Dataset

    from evalkit.data.source import open_source

    task = resolve(case).task
    path = open_source(data, offline=True).folder(task) / task.path(split, case.subset)
    with path.open(encoding="utf-8-sig", newline="") as file:
        return Dataset.from_list(list(_LM_EVAL[case.task][2](file)))


def _mmlu_rows(file: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {"question": q, "choices": choices, "answer": LETTERS.index(answer)}
        for q, *choices, answer in csv.reader(file)
    ]


# Benchmark to lm-eval's task file, the split it evaluates and the reader of its rows.
_LM_EVAL = {
    "cmmlu": ("cmmlu/cmmlu_{}.yaml", "test", csv.DictReader),
    "ceval": ("ceval/ceval-valid_{}.yaml", "val", csv.DictReader),
    "gsm8k": ("gsm8k/gsm8k.yaml", "test", lambda file: map(json.loads, file)),
    "mmlu": ("mmlu/default/mmlu_{}.yaml", "test", _mmlu_rows),
}


def lm_eval_model(model: str, dtype: str, batch_size: int) -> Any:
    """Load lm-eval's `hf` model with its defaults, on the CPU."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model_path(model), dtype=dtype, device="cpu", batch_size=batch_size)


def in_fours(values: Sequence[float]) -> list[list[float]]:
    """Group lm-eval's flat answers by question."""
    return [list(values[i : i + 4]) for i in range(0, len(values), 4)]


def best(options: Sequence[float]) -> int:
    """Return the first option with the highest score, as both harnesses choose."""
    return list(options).index(max(options))


def logprobs(response: Any) -> list[float]:
    """Return the log-probability of every option of an evalkit response."""
    return [score.logprob for score in response.scores]


def score_all(backend: Any, encoded: Sequence[Any]) -> list[list[float]]:
    """Log-probabilities of every request, in order."""
    answers = dict(backend.score(encoded))
    return [logprobs(answers[i]) for i in range(len(encoded))]


def max_difference(a: Scores, b: Scores) -> float:
    """Largest absolute difference of two tables of option scores."""
    return max(abs(x - y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True))


def flips(a: Scores, b: Scores) -> list[int]:
    """Questions whose chosen option differs."""
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if best(x) != best(y)]


def accuracy(scores: Scores, targets: Sequence[str]) -> float:
    """Share of questions whose best option is the target letter."""
    return sum(LETTERS[best(row)] == target for row, target in zip(scores, targets, strict=True)) / len(
        scores
    )


def quiet() -> None:
    """Keep the libraries' progress bars and notes out of the tables, and the hub out of the run."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
