from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.data.source import open_source
from evalkit.errors import DataError, UsageError
from evalkit.spec import ResolvedTask, resolve
from evalkit.task import PromptInput
from evalkit.types import ScoreRequest
from evalkit.yaml_task import load_yaml_task

LABELS = """\
name: capitals
title: Capitals
data: {dev: dev.csv, test: test.csv}
shots_split: dev
shots: 1
id: "{{ id }}"
description_prompt: "About {{ subset_title }}.\\n\\n"
prompt: "{{ question }}\\nA. {{ A }}\\nB. {{ B }}\\nAnswer:"
choices: [A, B]
target: "{{ answer }}"
average: macro
"""

TEXTS = """\
name: endings
data:
  test: test.jsonl
prompt: "{{ start }}"
choices: options
target: "{{ right }}"
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    write("dev.csv", "id,question,A,B,answer\nd0,Capital of Italy?,Rome,None,A\n")
    write("test.csv", "id,question,A,B,answer\nt0,Capital of France?,007,Paris,B\n")
    write(
        "test.jsonl",
        '{"start": "Fire is", "options": ["hot", "cold", "wet"], "right": 0}\n\n'
        '{"start": "Ice is", "options": ["hot", "cold"], "right": 1}\n',
    )
    return write


def request(resolved: ResolvedTask, index: int = 0) -> ScoreRequest:
    task, source = resolved.task, open_source("sample")
    (subset, title), *_ = task.subsets.items()
    samples = source.load(task, resolved.split, subset)
    shots = source.shots(resolved, subset, samples)
    rendered = resolved.protocol.render(PromptInput(subset, title, shots[index], samples[index]))
    assert isinstance(rendered, ScoreRequest)
    return rendered


def test_labels(write) -> None:
    (resolved,) = resolve(str(write("task.yaml", LABELS)))
    assert resolved.name == "capitals@default:test:1shot"
    assert resolved.protocol.average == "macro"
    assert resolved.task.labels(2) == ("A", "B")
    assert request(resolved) == ScoreRequest(
        "About Capitals.\n\n"
        "Capital of Italy?\nA. Rome\nB. None\nAnswer: A\n\n"
        "Capital of France?\nA. 007\nB. Paris\nAnswer:",
        (" A", " B"),
    )
    (sample,) = open_source("sample").load(resolved.task, "test", "capitals")
    assert (sample.id, sample.target) == ("t0", "B")


def test_texts_of_any_number_are_predicted_by_index(write) -> None:
    (resolved,) = resolve(str(write("task.yml", TEXTS)))
    assert resolved.name == "endings@default:test:0shot"
    assert request(resolved) == ScoreRequest("Fire is", (" hot", " cold", " wet"))
    assert request(resolved, 1) == ScoreRequest("Ice is", (" hot", " cold"))
    assert resolved.task.labels(3) == ("0", "1", "2")
    samples = open_source("sample").load(resolved.task, "test", "endings")
    assert [(sample.id, sample.target) for sample in samples] == [("0", "0"), ("1", "1")]


def test_templates_as_options_and_examples_with_their_text(write) -> None:
    text = LABELS.replace("choices: [A, B]", 'choices: ["{{ A }}", "{{ B }}"]').replace(
        'target: "{{ answer }}"', "target: \"{{ 'AB'.index(answer) }}\""
    )
    (resolved,) = resolve(str(write("task.yaml", text)))
    assert resolved.task.choices == ("0", "1")
    rendered = request(resolved)
    assert rendered.continuations == (" 007", " Paris")
    assert "Answer: Rome\n\nCapital of France?" in rendered.context


def test_subsets_have_files_of_their_own(write) -> None:
    write("test_eu.csv", "id,question,A,B,answer\n0,q,1,2,A\n")
    text = LABELS.replace("{dev: dev.csv, test: test.csv}", "{test: 'test_{subset}.csv'}").replace(
        "shots_split: dev\nshots: 1\n", "subsets: {eu: Europe, as: Asia}\n"
    )
    task = load_yaml_task(write("task.yaml", text))
    assert dict(task.subsets) == {"eu": "Europe", "as": "Asia"}
    assert len(open_source("sample").load(task, "test", "eu")) == 1
    with pytest.raises(DataError, match=r"test_as\.csv does not exist; see `data` in the task's file"):
        open_source("sample").load(task, "test", "as")


def test_a_json_list_and_a_trailing_newline_of_a_prompt(write) -> None:
    write("test.json", '[{"start": "x", "options": ["a"], "right": "0"}]')
    text = TEXTS.replace("test.jsonl", "test.json").replace('"{{ start }}"', '"{{ start }}\\n"')
    assert request(*resolve(str(write("task.yaml", text)))).context == "x\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("average: macro", "averag: macro", 11, "unknown key; known: name, title"),
        ("average: macro", "average: mean", 11, "average: Input should be 'macro'"),
        ("name: capitals", "name: a@b", 1, "name: String should match pattern"),
        (
            "shots_split: dev",
            "shots_split: train",
            1,
            "shots_split 'train' is not a split of data (dev, test)",
        ),
        ("test: test.csv", "test: '{subset}.csv'", 1, "{subset} in the path and the key subsets go together"),
        ("{{ question }}", "{{ question }", 8, "prompt: template error"),
        ("choices: [A, B]", "choices: 'a b c'", 9, "choices: expression error"),
        ("choices: [A, B]", "choices: []", 1, "choices is empty"),
        ("title: Capitals", "title: [", 4, "not valid YAML"),
    ],
)
def test_errors_name_file_and_line(write, old: str, new: str, line: int, message: str) -> None:
    path = write("task.yaml", LABELS.replace(old, new))
    with pytest.raises(UsageError) as raised:
        load_yaml_task(path)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert message in str(raised.value)


def test_a_list_is_no_task(write) -> None:
    with pytest.raises(UsageError, match="a task file is a mapping"):
        load_yaml_task(write("task.yaml", "- a\n"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{{ question }}",
            "{{ questoin }}",
            r"task\.yaml:8: prompt: 'questoin' is undefined \(capitals, sample",
        ),
        ("{{ answer }}", "C", r"task\.yaml:10: target: 'C' is not one of A, B \(.*test\.csv:2\)"),
        (
            "{{ question }}",
            "{{ ''.__class__.__mro__ }}",
            r"task\.yaml:8: prompt: access to attribute '__class__'",
        ),
    ],
)
def test_templates_are_strict_and_sandboxed(write, old: str, new: str, message: str) -> None:
    (resolved,) = resolve(str(write("task.yaml", LABELS.replace(old, new))))
    with pytest.raises(UsageError, match=message):
        request(resolved)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.jsonl", '{"start": 1}\n{"start"\n', r"test\.jsonl:2: not valid JSON"),
        ("test.jsonl", "3\n", r"test\.jsonl:1: is not a JSON object"),
        ("test.json", "{}", r"test\.json:1: a JSON data file is one list"),
        ("test.txt", "x", r"test\.txt: cannot tell the format"),
    ],
)
def test_broken_data_names_file_and_line(write, name: str, content: str, message: str) -> None:
    write(name, content)
    text = TEXTS.replace("test.jsonl", name).replace(
        "choices: options", "choices: [0, 1]".replace("0, 1", "'0', '1'")
    )
    task = load_yaml_task(write("task.yaml", text.replace("{{ right }}", "0")))
    with pytest.raises(DataError, match=message):
        open_source("sample").load(task, "test", "endings")


def test_repeated_ids_are_refused(write) -> None:
    write("test.csv", "id,question,A,B,answer\n0,q,1,2,A\n0,q,1,2,A\n")
    task = load_yaml_task(write("task.yaml", LABELS))
    with pytest.raises(DataError, match=r"test\.csv:3: repeated id '0'"):
        open_source("sample").load(task, "test", "capitals")
