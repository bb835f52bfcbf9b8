"""The steps of the GitHub Action and of the GitLab template, run in a shell as their runners do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from made_runs import Made, flipped, write_run

from evalkit.gate.baseline import save

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github/actions/gate/action.yml"
GITLAB = ROOT / "ci/gitlab/evalkit-gate.yml"
HOSTILE = '"; touch pwned; $(touch pwned) `touch pwned` #'
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    before, after = flipped(1000, 80, 30)
    save(write_run(tmp_path / "a", Made(before)), tmp_path / "main.baseline.parquet")
    write_run(tmp_path / "same", Made(before))
    write_run(tmp_path / "worse", Made(after))
    return tmp_path


def shell(script: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | variables | {"PATH": path}
    return subprocess.run(
        [*BASH, script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def github(folder: Path, step: str, **inputs: str) -> subprocess.CompletedProcess[str]:
    """One step of the action, with its inputs put where `env` says."""
    action: dict[str, Any] = yaml.safe_load(ACTION.read_text())
    values = {name: spec.get("default", "") for name, spec in action["inputs"].items()} | inputs
    found = next(one for one in action["runs"]["steps"] if one["name"] == step)
    assert found["shell"] == "bash"
    assert "${{" not in found["run"]
    variables = {
        name: values[text.removeprefix("${{ inputs.").removesuffix(" }}")]
        for name, text in found["env"].items()
    }
    return shell(found["run"], folder, variables | {"GITHUB_STEP_SUMMARY": str(folder / "summary.md")})


@pytest.mark.parametrize(("candidate", "code", "failures"), [("same", 0, "0"), ("worse", 1, "1")])
def test_the_github_action_judges(folder: Path, candidate: str, code: int, failures: str) -> None:
    ran = github(folder, "Judge", baseline="main.baseline.parquet", candidate=candidate)
    assert ran.returncode == code, ran.stderr
    assert ET.parse(folder / "evalkit-gate.xml").getroot().attrib["failures"] == failures
    assert "evalkit gate: " in (folder / "summary.md").read_text()
    assert ran.stdout.count("\n::error ") == int(failures)


def test_inputs_of_the_github_action_are_no_commands(folder: Path) -> None:
    for name in ("baseline", "candidate", "policy", "junit"):
        inputs = {"baseline": "main.baseline.parquet", "candidate": "same", name: HOSTILE}
        ran = github(folder, "Judge", **inputs)
        assert ran.returncode == (0 if name == "junit" else 2)
    assert not (folder / "pwned").exists()


def test_the_github_action_installs_what_it_is_told(folder: Path) -> None:
    fake = folder / "bin/python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    expected = ["-m", "pip", "install", "--quiet", "--", "evalkit==0.1.0"]
    assert github(folder, "Install evalkit", install="evalkit==0.1.0").stdout.splitlines() == expected


@pytest.mark.parametrize(("candidate", "code"), [("same", 0), ("worse", 1), (HOSTILE, 2)])
def test_the_gitlab_job_judges(folder: Path, candidate: str, code: int) -> None:
    job: dict[str, Any] = yaml.safe_load(GITLAB.read_text())[".evalkit-gate"]
    variables = job["variables"] | {
        "EVALKIT_INSTALL": "",
        "EVALKIT_BASELINE": "main.baseline.parquet",
        "EVALKIT_CANDIDATE": candidate,
    }
    script = "\n".join(job["before_script"] + job["script"])
    for _ in range(2):
        ran = shell(script, folder, variables)
        assert ran.returncode == code, ran.stderr
    assert not (folder / "pwned").exists()
    found = ET.parse(folder / job["artifacts"]["reports"]["junit"]).getroot().attrib
    assert (found["failures"], found["errors"]) == (str(int(code == 1)), str(int(code == 2)))
    assert all((folder / path).is_file() for path in job["artifacts"]["paths"])
    assert (folder / "evalkit-gate.md").read_text().count("\n## ") == 0


def test_a_gitlab_job_that_fails_before_the_gate_shows_no_earlier_verdict(folder: Path) -> None:
    job: dict[str, Any] = yaml.safe_load(GITLAB.read_text())[".evalkit-gate"]
    for name in job["artifacts"]["paths"]:
        (folder / name).write_text("of an earlier job")
    assert shell("\n".join(job["before_script"]), folder, {"EVALKIT_INSTALL": "./none"}).returncode != 0
    assert not any((folder / name).exists() for name in job["artifacts"]["paths"])
