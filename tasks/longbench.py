"""LongBench v1 and LongBench-E: 21 long-context tasks in English, Chinese and code (arXiv 2308.14508)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.data.jsonfile import Record, read_json_lines, read_pinned_json
from evalkit.metrics import longbench as metrics
from evalkit.task import (
    Grouping,
    Judgement,
    Overlong,
    PromptInput,
    Protocol,
    RecordText,
    Task,
    each,
    needs,
)
from evalkit.types import GenerateRequest, Message, Sample, Sampling

MAX_NEW_TOKENS = {
    "narrativeqa": 128,
    "qasper": 128,
    "multifieldqa_en": 64,
    "multifieldqa_zh": 64,
    "hotpotqa": 32,
    "2wikimqa": 32,
    "musique": 32,
    "dureader": 128,
    "gov_report": 512,
    "qmsum": 512,
    "multi_news": 512,
    "vcsum": 512,
    "trec": 64,
    "triviaqa": 32,
    "samsum": 128,
    "lsht": 64,
    "passage_count": 32,
    "passage_retrieval_en": 32,
    "passage_retrieval_zh": 32,
    "lcc": 64,
    "repobench-p": 64,
}
"""Datasets in the official order, each with the longest answer in tokens."""

WITHOUT_TEMPLATE = frozenset(("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"))
"""Few-shot and code datasets, whose prompts never go through a chat template."""

CATEGORIES = {
    "Single-doc QA": ("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    "Multi-doc QA": ("hotpotqa", "2wikimqa", "musique", "dureader"),
    "Summarisation": ("gov_report", "qmsum", "multi_news", "vcsum"),
    "Few-shot": ("trec", "triviaqa", "samsum", "lsht"),
    "Synthetic": ("passage_count", "passage_retrieval_en", "passage_retrieval_zh"),
    "Code": ("lcc", "repobench-p"),
}
CHINESE = {
    "单文档QA": ("multifieldqa_zh",),
    "多文档QA": ("dureader",),
    "摘要": ("vcsum",),
    "FS学习": ("lsht",),
    "代码补全": ("lcc", "repobench-p"),
    "合成任务": ("passage_retrieval_zh",),
}
"""The six columns of the Chinese table; code is the mean of two datasets."""

ENGLISH = {
    category: tuple(d for d in datasets if not d.endswith("_zh") and d not in ("dureader", "vcsum", "lsht"))
    for category, datasets in CATEGORIES.items()
}

EXTENDED = {
    category: tuple(f"{d}_e" for d in datasets if d not in ("narrativeqa", "musique", "qmsum"))
    for category, datasets in ENGLISH.items()
}
"""LongBench-E: English and code datasets with even lengths."""

PROMPTS = (
    "config/dataset2prompt.json",
    "56d22ad4f382169c2b8a11ff4c982a4a1bea096c8152b0f0b85b64686b157c30",
    "https://github.com/THUDM/LongBench/blob/2e00731/LongBench/config/dataset2prompt.json",
)
"""File of the official prompts, which evalkit reads but does not ship; sha256; origin."""

_NUMBERED = {"retrieval": r"Paragraph \d", "retrieval_zh": r"段落\d", "count": r"\d"}
"""What a gold answer must hold for its metric."""

_KEYS = ("input", "context", "answers", "length", "all_classes")


def path(_split: str, subset: str) -> str:
    """Path of one official file below the benchmark's folder."""
    return f"data/{subset}.jsonl"


def partial_path(_split: str, subset: str) -> str:
    """Path of the records that stand in where the full file is missing."""
    return f"partial/{subset}.jsonl"


def parse(file: Path, _split: str, subset: str) -> list[Sample]:
    """Read one official file, together with the official prompt of its dataset."""
    name, sha256, origin = PROMPTS
    prompts = read_pinned_json(file.parent.parent / name, sha256, origin)
    records = read_json_lines(file, _KEYS)
    # As the official script does, which holds on to what the last record says.
    all_classes = records[-1].fields["all_classes"]
    if _metric(subset) == "classification":
        records[-1].texts("all_classes")
    samples: dict[str, Sample] = {}
    for row, record in enumerate(records):
        identifier = _identifier(record, row)
        if identifier in samples:
            raise record.corrupt(f"repeated id {identifier!r}")
        answers = record.texts("answers")
        if not _judgeable(subset, answers):
            raise record.corrupt("an answer has no number")
        fields = {
            "input": record.text("input"),
            "context": record.text("context"),
            "answers": answers,
            "length": record.fields["length"],
            "all_classes": all_classes,
            "template": prompts[_dataset(subset)],
        }
        if type(fields["length"]) is not int:
            raise record.corrupt("length is not a whole number")
        samples[identifier] = Sample(identifier, subset, fields, answers[0])
    return list(samples.values())


def record_text(sample: Sample) -> RecordText:
    """The question, where there is one, and its first answer.

    The contexts are books, papers and web pages that a model may well know without knowing the benchmark.
    """
    return RecordText(sample.fields["input"], sample.fields["answers"][0])


def _metric(subset: str) -> str:
    return metrics.METRICS[_dataset(subset)]


def _judgeable(subset: str, answers: Sequence[str]) -> bool:
    """Whether the gold answers hold what their metric looks for."""
    pattern = _NUMBERED.get(_metric(subset), "")
    return all(re.search(pattern, answer) for answer in answers)


def _identifier(record: Record, row: int) -> str:
    if record.fields.get("_id"):
        return str(record.fields["_id"])
    official_row = record.fields.get("_official_index", row)
    return f"unplaced-{row}" if official_row is None else str(official_row)


def _dataset(subset: str) -> str:
    return subset.removesuffix("_e")


def _text(p: PromptInput) -> str:
    fields = p.sample.fields
    text: str = fields["template"].format(context=fields["context"], input=fields["input"])
    return text


def _request(p: PromptInput, *, plain: bool, sampling: Sampling | None = None) -> GenerateRequest:
    dataset, text = _dataset(p.subset), _text(p)
    line = dataset == "samsum"
    return GenerateRequest(
        text if plain or dataset in WITHOUT_TEMPLATE else (Message("user", text),),
        MAX_NEW_TOKENS[dataset],
        stop=("\n",) if line else (),
        sampling=sampling,
        min_new_tokens=1 if line else 0,
    )


def official(p: PromptInput) -> GenerateRequest:
    """Ask as the authors do: greedy, in the chat template except for few-shot and code datasets."""
    return _request(p, plain=False)


def cn_mixtral(p: PromptInput) -> GenerateRequest:
    """Ask as the Chinese-Mixtral scripts do: drawn, never in a chat template."""
    return _request(p, plain=True, sampling=Sampling(0.2, top_p=0.95, top_k=40, repetition_penalty=1.1))


def published_limit(window: int) -> int:
    """Prompt tokens for a context length: 3,500 for 4k, 7,500 for 8k, 31,500 for 32k."""
    return max(window // 2, window * 1000 // 1024 - 500)


def judge(sample: Sample, completion: str) -> Judgement:
    """Score by the dataset's own metric, the best over its answers."""
    fields = sample.fields
    value = metrics.score(sample.subset, completion, fields["answers"], fields["all_classes"])
    return Judgement(completion, {"score": value})


def official_line(row: str, subset: str, fields: Mapping[str, Any]) -> tuple[Sample, str]:
    """Read a line as the official `pred.py` writes it: pred, answers, all_classes, length."""
    answers, classes, length = fields["answers"], fields["all_classes"], fields["length"]
    if not isinstance(answers, list) or not answers or not isinstance(length, int):
        raise ValueError("answers must be a non-empty list and length a number")
    answers = [str(answer) for answer in answers]
    if not _judgeable(subset, answers):
        raise ValueError("an answer has no number")
    if _metric(subset) == "classification" and not classes:
        raise ValueError("all_classes is empty")
    known = {"answers": answers, "all_classes": classes, "length": length}
    return Sample(row, subset, known, answers[0]), "" if fields["pred"] is None else str(fields["pred"])


def length_bucket(sample: Sample) -> str:
    """LongBench-E's classes of length, in words or characters."""
    length: int = sample.fields["length"]
    return "0-4k" if length < 4000 else "4-8k" if length < 8000 else "8k+"


def _task(
    name: str,
    title: str,
    description: str,
    languages: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
    size: int,
) -> Task:
    subsets = [d for d in MAX_NEW_TOKENS if any(d in members for members in groups.values())]
    subsets += [d for members in groups.values() for d in members if d not in MAX_NEW_TOKENS]
    grouping = Grouping(groups, "macro")
    common = {
        "average": "category",
        "groups": grouping,
        "default_split": "test",
        "default_shots": 0,
        "max_shots": 0,
        "judge": each(judge),
        "headline": "score",
        "stratum": length_bucket,
        "ready": needs("jieba", "rapidfuzz"),
    }
    return Task(
        name=name,
        title=title,
        description=description,
        licence="MIT (code and format); every dataset keeps its own terms",
        homepage="https://github.com/THUDM/LongBench",
        languages=tuple(languages),
        subsets={subset: subset for subset in subsets},
        splits=("test",),
        shots_split="test",
        folder="LongBench",
        path=path,
        variants={"partial": partial_path},
        parse=parse,
        record_text=record_text,
        foreign_line=official_line,
        choices=(),
        protocols={
            "official": Protocol(
                name="official",
                source="THUDM/LongBench@2e00731 LongBench/pred.py and eval.py",
                summary="greedy; the middle of a long prompt is cut; mean of the categories' means",
                render=official,
                overlong=Overlong("middle", limit=published_limit),
                **common,  # type: ignore[arg-type]
            ),
            "cn-mixtral": Protocol(
                name="cn-mixtral",
                source="ymcui/Chinese-Mixtral@263da0e scripts/longbench",
                summary="drawn at temperature 0.2 with a repetition penalty, no chat template, 3,584 tokens",
                render=cn_mixtral,
                overlong=Overlong("middle", limit=3584),
                **common,  # type: ignore[arg-type]
            ),
        },
        default_protocol="official",
        sizes={"test": size},
    )


TASKS = (
    _task("longbench", "LongBench", "21 long-context datasets", ("en", "zh"), CATEGORIES, 4750),
    _task("longbench_en", "LongBench (English)", "its 16 English and code datasets", ("en",), ENGLISH, 3750),
    _task(
        "longbench_zh", "LongBench (Chinese)", "the six columns of the Chinese table", ("zh",), CHINESE, 2000
    ),
    _task(
        "longbench_e",
        "LongBench-E",
        "13 datasets with even lengths, scored by length",
        ("en",),
        EXTENDED,
        3668,
    ),
)
