from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import UsageError
from evalkit.spec import TaskSpec, resolve, resolve_all


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("ceval", TaskSpec("ceval")),
        ("cmmlu@lm-eval", TaskSpec("cmmlu", "lm-eval")),
        ("mmlu:val", TaskSpec("mmlu", split="val")),
        ("mmlu:0shot", TaskSpec("mmlu", shots=0)),
        ("mmlu@official:val:12shot", TaskSpec("mmlu", "official", "val", 12)),
        (" mmlu ", TaskSpec("mmlu")),
        ("./my.yaml@default:test:3shot", TaskSpec("./my.yaml", "default", "test", 3)),
        ("/a@b:c/my task.py:test", TaskSpec("/a@b:c/my task.py", split="test")),
        (r"C:\tasks\my.yml", TaskSpec(r"C:\tasks\my.yml")),
    ],
)
def test_parse(text: str, parsed: TaskSpec) -> None:
    assert TaskSpec.parse(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "mmlu@", "mmlu:5", "mmlu:5shot:val", "mmlu@a@b", "mm lu", "mmlu:-1shot"]
)
def test_bad_grammar_shows_the_grammar(text: str) -> None:
    with pytest.raises(UsageError, match=r"write <task>\[@<protocol>\]\[:<split>\]\[:<k>shot\]"):
        TaskSpec.parse(text)


def names(specs: str, **options: object) -> list[str]:
    return [one.name for one in resolve_all(specs, **options)]  # type: ignore[arg-type]


def test_defaults_come_from_the_protocol() -> None:
    assert names("mmlu,ceval,cmmlu") == [
        "mmlu@official:test:5shot",
        "ceval@official:val:5shot",
        "cmmlu@official:test:5shot",
    ]


def test_options_win_over_defaults_and_the_spec_over_options() -> None:
    assert names("mmlu,mmlu@lm-eval:val:2shot", shots=0, split="test") == [
        "mmlu@official:test:0shot",
        "mmlu@lm-eval:val:2shot",
    ]


def test_a_suite_is_its_tasks_and_hands_its_parts_on() -> None:
    assert names("chinese") == ["ceval@official:val:5shot", "cmmlu@official:test:5shot"]
    assert names("chinese@lm-eval:test:0shot") == ["ceval@lm-eval:test:0shot", "cmmlu@lm-eval:test:0shot"]


def test_a_task_named_twice_runs_once() -> None:
    assert names("ceval,knowledge,chinese") == names("ceval,mmlu,cmmlu")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mmul", "unknown task 'mmul'; did you mean mmlu"),
        ("chinesse", "did you mean chinese"),
        ("mmlu@offical", "unknown protocol of mmlu 'offical'; did you mean official"),
        ("mmlu:vall", "unknown split of mmlu 'vall'; did you mean val"),
        ("cmmlu:val", "unknown split of cmmlu 'val'; known: dev, test"),
        ("mmlu:6shot", "mmlu@official takes 0 to 5 shots, not 6"),
        ("mmlu:dev", "prompts would hold their own answers; use mmlu@official:dev:0shot"),
    ],
)
def test_unknown_names_offer_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        resolve(spec)
    assert message in str(raised.value)


def test_negative_shots_and_empty_specs_are_refused() -> None:
    with pytest.raises(UsageError, match="not -1"):
        resolve("mmlu", shots=-1)
    with pytest.raises(UsageError, match="empty task spec in 'mmlu,,ceval'"):
        resolve_all("mmlu,,ceval")


def test_a_user_file_is_a_task(tmp_path: Path) -> None:
    task = tmp_path / "mine.yaml"
    task.write_text(
        "name: mine\ndata: {dev: d.csv, test: t.csv}\nshots_split: dev\n"
        "prompt: '{{ q }}'\nchoices: [yes, no]\ntarget: '{{ a }}'\n".replace("yes, no", "'yes', 'no'"),
        encoding="utf-8",
    )
    assert names(f"{task}@default:test:3shot,{task}") == [
        "mine@default:test:3shot",
        "mine@default:test:0shot",
    ]


def test_two_different_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(
            "from evalkit.tasks.mmlu import TASK as T\nfrom dataclasses import replace\nTASK = replace(T)\n",
            encoding="utf-8",
        )
    with pytest.raises(UsageError, match="two tasks are called 'mmlu'"):
        resolve_all(f"{tmp_path / 'a.py'},{tmp_path / 'b.py'}")
