from __future__ import annotations

from pathlib import Path

import pytest
from _exam import (
    FIRST_CAPITALS,
    check_groups,
    context,
    fingerprint,
    group_sizes,
    reply,
    synthetic,
    texts,
    turns,
)

from evalkit.data.source import open_source, verify
from evalkit.errors import DataError
from evalkit.registry import get_task
from evalkit.spec import resolve
from evalkit.task import PromptInput
from evalkit.types import ContinuationScore, GenerateRequest, NextToken, Sample, ScoreRequest, ScoreResponse

TASK = get_task("ceval")
QUESTION = " 1+1=? \nA. 1\nB. 2\nC. 3\nD. 4\n"
HEADER = "以下是中国关于逻辑学考试的单项选择题，请选出其中的正确答案。"


@pytest.mark.data
@pytest.mark.parametrize(
    ("spec", "golden"),
    [
        ("ceval@official:val:0shot", (126, "00a9e3718d022fe9")),
        ("ceval@official:val:5shot", (550, "ebb024b117fab935")),
        ("ceval@lm-eval:val:0shot", (124, "0d18bdbd1bc0a1c7")),
        ("ceval@lm-eval:val:5shot", (553, "a3a131323630bb72")),
    ],
)
def test_golden_prompts(spec: str, golden: tuple[int, str], official_data: Path) -> None:
    assert fingerprint(context(spec, "computer_network", official_data)) == golden


@pytest.mark.data
def test_cn_mixtral_without_shots_is_the_official_prompt_minus_its_header(official_data: Path) -> None:
    official, bare = (
        context(f"ceval@{p}:val:0shot", "computer_network", official_data) for p in ("official", "cn-mixtral")
    )
    assert official.partition("\n\n")[2] == bare


def test_official_prompt() -> None:
    assert synthetic("ceval", "logic", 1) == ScoreRequest(
        f"{HEADER}\n\n{QUESTION}答案：B\n\n{QUESTION}答案：", ("A", "B", "C", "D")
    )


def test_lm_eval_puts_a_space_before_the_letter() -> None:
    stripped = QUESTION.replace(" 1+1=? ", "1+1=?")
    assert synthetic("ceval@lm-eval", "logic", 1) == ScoreRequest(
        f"以下是中国关于逻辑学的单项选择题，请选出其中的正确答案。\n\n{stripped}答案： B\n\n{stripped}答案：",
        (" A", " B", " C", " D"),
    )


def test_cn_mixtral_uses_the_handle_and_two_vocabulary_entries_per_letter() -> None:
    rendered = synthetic("ceval@cn-mixtral", "computer_network", 1)
    assert isinstance(rendered, ScoreRequest)
    assert rendered.context == (
        "以下是中国关于computer_network考试的单项选择题，请选出其中的正确答案。\n\n"
        f"{QUESTION}答案：B\n\n{QUESTION}答案："
    )
    assert rendered.continuations[:4] == tuple(map(NextToken, ("A", "：A", "B", "：B")))
    assert len(rendered.continuations) == 8


def test_cn_mixtral_adds_up_the_two_entries() -> None:
    scores = tuple(ContinuationScore(-float(i), 1, False) for i in range(8))
    combined = TASK.protocols["cn-mixtral"].combine(ScoreResponse(scores))
    assert combined == ((-1.0, -5.0, -9.0, -13.0), (2, 2, 2, 2))


def test_oc_ppl_repeats_the_header_and_joins_turns_by_newlines() -> None:
    turn = f"{HEADER}\n{QUESTION}答案: "
    assert texts(synthetic("ceval@oc-ppl", "logic", 1)) == tuple(
        f"{turn}\nB\n{turn}\n{letter}" for letter in "ABCD"
    )


def test_hendrycks_style_is_the_mmlu_prompt() -> None:
    rendered = synthetic("ceval@hendrycks-style", "computer_network", 1)
    assert rendered == ScoreRequest(
        "The following are multiple choice questions (with answers) about  computer network.\n\n"
        f"{QUESTION}Answer: B\n\n{QUESTION}Answer:",
        (" A", " B", " C", " D"),
    )


def test_oc_gen_repeats_the_header_in_every_turn() -> None:
    ask = f"{HEADER}\n{QUESTION}答案: "
    assert turns("ceval@oc-gen", "logic", 1) == [("user", ask), ("assistant", "B"), ("user", ask)]


@pytest.mark.parametrize(("text", "letter"), FIRST_CAPITALS)
def test_oc_gen_takes_the_first_capital(text: str, letter: str | None) -> None:
    assert reply(TASK, "oc-gen", text) == (letter, {"acc": float(letter == "B")})


def test_oc_gen_of_a_withheld_answer_has_no_score() -> None:
    assert reply(TASK, "oc-gen", "C", None) == ("C", {})


def test_official_cot_begins_the_reasoning() -> None:
    (resolved,) = resolve("ceval@official-cot")
    fields = {"question": "问", "A": "1", "B": "2", "C": "3", "D": "4"}
    shot = Sample("0", "logic", fields | {"explanation": "1. 因为\n2. 所以"}, "B")
    rendered = resolved.protocol.render(
        PromptInput("logic", "逻辑学", (shot,), Sample("1", "logic", fields, "C"))
    )
    assert isinstance(rendered, GenerateRequest)
    ask = "问\nA. 1\nB. 2\nC. 3\nD. 4\n答案：让我们一步一步思考，\n"
    assert rendered.prompt == (f"{HEADER}\n\n{ask}1. 因为\n2. 所以\n所以答案是B。\n\n{ask}1. ")
    assert rendered.sampling is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("所以答案是B。", "B"),
        ("答案是A。不对，答案是 B。", "B"),
        ("答案是b.。", "B"),
        ("答案为B。", "B"),
        ("答案为C。答案是B。", "B"),
        ("所以选项B是正确的。", "B"),
        ("答案是A或B。", None),
        ("答案是B，因为如此。", None),
        ("答案是B", None),
        ("答案是\nB。", None),
        ("B", None),
        ("", None),
        ("答案是" * 300_000, None),
        ("答案是B。" * 200_000, "B"),
    ],
)
def test_official_cot_reads_the_last_stated_answer(text: str, letter: str | None) -> None:
    assert reply(TASK, "official-cot", text) == (letter, {"acc": float(letter == "B")})


def test_groups_name_subjects() -> None:
    assert len(TASK.subsets) == 52
    check_groups(TASK)
    sizes = {name: len(group) for name, group in TASK.protocols["official"].groups.members.items()}
    assert sizes == {"STEM": 20, "Social Science": 10, "Humanities": 11, "Other": 11, "Hard": 8}


def test_averages_and_splits() -> None:
    facts = {name: (p.average, p.groups.average, p.default_split) for name, p in TASK.protocols.items()}
    assert facts == {
        "official": ("macro", "macro", "val"),
        "lm-eval": ("micro", "micro", "val"),
        "cn-mixtral": ("micro", "micro", "val"),
        "oc-ppl": ("macro", "macro", "val"),
        "hendrycks-style": ("macro", "macro", "test"),
        "oc-gen": ("macro", "macro", "val"),
        "official-cot": ("macro", "macro", "val"),
    }


@pytest.mark.data
def test_group_sizes(official_data: Path) -> None:
    sizes = group_sizes(TASK, "official", "val", official_data)
    assert sum(n for group, (_, n) in sizes.items() if group != "Hard") == 1346


@pytest.mark.data
def test_data_is_the_official_release(official_data: Path) -> None:
    checks = verify(TASK, open_source(str(official_data)))
    assert [(c.split, c.samples, c.problem) for c in checks] == [
        ("dev", 260, None),
        ("val", 1346, None),
        ("test", 12342, None),
    ]


def test_test_answers_are_withheld_unless_the_file_has_them(tmp_path: Path) -> None:
    hidden, released, half = (tmp_path / f"{name}.csv" for name in ("hidden", "released", "half"))
    hidden.write_text("id,question,A,B,C,D\n0,q,1,2,3,4\n", encoding="utf-8")
    released.write_text("id,question,A,B,C,D,answer\n0,q,1,2,3,4,C\n", encoding="utf-8")
    half.write_text("id,question,A,B,C,D,answer\n0,q,1,2,3,4,\n", encoding="utf-8")
    targets = [TASK.parse(file, "test", "logic")[0].target for file in (hidden, released, half)]
    assert targets == [None, "C", None]
    with pytest.raises(DataError, match=r"hidden\.csv:2: no answer column in the val split"):
        TASK.parse(hidden, "val", "logic")
    with pytest.raises(DataError, match=r"half\.csv:2: answer '' is not one of A, B, C, D"):
        TASK.parse(half, "val", "logic")
