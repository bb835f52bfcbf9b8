from __future__ import annotations

from pathlib import Path

import pytest
from _exam import check_groups, context, fingerprint, group_sizes, request, synthetic, texts

from evalkit.data.source import open_source, verify
from evalkit.registry import get_task
from evalkit.task import PromptInput
from evalkit.types import Sample, ScoreRequest

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
