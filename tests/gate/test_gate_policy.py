"""Policies: strict keys, and errors that name file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import UsageError
from evalkit.gate.policy import Rule, load, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpha: 0.05\nmargins: 1\n", r"p\.yaml:2: margins: unknown key; known: alpha, correction"),
        (
            "rules:\n- tasks: [a]\n  margn: 1\n",
            r"p\.yaml:3: rules\[0\]\.margn: unknown key; known: tasks, metric",
        ),
        ("rules:\n- tasks: [a]\n- tasks: [b]\n  margin: x\n", r"p\.yaml:4: rules\[1\]\.margin: .*number"),
        ("rules:\n- test: better\n", r"p\.yaml:2: rules\[0\]\.test: .*'regression'"),
        (
            "rules:\n- tasks: [a]\n  test: equivalence\n",
            r"p\.yaml:2: rules\[0\]: test equivalence needs a margin",
        ),
        ("rules:\n- margin: 3\n", r"p\.yaml:2: rules\[0\]: detect 2 must be more than the margin of 3"),
        ("rules:\n- {test: non-inferiority, margin: 1, detect: 2}\n", r"p\.yaml:2: .*detect belongs to"),
        ("rules:\n- max_errors: 1.5\n", r"p\.yaml:2: rules\[0\]\.max_errors: "),
        ("rules:\n- max_errors: -1\n", r"p\.yaml:2: rules\[0\]\.max_errors: "),
        ("rules:\n- margin: .nan\n", r"p\.yaml:2: rules\[0\]\.margin: "),
        ("rules:\n- contamination: [leak]\n", r"p\.yaml:2: rules\[0\]\.contamination\[0\]: "),
        ("alpha: 0.7\n", r"p\.yaml:1: alpha: "),
        ("alpha: 0.05\nalpha: 0.5\n", r"p\.yaml:2: alpha: the key is given twice"),
        ("max_cost: {walls: 1}\n", r"p\.yaml:1: max_cost\.walls"),
        ("a: [\n", r"p\.yaml:2: not valid YAML"),
        ("- a\n", r"p\.yaml:1: a policy is a mapping"),
        ("", r"p\.yaml:1: a policy is a mapping"),
        ("!!python/object:os.system {}\n", r"p\.yaml:1: not valid YAML"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=f"^{expected}"):
        parse(text, "p.yaml")


def test_policies_that_ship_are_valid_and_found_by_name() -> None:
    assert load("default").policy.rules == (Rule(),)
    assert load("strict").policy.rules[0].test == "non-inferiority"
    with pytest.raises(UsageError, match="did you mean default"):
        load("defualt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(str(tmp_path / "p.yaml"))
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load(str(tmp_path / "p.yaml"))
