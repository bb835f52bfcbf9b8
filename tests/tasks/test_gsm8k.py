from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from _generation import HOSTILE, generated, golden, judge, records, resolved, write_lines

from evalkit.data.source import open_source, verify
from evalkit.errors import DataError, UsageError
from evalkit.prompts import prompt_text
from evalkit.registry import get_task
from evalkit.spec import resolve
from evalkit.types import Message, Sample

TASK = get_task("gsm8k")
SAMPLE = Sample("0", "main", {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"}, "2")


def reply(protocol: str, text: str, target: str = "18") -> dict[str, float]:
    sample = Sample("0", "main", {"question": "q", "answer": f"#### {target}"}, target)
    return dict(judge(f"gsm8k@{protocol}", sample, text).metrics)


# -- prompts ------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("gsm8k@lm-eval:test:0shot", (298, "b7d0342d147aa332")),
        ("gsm8k@cot8:test:8shot", (2427, "901fead9abd2535b")),
        ("gsm8k@oc4:test:0shot", (323, "639b5a9d26061c9f")),
        ("gsm8k@oc4:test:4shot", (4920, "5071c887e80350cd")),
    ],
)
def test_golden_prompts(spec: str, expected: tuple[int, str], official_data: Path) -> None:
    assert golden(spec, "main", official_data) == expected


def test_lm_eval_shows_worked_answers_with_their_calculator_notes() -> None:
    request = generated("gsm8k@lm-eval", SAMPLE, [SAMPLE])
    assert request.prompt == "Question: 1+1?\nAnswer: 1+1=<<1+1=2>>2\n#### 2\n\nQuestion: 1+1?\nAnswer:"
    assert request.stop == ("Question:", "</s>", "<|im_end|>")
    assert request.sampling is None


def test_zero_shot_chain_of_thought_ends_with_the_cue() -> None:
    request = generated("gsm8k@cot-zeroshot", SAMPLE)
    assert request.prompt == "Q: 1+1?\nA: Let's think step by step."
    assert request.stop == ("Q:", "</s>", "<|im_end|>")


@pytest.mark.data
def test_oc4_asks_in_nine_turns_and_stops_nowhere(official_data: Path) -> None:
    one = resolved("gsm8k@oc4")
    source = open_source(str(official_data))
    samples = source.load(TASK, "test", "main")
    shots = source.shots(one, "main", samples[:2])
    request = generated("gsm8k@oc4", samples[0], shots[0])
    assert isinstance(request.prompt, tuple)
    assert [message.role for message in request.prompt] == ["user", "assistant"] * 4 + ["user"]
    assert request.prompt[1].content.endswith("\nThe answer is 4\n")
    assert request.prompt[-1] == Message(
        "user", f"Question: {samples[0].fields['question']}\nLet's think step by step\nAnswer:"
    )
    assert (request.max_new_tokens, request.stop) == (512, ())


@pytest.mark.data
def test_lm_eval_draws_other_examples_for_every_question(official_data: Path) -> None:
    source = open_source(str(official_data))
    samples = source.load(TASK, "test", "main")
    shots = source.shots(resolved("gsm8k"), "main", samples[:9])
    assert len({tuple(s.id for s in each) for each in shots}) == 9


@pytest.mark.parametrize(
    ("protocol", "shots"), [("cot8", 9), ("oc4", 5), ("cot-zeroshot", 1), ("lm-eval", 6)]
)
def test_there_are_no_more_examples_than_published(protocol: str, shots: int) -> None:
    with pytest.raises(UsageError, match=f"takes 0 to {shots - 1} shots, not {shots}"):
        resolve(f"gsm8k@{protocol}:{shots}shot")


# -- data ---------------------------------------------------------------------------------------------


@pytest.mark.data
def test_sizes_and_answers_of_the_official_data(official_data: Path) -> None:
    checks = verify(TASK, open_source(str(official_data)))
    assert [(c.split, c.samples, c.problem) for c in checks] == [("train", 7473, None), ("test", 1319, None)]
    test = records("gsm8k", "main", official_data, "test")
    assert [(s.id, s.target) for s in test if s.target is not None and s.target.startswith("-")] == [
        ("489", "-10"),
        ("1113", "-3"),
    ]
    assert sum("," in s.fields["answer"].rpartition("#### ")[2] for s in test) == 14
    assert not any("," in str(s.target) for s in test)


@pytest.mark.parametrize(
    ("lines", "line", "problem"),
    [
        ([{"question": "q", "answer": "#### 1"}, {"question": "q"}], 2, "lacks answer"),
        ([{"answer": "#### 1"}], 1, "lacks question"),
        ([{"question": "q", "answer": "one"}], 1, "answer has no '#### <number>'"),
        ([{"question": "q", "answer": "#### one"}], 1, "answer has no '#### <number>'"),
        ([{"question": "q", "answer": "####1"}], 1, "answer has no '#### <number>'"),
        ([{"question": "q", "answer": 1}], 1, "answer is not a text"),
        ([{"question": "q\ud800", "answer": "#### 1"}], 1, "question is not a text"),
        ([{"question": "q", "answer": "#### 1"}, "", '{"question": "q", "ans'], 3, "not valid JSON"),
        (["[" * 100_000], 1, "not JSON that can be read"),
        (["9" * 10_000], 1, "not JSON that can be read"),
        (['["q", "a"]'], 1, "is not a JSON object"),
        ([], 1, "the file is empty"),
        (["", " "], 1, "the file is empty"),
    ],
)
def test_defects_name_file_and_line(tmp_path: Path, lines: list[object], line: int, problem: str) -> None:
    rows = [json.dumps(row) if isinstance(row, dict) else row for row in lines]
    path = write_lines(tmp_path / "test.jsonl", *rows)
    with pytest.raises(DataError) as raised:
        TASK.parse(path, "test", "main")
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert problem in str(raised.value)


def test_a_file_in_another_encoding_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_bytes(
        '{"question": "q", "answer": "#### 1"}\n{"question": "题目", "answer": "1"}'.encode("gb18030")
    )
    with pytest.raises(DataError, match=r"test\.jsonl:2: not UTF-8 text"):
        TASK.parse(path, "test", "main")


@pytest.mark.data
@pytest.mark.parametrize("protocol", ["cot8", "oc4"])
@pytest.mark.parametrize("altered", [False, True])
def test_missing_or_altered_exemplars_say_what_is_expected(
    protocol: str, altered: bool, tmp_path: Path, official_data: Path
) -> None:
    folder = tmp_path / "GSM8K"
    folder.mkdir()
    shutil.copy(official_data / "GSM8K/test.jsonl", folder)
    name = TASK.path(protocol, "main")
    if altered:
        (folder / name).write_bytes((official_data / "GSM8K" / name).read_bytes() + b"\n")
    one = resolved(f"gsm8k@{protocol}")
    source = open_source(str(tmp_path))
    samples = source.load(TASK, "test", "main")
    with pytest.raises(DataError) as raised:
        source.shots(one, "main", samples)
    message = str(raised.value)
    assert str(folder / name) in message
    assert "expected sha256 " in message
    assert ("lm-evaluation-harness" if protocol == "cot8" else "opencompass@4c87e77") in message
    assert ("is not the published file" if altered else "is missing") in message
    assert raised.value.exit_code == 4


# -- judging ------------------------------------------------------------------------------------------


def test_golden_extractions() -> None:
    text = "so 9 * 2 = $18 per day.\nThe answer is 18."
    assert reply("cot8", text) == {"strict": 1, "strict_fixed": 1, "flexible": 1, "invalid": 0}
    assert reply("oc4", text) == {"acc": 1, "acc_head": 1, "flexible": 1, "invalid": 0}
    assert reply("lm-eval", "#### -3", "-3") == {"strict": 1, "flexible": 1, "invalid": 0}
    assert reply("oc4", "#### -3", "-3") == {"acc": 0, "acc_head": 1, "flexible": 1, "invalid": 0}
    assert reply("oc4", "She makes $1,450,000.", "1450000") == {
        "acc": 1,
        "acc_head": 0,
        "flexible": 1,
        "invalid": 0,
    }


def test_the_published_strict_pattern_gives_up_a_digit_at_the_end() -> None:
    assert reply("cot8", "The answer is 18") == {"strict": 0, "strict_fixed": 1, "flexible": 1, "invalid": 0}
    assert reply("cot8", "The answer is 5", "5") == {
        "strict": 0,
        "strict_fixed": 1,
        "flexible": 1,
        "invalid": 1,
    }


@pytest.mark.parametrize("protocol", ["lm-eval", "cot8", "cot-zeroshot", "oc4"])
@pytest.mark.parametrize("text", ["", " ", "I do not know.", "The answer is ...", "#### ,", "\n\n18"])
def test_what_holds_no_answer_is_wrong_and_never_a_crash(protocol: str, text: str) -> None:
    metrics = reply(protocol, text)
    assert metrics[resolved(f"gsm8k@{protocol}").protocol.headline] == 0


def test_decimals_of_a_whole_number_count_in_todays_opencompass_only() -> None:
    metrics = reply("oc4", "The answer is 18.00")
    assert (metrics["acc"], metrics["acc_head"], metrics["flexible"]) == (0, 1, 0)


@pytest.mark.parametrize("protocol", ["lm-eval", "cot8", "oc4"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_completions_are_judged(protocol: str, name: str) -> None:
    metrics = reply(protocol, HOSTILE[name])
    assert set(metrics.values()) <= {0.0, 1.0}


def test_prompt_text_of_turns_is_their_contents() -> None:
    shot = Sample("0", "main", {"user": "u\n", "assistant": "a\n"}, None)
    assert prompt_text(generated("gsm8k@oc4", SAMPLE, [shot])) == (
        "u\na\nQuestion: 1+1?\nLet's think step by step\nAnswer:"
    )
