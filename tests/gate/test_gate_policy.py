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
        ("alpha: 2020-99-99\n", r"p\.yaml:1: alpha: must be a number$"),
        ("alpha: !!int abc\n", r"p\.yaml:1: alpha: must be a whole number"),
        ("rules:\n- margin: !!float abc\n", r"p\.yaml:2: rules\[0\]\.margin: must be a number$"),
        ("subset: !!bool x\n", r"p\.yaml:1: subset: must be true or false$"),
        ("alpha: !!map x\n", r"p\.yaml:1: alpha: must be a mapping$"),
        (f"rules:\n- min_samples: {'9' * 5000}\n", r"p\.yaml:2: rules\[0\]\.min_samples: must be a whole"),
        ("rules: &a\n- *a\n", r"p\.yaml:2: .*aliases are not read"),
        ("? [a]\n: b\n", r"p\.yaml:1: a key must be a text$"),
        ("<<: {alpha: 0.01}\n", r"p\.yaml:1: <<: unknown key"),
        ('power: 0.9\nbaseline: "\\ud800"\n', r"p\.yaml:2: .*surrogate"),
        ('baseline: "\\UFFFFFFFF"\n', r"p\.yaml: .*no character"),
        ("power: 0.9\n# \x07\n", r"p\.yaml:2: .*U\+0007"),
        (f"rules: {'[' * 2000}", r"p\.yaml: nested too deeply"),
        ("rules:\n- margin: yes\n", r"p\.yaml:2: rules\[0\]\.margin: must be a number$"),
        ("rules:\n- max_errors: yes\n", r"p\.yaml:2: rules\[0\]\.max_errors: must be a number of samples"),
        ('alpha: "0.05"\n', r"p\.yaml:1: alpha: must be a number$"),
        ("subset: 1\n", r"p\.yaml:1: subset: must be true or false$"),
        ("rules:\n- tasks: cmmlu\n", r"p\.yaml:2: rules\[0\]\.tasks: must be a list$"),
        ("alpha: 1.0e-17\n", r"p\.yaml:1: alpha: must be greater than or equal to 0\.000001$"),
        ("!!python/object:os.system {}\n", r"p\.yaml: the tag .*os\.system is not read$"),
        ("alpha: !!python/name:os.system\n", r"p\.yaml:1: alpha: the tag .*os\.system is not read$"),
        ('"\\ud800": 1\n', r"p\.yaml:1: a key must be a text$"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=f"^{expected}"):
        parse(text, "p.yaml")


def test_aliases_cannot_make_a_small_file_a_huge_one() -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(UsageError, match=r"^p\.yaml:2: "):
        parse("\n".join(["a0: &a0 x", *levels]), "p.yaml")


def test_whole_numbers_and_exponents_are_numbers() -> None:
    policy = parse(
        "alpha: 1e-3\nrules:\n- {margin: 1, detect: 3, max_errors: 5, max_unparsed: 1%}\n", "p.yaml"
    ).policy
    assert (policy.alpha, policy.rules[0].margin) == (0.001, 1)
    assert (policy.rules[0].max_errors, policy.rules[0].max_unparsed) == ("5", "1%")


def test_what_is_not_written_down_is_named_as_a_default() -> None:
    policy = parse("alpha: 0.05\nrules:\n- margin: 1\n", "p.yaml")
    assert policy.at("alpha") == "p.yaml:1: alpha"
    assert policy.at("subset") == "p.yaml: subset (by default)"
    assert policy.where(0, "margin") == "p.yaml:3: rules[0].margin"
    assert policy.where(0, "min_samples") == "p.yaml:3: rules[0].min_samples (by default)"
    assert policy.where(None, "min_samples") == "p.yaml: min_samples (by default)"


def test_policies_that_ship_are_valid_and_found_by_name() -> None:
    assert load("default").policy.rules == (Rule(),)
    assert load("strict").policy.rules[0].test == "non-inferiority"
    assert load("quick").name == "quick"
    with pytest.raises(UsageError, match="did you mean default"):
        load("defualt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(str(tmp_path / "p.yaml"))
    for name in ("gate.json", "./gate", str(tmp_path)):
        with pytest.raises(UsageError, match=r"ends in \.yaml or \.yml"):
            load(name)
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbfalpha: 0.01\n")
    assert load(str(tmp_path / "p.yaml")).policy.alpha == 0.01
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load(str(tmp_path / "p.yaml"))
