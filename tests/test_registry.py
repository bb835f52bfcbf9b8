from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from evalkit import registry
from evalkit.errors import UsageError
from evalkit.registry import get_task, load_file, suites, task_names

HEAVY = (
    "torch",
    "transformers",
    "pandas",
    "datasets",
    "huggingface_hub",
    "pydantic",
    "jinja2",
    "yaml",
    "numpy",
)


def test_built_in_tasks_are_modules_named_like_their_task() -> None:
    assert {"ceval", "cmmlu", "mmlu"} <= set(task_names())
    assert all(get_task(name).name == name for name in task_names())


def test_importing_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys, evalkit.registry as r, evalkit.spec\n"
        "for name in r.task_names(): r.get_task(name)\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_suites_name_known_tasks() -> None:
    assert suites()["chinese"].tasks == ("ceval", "cmmlu")
    assert suites()["knowledge"].tasks == ("mmlu", "ceval", "cmmlu")
    for suite in suites().values():
        assert suite.description
        assert set(suite.tasks) <= set(task_names())


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch):
    def install(**points: str) -> None:
        group = registry.ENTRY_POINT_GROUP
        found = [EntryPoint(name, value, group) for name, value in points.items()]
        registry._entry_points.cache_clear()
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)

    yield install
    registry._entry_points.cache_clear()


def test_plugins_are_loaded_when_asked_for(plugin) -> None:
    plugin(theirs="evalkit.tasks.mmlu:TASK", whole="evalkit.tasks.ceval", broken="no_such_module:TASK")
    assert "theirs" in task_names()
    assert get_task("theirs") is get_task("mmlu")
    assert get_task("whole") is get_task("ceval")
    with pytest.raises(UsageError, match=r"plug-in 'broken' \(no_such_module:TASK\) cannot be loaded"):
        get_task("broken")


def test_plugins_must_be_tasks_with_names_of_their_own(plugin) -> None:
    plugin(odd="pathlib:Path")
    with pytest.raises(UsageError, match="pathlib:Path is no evalkit"):
        get_task("odd")
    plugin(mmlu="evalkit.tasks.ceval:TASK")
    with pytest.raises(UsageError, match="has the name of another task"):
        task_names()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_python_files_expose_one_task_or_several(tmp_path: Path) -> None:
    head = "from dataclasses import replace\nfrom evalkit.tasks import mmlu\n"
    one = write(tmp_path / "one.py", head + "TASK = replace(mmlu.TASK, name='one')\nOTHER = TASK\n")
    two = write(tmp_path / "two.py", head + "a = replace(mmlu.TASK, name='a')\nb = replace(a, name='b')\n")
    assert [task.name for task in load_file(one)] == ["one"]
    assert [task.name for task in load_file(two)] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines no task"),
        ("TASK = 3\n", "defines no task"),
        ("import os\n\nos.no_such\n", "mine.py:3: AttributeError"),
        ("x = 1\ndef broken(:\n", "mine.py:2: SyntaxError"),
    ],
)
def test_errors_in_python_files_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_file(write(tmp_path / "mine.py", text))
    assert str(tmp_path) in str(raised.value)
    assert message in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nope\.yaml does not exist"):
        load_file(tmp_path / "nope.yaml")
