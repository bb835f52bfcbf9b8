"""Every command: what goes to stdout, what to stderr, and what is not even imported."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import cli, samples, write_cmmlu

HEAVY = ("openai", "torch", "transformers", "pandas", "datasets", "pyarrow", "vllm", "scipy")

MOCK = ("run", "--backend", "mock", "--model", "m", "--data", "sample")


COMMANDS = (
    "run", "rescore", "doctor", "tasks", "tasks list", "tasks show", "tasks render",
    "models", "models list", "models show", "data", "data status", "data fetch", "data verify",
    "gate", "baseline", "baseline save", "baseline show",
)  # fmt: skip

CALL_MAIN = "from evalkit.cli import main; main()"


def process(*arguments: str | Path, text: str = CALL_MAIN) -> tuple[int, bytes, str]:
    """Call the command line in a process of its own: exit code, stdout, stderr."""
    ran = subprocess.run([sys.executable, "-c", text, *map(str, arguments)], capture_output=True, check=False)
    return ran.returncode, ran.stdout, ran.stderr.decode()


class TestProcess:
    @pytest.mark.parametrize(
        "command",
        ["--help", "tasks list", "tasks show cmmlu", "models list", "models show huozi3.5", "run --help"],
    )
    def test_light_commands_import_nothing_heavy(self, command: str) -> None:
        text = (
            "import sys, evalkit.cli\n"
            "try: evalkit.cli.main()\n"
            f"finally: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
        )
        code, out, err = process(*command.split(), text=text)
        assert (code, err) == (0, "[]\n")
        assert out

    def test_json_is_all_there_is_on_stdout(self, tmp_path: Path) -> None:
        code, out, err = process(
            *MOCK, "--tasks", "cmmlu", "--limit", "1", "--json", "--output", tmp_path / "r"
        )
        assert code == 0
        assert json.loads(out) == json.loads((tmp_path / "r/results.json").read_text())
        assert "cmmlu@official:test:5shot: 3 samples" in err

    def test_render_writes_the_prompt_and_nothing_more(self) -> None:
        code, out, err = process("tasks", "render", "cmmlu", "--data", "sample", "--subset", "astronomy")
        assert (code, err) == (0, "")
        assert out.decode().startswith("以下是关于天文学的单项选择题，请直接给出正确答案的选项。\n\n题目：")
        assert out.decode().endswith("\n答案是：")

    def test_error_goes_to_stderr_alone(self) -> None:
        code, out, err = process("tasks", "show", "cmml")
        assert (code, out) == (2, b"")
        assert err == "error: unknown task 'cmml'; did you mean cmmlu or mmlu?\n"

    def test_a_reader_that_goes_away_is_no_error(self) -> None:
        text = (
            "import os, sys\n"
            "reading, writing = os.pipe()\n"
            "os.dup2(writing, 1); os.close(writing); os.close(reading)\n"
            "from evalkit.cli import main; main()"
        )
        code, _, err = process("tasks", "list", text=text)
        assert (code, err) == (0, "")

    def test_a_terminal_without_unicode_stops_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONIOENCODING", "ascii")
        code, out, err = process(*MOCK, "--tasks", "cmmlu", "--limit", "1", "--output", tmp_path / "r")
        assert code == 0, err
        assert b"cmmlu@official:test:5shot" in out


class TestRoot:
    def test_help_names_every_command(self) -> None:
        ran = cli("--help")
        assert (ran.code, ran.err) == (0, "")
        commands = ran.out.split("Commands:")[1].split("\n  ")[1:]
        assert {line.split()[0] for line in commands} >= {name.split()[0] for name in COMMANDS}

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_help(self, command: str) -> None:
        ran = cli(*command.split(), "--help")
        assert (ran.code, ran.err) == (0, "")
        usage, _, text = ran.out.partition("\n\n")
        assert usage.startswith(f"Usage: evalkit {command} ")
        assert len(text.split("\n\n")[0].split()) >= 4

    def test_version(self) -> None:
        assert cli("--version").out.startswith("evalkit ")

    def test_without_a_command_shows_help_as_a_usage_error(self) -> None:
        ran = cli()
        assert (ran.code, ran.out) == (2, "")
        assert "Commands:" in ran.err


class TestRun:
    def test_prints_the_table_and_where_it_was_written(self, tmp_path: Path) -> None:
        ran = cli(*MOCK, "--tasks", "cmmlu", "--output", tmp_path / "run")
        assert ran.code == 0
        assert "cmmlu@official:test:5shot" in ran.out
        assert "made-up sample data" in ran.out
        assert f"written to {tmp_path / 'run'}" in ran.out.replace("\n", "")
        assert "loading m" in ran.err

    def test_quiet_leaves_stderr_empty(self, tmp_path: Path) -> None:
        ran = cli(*MOCK, "--tasks", "cmmlu", "--limit", "1", "--quiet", "--output", tmp_path / "run")
        assert (ran.code, ran.err) == (0, "")

    def test_writes_below_runs_by_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert cli(*MOCK, "--tasks", "cmmlu", "--limit", "1").code == 0
        (folder,) = (tmp_path / "runs").iterdir()
        assert sorted(path.name for path in folder.iterdir()) == [
            "manifest.json", "report.md", "results.json", "samples.parquet",
        ]  # fmt: skip

    def test_options_reach_the_run(self, tmp_path: Path) -> None:
        write_cmmlu(tmp_path / "data", {"agronomy": 3, "virology": 4})
        options = ("--subsets", "virology, agronomy", "--shots", "2", "--limit", "2", "--log-prompts")
        where = ("--data", tmp_path / "data", "--output", tmp_path / "run")
        assert cli("run", "--backend", "mock", "--model", "m", "--tasks", "cmmlu", *options, *where).code == 0
        rows = samples(tmp_path / "run")
        assert [(row["subset"], row["sample_id"]) for row in rows] == [
            ("agronomy", "0"), ("agronomy", "1"), ("virology", "0"), ("virology", "1"),
        ]  # fmt: skip
        assert {row["task"] for row in rows} == {"cmmlu@official:test:2shot"}
        assert all(row["prompt"].count("题目：") == 3 for row in rows)

    def test_the_spec_wins_over_the_options(self, tmp_path: Path) -> None:
        cli(*MOCK, "--tasks", "ceval:val:1shot,ceval", "--split", "test", "--shots", "2", "--limit", "1",
            "--output", tmp_path)  # fmt: skip
        names = list(json.loads((tmp_path / "results.json").read_text())["tasks"])
        assert names == ["ceval@official:val:1shot", "ceval@official:test:2shot"]

    def test_a_name_with_brackets_is_no_markup(self, tmp_path: Path) -> None:
        ran = cli("run", "--backend", "mock", "--model", "[/x][red]", "--data", "sample", "--tasks", "cmmlu",
                  "--limit", "1", "--output", tmp_path / "run")  # fmt: skip
        assert ran.code == 0
        assert "loading [/x][red]" in ran.err

    def test_resume_of_a_finished_run_shows_it_again(self, tmp_path: Path) -> None:
        arguments = (*MOCK, "--tasks", "cmmlu", "--limit", "1", "--output", tmp_path / "run", "--json")
        first = cli(*arguments)
        assert cli(*arguments).code == 2
        assert cli(*arguments, "--resume") == first.__class__(0, first.out, "")


class TestRescore:
    def test_prints_the_same_document(self, tmp_path: Path) -> None:
        first = cli(*MOCK, "--tasks", "cmmlu", "--limit", "1", "--output", tmp_path / "run", "--json")
        assert cli("rescore", tmp_path / "run", "--json") == first.__class__(0, first.out, "")
        assert "cmmlu@official:test:5shot" in cli("rescore", tmp_path / "run").out


class TestTasks:
    def test_list_names_tasks_protocols_and_suites(self) -> None:
        assert cli("tasks", "list") == cli("tasks")
        out = cli("tasks", "list").out
        assert all(name in out for name in ("mmlu", "cmmlu", "ceval", "official*", "lm-eval", "chinese"))

    def test_show_says_what_a_spec_resolves_to(self) -> None:
        out = cli("tasks", "show", "chinese").out
        assert "resolves to  ceval@official:val:5shot" in out
        assert "resolves to  cmmlu@official:test:5shot" in out

    def test_render_is_what_a_run_asks(self, tmp_path: Path) -> None:
        assert cli(*MOCK, "--tasks", "ceval@oc-ppl,mmlu:0shot", "--output", tmp_path).code == 0
        rows = samples(tmp_path)
        for row in (rows[1], rows[-1]):
            index = [r["sample_id"] for r in rows if (r["task"], r["subset"]) == (row["task"], row["subset"])]
            place = ("--subset", row["subset"], "--index", str(index.index(row["sample_id"])))
            ran = cli("tasks", "render", row["task"], "--data", "sample", *place)
            assert hashlib.sha256(ran.out.encode()).hexdigest() == row["prompt_sha256"]


class TestModels:
    def test_list_and_show(self) -> None:
        assert cli("models", "list") == cli("models")
        assert cli("models", "list").out.count("demo") >= 2
        assert "Apache-2.0" in cli("models", "show", "demo").out

    def test_models_list_is_a_table_and_show_does_the_arithmetic(self) -> None:
        listed = cli("models").out.splitlines()
        (row,) = (line.split() for line in listed if line.startswith("orion-moe "))
        assert row == ["orion-moe", "48.2", "B", "13.8", "B", "8,192", "106.0", "GB", "base"]
        shown = cli("models", "show", "xverse-7b").out
        assert "memory float32       32.1 GB = 7.30 billion parameters x 4 bytes + 10 %" in shown
        assert "memory int4          5.4 GB = 7.30 billion parameters x 0.5 bytes, 0.82 billion of" in shown
        assert "evalkit run --model xverse-7b --tasks mmlu,ceval,cmmlu --trust-remote-code" in shown
        assert "--backend hf does not" not in shown
        assert "--backend hf does not" in cli("models", "show", "mixtral-8x7b").out


class TestData:
    def test_status_counts_files(self, tmp_path: Path) -> None:
        write_cmmlu(tmp_path, {"agronomy": 1})
        ran = cli("data", "status", "--data", tmp_path)
        assert ran.code == 0
        assert f"data directory: {tmp_path} (path)" in ran.out
        assert "cmmlu            partial   dev 1/67, test 1/67" in ran.out
        assert "fetch it with: evalkit data fetch mmlu" in ran.out

    def test_verify_refuses_what_is_not_the_release(self) -> None:
        ran = cli("data", "verify", "cmmlu", "--data", "sample")
        assert ran.code == 4
        assert "72 samples instead of 11582" in ran.out
        assert "not the official release" in ran.err


class TestDoctor:
    def test_says_what_works(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVALKIT_DATA", str(write_cmmlu(tmp_path, {"agronomy": 1})))
        ran = cli("doctor")
        assert ran.code == 0
        for line in ("evalkit ", "machine ", "backend hf ", "demo models ", f"data               {tmp_path}"):
            assert line in ran.out
