"""KoBEST: five Korean tasks of judging or choosing (Jang et al. 2022, arXiv 2204.04541)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evalkit.data.csvfile import Row, read_tsv, unique_ids
from evalkit.fewshot import drawn_in_shuffled_order, drawn_per_sample
from evalkit.metrics.classification import macro_f1
from evalkit.task import Choice, Grouping, Overlong, PromptInput, Protocol, RecordText, Task
from evalkit.types import Sample, ScoreRequest

_FILES = {"train": "train", "validation": "dev", "test": "test"}
_SENTINEG_COLUMNS = {
    "train": ("ID", "Text", "Label"),
    "validation": ("ID", "Label", "Text"),
    "test": ("ID", "Label_origin", "Text_origin", "Label", "Text", "Category_neg"),
}
"""The published files differ in the order of their columns."""

Ask = Callable[[Sample], str]
Options = Callable[[Sample], tuple[str, ...]]


def boolq(file: Path, _split: str) -> list[Sample]:
    """Yes-or-no questions on a paragraph."""
    return [
        _sample(row, "boolq", row.cells["ID"], _truth(row, "Answer"), paragraph="Text", question="Question")
        for row in _rows(file, ("ID", "Text", "Question", "Answer"))
    ]


def copa(file: Path, _split: str) -> list[Sample]:
    """Which of two sentences is the cause or the result of another?"""
    rows = _rows(file, ("ID", "sentence", "question", "1", "2", "Answer"))
    for row in rows:
        if (asked := row.cells["question"].strip()) not in _CONNECTOR:
            raise row.corrupt(f"question {asked!r} is not one of {', '.join(_CONNECTOR)}")
    return [
        _sample(
            row,
            "copa",
            row.cells["ID"],
            str(int(row.label("Answer", ("1", "2"))) - 1),
            premise="sentence",
            question="question",
            alternative_1="1",
            alternative_2="2",
        )
        for row in rows
    ]


def wic(file: Path, _split: str) -> list[Sample]:
    """Does a word mean the same in two sentences?"""
    first, second = ("SENTENCE1", "Dictionary 1", "Link 1"), ("SENTENCE2", "Dictionary 2", "Link2")
    columns = ("ID", "Target", *first, *second, "ANSWER")
    return [
        _sample(
            row,
            "wic",
            row.cells["ID"],
            _truth(row, "ANSWER"),
            word="Target",
            context_1="SENTENCE1",
            context_2="SENTENCE2",
        )
        for row in _rows(file, columns)
    ]


def hellaswag(file: Path, _split: str) -> list[Sample]:
    """Which of four sentences goes on?"""
    endings = {f"ending_{i}": f"choice{i}" for i in range(1, 5)}
    rows = read_tsv(file, ("context", *endings.values(), "label"))
    return [
        _sample(
            row, "hellaswag", str(i), row.label("label", ("0", "1", "2", "3")), context="context", **endings
        )
        for i, row in enumerate(rows)
    ]


def sentineg(file: Path, split: str) -> list[Sample]:
    """Is a review positive? The test split negates the sentences; `test_originated` has the originals."""
    origin = "_origin" if split == "test_originated" else ""
    rows = _rows(file, _SENTINEG_COLUMNS["test" if origin else split])
    return [
        _sample(
            row,
            "sentineg",
            row.cells["ID"],
            row.label(f"Label{origin}", ("0", "1")),
            sentence=f"Text{origin}",
        )
        for row in rows
    ]


def _rows(file: Path, columns: tuple[str, ...]) -> list[Row]:
    rows = read_tsv(file, columns)
    unique_ids(rows, "ID")
    return rows


def _sample(row: Row, subset: str, identifier: str, target: str, **columns: str) -> Sample:
    return Sample(identifier, subset, {field: row.cells[c] for field, c in columns.items()}, target)


def _truth(row: Row, column: str) -> str:
    """0 or 1 of a cell whose case varies within one file."""
    known = {"TRUE": "1", "True": "1", "FALSE": "0", "False": "0"}
    return known[row.label(column, tuple(known))]


_CONNECTOR = {"원인": " 왜냐하면", "결과": " 그래서"}


def _connector(sample: Sample) -> str:
    return _CONNECTOR[sample.fields["question"].strip()]


def _alternatives(sample: Sample) -> tuple[str, ...]:
    return sample.fields["alternative_1"], sample.fields["alternative_2"]


def _endings(sample: Sample) -> tuple[str, ...]:
    return tuple(sample.fields[f"ending_{i}"] for i in range(1, 5))


def _fixed(*options: str) -> Options:
    return lambda sample: options


_LM_EVAL: dict[str, tuple[Ask, Options]] = {
    "boolq": (
        lambda s: f"{s.fields['paragraph']} 질문: {s.fields['question']} 답변: ",
        _fixed("아니오", "예"),
    ),
    "copa": (lambda s: f"{s.fields['premise']} {_connector(s)}", _alternatives),
    "wic": (
        lambda s: (
            f"문장1: {s.fields['context_1']} 문장2: {s.fields['context_2']} "
            f"두 문장에서 {s.fields['word']}가 같은 뜻으로 쓰였나?"
        ),
        _fixed("아니오", "예"),
    ),
    "hellaswag": (lambda s: f"문장: {s.fields['context']}", _endings),
    "sentineg": (lambda s: f"문장: {s.fields['sentence']} 긍부정:", _fixed("부정", "긍정")),
}
"""Question and options of every task; the blanks, single and double, are the published ones."""

_AUTHOR: dict[str, tuple[Ask, Options]] = {
    "boolq": (
        lambda s: (
            "다음 지문을 읽고 질문에 대하여 틀리면 아니 맞으면 예로 답하시오.\n\n"
            f"지문: {s.fields['paragraph']}\n질문: {s.fields['question']}\n정답:"
        ),
        _fixed("아니", "예"),
    ),
    "copa": (lambda s: f"{s.fields['premise']}{_connector(s)}", _alternatives),
    "wic": (
        # The published call fills the word's place with the first sentence and so on; that is kept.
        lambda s: (
            f"다음 두 문장에서 단어 '{s.fields['context_1']}'가 다른 의미로 쓰였으면 아니, 같은 의미로 "
            f"쓰였으면 예로 답하시오.\n\n문장1: {s.fields['context_2']}\n문장2: {s.fields['word']}\n정답:"
        ),
        _fixed("아니", "예"),
    ),
    "hellaswag": (lambda s: f"문장: {s.fields['context']}", _endings),
    "sentineg": (
        lambda s: f"다음 문장에서 느껴지는 감정을 답하시오.\n\n문장: {s.fields['sentence']}\n정답:",
        _fixed("부정", "긍정"),
    ),
}


_CHOICES: dict[str, Callable[[Sample], Choice]] = {
    "copa": lambda s: Choice(f"{s.fields['premise']}{_connector(s)}", _alternatives(s)),
    "hellaswag": lambda s: Choice(s.fields["context"], _endings(s)),
}
"""The tasks whose options are each record's own."""


def _lines(*fields: str) -> Callable[[Sample], RecordText]:
    """A record of these texts, whose answer is a mere label."""
    return lambda s: RecordText("\n".join(s.fields[field] for field in fields), "")


_RECORD_TEXT: dict[str, Callable[[Sample], RecordText]] = {
    "boolq": _lines("paragraph", "question"),
    "copa": lambda s: RecordText(s.fields["premise"], _alternatives(s)[int(s.target or 0)]),
    "wic": _lines("word", "context_1", "context_2"),
    "hellaswag": lambda s: RecordText(s.fields["context"], _endings(s)[int(s.target or 0)]),
    "sentineg": _lines("sentence"),
}


def _protocol(subset: str, name: str, source: str, summary: str, ask: Ask, options: Options) -> Protocol:
    def render(p: PromptInput) -> ScoreRequest:
        shots = "".join(f"{ask(s)} {options(s)[int(s.target or 0)]}\n\n" for s in p.shots)
        return ScoreRequest(shots + ask(p.sample), tuple(f" {option}" for option in options(p.sample)))

    return Protocol(
        name=name,
        source=source,
        summary=summary,
        render=render,
        average="micro",
        groups=Grouping({}, "micro"),
        overlong=Overlong("left"),
        default_split="test",
        default_shots=0,
        max_shots=50,
        # The authors' fork dates from 2022, when the harness still shuffled.
        few_shot=drawn_per_sample if name == "lm-eval" else drawn_in_shuffled_order,
        # Where options are words of different length, as 예 and 아니오, comparing by length is noise.
        option_texts=options if subset == "hellaswag" else None,
        corpus_metrics={"macro_f1": macro_f1},
    )


def _task(
    subset: str,
    folder: str,
    title: str,
    parse: Callable[[Path, str], list[Sample]],
    sizes: tuple[int, int, int],
) -> Task:
    splits = (*_FILES, "test_originated") if subset == "sentineg" else tuple(_FILES)
    return Task(
        name=f"kobest_{subset}",
        title=f"KoBEST {title}",
        description=(parse.__doc__ or "").split("\n")[0],
        licence="CC BY-SA 4.0",
        homepage="https://huggingface.co/datasets/skt/kobest_v1",
        languages=("ko",),
        subsets={subset: title},
        splits=splits,
        shots_split="train",
        folder="KoBEST",
        path=lambda split, _: f"v1.0/{folder}/{_FILES.get(split, 'test')}.tsv",
        parse=lambda file, split, _: parse(file, split),
        record_text=_RECORD_TEXT[subset],
        choices=(),
        as_choice=_CHOICES.get(subset),
        protocols={
            "lm-eval": _protocol(
                subset,
                "lm-eval",
                "EleutherAI/lm-evaluation-harness@4e7e0d4 tasks/kobest",
                "the harness's prompts; examples drawn for every question (seed 1234)",
                *_LM_EVAL[subset],
            ),
            "author": _protocol(
                subset,
                "author",
                "SKT-LSL/lm-evaluation-harness@786d612 tasks/kobest",
                "the authors' older prompts, as used for Polyglot-Ko; examples drawn with seed 42",
                *_AUTHOR[subset],
            ),
        },
        default_protocol="lm-eval",
        sizes=dict(zip(_FILES, sizes, strict=True)),
    )


TASKS = (
    _task("boolq", "BoolQ", "BoolQ", boolq, (3665, 700, 1404)),
    _task("copa", "COPA", "COPA", copa, (3076, 500, 1000)),
    _task("wic", "WiC", "WiC", wic, (3318, 610, 1260)),
    _task("hellaswag", "HellaSwag", "HellaSwag", hellaswag, (2029, 500, 500)),
    _task("sentineg", "SentiNeg", "SentiNeg", sentineg, (3649, 400, 397)),
)
