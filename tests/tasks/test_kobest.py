from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from _exam import request
from _generation import asked, golden, records, resolved

from evalkit.backends.mock import WordTokenizer
from evalkit.data.source import open_source, verify
from evalkit.errors import DataError
from evalkit.judge import judge, recorded
from evalkit.prompts import Encoder, prepare, render
from evalkit.registry import get_task
from evalkit.results import aggregate
from evalkit.types import ContinuationScore, Outcome, Sample, ScoreRequest, ScoreResponse

SUBSETS = ("boolq", "copa", "wic", "hellaswag", "sentineg")
HEADERS = {
    "boolq": "ID\tText\tQuestion\tAnswer",
    "copa": "ID\tsentence\tquestion\t1\t2\tAnswer",
    "wic": "ID\tTarget\tSENTENCE1\tDictionary 1\tLink 1\tSENTENCE2\tDictionary 2\tLink2\tANSWER",
    "hellaswag": "context\tchoice1\tchoice2\tchoice3\tchoice4\tlabel",
    "sentineg": "ID\tLabel_origin\tText_origin\tLabel\tText\tCategory_neg",
}
ROWS = {
    "boolq": "1\t지문\t질문\tTRUE",
    "copa": "1\t문장\t원인\t가\t나\t2",
    "wic": "1\t단수\t[단수]는\t1\tx\t[단수]가\t2\ty\tFalse",
    "hellaswag": "문맥\t가\t나\t다\t라\t3",
    "sentineg": "1\t0\t나빠\t1\t안 나빠\t2",
}


def parsed(subset: str, content: str, folder: Path, split: str = "test") -> list[Sample]:
    path = folder / "test.tsv"
    path.write_bytes(content.encode())
    return get_task(f"kobest_{subset}").parse(path, split, subset)


def one(subset: str, folder: Path) -> Sample:
    (sample,) = parsed(subset, f"{HEADERS[subset]}\n{ROWS[subset]}\n", folder)
    return sample


def scored(spec: str, sample: Sample, shots: list[Sample]) -> ScoreRequest:
    rendered = asked(spec, sample, shots)
    assert isinstance(rendered, ScoreRequest)
    return rendered


# -- prompts ------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("subset", "expected", "target"),
    [
        ("boolq", (108, "43134ceb9b23f506"), "0"),
        ("copa", (21, "3998d77d91b8184f"), "1"),
        ("sentineg", (21, "8ba072427974da26"), "1"),
        ("wic", (87, "0336944522bfed5a"), "1"),
        ("hellaswag", (100, "6e0f95360b31bd54"), "3"),
    ],
)
def test_golden_prompts(subset: str, expected: tuple[int, str], target: str, official_data: Path) -> None:
    spec = f"kobest_{subset}@lm-eval:test:0shot"
    assert golden(spec, subset, official_data) == expected
    assert records(spec, subset, official_data, "test")[0].target == target


@pytest.mark.data
def test_golden_options_of_copa(official_data: Path) -> None:
    rendered = request("kobest_copa", "copa", official_data)
    assert isinstance(rendered, ScoreRequest)
    assert rendered.continuations == (" 바지의 밑단을 잘랐다.", " 벨트를 바지에 끼워 사이즈를 조절했다.")


LM_EVAL = {
    "boolq": ("지문 질문: 질문 답변: ", "예", (" 아니오", " 예")),
    "copa": ("문장  왜냐하면", "나", (" 가", " 나")),
    "wic": (
        "문장1: [단수]는 문장2: [단수]가 두 문장에서 단수가 같은 뜻으로 쓰였나?",
        "아니오",
        (" 아니오", " 예"),
    ),
    "hellaswag": ("문장: 문맥", "라", (" 가", " 나", " 다", " 라")),
    "sentineg": ("문장: 안 나빠 긍부정:", "긍정", (" 부정", " 긍정")),
}
AUTHOR = {
    "boolq": (
        "다음 지문을 읽고 질문에 대하여 틀리면 아니 맞으면 예로 답하시오.\n\n지문: 지문\n질문: 질문\n정답:",
        "예",
        (" 아니", " 예"),
    ),
    "copa": ("문장 왜냐하면", "나", (" 가", " 나")),
    "sentineg": (
        "다음 문장에서 느껴지는 감정을 답하시오.\n\n문장: 안 나빠\n정답:",
        "긍정",
        (" 부정", " 긍정"),
    ),
}


@pytest.mark.parametrize(
    ("protocol", "subset", "expected"),
    [("lm-eval", s, e) for s, e in LM_EVAL.items()] + [("author", s, e) for s, e in AUTHOR.items()],
)
def test_published_blanks_are_kept(
    protocol: str, subset: str, expected: tuple[str, str, tuple[str, ...]], tmp_path: Path
) -> None:
    question, answer, options = expected
    sample = one(subset, tmp_path)
    rendered = scored(f"kobest_{subset}@{protocol}", sample, [sample])
    # The answer of an example follows one more blank, whatever its question ends in.
    assert rendered == ScoreRequest(f"{question} {answer}\n\n{question}", options)


def test_the_authors_wic_prompt_has_its_arguments_in_the_wrong_places(tmp_path: Path) -> None:
    text = scored("kobest_wic@author", one("wic", tmp_path), []).context
    assert "단어 '[단수]는'" in text
    assert text.endswith("문장1: [단수]가\n문장2: 단수\n정답:")


def test_the_scored_text_of_boolq_begins_with_two_blanks(tmp_path: Path) -> None:
    sample = one("boolq", tmp_path)
    task = resolved("kobest_boolq")
    rendered = render(task, [sample], [()])
    (prompt,) = prepare(task, rendered, Encoder(WordTokenizer(), 1000))
    context = WordTokenizer().encode(["지문 질문: 질문 답변:"])[0]
    whole = WordTokenizer().encode(["지문 질문: 질문 답변:  예"])[0]
    assert prompt.encoded.sequence(1).tolist()[-len(whole) :] == whole.tolist()  # type: ignore[union-attr]
    assert prompt.encoded.starts[1] == len(context)  # type: ignore[union-attr]


# -- data ---------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("subset", "sizes", "balance"),
    [
        ("boolq", (3665, 700, 1404), [699, 705]),
        ("copa", (3076, 500, 1000), [517, 483]),
        ("hellaswag", (2029, 500, 500), [124, 137, 121, 118]),
        ("sentineg", (3649, 400, 397), [197, 200]),
        ("wic", (3318, 610, 1260), [645, 615]),
    ],
)
def test_sizes_and_label_balance_of_the_official_data(
    subset: str, sizes: tuple[int, int, int], balance: list[int], official_data: Path
) -> None:
    task = get_task(f"kobest_{subset}")
    checks = {c.split: (c.samples, c.problem) for c in verify(task, open_source(str(official_data)))}
    expected = dict(zip(("train", "validation", "test"), sizes, strict=True))
    assert {split: checks[split] for split in expected} == {s: (n, None) for s, n in expected.items()}
    counts = Counter(s.target for s in records(task.name, subset, official_data, "test"))
    assert [counts[str(label)] for label in range(len(balance))] == balance


@pytest.mark.data
def test_sentineg_has_its_originals_as_a_split(official_data: Path) -> None:
    negated, original = (
        records("kobest_sentineg", "sentineg", official_data, split) for split in ("test", "test_originated")
    )
    assert [s.id for s in negated] == [s.id for s in original]
    assert negated[0].fields["sentence"] == "택배사 정말 마음에 듬"
    assert (original[0].fields["sentence"], original[0].target) == ("택배사 정말 마음에 안들음", "0")


@pytest.mark.parametrize(("cell", "target"), [("TRUE", "1"), ("True", "1"), ("FALSE", "0"), ("False", "0")])
def test_truth_is_written_in_two_ways(cell: str, target: str, tmp_path: Path) -> None:
    (sample,) = parsed("boolq", f"{HEADERS['boolq']}\n1\tp\tq\t{cell}", tmp_path)
    assert sample.target == target


@pytest.mark.parametrize(
    ("subset", "split", "header", "row"),
    [
        ("sentineg", "train", "ID\tText\tLabel", "1\t글\t1"),
        ("sentineg", "validation", "ID\tLabel\tText", "1\t1\t글"),
    ],
)
def test_columns_of_sentineg_differ_by_split(
    subset: str, split: str, header: str, row: str, tmp_path: Path
) -> None:
    (sample,) = parsed(subset, f"{header}\n{row}\n", tmp_path, split)
    assert (sample.fields["sentence"], sample.target) == ("글", "1")
    with pytest.raises(DataError, match=r"test\.tsv:1: expected the columns ID,Label_origin"):
        parsed(subset, f"{header}\n{row}\n", tmp_path)


def test_quotes_and_carriage_returns_are_no_markup(tmp_path: Path) -> None:
    (sample,) = parsed("boolq", f'{HEADERS["boolq"]}\r\n1\t"p\tq"\tTrue\r\n', tmp_path)
    assert sample.fields == {"paragraph": '"p', "question": 'q"'}


@pytest.mark.parametrize("subset", SUBSETS)
def test_defects_name_file_and_line(subset: str, tmp_path: Path) -> None:
    header, row = HEADERS[subset], ROWS[subset]
    cells = row.split("\t")
    label = header.split("\t").index("Label") if subset == "sentineg" else -1
    wrong = [*cells]
    wrong[label] = "maybe"
    second = row.replace("1\t", "2\t", 1) if header.startswith("ID") else row
    cut, commas, mislabelled = second.rsplit("\t", 1)[0], header.replace("\t", ","), "\t".join(wrong)
    for content, line, problem in [
        (f"{header}\n{row}\n{cut}\n", 3, "columns instead of"),
        (f"{header}\n{mislabelled}\n", 2, "answer 'maybe' is not one of"),
        (f"{commas}\n{row}\n", 1, "expected the columns"),
        ("", 1, "expected the columns"),
    ]:
        with pytest.raises(DataError) as raised:
            parsed(subset, content, tmp_path)
        assert str(raised.value).startswith(f"{tmp_path / 'test.tsv'}:{line}: ")
        assert problem in str(raised.value)


def test_ids_must_not_repeat_and_copa_asks_for_cause_or_result(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r":3: repeated id '1'"):
        parsed("boolq", f"{HEADERS['boolq']}\n{ROWS['boolq']}\n{ROWS['boolq']}\n", tmp_path)
    with pytest.raises(DataError, match=r":2: question '언제' is not one of 원인, 결과"):
        parsed("copa", f"{HEADERS['copa']}\n1\t문장\t언제\t가\t나\t1\n", tmp_path)
    with pytest.raises(DataError, match=r":2: answer '0' is not one of 1, 2"):
        parsed("copa", f"{HEADERS['copa']}\n1\t문장\t원인\t가\t나\t0\n", tmp_path)


def test_another_encoding_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_bytes(f"{HEADERS['boolq']}\n{ROWS['boolq']}\n".encode("cp949"))
    with pytest.raises(DataError, match=r":2: not UTF-8 text"):
        get_task("kobest_boolq").parse(path, "test", "boolq")


# -- metrics ------------------------------------------------------------------------------------------


def judged(subset: str, sample: Sample, logprobs: tuple[float, ...]) -> Outcome:
    task = resolved(f"kobest_{subset}")
    (prompt,) = prepare(task, render(task, [sample], [()]), Encoder(WordTokenizer(), 1000))
    response = ScoreResponse(tuple(ContinuationScore(lp, 1, False) for lp in logprobs))
    (outcome,) = judge(task, [recorded(task, prompt, response, keep_prompt=False)], {})
    return outcome


def truth(number: int, target: str) -> Sample:
    return Sample(str(number), "boolq", {"paragraph": "p", "question": "q"}, target)


def test_a_constant_answer_has_half_the_accuracy_and_a_third_of_f1() -> None:
    outcomes = [judged("boolq", truth(i, "01"[i % 2]), (-1.0, -2.0)) for i in range(20)]
    metrics = aggregate(resolved("kobest_boolq"), outcomes, None)["metrics"]
    assert metrics["acc"]["value"] == pytest.approx(0.5)
    assert metrics["macro_f1"]["value"] == pytest.approx(1 / 3)
    assert metrics["macro_f1"]["ci95"][0] < 1 / 3 < metrics["macro_f1"]["ci95"][1]
    assert "acc_norm" not in metrics


def test_macro_f1_of_a_mixed_result() -> None:
    said = ["1", "1", "0", "1", "0", "0"]
    gold = ["1", "0", "0", "1", "1", "0"]
    outcomes = [
        judged("boolq", truth(i, g), (-1.0, -2.0) if s == "0" else (-2.0, -1.0))
        for i, (s, g) in enumerate(zip(said, gold, strict=True))
    ]
    metrics = aggregate(resolved("kobest_boolq"), outcomes, None)["metrics"]
    # Each class: 2 true positives, 1 false positive, 1 miss.
    assert metrics["macro_f1"]["value"] == pytest.approx(2 / 3)
    assert metrics["acc"]["value"] == pytest.approx(4 / 6)


def test_hellaswag_compares_by_characters_as_well(tmp_path: Path) -> None:
    fields = {
        "context": "c",
        "ending_1": "가나다라마바사아자차",
        "ending_2": "가",
        "ending_3": "나",
        "ending_4": "다",
    }
    outcome = judged("hellaswag", Sample("0", "hellaswag", fields, "0"), (-9.0, -1.0, -2.0, -3.0))
    assert outcome.prediction == "1"
    assert outcome.metrics == {"acc": 0.0, "acc_norm": 1.0}
    assert outcome.choice_chars == (10, 1, 1, 1)
    entry = aggregate(resolved("kobest_hellaswag"), [outcome], None)
    assert {name: m["value"] for name, m in entry["metrics"].items()} == {
        "acc": 0.0,
        "acc_norm": 1.0,
        "macro_f1": 0.0,
    }


@pytest.mark.data
@pytest.mark.parametrize("subset", SUBSETS)
def test_five_examples_can_be_drawn_for_every_question(subset: str, official_data: Path) -> None:
    task = resolved(f"kobest_{subset}:5shot")
    source = open_source(str(official_data))
    samples = source.load(task.task, "test", subset)
    shots = source.shots(task, subset, samples)
    assert len(shots) == len(samples)
    prompts = render(task, samples, shots)
    assert all(isinstance(r, ScoreRequest) and r.context.count("\n\n") >= 5 for _, r in prompts)
