"""The run directory: nothing scored is lost, and what is read is what was written."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import journal
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import DataError, UsageError
from evalkit.store import RunStore, default_output, digest
from evalkit.types import Completion, ContinuationScore, GenerateResponse, Outcome, ScoreResponse

MANIFEST = {"schema_version": 1}


def response(*logprobs: float) -> ScoreResponse:
    return ScoreResponse(tuple(ContinuationScore(lp, i + 1, i == 0) for i, lp in enumerate(logprobs)))


RESPONSES = {
    ("cmmlu@official:test:5shot", 7): response(-0.1, -1e-300, -123456.789),
    ("cmmlu@official:test:5shot", 0): response(-math.inf, math.nan),
    ("user task\u2028ü:test:0shot", 3): response(-1 / 3),
}


def written(root: Path) -> RunStore:
    store = RunStore(root)
    store.begin(MANIFEST)
    for (task, index), answer in RESPONSES.items():
        store.append(task, index, answer)
    store.close()
    return store


def flat(store: RunStore) -> dict[tuple[str, int], ScoreResponse]:
    return {(task, index): r for task, found in store.responses().items() for index, r in found.items()}


class TestJournal:
    def test_gives_back_every_response_to_the_last_bit(self, tmp_path: Path) -> None:
        # repr, for NaN equals nothing.
        assert repr(flat(written(tmp_path))) == repr(RESPONSES)

    def test_is_empty_before_a_run(self, tmp_path: Path) -> None:
        assert RunStore(tmp_path / "new").responses() == {}

    def test_reaches_the_file_with_every_append(self, tmp_path: Path) -> None:
        store = RunStore(tmp_path)
        store.begin(MANIFEST)
        for n in range(1, 4):
            store.append("t", n, response(-n))
            assert journal(tmp_path).read_bytes().count(b"\n") == n
        store.close()

    def test_drops_a_last_line_cut_anywhere_and_nothing_else(self, tmp_path: Path) -> None:
        written(tmp_path)
        content = journal(tmp_path).read_bytes()
        last = content.rfind(b"\n", 0, -1) + 1
        whole = dict(list(RESPONSES.items())[:-1])
        for cut in range(last, len(content)):
            journal(tmp_path).write_bytes(content[:cut])
            assert repr(flat(RunStore(tmp_path))) == repr(whole)
            store = RunStore(tmp_path)
            store.begin(MANIFEST)
            store.append("again", 1, response(-2.0))
            store.close()
            assert repr(flat(store)) == repr(whole | {("again", 1): response(-2.0)})

    def test_reports_a_damaged_line_by_number(self, tmp_path: Path) -> None:
        written(tmp_path)
        lines = journal(tmp_path).read_bytes().splitlines(keepends=True)
        for damaged in (b"\0\0\0\n", b"[1]\n", b"null\n", b'["t", 1, [[1]]]\n', b"\xff\n", b"\n"):
            journal(tmp_path).write_bytes(lines[0] + damaged + lines[2])
            with pytest.raises(DataError, match=r"responses\.jsonl:2: damaged line"):
                RunStore(tmp_path).responses()

    def test_later_response_of_the_same_sample_wins(self, tmp_path: Path) -> None:
        store = RunStore(tmp_path)
        store.begin(MANIFEST)
        store.append("t", 1, response(-1.0))
        store.append("t", 1, response(-2.0))
        store.close()
        assert store.responses() == {"t": {1: response(-2.0)}}

    def test_close_may_be_repeated(self, tmp_path: Path) -> None:
        store = written(tmp_path)
        store.close()
        store.close()


TEXTS = ["", "plain", "题🙂\u2028\n\r\x00", "half \ud83d of a pair", "\udc80", '"\\', "a" * 100_000]


class TestCompletionsInTheJournal:
    def given_back(self, root: Path, *answers: GenerateResponse) -> list[object]:
        store = RunStore(root)
        store.begin(MANIFEST)
        for index, answer in enumerate(answers):
            store.append("t", index, answer)
        store.close()
        return [RunStore(root).responses()["t"][i] for i in range(len(answers))]

    def test_come_back_as_they_were(self, tmp_path: Path) -> None:
        answers = [GenerateResponse((Completion(text, "stop", 3),)) for text in TEXTS]
        answers.append(GenerateResponse(tuple(Completion(text, "length", i) for i, text in enumerate(TEXTS))))
        answers.append(GenerateResponse((Completion("x", "eos", 0),)))
        answers += [GenerateResponse((Completion("x", "eos", 9, reasoning=text),)) for text in TEXTS]
        assert self.given_back(tmp_path, *answers) == answers

    def test_take_one_ascii_line_each(self, tmp_path: Path) -> None:
        self.given_back(tmp_path, *(GenerateResponse((Completion(text, "stop", 3),)) for text in TEXTS))
        content = journal(tmp_path).read_bytes()
        assert content.count(b"\n") == len(content.splitlines()) == len(TEXTS)
        assert content.isascii()

    def test_drop_a_last_line_that_was_cut(self, tmp_path: Path) -> None:
        answers = [GenerateResponse((Completion(text, "stop", 3),)) for text in ("ab", "c\ud83dd")]
        self.given_back(tmp_path, *answers)
        content = journal(tmp_path).read_bytes()
        for cut in range(content.index(b"\n") + 1, len(content)):
            journal(tmp_path).write_bytes(content[:cut])
            assert RunStore(tmp_path).responses() == {"t": {0: answers[0]}}

    def test_of_an_unknown_kind_are_damaged(self, tmp_path: Path) -> None:
        self.given_back(tmp_path, GenerateResponse((Completion("a", "stop", 1),)))
        for damaged in (
            b'["t", 0, "sounds", []]',
            b'["t", 0, "completions", [["a"]]]',
            b'["t", 0, "completions", [["a", "stop", 1]]]',
            b'["t", 0, "completions", [["a", "stop", 1, "", 0]]]',
            b'["t", 0, "scores"]',
        ):
            journal(tmp_path).write_bytes(damaged + b"\n")
            with pytest.raises(DataError, match=r"responses\.jsonl:1: damaged line"):
                RunStore(tmp_path).responses()


GENERATED = [
    Outcome(
        "t",
        "s",
        str(i),
        "ab",
        text or None,
        "x",
        0.5,
        None,
        None,
        completions=(text, *more),
        finish_reason="length",
        metrics={"pass@1": 0.5, "timeout": 0.0},
        stratum=stratum,
    )
    for i, (text, more, stratum) in enumerate(
        [("", (), None), ("题🙂\n\x00", (), "0-4k"), ("a", ("", "b"), "8k+"), ("a", ("a",) * 199, None)]
    )
]


class TestCompletionsInSamples:
    def test_read_back_equal_what_was_written(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples(GENERATED)
        assert RunStore(tmp_path).read_samples() == GENERATED

    def test_stand_beside_scored_and_failed_samples(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples([*OUTCOMES, *GENERATED])
        assert RunStore(tmp_path).read_samples() == [*OUTCOMES, *GENERATED]

    def test_have_a_column_for_several_only_where_there_are_several(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples(GENERATED[:1])
        names = pq.read_schema(tmp_path / "samples.parquet").names
        assert ("completion" in names, "completions" in names, "stratum" in names) == (True, False, False)
        RunStore(tmp_path).write_samples(GENERATED)
        table = pq.read_table(tmp_path / "samples.parquet")
        assert table["completion"].to_pylist() == ["", "题🙂\n\x00", "a", "a"]
        assert [None if c is None else len(c) for c in table["completions"].to_pylist()] == [
            None,
            None,
            3,
            200,
        ]

    def test_have_columns_for_reasoning_only_where_there_was_any(self, tmp_path: Path) -> None:
        thinking = [
            dataclasses.replace(GENERATED[1], reasonings=("想\n",)),
            dataclasses.replace(GENERATED[2], reasonings=("", "why", "")),
            GENERATED[0],
        ]
        RunStore(tmp_path).write_samples(thinking[:1])
        names = pq.read_schema(tmp_path / "samples.parquet").names
        assert ("reasoning" in names, "reasonings" in names) == (True, False)
        RunStore(tmp_path).write_samples(thinking)
        table = pq.read_table(tmp_path / "samples.parquet")
        assert table["reasoning"].to_pylist() == ["想\n", "", None]
        assert table["reasonings"].to_pylist() == [None, ["", "why", ""], None]
        assert RunStore(tmp_path).read_samples() == thinking

    def test_hold_a_question_mark_for_half_a_surrogate_pair(self, tmp_path: Path) -> None:
        broken = dataclasses.replace(GENERATED[0], completions=("a\ud83d", "\udc80b"), prediction="\ud83d")
        RunStore(tmp_path).write_samples([broken])
        (read,) = RunStore(tmp_path).read_samples()
        assert (read.completions, read.prediction) == (("a?", "?b"), "?")


OUTCOMES = [
    Outcome("t", "s", "0", "ab", "A", "B", 0.0, (-1.5, -0.25), (1, 2), metrics={"acc": 0.0}),
    Outcome("t", "s", "1", "cd", "题", "题", 1.0, (-math.inf,), (3,), truncated=True, metrics={"acc": 1.0}),
    Outcome("t", "s", "2", "ef", None, None, None, None, None, error="out of memory"),
]

CONTRACT_COLUMNS = [
    ("task", "string"),
    ("subset", "string"),
    ("sample_id", "string"),
    ("prompt_sha256", "string"),
    ("prediction", "string"),
    ("target", "string"),
    ("correct", "double"),
    ("metrics", "string"),
    ("choice_logprobs", "list<element: double>"),
    ("choice_tokens", "list<element: int32>"),
    ("completion", "string"),
    ("finish_reason", "string"),
    ("truncated", "bool"),
    ("error", "string"),
]


class TestSamples:
    def columns(self, root: Path) -> list[tuple[str, str]]:
        return [(field.name, str(field.type)) for field in pq.read_schema(root / "samples.parquet")]

    def test_have_the_columns_of_the_contract(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples(OUTCOMES)
        assert self.columns(tmp_path) == CONTRACT_COLUMNS

    @pytest.mark.parametrize("outcomes", [OUTCOMES[2:], []], ids=["no values", "no rows"])
    def test_have_the_same_types_when_nothing_has_a_value(
        self, tmp_path: Path, outcomes: list[Outcome]
    ) -> None:
        RunStore(tmp_path).write_samples(outcomes)
        assert self.columns(tmp_path) == CONTRACT_COLUMNS

    def test_have_prompts_only_when_kept(self, tmp_path: Path) -> None:
        kept = [dataclasses.replace(o, prompt="问") for o in OUTCOMES]
        RunStore(tmp_path).write_samples(kept)
        assert self.columns(tmp_path) == [*CONTRACT_COLUMNS, ("prompt", "string")]
        assert RunStore(tmp_path).read_samples() == kept

    def test_have_token_ids_where_there_are_any(self, tmp_path: Path) -> None:
        ids = [np.array([1, 2**31 - 1], np.int32), None, np.array([], np.int32)]
        kept = [dataclasses.replace(o, prompt_token_ids=i) for o, i in zip(OUTCOMES, ids, strict=True)]
        RunStore(tmp_path).write_samples(kept)
        assert self.columns(tmp_path) == [*CONTRACT_COLUMNS, ("prompt_token_ids", "list<element: int32>")]
        read = [o.prompt_token_ids for o in RunStore(tmp_path).read_samples()]
        assert [i if i is None else i.tolist() for i in read] == [[1, 2**31 - 1], None, []]

    def test_null_among_token_ids_is_a_data_error(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples(OUTCOMES)
        path = tmp_path / "samples.parquet"
        ids = pa.array([[1, None], [], None], pa.list_(pa.int32()))
        pq.write_table(pq.read_table(path).append_column("prompt_token_ids", ids), path)
        with pytest.raises(DataError, match="prompt_token_ids holds null"):
            RunStore(tmp_path).read_samples()

    def test_read_back_equal_what_was_written(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples(OUTCOMES)
        assert RunStore(tmp_path).read_samples() == OUTCOMES

    def test_carry_metrics_as_json(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples(OUTCOMES)
        metrics = pq.read_table(tmp_path / "samples.parquet")["metrics"].to_pylist()
        assert list(map(json.loads, metrics)) == [{"acc": 0.0}, {"acc": 1.0}, {}]

    def test_damaged_file_is_a_data_error(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples(OUTCOMES)
        path = tmp_path / "samples.parquet"
        content = path.read_bytes()
        for damaged in (b"", b"PAR1", content[:-1], content[: len(content) // 2], b"x" * len(content)):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=r"samples\.parquet"):
                RunStore(tmp_path).read_samples()

    def test_missing_column_is_a_data_error(self, tmp_path: Path) -> None:
        RunStore(tmp_path).write_samples(OUTCOMES)
        path = tmp_path / "samples.parquet"
        pq.write_table(pq.read_table(path).drop_columns(["target"]), path)
        with pytest.raises(DataError, match="lacks the columns target"):
            RunStore(tmp_path).read_samples()

    def test_missing_file_is_a_usage_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="holds no finished run"):
            RunStore(tmp_path).read_samples()


class TestDocuments:
    def test_are_written_whole_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = RunStore(tmp_path)
        store.write_json("results.json", MANIFEST | {"n": 1})

        def cut(path: Path, text: str, **_: object) -> int:
            path.write_bytes(text[:5].encode())
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_text", cut)
        with pytest.raises(OSError, match="No space left"):
            store.write_json("results.json", MANIFEST | {"n": 2})
        assert store.read_json("results.json")["n"] == 1

    def test_refuse_what_json_cannot_say(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="JSON compliant"):
            RunStore(tmp_path).write_json("results.json", {"value": math.nan})
        assert not (tmp_path / "results.json").exists()

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"schema_version": 99}'])
    def test_damaged_or_of_another_schema_are_a_data_error(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(DataError, match=r"manifest\.json"):
            RunStore(tmp_path).read_json("manifest.json")

    def test_missing_is_a_usage_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"holds no finished run \(results\.json is missing\)"):
            RunStore(tmp_path).read_json("results.json")


class TestRunDirectory:
    def test_finish_writes_every_file_and_drops_the_journal(self, tmp_path: Path) -> None:
        store = written(tmp_path)
        assert not store.is_complete
        store.finish(MANIFEST, MANIFEST | {"status": "complete"}, OUTCOMES, "# report")
        assert store.is_complete
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["manifest.json", "report.md", "results.json", "samples.parquet"]

    def test_keeps_the_journal_of_a_run_with_errors(self, tmp_path: Path) -> None:
        store = written(tmp_path)
        store.finish(MANIFEST, MANIFEST | {"status": "partial"}, OUTCOMES, "# report")
        assert not store.is_complete
        assert store.responses()

    def test_is_not_complete_while_there_is_a_journal(self, tmp_path: Path) -> None:
        store = written(tmp_path)
        store.write_json("results.json", MANIFEST)
        assert not store.is_complete

    def test_run_id_is_the_folder_name_however_it_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert RunStore(Path()).run_id == RunStore(Path("x/..")).run_id == tmp_path.name

    def test_that_cannot_be_created_is_a_usage_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="cannot be created"):
            RunStore(tmp_path / "file" / "run").begin(MANIFEST)

    def test_default_name_is_a_new_folder_for_any_model_name(self) -> None:
        names = {default_output(model) for model in ("org/model", "../x", "模型 1", "", "a" * 40)}
        assert len(names) == 5
        assert all(path.parent == Path("runs") and len(path.parts) == 2 for path in names)
        assert default_output("m") != default_output("m")


parts = st.lists(st.binary(max_size=12), max_size=6)


class TestDigest:
    @given(parts, parts)
    def test_two_lists_have_the_same_digest_only_if_they_are_equal(
        self, a: list[bytes], b: list[bytes]
    ) -> None:
        assert (digest(a) == digest(b)) == (a == b)

    @given(st.binary(min_size=1, max_size=30), st.data())
    def test_moving_a_joint_changes_it(self, content: bytes, data: st.DataObject) -> None:
        first, second = (data.draw(st.integers(0, len(content))) for _ in range(2))
        same = digest([content[:first], content[first:]]) == digest([content[:second], content[second:]])
        assert same == (first == second)
