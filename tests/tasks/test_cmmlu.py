from __future__ import annotations

import re
from pathlib import Path

import pytest
from _exam import (
    FIRST_CAPITALS,
    check_groups,
    context,
    fingerprint,
    group_sizes,
    reply,
    request,
    synthetic,
    texts,
    turns,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.data.source import open_source, verify
from evalkit.prompts import prompt_text
from evalkit.registry import get_task
from evalkit.task import PromptInput
from evalkit.types import GenerateRequest, Sample, ScoreRequest

TASK = get_task("cmmlu")
QUESTION = " 1+1=? \nA. 1\nB. 2\nC. 3\nD. 4\n"
HEADER = "以下是关于农学的单项选择题，请直接给出正确答案的选项。"


@pytest.mark.data
@pytest.mark.parametrize(
    ("spec", "golden"),
    [
        ("cmmlu@official:test:0shot", (105, "9437b7e70e915c99")),
        ("cmmlu@official:test:5shot", (365, "21def2c973971992")),
        ("cmmlu@lm-eval:test:0shot", (101, "8ceb8ff7709ea004")),
        ("cmmlu@lm-eval:test:5shot", (346, "2ae61360fcab4d41")),
        ("cmmlu@cn-mixtral:test:0shot", (72, "c5ffcbbad59ae1d4")),
        ("cmmlu@cn-mixtral:test:5shot", (349, "938aefd616f0c150")),
    ],
)
def test_golden_prompts(spec: str, golden: tuple[int, str], official_data: Path) -> None:
    assert fingerprint(context(spec, "agronomy", official_data)) == golden


@pytest.mark.data
def test_golden_user_turn_of_oc_ppl(official_data: Path) -> None:
    text = texts(request("cmmlu@oc-ppl:test:0shot", "agronomy", official_data))[1]
    assert fingerprint(text.removesuffix("\n答案是: B")) == (99, "d86cbedd517872c9")


def test_official_prompt() -> None:
    assert synthetic("cmmlu", "agronomy", 1) == ScoreRequest(
        f"{HEADER}\n\n题目：{QUESTION}答案是：B\n\n题目：{QUESTION}答案是：", ("A", "B", "C", "D")
    )


def test_official_last_resort_is_the_question_without_header() -> None:
    overlong = TASK.protocols["official"].overlong
    assert (overlong.policy, overlong.limit) == ("drop_longest_shot", 2048)
    assert overlong.bare is not None
    sample = Sample("0", "agronomy", {"question": "q", "A": "1", "B": "2", "C": "3", "D": "4"}, "A")
    rendered = overlong.bare(PromptInput("agronomy", "农学", (sample,), sample))
    assert rendered == ScoreRequest("题目：q\nA. 1\nB. 2\nC. 3\nD. 4\n答案是：", ("A", "B", "C", "D"))


def test_oc_ppl_repeats_the_header_and_joins_turns_by_newlines() -> None:
    turn = f"{HEADER}\n题目：{QUESTION}答案是: "
    assert texts(synthetic("cmmlu@oc-ppl", "agronomy", 1)) == tuple(
        f"{turn}B\n{turn}{letter}" for letter in "ABCD"
    )


@pytest.mark.data
def test_golden_user_turn_of_oc_gen(official_data: Path) -> None:
    rendered = request("cmmlu@oc-gen:test:0shot", "agronomy", official_data)
    assert fingerprint(prompt_text(rendered)) == (99, "d86cbedd517872c9")


def test_oc_gen_has_no_cue_but_answers_with_one() -> None:
    ask = f"{HEADER}\n题目：{QUESTION}".removesuffix("\n")
    expected = [("user", ask), ("assistant", "答案是: B"), ("user", ask)]
    assert turns("cmmlu@oc-gen", "agronomy", 1) == expected


@pytest.mark.parametrize(("text", "letter"), FIRST_CAPITALS)
def test_oc_gen_takes_the_first_capital(text: str, letter: str | None) -> None:
    assert reply(TASK, "oc-gen", text) == (letter, {"acc": float(letter == "B")})


def test_official_cot_asks_for_an_analysis_after_direct_examples() -> None:
    rendered = synthetic("cmmlu@official-cot", "agronomy", 1)
    assert isinstance(rendered, GenerateRequest)
    assert rendered.prompt == (
        "以下是关于农学的单项选择题，请分析并选出正确答案。\n\n"
        f"题目：{QUESTION}答案是：B\n\n题目：{QUESTION}逐步分析并给出答案选项。"
    )
    bare = TASK.protocols["official-cot"].overlong.bare
    assert bare is not None
    sample = Sample("0", "agronomy", {"question": " 1+1=? ", "A": "1", "B": "2", "C": "3", "D": "4"}, "B")
    assert bare(PromptInput("agronomy", "农学", (), sample)) == GenerateRequest(
        f"题目：{QUESTION}逐步分析并给出答案选项。", rendered.max_new_tokens
    )


def extract_choice(response: str) -> str | None:
    """The authors' rule, written with their patterns; None where they guess."""
    if response[:1] and response[0] in "ABCD":
        return response[0]
    single = [
        r"答案(?:选项)?(?:是|为)：? ?([ABCD])",
        r"答案(?:是|为)选项 ?([ABCD])",
        r"故?选择?：? ?([ABCD])",
        r"([ABCD]) ?选?项(?:是|为)?正确",
        r"正确的?选项(?:是|为) ?([ABCD])",
        r"答案(?:应该)?(?:是|为)([ABCD])",
        r"选项 ?([ABCD]) ?(?:是|为)?正确",
        r"选择答案 ?([ABCD])",
        r"答案?：?([ABCD])",
        r"([ABCD])(?:选?项)?是?符合题意",
        r"答案选项：? ?([ABCD])",
        r"答案(?:选项)?为(?:.*?)([ABCD])",
    ]
    for pattern in single:
        if match := re.search(pattern, response):
            return match[1]
    for pattern in (r"([ABCD])(?:.*?)当选", r"([ABCD])(?:.*?)正确"):
        if match := re.search(pattern, response):
            while match:
                answer = match[1]
                match = re.search(pattern, match[0][1:])
            return answer
    if match := re.search(r"[^不]是：? ?([ABCD])", response):
        return match[1]
    only = re.match(r"^[^ABCD]*([ABCD])[^ABCD]*$", response)
    return only[1] if only else None


PIECES = [
    "A",
    "B",
    "C",
    "答案",
    "选项",
    "选",
    "项",
    "是",
    "为",
    "：",
    " ",
    "正确",
    "当选",
    "不",
    "\n",
    "故",
    "择",
    "的",
]
PIECES += ["符合题意", "应该", "因", "，"]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@settings(max_examples=600, deadline=None)
def test_official_cot_reads_a_reply_as_its_authors_do(text: str) -> None:
    letter = extract_choice(text)
    assert reply(TASK, "official-cot", text) == (letter, {"acc": float(letter == "B")})


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B。因为", "B"),
        ("分析后，答案是：B", "B"),
        ("在A和B中，B正确", "B"),
        ("在A和B中，B当选", "B"),
        ("我不知道", None),
        ("A、B、C、D都有可能", "A"),
        ("可能是 x，A 或者 B", None),
        ("", None),
        ("x" + "A" * 1_000_000, None),
        ("x正确" + "答案为" * 300_000, None),
        ("x" + "A 正" * 300_000, None),
    ],
)
def test_official_cot_never_guesses(text: str, letter: str | None) -> None:
    assert reply(TASK, "official-cot", text) == (letter, {"acc": float(letter == "B")})


def test_groups_name_subjects() -> None:
    assert len(TASK.subsets) == 67
    check_groups(TASK)


def test_averages() -> None:
    averages = {name: p.average for name, p in TASK.protocols.items()}
    assert averages == {
        "official": "macro",
        "lm-eval": "micro",
        "cn-mixtral": "micro",
        "oc-ppl": "macro",
        "oc-gen": "macro",
        "official-cot": "macro",
    }


@pytest.mark.data
def test_group_sizes(official_data: Path) -> None:
    assert group_sizes(TASK, "official", "test", official_data) == {
        "STEM": (17, 2531),
        "Humanities": (13, 2489),
        "Social Science": (22, 3652),
        "Other": (15, 2910),
        "China specific": (15, 2572),
    }
    assert group_sizes(TASK, "cn-mixtral", "test", official_data) == {
        "STEM": (17, 2531),
        "Humanities": (11, 1962),
        "Social Science": (13, 2260),
        "Other": (11, 2257),
        "China specific": (15, 2572),
    }


@pytest.mark.data
def test_data_is_the_official_release(official_data: Path) -> None:
    checks = verify(TASK, open_source(str(official_data)))
    assert [(c.split, c.samples, c.problem) for c in checks] == [("dev", 335, None), ("test", 11582, None)]
