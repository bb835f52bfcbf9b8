from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _generation import HOSTILE, generated, golden, judge, records, resolved

from evalkit.backends.mock import WordTokenizer
from evalkit.data.source import open_source
from evalkit.errors import DataError
from evalkit.prompts import Encoder, prepare, render
from evalkit.registry import get_task
from evalkit.tokens import EncodedPrompt
from evalkit.types import Sample

TASK = get_task("jsquad")
FIELDS = {"title": "題", "context": "文", "question": "問", "answers": ["答", "答え"]}
SAMPLE = Sample("a1p0q0", "jsquad", FIELDS, "答")
VERSIONS = ("1.1-0.1", "1.1-0.2", "1.2-0.2", "1.1-0.3", "1.2-0.3", "1.1-0.4", "1.1-0.5", "1.1-0.6")


def reply(text: str, *answers: str, protocol: str = "jpstable-1.1-0.3") -> dict[str, float]:
    sample = Sample("0", "jsquad", FIELDS | {"answers": list(answers)}, answers[0])
    return dict(judge(f"jsquad@{protocol}", sample, text).metrics)


# -- prompts ------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.1-0.1", (197, "baea390475d796d3")),
        ("1.1-0.2", (191, "56a8af694a4ba91f")),
        ("1.2-0.2", (200, "2b6d2c0cc3d4b876")),
        ("1.1-0.3", (255, "baabc6fc57d92c09")),
    ],
)
def test_golden_prompts(version: str, expected: tuple[int, str], official_data: Path) -> None:
    assert golden(f"jsquad@jpstable-{version}:validation:0shot", "jsquad", official_data) == expected


ASK = "与えられた文脈から、質問に対する答えを抜き出してください。"
ALPACA = (
    "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n"
)


def frame(context: str) -> str:
    return f"### 指示:\n{ASK}\n\n### 入力:\n文脈：{context}\n質問：問\n\n### 応答:\n"


TITLED = frame("題\n文")


@pytest.mark.parametrize(
    ("protocol", "expected", "stop"),
    [
        ("jpstable-1.1-0.3", f"{ALPACA}{frame('文')}答\n\n{frame('文')}", "\n"),
        ("jpstable-1.2-0.3", f"{ALPACA}{TITLED}答\n\n{TITLED}", "\n"),
        (
            "jpstable-1.1-0.4",
            f"ユーザー: {ASK}<NL>システム: 分かりました。<NL>"
            "ユーザー: 文脈：文<NL>質問：問<NL>システム: 答<NL>"
            "ユーザー: 文脈：文<NL>質問：問<NL>システム: ",
            "<NL>",
        ),
        (
            "jpstable-1.1-0.5",
            f"ユーザー: {ASK}\nシステム: 分かりました。\nユーザー: 文脈：文\n質問：問\nシステム: 答\n"
            "ユーザー: 文脈：文\n質問：問\nシステム: ",
            "\n",
        ),
        (
            "jpstable-1.1-0.6",
            "<s>[INST] <<SYS>>\nあなたは役立つアシスタントです。\n<</SYS>>\n\n"
            f"{ASK}\n\n文脈：文\n質問：問 [/INST] 答 </s><s>[INST] {ASK}\n\n文脈：文\n質問：問 [/INST] ",
            "\n",
        ),
        (
            "ja-leaderboard",
            f"{ALPACA}### 指示：\n{ASK}\n\n### 入力：\n文脈：文\n質問：問\n\n### 応答：\n答\n\n"
            f"### 指示：\n{ASK}\n\n### 入力：\n文脈：文\n質問：問\n\n### 応答：",
            "\n\n",
        ),
    ],
)
def test_examples_are_answered_by_their_first_gold_answer(protocol: str, expected: str, stop: str) -> None:
    request = generated(f"jsquad@{protocol}", SAMPLE, [SAMPLE])
    assert request.prompt == expected
    assert request.stop == (stop,)
    assert request.sampling is None


def test_braces_in_a_record_stay_as_they_are() -> None:
    sample = Sample("0", "jsquad", FIELDS | {"context": "{title}{0}", "question": "{"}, "答")
    prompt = generated("jsquad@jpstable-1.1-0.2", sample).prompt
    assert isinstance(prompt, str)
    assert prompt.endswith("文章:{title}{0}\n質問:{\n回答:")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_dynamic_limit_is_a_protocol_of_its_own(version: str) -> None:
    plain, dynamic = (generated(f"jsquad@jpstable-{version}{x}", SAMPLE) for x in ("", "-dynmax"))
    assert (plain.no_longer_than, dynamic.no_longer_than) == ((), ("答", "答え"))
    assert plain.prompt == dynamic.prompt


def test_the_dynamic_limit_is_the_longest_gold_answers_tokens() -> None:
    one = resolved("jsquad@jpstable-1.1-0.3-dynmax:0shot")
    (prompt,) = prepare(one, render(one, [SAMPLE], [()]), Encoder(WordTokenizer(), 4000))
    assert isinstance(prompt.encoded, EncodedPrompt)
    assert prompt.encoded.max_new_tokens == len(WordTokenizer().encode(["答え"])[0])


# -- data ---------------------------------------------------------------------------------------------


@pytest.mark.data
def test_the_official_data(official_data: Path) -> None:
    validation, test = (records("jsquad", "jsquad", official_data, split) for split in ("validation", "test"))
    assert (len(validation), len(test)) == (4442, 4420)
    assert TASK.sizes == {"train": 62697, "validation": 4442, "test": 4420}
    counts = np.bincount([len(s.fields["answers"]) for s in validation])
    assert (counts[3], counts[2], counts.sum()) == (3969, 473, 4442)
    assert (validation[0].id, validation[0].target) == ("a10336p0q0", "小笠原諸島")
    assert not any("[SEP]" in s.fields["context"] for s in validation)
    assert validation[0].fields["context"].startswith("梅雨（つゆ、ばいう）は")


@pytest.mark.data
def test_examples_need_the_train_split(official_data: Path) -> None:
    source = open_source(str(official_data))
    one = resolved("jsquad")
    assert one.name == "jsquad@jpstable-1.1-0.3:validation:2shot"
    samples = source.load(TASK, "validation", "jsquad")
    if (official_data / "JGLUE/datasets/jsquad-v1.3/train-v1.3.json").exists():
        pytest.skip("the train split is there")
    with pytest.raises(DataError, match=r"no data at .*train-v1\.3\.json") as raised:
        source.shots(one, "jsquad", samples)
    assert raised.value.exit_code == 4


def question(identifier: Any = "q0", **changes: Any) -> dict[str, Any]:
    return {"question": "問", "id": identifier, "answers": [{"text": "答", "answer_start": 0}]} | changes


def written(folder: Path, *questions: Any, context: Any = "題 [SEP] 文 [SEP] 章 ", title: Any = "題") -> Path:
    path = folder / "valid-v1.3.json"
    document = {"data": [{"title": title, "paragraphs": [{"qas": questions, "context": context}]}]}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=0), encoding="utf-8")
    return path


def test_the_context_is_what_follows_the_last_mark(tmp_path: Path) -> None:
    (sample,) = TASK.parse(written(tmp_path, question()), "validation", "jsquad")
    assert sample.fields == {"title": "題", "context": "章", "question": "問", "answers": ["答"]}


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (question("q1", answers=[]), "answers holds no text"),
        (question("q1", answers=None), "answers holds no text"),
        (question("q1", answers=["答"]), "answers holds no text"),
        (question("q1", answers=[{"answer_start": 0}]), "answers holds no text"),
        (question("q1", answers=[{"text": ""}]), "answers holds no text"),
        (question("q1", answers=[{"text": 3}]), "text is not a non-empty list of texts"),
        (question("q1", question=None), "question is not a text"),
        ({"id": "q1", "question": "問"}, "lacks answers"),
        (question("q0"), "repeated id 'q0'"),
    ],
)
def test_defects_name_the_line_of_the_question(tmp_path: Path, bad: dict[str, Any], problem: str) -> None:
    path = written(tmp_path, question(), bad)
    lines = path.read_text("utf-8").splitlines()
    line = next((i for i, text in enumerate(lines, 1) if '"q1"' in text), 0)
    with pytest.raises(DataError) as raised:
        TASK.parse(path, "validation", "jsquad")
    assert problem in str(raised.value)
    assert line == 0 or str(raised.value).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"data": 3}',
        '{"data": [{"paragraphs": []}, 4]}',
        '{"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [[]]}]}]}',
        '{"data": [\n{"title": "t", "paragraphs": [{"qas": [{"id": "x", "question": "q", "answers": [{"te',
    ],
)
def test_files_in_another_format_are_data_errors(content: str, tmp_path: Path) -> None:
    path = tmp_path / "valid-v1.3.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"valid-v1\.3\.json:\d+: "):
        TASK.parse(path, "validation", "jsquad")


@pytest.mark.parametrize("changes", [{"context": 3}, {"title": None}, {"context": "\ud800"}])
def test_titles_and_contexts_are_texts(changes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "valid-v1.3.json"
    paragraph = {"qas": [question()], "context": "c"}
    article = {"title": "t", "paragraphs": [paragraph]}
    (paragraph if "context" in changes else article).update(changes)  # type: ignore[attr-defined]
    path.write_text(json.dumps({"data": [article]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"json:1: its title or context is not a text"):
        TASK.parse(path, "validation", "jsquad")


# -- judging ------------------------------------------------------------------------------------------


def test_golden_metrics() -> None:
    stopped = reply("小笠原諸島。", "小笠原諸島", "小笠原諸島を除く日本")
    assert (stopped["exact_match"], stopped["f1"]) == (0.0, 1.0)
    assert reply(" 小笠原諸島", "小笠原諸島")["exact_match"] == 1.0
    assert reply("ＡＢＣ　１２３", "ABC 123")["exact_match"] == 1.0
    assert reply("abc", "ABC")["exact_match"] == 0.0


def test_the_best_answer_counts() -> None:
    assert reply("日本", "小笠原諸島", "日本") == {"exact_match": 1.0, "f1": 1.0, "char_f1": 1.0}


def test_the_leaderboard_compares_with_the_first_answer_verbatim() -> None:
    assert reply("\u3000答\n", "答", "他", protocol="ja-leaderboard") == {"exact_match": 1.0}
    assert reply("他", "答", "他", protocol="ja-leaderboard") == {"exact_match": 0.0}
    assert reply("ＡＢＣ", "ABC", protocol="ja-leaderboard") == {"exact_match": 0.0}


@pytest.mark.parametrize("protocol", ["jpstable-1.1-0.3", "ja-leaderboard"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completions_are_judged(protocol: str, name: str) -> None:
    # MeCab takes 14 s for a million characters.
    text = HOSTILE[name] if protocol == "ja-leaderboard" else HOSTILE[name][:50_000]
    metrics = reply(text, "答", protocol=protocol)
    assert metrics["exact_match"] == 0.0
    assert all(0 <= value <= 1 for value in metrics.values())
