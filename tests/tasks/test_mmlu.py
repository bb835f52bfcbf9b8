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
from evalkit.registry import get_task
from evalkit.types import NextToken, ScoreRequest

TASK = get_task("mmlu")


@pytest.mark.data
@pytest.mark.parametrize(
    ("spec", "golden"),
    [
        ("mmlu@official:test:0shot", (196, "0fd4aa7bf568c18f")),
        ("mmlu@official:test:5shot", (994, "da2912d4e148f4ed")),
        ("mmlu@lm-eval:test:0shot", (195, "04ebc0806ad169c8")),
        ("mmlu@lm-eval:test:5shot", (993, "ff9b00310e214bea")),
    ],
)
def test_golden_prompts(spec: str, golden: tuple[int, str], official_data: Path) -> None:
    assert fingerprint(context(spec, "abstract_algebra", official_data)) == golden


def test_official_prompt_has_two_spaces_and_keeps_its_header_without_shots() -> None:
    rendered = synthetic("mmlu:0shot", "abstract_algebra", 0)
    assert rendered == ScoreRequest(
        "The following are multiple choice questions (with answers) about  abstract algebra.\n\n"
        " 1+1=? \nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",
        (" A", " B", " C", " D"),
    )


def test_lm_eval_strips_the_question_and_has_one_space() -> None:
    rendered = synthetic("mmlu@lm-eval", "abstract_algebra", 1)
    assert isinstance(rendered, ScoreRequest)
    assert rendered.context == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "1+1=?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        "1+1=?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )


def test_cn_mixtral_asks_the_official_prompt_for_vocabulary_entries() -> None:
    rendered, official = (synthetic(f"mmlu@{p}", "virology", 2) for p in ("cn-mixtral", "official"))
    assert isinstance(rendered, ScoreRequest)
    assert isinstance(official, ScoreRequest)
    assert rendered.context == official.context
    assert rendered.continuations == tuple(map(NextToken, "ABCD"))


def test_oc_ppl_compares_whole_texts() -> None:
    question = " 1+1=? \nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: "
    header = "The following are multiple choice questions (with answers) about  virology.\n\n"
    assert texts(synthetic("mmlu@oc-ppl", "virology", 1)) == tuple(
        f"{header}{question}B\n{question}{letter}" for letter in "ABCD"
    )


def test_oc_gen_repeats_hint_and_cue_in_every_turn() -> None:
    ask = (
        "There is a single choice question about abstract algebra. Answer the question by replying "
        "A, B, C or D.\nQuestion:  1+1=? \nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: "
    )
    expected = [("user", ask), ("assistant", "B\n")] * 2 + [("user", ask)]
    assert turns("mmlu@oc-gen", "abstract_algebra", 2) == expected


@pytest.mark.parametrize(("text", "letter"), FIRST_CAPITALS)
def test_oc_gen_takes_the_first_capital(text: str, letter: str | None) -> None:
    assert reply(TASK, "oc-gen", text) == (letter, {"acc": float(letter == "B")})


def test_groups_name_subjects() -> None:
    assert len(TASK.subsets) == 57
    check_groups(TASK)


def test_anatomy_is_other_for_its_authors_and_stem_for_the_harnesses() -> None:
    home = {
        name: next(group for group, members in p.groups.members.items() if "anatomy" in members)
        for name, p in TASK.protocols.items()
    }
    assert home == {
        "official": "Other",
        "cn-mixtral": "Other",
        "lm-eval": "STEM",
        "oc-ppl": "STEM",
        "oc-gen": "STEM",
    }


def test_averages() -> None:
    averages = {name: (p.average, p.groups.average) for name, p in TASK.protocols.items()}
    assert averages.pop("oc-ppl") == averages.pop("oc-gen") == ("macro", "macro")
    assert set(averages.values()) == {("micro", "micro")}


@pytest.mark.data
def test_group_sizes(official_data: Path) -> None:
    assert group_sizes(TASK, "official", "test", official_data) == {
        "STEM": (18, 3018),
        "Humanities": (13, 4705),
        "Social Sciences": (12, 3077),
        "Other": (14, 3242),
    }
    harness = group_sizes(TASK, "lm-eval", "test", official_data)
    assert (harness["STEM"], harness["Other"]) == ((19, 3153), (13, 3107))


@pytest.mark.data
def test_data_is_the_official_release(official_data: Path) -> None:
    checks = verify(TASK, open_source(str(official_data)))
    assert [(c.split, c.samples, c.problem) for c in checks] == [
        ("dev", 285, None),
        ("val", 1531, None),
        ("test", 14042, None),
    ]
