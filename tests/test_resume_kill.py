"""Real processes that are killed, interrupted or out of disk space, and the runs that go on from there."""

from __future__ import annotations

import json
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import journal

DRIVER = """
import resource, signal, sys, time
from evalkit.backends.mock import MockBackend
from evalkit.cli import main

seconds, largest_file = float(sys.argv[1]), int(sys.argv[2])
del sys.argv[1:3]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may ignore it
resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
answer = MockBackend.score

def slowly(self, requests, done=()):
    for index, response in answer(self, requests, done):
        time.sleep(seconds)
        yield index, response

MockBackend.score = slowly
main()
"""

TASKS = "cmmlu,mmlu@oc-ppl:test:2shot"
N_SAMPLES = 144
UNLIMITED = -1


def command(output: Path, *more: str) -> list[str]:
    options = ["--backend", "mock", "--model", "m", "--data", "sample", "--quiet"]
    return ["run", "--tasks", TASKS, *options, "--output", str(output), *more]


def driver(folder: Path, seconds: float = 0.0, largest_file: int = UNLIMITED) -> list[str]:
    """The command line, with a mock that takes its time and a limit on the size of files."""
    script = folder / "driver.py"
    script.write_text(DRIVER, "utf-8")
    return [sys.executable, str(script), str(seconds), str(largest_file)]


@contextmanager
def running(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, encoding="utf-8")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def n_scored(output: Path) -> int:
    """Whole lines of the journal."""
    try:
        return journal(output).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def wait_until_scored(process: subprocess.Popen[str], output: Path, n: int) -> None:
    while n_scored(output) < n and process.poll() is None:
        time.sleep(0.001)
    assert process.poll() is None, "the run was over before it could be stopped"


def finish(arguments: list[str]) -> None:
    subprocess.run(arguments, check=True, capture_output=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish([*driver(folder), *command(folder / "run")])
    return folder / "run"


def assert_same_run(output: Path, expected: Path) -> None:
    samples, expected_samples = (pq.read_table(run / "samples.parquet") for run in (output, expected))
    assert samples.num_rows == N_SAMPLES
    assert samples.equals(expected_samples)
    for name in ("results.json", "manifest.json"):
        tasks, expected_tasks = (
            json.loads((run / name).read_text("utf-8"))["tasks"] for run in (output, expected)
        )
        assert tasks == expected_tasks
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in expected.iterdir())


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_it_ends_like_an_uninterrupted_run(
    tmp_path: Path, uninterrupted: Path, seed: int
) -> None:
    rng, output, scored = random.Random(seed), tmp_path / "run", 0
    slow = [*driver(tmp_path, seconds=0.01), *command(output, "--resume")]
    for _ in range(3):
        with running(slow) as process:
            wait_until_scored(process, output, scored + rng.randrange(1, 20))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        assert n_scored(output) >= scored
        scored = n_scored(output)
    finish([*driver(tmp_path), *command(output, "--resume")])
    results = json.loads((output / "results.json").read_text("utf-8"))
    assert results["cost"]["samples_resumed"] == scored
    assert_same_run(output, uninterrupted)


def test_killed_before_anything_was_scored_it_starts_anew(tmp_path: Path, uninterrupted: Path) -> None:
    output = tmp_path / "run"
    with running([*driver(tmp_path, seconds=0.02), *command(output)]) as process:
        while not (output / "manifest.json").exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    finish([*driver(tmp_path), *command(output, "--resume")])
    assert_same_run(output, uninterrupted)


def resume_command(message: str) -> list[str]:
    """The command a message ends with, as a list of arguments."""
    program, *arguments = shlex.split(message.strip().rpartition("continue with: ")[2])
    assert program == "evalkit"
    return arguments


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on(
    tmp_path: Path, uninterrupted: Path, number: signal.Signals
) -> None:
    output = tmp_path / "a folder" / "run"
    with running([*driver(tmp_path, seconds=0.01), *command(output)]) as process:
        wait_until_scored(process, output, 20)
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.startswith(
        f"error: interrupted; what was scored is kept in {output}; continue with: evalkit run "
    )
    arguments = resume_command(err)
    assert arguments == command(output, "--resume")
    finish([*driver(tmp_path), *arguments])
    assert_same_run(output, uninterrupted)


def test_interrupted_before_scoring_it_says_how_to_go_on(tmp_path: Path, uninterrupted: Path) -> None:
    output = tmp_path / "run"
    arguments = [argument for argument in command(output) if argument != "--quiet"]
    with running([*driver(tmp_path, seconds=0.2), *arguments]) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("equality gate"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.startswith("error: interrupted; continue with: evalkit run ")
    assert not output.exists()
    finish([*driver(tmp_path), *resume_command(err)])
    assert_same_run(output, uninterrupted)


def test_interrupted_without_output_it_names_the_folder_it_chose(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running([*driver(tmp_path, seconds=0.01), *command(Path())[:-2]]) as process:
        while not (found := list(Path("runs").glob("*/journal"))):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    output = found[0].parent
    assert resume_command(err) == [*command(Path())[:-2], "--output", str(output), "--resume"]
    finish([*driver(tmp_path), *resume_command(err)])
    assert_same_run(output, uninterrupted)


def test_out_of_disk_space_it_keeps_what_was_scored(tmp_path: Path, uninterrupted: Path) -> None:
    output = tmp_path / "run"
    stopped = subprocess.run(
        [*driver(tmp_path, largest_file=10_000), *command(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert f"error: the disk of {output} is full; what was scored is kept" in stopped.stderr
    assert stopped.stderr.count("\n") == 1
    assert journal(output).stat().st_size == 10_000  # up to the last byte that went in
    assert 0 < n_scored(output) < N_SAMPLES
    finish([*driver(tmp_path), *resume_command(stopped.stderr)])
    assert_same_run(output, uninterrupted)
