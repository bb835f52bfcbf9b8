"""Token ids that runs kept: where they differ, what that shows, and runs that did not keep them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _planted import SUBJECTS, mock, parted
from helpers import cli, write_cmmlu

from evalkit.backends.mock import MockBackend
from evalkit.diff.tokens import TokenDiff, token_diff
from evalkit.store import RunStore

TASK = "cmmlu@official:test:5shot"


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """The same run twice, with its prompts."""
    data = write_cmmlu(tmp_path / "data", SUBJECTS)
    for name in "ab":
        mock(tmp_path / name, data, log_prompts=True)
    return tmp_path / "a", tmp_path / "b"


def plant(run: Path, change: Callable[[list[int]], list[int]]) -> None:
    """Give a run other token ids, as if its tokenizer had made them."""
    store = RunStore(run)
    store.write_samples(
        [
            replace(o, prompt_token_ids=np.array(change(o.prompt_token_ids.tolist()), np.int32))
            for o in store.read_samples()
        ]
    )
    claim_other_ids(run)


def claim_other_ids(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    manifest["tasks"][TASK]["hashes"]["token_ids"] = hashlib.sha256(str(run).encode()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def forget_ids(run: Path) -> None:
    store = RunStore(run)
    store.write_samples([replace(o, prompt_token_ids=None) for o in store.read_samples()])


class TestCauses:
    def test_two_bos(self, runs: tuple[Path, Path]) -> None:
        plant(runs[0], lambda ids: [1, *ids])
        plant(runs[1], lambda ids: [1, 1, *ids])
        first, causes, task = parted(*runs)
        assert (first, causes) == ("token_ids", ["bos"])
        assert task["causes"][0]["sentence"] == "B has 1 more in front (1) in 14 of 14 samples"

    def test_other_ids_for_the_same_text(self, runs: tuple[Path, Path]) -> None:
        plant(runs[1], lambda ids: [*ids[:20], 5, 6, *ids[21:]])
        first, causes, task = parted(*runs)
        assert (first, causes) == ("token_ids", ["tokenizer"])
        assert task["token_ids"] == {"differing": 14, "compared": 14, "earliest": 20, "median": 20}
        (line,) = {line for line in cli("diff", *runs).out.splitlines() if "part at" in line}
        assert line == "  token ids part at position 20"

    def test_a_few_samples_only(self, runs: tuple[Path, Path]) -> None:
        longest = max(len(o.prompt_token_ids) for o in RunStore(runs[1]).read_samples())
        plant(runs[1], lambda ids: [*ids[:-1], 5] if len(ids) == longest else ids)
        _, _, task = parted(*runs)
        assert 0 < task["token_ids"]["differing"] == task["rungs"]["token_ids"]["differing"] < 14
        assert task["token_ids"]["earliest"] == longest - 1
        assert all("token_diff" in example for example in task["examples"])

    def test_other_lengths_cut_from_the_left(self, runs: tuple[Path, Path]) -> None:
        plant(runs[1], lambda ids: ids[-100:])
        first, causes, task = parted(*runs)
        assert (first, causes) == ("token_ids", ["truncation"])
        parts = task["examples"][0]["token_diff"]["parts"]
        assert [part["op"] for part in parts] == ["delete", "equal"]
        assert parts[0]["ids"][4] is None

    def test_prompts_that_were_cut(self, tmp_path: Path) -> None:
        data = write_cmmlu(tmp_path / "data", SUBJECTS)
        for name, window in (("a", 1000), ("b", 101)):
            backend = MockBackend(max_length=window)
            mock(tmp_path / name, data, "cmmlu@lm-eval", backend=backend, log_prompts=True)
        first, causes, _ = parted(tmp_path / "a", tmp_path / "b")
        assert (first, causes[0]) == ("token_ids", "truncation")

    def test_options_of_other_ids(self, runs: tuple[Path, Path]) -> None:
        claim_other_ids(runs[1])
        first, causes, task = parted(*runs)
        assert (first, causes) == ("token_ids", ["request"])
        assert task["token_ids"]["differing"] == 0

    def test_a_chat_template_on_one_side(self, tmp_path: Path) -> None:
        data = write_cmmlu(tmp_path / "data", SUBJECTS)
        mock(tmp_path / "a", data, log_prompts=True)
        mock(tmp_path / "b", data, log_prompts=True, chat=True)
        first, causes, _ = parted(tmp_path / "a", tmp_path / "b")
        assert (first, causes) == ("token_ids", ["template"])


@pytest.mark.parametrize("without", [(0,), (1,), (0, 1)], ids=["A", "B", "both"])
def test_runs_that_did_not_keep_them(runs: tuple[Path, Path], without: tuple[int, ...]) -> None:
    plant(runs[1], lambda ids: [1, *ids])
    for side in without:
        forget_ids(runs[side])
    first, causes, task = parted(*runs)
    assert (first, causes, task["token_ids"]) == ("token_ids", ["unknown"], None)
    assert "<- first difference" in cli("diff", *runs).out


def check(a: list[int], b: list[int], found: TokenDiff) -> None:
    """Walk along both, part by part: each part holds what stands there, and all stands in some part."""
    assert (found.a, found.b) == (len(a), len(b))
    assert a[: found.position] == b[: found.position]
    assert a[found.position : found.position + 1] != b[found.position : found.position + 1]
    at = {"a": 0, "b": 0}
    for part in found.parts:
        for side, ids, not_here in (("a", a, "insert"), ("b", b, "delete")):
            if part.op != not_here:
                stands = ids[at[side] : at[side] + part.n]
                at[side] += part.n
                shown = part.ids
                gap = shown.index(None) if None in shown else len(shown)
                assert stands[:gap] == shown[:gap]
                assert stands[len(stands) - len(shown[gap + 1 :]) :] == shown[gap + 1 :]
                assert gap < len(shown) or len(stands) == len(shown)
    assert found.more or (at["a"], at["b"]) == (len(a), len(b))


class TestTokenDiff:
    def diff(self, a: list[int], b: list[int]) -> TokenDiff:
        found = token_diff(np.array(a, np.int32), np.array(b, np.int32))
        check(a, b, found)
        return found

    @pytest.mark.parametrize(("vocabulary", "longest"), [(3, 6), (4, 40), (3000, 60), (40, 1500)])
    def test_turns_one_into_the_other(self, vocabulary: int, longest: int) -> None:
        for seed in range(300 if longest < 100 else 5):
            draw = random.Random(seed)
            a = [draw.randrange(vocabulary) for _ in range(draw.randrange(longest))]
            b = [draw.randrange(vocabulary) if draw.random() < 0.1 else i for i in a if draw.random() > 0.1]
            if a != b:
                self.diff(a, b)

    def test_is_short_whatever_differs(self) -> None:
        a = list(range(3000))
        for b in (
            a[1000:],
            [*a, *a],
            a[::-1],
            [i + 1 if i % 7 == 3 else i for i in a],
            [*range(9000, 12000)],
        ):
            found = self.diff(a, b)
            assert sum(len(part.ids) for part in found.parts) < 70
            assert found.parts

    def test_says_that_there_is_more(self) -> None:
        a = list(range(3000))
        found = self.diff(a, [-1 if i in (5, 2900) else i for i in a])
        assert found.more
        assert [(p.op, p.n) for p in found.parts[:3]] == [("equal", 5), ("delete", 1), ("insert", 1)]
        assert found.parts[0].ids == [None, 1, 2, 3, 4]
