from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from _exam import fingerprint
from _generation import HOSTILE, generated, judge, outcome, records, resolved, write_lines

from evalkit.backends.mock import WordTokenizer
from evalkit.data.source import open_source
from evalkit.errors import DataError
from evalkit.judge import judge as judge_all
from evalkit.prompts import Encoder, prepare, prompt_text, render
from evalkit.registry import get_task
from evalkit.results import aggregate
from evalkit.task import Task
from evalkit.types import Message, Outcome, Sample, Sampling

TASK = get_task("longbench")
TEMPLATES = {
    "narrativeqa": "aada7ed24b06abac",
    "qasper": "0fbdd123fe7f83d6",
    "multifieldqa_en": "20b4666a2de8a1f7",
    "multifieldqa_zh": "344b3a4e557cd547",
    "hotpotqa": "9ec4ae308865bd0c",
    "2wikimqa": "9ec4ae308865bd0c",
    "musique": "9ec4ae308865bd0c",
    "dureader": "ae53329f51b17908",
    "gov_report": "91c25d585b189ced",
    "qmsum": "dca23b678fe0183b",
    "multi_news": "2af3f28c40b902e6",
    "vcsum": "3e5d8241bc9b512e",
    "trec": "0eff8bebdba99d91",
    "triviaqa": "00a802e6377e72fc",
    "samsum": "a68d884234907eef",
    "lsht": "f3edabdf7fae53d6",
    "passage_count": "986550b6c61009c6",
    "passage_retrieval_en": "39b96b7fa52bdd2a",
    "passage_retrieval_zh": "c1e2346e245eb365",
    "lcc": "6a1f24cf0bb83cd9",
    "repobench-p": "ee9ec182ea5ffeb7",
}
MAX_NEW = dict.fromkeys(TEMPLATES, 32) | {
    **dict.fromkeys(("narrativeqa", "qasper", "dureader", "samsum"), 128),
    **dict.fromkeys(("gov_report", "qmsum", "multi_news", "vcsum"), 512),
    **dict.fromkeys(("multifieldqa_en", "multifieldqa_zh", "trec", "lsht", "lcc", "repobench-p"), 64),
}
PLAIN = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
RECORD = {
    "input": "问",
    "context": "甲：开会。",
    "answers": ["会议"],
    "length": 5,
    "dataset": "vcsum",
    "language": "zh",
    "all_classes": None,
    "_id": "a1",
}


@pytest.fixture
def folder(tmp_path: Path, official_data: Path) -> Path:
    """The benchmark's folder with the official prompts and no records."""
    config = tmp_path / "LongBench" / "config"
    config.mkdir(parents=True)
    shutil.copy(official_data / "LongBench/config/dataset2prompt.json", config)
    return config.parent


def made_up(subset: str, *answers: str, **fields: Any) -> Sample:
    known = {"input": "q", "context": "c", "answers": list(answers), "length": 1, "all_classes": None}
    return Sample("0", subset, known | {"template": "{context}|{input}"} | fields, answers[0])


def score(subset: str, text: str, *answers: str, task: str = "longbench", **fields: Any) -> float:
    return judge(task, made_up(subset, *answers, **fields), text).metrics["score"]


# -- prompts ------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("subset", TEMPLATES)
def test_templates_are_the_official_ones(subset: str, official_data: Path) -> None:
    samples = records("longbench", subset, official_data, "test", "partial")
    template = samples[0].fields["template"]
    assert fingerprint(template)[1] == TEMPLATES[subset]
    request = generated("longbench", samples[0])
    text = prompt_text(request)
    fields = samples[0].fields
    assert text == template.replace("{input}", fields["input"]).replace("{context}", fields["context"])
    assert request.max_new_tokens == MAX_NEW[subset]
    assert isinstance(request.prompt, str) == (subset in PLAIN)
    assert request.sampling is None


@pytest.mark.data
def test_the_synthetic_record(folder: Path) -> None:
    path = write_lines(folder / "data/vcsum.jsonl", RECORD)
    (sample,) = TASK.parse(path, "test", "vcsum")
    assert (sample.id, sample.target) == ("a1", "会议")
    text = prompt_text(generated("longbench", sample))
    prompts = json.loads((folder / "config/dataset2prompt.json").read_text("utf-8"))
    assert text == prompts["vcsum"].replace("{context}", "甲：开会。")
    assert text.endswith("会议记录：\n甲：开会。\n\n会议总结：")


def test_braces_in_a_record_stay_as_they_are() -> None:
    sample = made_up("lcc", "x", context="f'{context}' {0} {{", input="{input}")
    assert generated("longbench", sample).prompt == "f'{context}' {0} {{|{input}"


def test_samsum_ends_with_the_line_and_gives_at_least_one_token() -> None:
    request = generated("longbench", made_up("samsum", "x"))
    assert (request.stop, request.min_new_tokens) == (("\n",), 1)
    others = [generated("longbench", made_up(s, "x")) for s in TEMPLATES if s != "samsum"]
    assert {(r.stop, r.min_new_tokens) for r in others} == {((), 0)}


def test_cn_mixtral_draws_and_uses_no_template() -> None:
    for subset in TEMPLATES:
        request = generated("longbench_zh@cn-mixtral", made_up(subset, "x")) if subset in _zh() else None
        if request is not None:
            assert request.prompt == "c|q"
            assert request.sampling == Sampling(0.2, top_p=0.95, top_k=40, repetition_penalty=1.1)
    assert resolved("longbench_zh@cn-mixtral").protocol.overlong.limit == 3584


def _zh() -> set[str]:
    return set(get_task("longbench_zh").subsets)


def test_the_extended_version_asks_as_the_plain_one() -> None:
    request = generated("longbench_e", made_up("samsum_e", "x"))
    assert (request.prompt, request.max_new_tokens, request.stop) == ("c|q", 128, ("\n",))
    assert generated("longbench_e", made_up("qasper_e", "x")).prompt == (Message("user", "c|q"),)


@pytest.mark.parametrize(
    ("window", "limit"),
    [(4096, 3500), (8192, 7500), (16384, 15500), (32768, 31500), (4000, 3406), (1024, 512), (1000, 500)],
)
def test_published_limit(window: int, limit: int) -> None:
    published = resolved("longbench").protocol.overlong.limit
    assert callable(published)
    assert published(window) == limit


def test_a_long_prompt_loses_its_middle() -> None:
    one = resolved("longbench")
    sample = made_up("triviaqa", "x", context=" ".join(f"w{i}" for i in range(9000)))
    (prompt,) = prepare(one, render(one, [sample], [()]), Encoder(WordTokenizer(), 4096))
    assert prompt.truncated
    assert prompt.encoded.n_inputs == 3500


# -- tasks and averages -------------------------------------------------------------------------------


def test_the_tasks_and_their_datasets() -> None:
    sizes = {name: (len(get_task(name).subsets), get_task(name).sizes["test"]) for name in _names()}
    assert sizes == {
        "longbench": (21, 4750),
        "longbench_en": (16, 3750),
        "longbench_zh": (7, 2000),
        "longbench_e": (13, 3668),
    }
    assert list(TASK.subsets) == list(TEMPLATES)
    assert all(name.endswith("_e") for name in get_task("longbench_e").subsets)


def _names() -> tuple[str, ...]:
    return "longbench", "longbench_en", "longbench_zh", "longbench_e"


@pytest.mark.parametrize("name", ["longbench", "longbench_en", "longbench_zh", "longbench_e"])
def test_every_dataset_is_in_one_of_six_categories(name: str) -> None:
    task: Task = get_task(name)
    for protocol in task.protocols.values():
        members = [d for group in protocol.groups.members.values() for d in group]
        assert sorted(members) == sorted(task.subsets)
        assert len(protocol.groups.members) == 6


def test_official_english_table() -> None:
    members = get_task("longbench_en").protocols["official"].groups.members
    assert dict(members) == {
        "Single-doc QA": ("narrativeqa", "qasper", "multifieldqa_en"),
        "Multi-doc QA": ("hotpotqa", "2wikimqa", "musique"),
        "Summarisation": ("gov_report", "qmsum", "multi_news"),
        "Few-shot": ("trec", "triviaqa", "samsum"),
        "Synthetic": ("passage_count", "passage_retrieval_en"),
        "Code": ("lcc", "repobench-p"),
    }


def test_the_overall_score_is_the_mean_of_the_categories_means() -> None:
    one = resolved("longbench")
    # Dataset number n scores n/100, on as many samples as its number says.
    values = {subset: n / 100 for n, subset in enumerate(TASK.subsets, 1)}
    outcomes = [
        outcome(one, subset, k, score=value)
        for n, (subset, value) in enumerate(values.items(), 1)
        for k in range(n)
    ]
    entry = aggregate(one, outcomes, None)
    categories = {
        category: sum(values[d] for d in members) / len(members)
        for category, members in one.protocol.groups.members.items()
    }
    found = {category: metrics["score"]["value"] for category, metrics in entry["groups"].items()}
    assert found == pytest.approx(categories)
    overall = sum(categories.values()) / 6
    assert entry["metrics"]["score"]["value"] == pytest.approx(overall)
    assert entry["average"] == "category"
    assert entry["averages"]["category"]["score"] == pytest.approx(overall)
    assert entry["averages"]["macro"]["score"] == pytest.approx(sum(values.values()) / 21)


def test_code_is_one_column_of_two_datasets_in_the_chinese_table() -> None:
    one = resolved("longbench_zh")
    # A row of the Chinese-Mixtral table, with a code column made of two datasets.
    columns = {
        "multifieldqa_zh": 0.338,
        "dureader": 0.2,
        "vcsum": 0.1,
        "lsht": 0.4,
        "passage_retrieval_zh": 0.9,
        "lcc": 0.5,
        "repobench-p": 0.3,
    }
    entry = aggregate(one, [outcome(one, s, score=v) for s, v in columns.items()], None)
    assert list(entry["groups"]) == ["单文档QA", "多文档QA", "摘要", "FS学习", "代码补全", "合成任务"]
    assert entry["groups"]["代码补全"]["score"]["value"] == pytest.approx(0.4)
    assert entry["metrics"]["score"]["value"] == pytest.approx((0.338 + 0.2 + 0.1 + 0.4 + 0.4 + 0.9) / 6)


@pytest.mark.parametrize(
    ("length", "bucket"), [(0, "0-4k"), (3999, "0-4k"), (4000, "4-8k"), (7999, "4-8k"), (8000, "8k+")]
)
def test_length_buckets(length: int, bucket: str) -> None:
    stratum = resolved("longbench_e").protocol.stratum
    assert stratum is not None
    assert stratum(made_up("qasper_e", "x", length=length)) == bucket


def test_buckets_are_reported_by_dataset() -> None:
    one = resolved("longbench_e")
    outcomes = [
        replace(outcome(one, subset, k, score=value), stratum=bucket)
        for k, (subset, bucket, value) in enumerate(
            [
                ("qasper_e", "0-4k", 0.2),
                ("qasper_e", "0-4k", 0.4),
                ("qasper_e", "8k+", 1.0),
                ("lcc_e", "8k+", 0),
            ]
        )
    ]
    strata = aggregate(one, outcomes, None)["strata"]
    assert {b: {s: m["score"]["value"] for s, m in found.items()} for b, found in strata.items()} == {
        "0-4k": {"qasper_e": pytest.approx(0.3)},
        "8k+": {"qasper_e": 1.0, "lcc_e": 0.0},
    }


# -- data ---------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("subset", ["multi_news", "multifieldqa_zh", "passage_retrieval_zh"])
def test_official_files(subset: str, official_data: Path) -> None:
    samples = records("longbench", subset, official_data, "test")
    assert len({s.id for s in samples}) == 200
    partial = records("longbench", subset, official_data, "test", "partial")
    full = {(s.fields["context"], s.fields["input"]): s.fields["answers"] for s in samples}
    assert partial
    assert all(full[s.fields["context"], s.fields["input"]] == s.fields["answers"] for s in partial)


@pytest.mark.data
def test_partial_records(official_data: Path) -> None:
    samples = [s for d in TASK.subsets for s in records("longbench", d, official_data, "test", "partial")]
    assert len(samples) == 237
    assert len({(s.subset, s.id) for s in samples}) == 237
    assert [s.subset for s in samples if s.id.startswith("unplaced")] == ["musique"]


@pytest.mark.data
def test_without_the_variant_a_missing_dataset_is_an_error(official_data: Path) -> None:
    with pytest.raises(DataError, match=r"longbench: no data at .*data/narrativeqa\.jsonl"):
        open_source(str(official_data)).load(TASK, "test", "narrativeqa")


@pytest.mark.data
@pytest.mark.parametrize(
    ("subset", "lines", "line", "problem"),
    [
        (
            "vcsum",
            [RECORD, RECORD | {"_id": "b", "answers": []}],
            2,
            "answers is not a non-empty list of texts",
        ),
        ("vcsum", [RECORD | {"answers": "会议"}], 1, "answers is not a non-empty list of texts"),
        ("vcsum", [RECORD | {"answers": ["会", 3]}], 1, "answers is not a non-empty list of texts"),
        ("vcsum", [RECORD | {"context": None}], 1, "context is not a text"),
        ("vcsum", [RECORD | {"length": "5"}], 1, "length is not a whole number"),
        ("vcsum", [RECORD | {"length": True}], 1, "length is not a whole number"),
        ("vcsum", [RECORD, RECORD], 2, "repeated id 'a1'"),
        ("vcsum", [{k: v for k, v in RECORD.items() if k != "answers"}], 1, "lacks answers"),
        ("vcsum", [RECORD, '{"input": "问", "context": "甲', RECORD], 2, "not valid JSON"),
        ("vcsum", [], 1, "the file is empty"),
        (
            "lsht",
            [RECORD | {"all_classes": ["x"]}, RECORD | {"_id": "b"}],
            2,
            "all_classes is not a non-empty",
        ),
        ("passage_retrieval_zh", [RECORD | {"answers": ["第三段"]}], 1, "an answer has no number"),
        ("passage_retrieval_en", [RECORD | {"answers": ["paragraph 3"]}], 1, "an answer has no number"),
        ("passage_count", [RECORD], 1, "an answer has no number"),
    ],
)
def test_defects_name_file_and_line(
    folder: Path, subset: str, lines: list[Any], line: int, problem: str
) -> None:
    path = write_lines(folder / f"data/{subset}.jsonl", *lines)
    with pytest.raises(DataError) as raised:
        TASK.parse(path, "test", subset)
    assert str(raised.value).startswith(f"{path}:{line}: {problem}")


@pytest.mark.data
def test_another_encoding_is_a_data_error(folder: Path) -> None:
    path = folder / "data/vcsum.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"\n" + json.dumps(RECORD, ensure_ascii=False).encode("gb18030"))
    with pytest.raises(DataError, match=r"vcsum\.jsonl:2: not UTF-8 text"):
        TASK.parse(path, "test", "vcsum")


@pytest.mark.data
@pytest.mark.parametrize("altered", [False, True])
def test_missing_or_altered_prompts_say_what_is_expected(folder: Path, altered: bool) -> None:
    path = write_lines(folder / "data/vcsum.jsonl", RECORD)
    prompts = folder / "config/dataset2prompt.json"
    prompts.write_bytes(prompts.read_bytes() + b" ") if altered else prompts.unlink()
    with pytest.raises(DataError) as raised:
        open_source(str(folder.parent)).load(TASK, "test", "vcsum")
    message = str(raised.value)
    assert message.startswith(str(prompts))
    assert "expected sha256 56d22ad4f382169c2b8a11ff4c982a4a1bea096c8152b0f0b85b64686b157c30" in message
    assert "github.com/THUDM/LongBench" in message
    assert ("is not the published file" if altered else "is missing") in message
    assert path.exists()


@pytest.mark.data
def test_the_classes_are_those_of_the_last_record(folder: Path) -> None:
    path = write_lines(
        folder / "data/trec.jsonl",
        RECORD | {"all_classes": ["Food"]},
        RECORD | {"all_classes": ["Drink"], "_id": "a2"},
    )
    assert [s.fields["all_classes"] for s in TASK.parse(path, "test", "trec")] == [["Drink"], ["Drink"]]


# -- judging ------------------------------------------------------------------------------------------


def test_every_dataset_has_its_metric() -> None:
    assert score("hotpotqa", "The Cat sat", "a cat") == pytest.approx(2 / 3)
    assert score("gov_report", "the cat sat on the mat", "the cat was on the mat") == pytest.approx(0.8)
    assert score("passage_retrieval_en", "Paragraph 3 or 5", "Paragraph 3") == 0.5
    assert score("passage_retrieval_zh", "段落3", "段落3") == 1.0
    assert score("passage_count", "There are 7.", "7") == 1.0
    assert score("lcc", "\n# hint\n    return x", "    return y") == 0.92
    classes = ["Food", "Drink", "Other"]
    assert score("trec", "Food and Drink", "Food", all_classes=classes) == 0.5
    assert score("lcc_e", "x = 1", "x = 1", task="longbench_e") == 1.0
    assert score("multifieldqa_zh", "北京。", "北京") == 1.0
    assert score("vcsum", "会议", "会议") == pytest.approx(1.0)


def test_few_shot_datasets_are_judged_by_their_first_line() -> None:
    assert score("triviaqa", "\n\nParis\nPassage: London", "Paris") == 1.0
    assert score("hotpotqa", "Paris\nLondon", "Paris") < 1.0


def test_the_best_answer_counts() -> None:
    assert score("qasper", "yes", "no", "yes") == 1.0


@pytest.mark.parametrize(
    ("subset", "answer"),
    [
        ("qasper", "x y"),
        ("gov_report", "x y"),
        ("trec", "Food"),
        ("passage_retrieval_en", "Paragraph 77"),
        ("passage_count", "77"),
        ("lcc", "x = 2"),
    ],
)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completions_are_judged(subset: str, answer: str, name: str) -> None:
    # ROUGE takes a minute for a sentence of 200,000 words.
    text = HOSTILE[name][:100_000] if subset == "gov_report" else HOSTILE[name]
    value = score(subset, text, answer, all_classes=["Food", "Drink"])
    assert 0 <= value < 0.5


@pytest.mark.parametrize(
    ("subset", "name"), product(("multifieldqa_zh", "dureader", "lsht", "passage_retrieval_zh"), HOSTILE)
)
def test_hostile_completions_in_chinese_are_judged(subset: str, name: str) -> None:
    # jieba takes about a second for 100,000 characters.
    text = HOSTILE[name][:20_000]
    assert 0 <= score(subset, text, "段落77", all_classes=["体育", "段落77"]) < 0.5


def test_a_line_of_the_official_predictions_is_read() -> None:
    assert TASK.foreign_line is not None
    fields = {"pred": "7", "answers": ["7", "8"], "all_classes": None, "length": 9000}
    sample, completion = TASK.foreign_line("4", "passage_count", fields)
    assert (sample.id, sample.subset, sample.target, completion) == ("4", "passage_count", "7", "7")
    one = resolved("longbench")
    answered: Outcome = replace(outcome(one, "passage_count", 4, score=0.0), completions=(completion,))
    (judged,) = judge_all(one, [answered], {("passage_count", "4"): sample})
    assert judged.metrics == {"score": 1.0}
    for missing in fields:
        with pytest.raises((KeyError, ValueError)):
            TASK.foreign_line("4", "qasper", {k: v for k, v in fields.items() if k != missing})
    with pytest.raises(ValueError, match="non-empty"):
        TASK.foreign_line("4", "qasper", fields | {"answers": []})
