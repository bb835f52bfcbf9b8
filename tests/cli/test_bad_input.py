"""Whatever a user gets wrong: one clear line, the right exit code, no traceback, and no model loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from helpers import CMMLU_COLUMNS, Ran, cli, question, write_ceval, write_cmmlu, write_csv

from evalkit.backends.mock import MockBackend, WordTokenizer
from evalkit.tokens import Ids

SUBJECT = "agronomy"


@pytest.fixture(autouse=True)
def _in_a_folder_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data, no cache, no network: whatever a command finds, the test has put there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVALKIT_DATA", raising=False)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def no_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(name: str) -> MockBackend:
        raise AssertionError("the model was loaded before the mistake was found")

    monkeypatch.setattr("evalkit.backends.mock.MockBackend", forbidden)


def refused(ran: Ran, code: int, *parts: str) -> None:
    assert ran.code == code, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert all(part in ran.err for part in parts), ran.err


def run_mock(*arguments: str | Path) -> Ran:
    return cli("run", "--model", "m", "--backend", "mock", "--quiet", *arguments)


@pytest.mark.usefixtures("no_inference")
class TestNames:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--tasks cmml", "unknown task 'cmml'; did you mean cmmlu or mmlu?"),
            ("--tasks chines", "unknown task 'chines'; did you mean chinese?"),
            ("--tasks cmmlu@offical", "unknown protocol of cmmlu 'offical'; did you mean official"),
            ("--tasks cmmlu@x", "known: cn-mixtral, lm-eval, oc-gen"),
            ("--tasks ceval:vall", "unknown split of ceval 'vall'; did you mean val?"),
            ("--tasks ceval --split tst", "unknown split of ceval 'tst'; did you mean test?"),
            ("--tasks cmmlu --subsets agronomi", "unknown subset 'agronomi'; did you mean agronomy"),
            ("--tasks cmmlu,mmlu --subsets agronomy", "mmlu@official:test:5shot has none of the subsets"),
            ("--tasks cmmlu:9shot", "cmmlu@official takes 0 to 5 shots, not 9"),
            ("--tasks cmmlu --shots -1", "takes 0 to 5 shots, not -1"),
            ("--tasks cmmlu:dev:5shot", "prompts would hold their own answers"),
            ("--tasks cmmlu@official:test:five", "write <task>[@<protocol>][:<split>][:<k>shot]"),
            ("--tasks cmmlu,,mmlu", "empty task spec in 'cmmlu,,mmlu'"),
            ("--tasks ./mine.yaml", "mine.yaml does not exist"),
        ],
    )
    def test_of_tasks_and_their_parts(self, arguments: str, message: str) -> None:
        refused(run_mock(*arguments.split(), "--data", "sample"), 2, "error: ", message)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--backend hff", "unknown value for --backend 'hff'; did you mean hf?"),
            ("--dtype flot32", "unknown value for --dtype 'flot32'; did you mean float32"),
            ("--limit 0", "--limit 0: at least one sample"),
            ("--max-errors some", "--max-errors 'some': give a number of samples, or a percentage"),
            ("--max-errors 1.5", "--max-errors '1.5'"),
            ("--batch-tokens 0", "--batch-tokens 0: at least 1"),
            ("--system Brief.", "--system is part of a conversation, and plain prompts are none; add --chat"),
            ("--no-chat --answer-prefix A", "--answer-prefix is part of a conversation"),
            ("--reasoning-tags <think>", "--reasoning-tags '<think>': give begin and end, for example"),
            ("--reasoning-tags a,a", "--reasoning-tags 'a,a'"),
            ("--reasoning-tags a,b,c", "--reasoning-tags 'a,b,c'"),
            ("--resume", "--resume needs --output"),
        ],
    )
    def test_of_option_values(self, arguments: str, message: str) -> None:
        refused(run_mock("--tasks", "cmmlu", "--data", "sample", *arguments.split()), 2, message)

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("run --tasks cmmlu", "Missing option '--model'"),
            ("run --model m", "--tasks SPECS"),
            ("run --model m --tasks cmmlu --limit few", "Invalid value for '--limit'"),
            ("run --model m --tasks cmmlu --limt 3", "No such option: --limt"),
            ("run --model m --tasks cmmlu extra", "unexpected extra argument"),
            ("rnu", "No such command 'rnu'"),
            ("tasks shw", "No such command 'shw'"),
            ("tasks show", "Missing argument"),
            ("data fetch", "Missing argument"),
        ],
    )
    def test_of_options_and_commands(self, command: str, message: str) -> None:
        refused(cli(*command.split()), 2, message)

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("tasks show cmml", "did you mean cmmlu"),
            ("tasks render chinese", "is a suite; render one of ceval@official:val:5shot"),
            ("tasks render cmmlu --data sample --subset agronomi", "did you mean agronomy"),
            ("tasks render cmmlu --data sample --index 24", "astronomy (test) has samples 0 to 23"),
            ("tasks render cmmlu --data sample --index -1", "--index -1"),
            ("models show demp", "unknown model 'demp'; did you mean demo"),
            ("data fetch cmml", "did you mean cmmlu"),
            ("data verify cmml", "did you mean cmmlu"),
            ("rescore nowhere", "'nowhere' holds no finished run"),
        ],
    )
    def test_in_the_other_commands(self, command: str, message: str) -> None:
        refused(cli(*command.split()), 2, message)


class TestModel:
    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("demp", ("the hub cannot be reached", "did you mean demo")),
            (
                "some-org/some-model",
                ("the hub cannot be reached (http://127.0.0.1:9", "`evalkit models` lists"),
            ),
            ("./my-model", ("there is no such folder", "hub ids have the form org/name")),
            ("a/b/c", ("there is no such folder", "hub ids have the form org/name")),
            ("", ("there is no such folder",)),
        ],
    )
    def test_that_is_nowhere(self, name: str, parts: tuple[str, ...]) -> None:
        ran = cli("run", "--model", name, "--tasks", "cmmlu", "--data", "sample", "--quiet")
        refused(ran, 2, f"no model '{name}'", *parts)

    def test_that_is_nowhere_offline(self) -> None:
        ran = cli("run", "--model", "demp", "--tasks", "cmmlu", "--data", "sample", "--quiet", "--offline")
        refused(ran, 2, "no model 'demp'", "was downloaded before, and --offline is on", "did you mean demo")

    def test_that_the_hub_does_not_know(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        def unknown(*_: object, **__: object) -> None:
            raise RepositoryNotFoundError("404", response=mock.Mock())

        monkeypatch.setattr(HfApi, "model_info", unknown)
        ran = cli("run", "--model", "org/secret", "--tasks", "cmmlu", "--data", "sample", "--quiet")
        refused(ran, 2, "no model 'org/secret'", "the hub has no such model, or not for everybody")

    def test_folder_that_holds_none(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        ran = cli("run", "--model", "empty", "--tasks", "cmmlu", "--data", "sample", "--quiet")
        refused(ran, 2, "the folder 'empty' holds no model (no config.json in it)")

    def test_folder_without_tokenizer(self, tmp_path: Path) -> None:
        (tmp_path / "bare").mkdir()
        (tmp_path / "bare/config.json").write_text(
            '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
        )
        ran = cli("run", "--model", "bare", "--tasks", "cmmlu", "--data", "sample", "--quiet")
        refused(ran, 2, "cannot load a tokenizer for 'bare'", "tokenizer.json")


@pytest.mark.usefixtures("no_inference")
class TestData:
    def test_missing_in_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        ran = run_mock("--tasks", "cmmlu", "--data", "data")
        refused(ran, 4, f"data directory {tmp_path / 'data'}", "`evalkit data fetch cmmlu`", "EVALKIT_DATA")

    def test_missing_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        refused(
            run_mock("--tasks", "cmmlu", "--data", "nowhere"), 4, f"{tmp_path / 'nowhere'} does not exist"
        )
        monkeypatch.setenv("EVALKIT_DATA", "elsewhere")
        refused(run_mock("--tasks", "cmmlu"), 4, f"{tmp_path / 'elsewhere'} does not exist")

    def test_folder_named_one_level_too_deep(self, tmp_path: Path) -> None:
        write_cmmlu(tmp_path / "data", {SUBJECT: 1})
        ran = run_mock("--tasks", "cmmlu", "--subsets", SUBJECT, "--data", "data/CMMLU")
        refused(ran, 4, f"--data {tmp_path / 'data'}")

    def test_never_fetched_and_offline(self) -> None:
        refused(run_mock("--tasks", "cmmlu", "--offline"), 4, "offline mode is on", "--data or EVALKIT_DATA")

    def test_subset_that_the_sample_lacks(self) -> None:
        ran = run_mock("--tasks", "cmmlu", "--subsets", SUBJECT, "--data", "sample")
        refused(ran, 4, "the sample has only a few subsets")

    @pytest.mark.parametrize(
        ("damage", "line", "problem"),
        [
            (lambda text: text + b"9,question,a,b,c\r\n", 9, "5 columns instead of 7"),
            (lambda text: text + b"9,question,a,b,c,d,e,A\r\n", 9, "8 columns instead of 7"),
            (lambda text: text + b"9,question,a,b,c,d,E\r\n", 9, "answer 'E' is not one of A, B, C, D"),
            (lambda text: text + b"9,question,a,b,c,d,\r\n", 9, "answer '' is not one of A, B, C, D"),
            (lambda text: text.decode().encode("gbk"), 2, "not UTF-8 text"),
            (lambda text: text.decode().encode("utf-16"), 1, "NUL byte"),
            (lambda text: text[:-20], 8, "columns instead of 7"),
            (lambda text: text + b'9,"question', 9, "truncated file"),
            (lambda text: b"", 1, "the file is empty"),
            (lambda text: text.partition(b"\n")[2], 1, "expected the columns"),
        ],
    )
    @pytest.mark.parametrize("split", ["test", "dev"])
    def test_damaged_file(
        self, tmp_path: Path, damage: Callable[[bytes], bytes], line: int, problem: str, split: str
    ) -> None:
        file = write_cmmlu(tmp_path, {SUBJECT: 7}) / f"CMMLU/data/{split}/{SUBJECT}.csv"
        rows = [(*question(split, SUBJECT, i), "D") for i in range(7)]
        write_csv(file, CMMLU_COLUMNS, rows)
        file.write_bytes(damage(file.read_bytes()))
        ran = run_mock("--tasks", "cmmlu", "--subsets", SUBJECT, "--data", tmp_path)
        refused(ran, 4, f"{file}:{line}: ", problem, "evalkit data fetch")

    def test_file_with_a_header_and_nothing_below(self, tmp_path: Path) -> None:
        file = write_cmmlu(tmp_path, {SUBJECT: 0}) / f"CMMLU/data/test/{SUBJECT}.csv"
        ran = run_mock("--tasks", "cmmlu", "--subsets", SUBJECT, "--data", tmp_path)
        refused(ran, 4, f"{file}: holds no samples")

    def test_fewer_examples_than_shots(self, tmp_path: Path) -> None:
        write_ceval(tmp_path, {"law": 2})
        file = tmp_path / "C-Eval/dev/law_dev.csv"
        lines = file.read_text("utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:3]), "utf-8")
        ran = run_mock("--tasks", "ceval", "--subsets", "law", "--data", tmp_path)
        refused(ran, 4, f"{file} has 2 examples, 5 are asked for; use --shots 2 or less")

    def test_that_is_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        file = write_cmmlu(tmp_path, {SUBJECT: 2}) / f"CMMLU/data/test/{SUBJECT}.csv"
        file.unlink()
        file.mkdir()
        refused(run_mock("--tasks", "cmmlu", "--subsets", SUBJECT, "--data", tmp_path), 4, str(file))


class Short(MockBackend):
    """A model whose context holds a few tokens."""

    def __init__(self, name: str) -> None:
        super().__init__(name, max_length=6)


class Forgetful(MockBackend):
    """A model whose tokenizer knows no letter B."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.tokenizer = _WithoutB()


class _WithoutB(WordTokenizer):
    def encode(self, texts: list[str]) -> list[Ids]:
        return super().encode([text.replace("B", "") for text in texts])


class TestPrompt:
    """These need the tokenizer, so the model is loaded; nothing may be scored or written."""

    @pytest.mark.parametrize(
        ("backend", "tasks", "parts"),
        [
            (Short, "cmmlu", ("cmmlu@official:test:5shot", "6 fit", "longer context")),
            (Short, "ceval@cn-mixtral", ("ceval@cn-mixtral:val:5shot", "6 fit", "use fewer --shots")),
            (Short, "cmmlu@oc-ppl", ("cmmlu@oc-ppl:test:5shot", "6 fit")),
            (Forgetful, "cmmlu", ("the option 'B' tokenises to nothing",)),
        ],
    )
    def test_that_cannot_be_asked(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        backend: type[MockBackend],
        tasks: str,
        parts: tuple[str, ...],
    ) -> None:
        monkeypatch.setattr("evalkit.backends.mock.MockBackend", backend)
        ran = run_mock("--tasks", tasks, "--data", "sample", "--output", tmp_path / "run")
        refused(ran, 2, *parts)
        assert not (tmp_path / "run").exists()


class TestRunDirectory:
    def test_damaged_run_cannot_be_rescored_or_resumed(self, tmp_path: Path) -> None:
        arguments = ("--tasks", "cmmlu", "--data", "sample", "--limit", "1", "--output")
        assert run_mock(*arguments, "run").code == 0
        for name in ("manifest.json", "results.json", "samples.parquet"):
            shutil.copytree("run", name + "-damaged")
            (tmp_path / (name + "-damaged") / name).write_bytes(b"{")
            refused(cli("rescore", name + "-damaged"), 4, name)
        refused(run_mock(*arguments, "results.json-damaged", "--resume"), 4, "results.json")

    @pytest.mark.usefixtures("no_inference")
    def test_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        ran = run_mock("--tasks", "cmmlu", "--data", "sample", "--output", "file/run")
        refused(ran, 2, "--output file/run: cannot write to", "name another folder")
