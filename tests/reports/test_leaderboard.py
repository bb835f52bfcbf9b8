"""The leaderboard: whose text stays, who stands where, and that the order of updates does not matter."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from _made_up import CEVAL, CMMLU, GSM8K, HOSTILE, cells, kinds, right, write_run
from helpers import cli, failing, mock_run

from evalkit.errors import DataError, UsageError
from evalkit.reports.badges import write_badges
from evalkit.reports.comparison import Units
from evalkit.reports.layouts import DEFAULT, Layout
from evalkit.reports.leaderboard import BEGIN, END, update
from evalkit.reports.ranking import Board
from evalkit.reports.runs import Run, open_runs
from evalkit.reports.text import one_line

OURS = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)


def put(file: Path, *paths: Path, layout: Layout | None = DEFAULT, mixed: bool | None = None) -> Board:
    return update(file, open_runs(paths), layout, mixed=mixed)[0]


def rows(file: Path) -> list[list[str]]:
    return cells(file.read_text("utf-8"))


def ranks(board: Board) -> dict[str, str]:
    return {place.name: place.shown_rank for place in board.places}


def able(root: Path, name: str, share: float, *, seed: int = 0, n: int = 400, **options: Any) -> Path:
    """A run that is right this often, on the questions of this seed."""
    scores = right(share, n, seed)
    return write_run(root / name, {GSM8K: {str(i): scores[i::20] for i in range(20)}}, name, **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "LEADERBOARD.md"


class TestFile:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b"# Mine\n\n", b"\n\ntrailing  \n"),
            (b"", b""),
            (b"\xff not UTF-8 \x00\n", b"\r\n\r\nmixed\nends"),
            ("# 排行榜\r\n".encode(), b"\r\nend\r\n"),
        ],
    )
    def test_keeps_the_text_around_byte_for_byte(
        self, tmp_path: Path, file: Path, before: bytes, after: bytes
    ) -> None:
        file.write_bytes(before + BEGIN.encode() + b"\n" + END.encode() + after)
        for name in "ab":
            put(file, able(tmp_path, name, 0.5))
            content = file.read_bytes()
            assert content.startswith(before + BEGIN.encode())
            assert content.endswith(END.encode() + after)
        assert content.count(b"evalkit:leaderboard:begin") == 1
        assert b"| 1 (1" in content

    @pytest.mark.parametrize("text", ["", "text", "text\n", "text\n\n", "text\r\n", "text\r\n\r\n"])
    def test_without_markers_gets_them_at_its_end(self, tmp_path: Path, file: Path, text: str) -> None:
        file.write_bytes(text.encode())
        put(file, able(tmp_path, "a", 0.5))
        written = file.read_bytes().decode()
        assert written.startswith(text)
        assert re.fullmatch(r"(\r?\n)*", OURS.sub("", written).removeprefix(text))
        assert rows(file)[1][1] == "a"

    def test_keeps_windows_line_ends(self, tmp_path: Path, file: Path) -> None:
        file.write_bytes(b"# Mine\r\n\r\n")
        put(file, able(tmp_path, "a", 0.5))
        before = file.read_bytes()
        assert before.count(b"\n") == before.count(b"\r\n")
        assert not update(file, open_runs([tmp_path / "a"]), DEFAULT)[1]
        put(file, able(tmp_path, "b", 0.6))
        assert len(rows(file)) == 3

    def test_is_not_touched_where_nothing_is_new(self, tmp_path: Path, file: Path) -> None:
        runs = [able(tmp_path, name, 0.5) for name in "ab"]
        assert "wrote" in cli("leaderboard", *runs, "-o", file).err
        before = file.stat()
        for again in (runs, runs[::-1], runs[:1], []):
            assert "nothing new for" in cli("leaderboard", *again, "-o", file).err
        assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)

    @pytest.mark.parametrize(
        "text",
        [
            f"text\n{BEGIN}\n",
            f"text\n{END}\n",
            f"{END}\n{BEGIN}\n",
            f"{BEGIN}\n{BEGIN}\n{END}\n",
            f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n",
            f"{BEGIN}\n<!-- evalkit:leaderboard:en",
            f"evalkit:leaderboard:begin -->\n{END}\n",
            f"{BEGIN}\n```\n{END}\n```\n",
            "<!-- evalkit:leaderboard:state\n-->\n",
        ],
    )
    def test_with_damaged_markers_is_refused_and_left_alone(
        self, tmp_path: Path, file: Path, text: str
    ) -> None:
        file.write_text(text)
        ran = cli("leaderboard", able(tmp_path, "a", 0.5), "-o", file)
        assert ran.code == 2
        assert f"{file}: a leaderboard stands between one line" in ran.err
        assert "Nothing was changed" in ran.err
        assert file.read_text() == text

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text.replace("<!-- evalkit:leaderboard:state\n", ""),
            lambda text: text.replace("\n-->", ""),
            lambda text: text.replace('"schema_version":1', '"schema_version":2'),
            lambda text: text.replace('"value":', '"vlaue":'),
            lambda text: text.replace('"schema_version":1', '"schema_version":1,"layout":{"name":"x"}'),
            lambda text: re.sub(r'"value":[^,]+', '"value":51.2', text),
            lambda text: re.sub(r'"value":[^,]+', '"value":NaN', text),
            lambda text: re.sub(r'"value":[^,]+', '"value":1e400', text),
            lambda text: re.sub(r'"ci95":\[[^]]+', '"ci95":[0.6,0.4', text),
            lambda text: re.sub(r'"ci95":\[[^]]+', '"ci95":[-1e400,1e400', text),
            lambda text: re.sub(r'"n":\d+', '"n":-1', text),
            lambda text: re.sub(r'"units":\[[^]]+', '"units":["x",""', text),
            lambda text: re.sub(r'"units":\[[^]]+', '"units":["x","eJwDAAAAAAE="', text),
            lambda text: text.replace('"scores":[{', '"scores":[{{'),
            lambda text: re.sub(r'("units":\["\w+",")....', r"\1", text),
            lambda text: re.sub(r'("units":\["\w+",")', r"\1!", text),
            lambda text: text.replace("| 1 |", "| 1 |\n<<<<<<< ours").replace("{", "{ours", 1),
        ],
    )
    def test_with_a_damaged_record_is_refused_and_left_alone(
        self, tmp_path: Path, file: Path, damage: object
    ) -> None:
        put(file, able(tmp_path, "a", 0.5))
        text = damage(file.read_text("utf-8"))
        file.write_text(text, "utf-8")
        ran = cli("leaderboard", able(tmp_path, "b", 0.5), "-o", file)
        assert ran.code == 4, ran
        assert f"{file}: the comment that keeps what the leaderboard is made of is damaged" in ran.err
        assert len(ran.err.splitlines()) == 1
        assert file.read_text("utf-8") == text

    def test_with_scores_that_cannot_be_compared_is_refused(self, tmp_path: Path, file: Path) -> None:
        put(file, able(tmp_path, "a", 0.5), able(tmp_path, "b", 0.6))
        text = file.read_text("utf-8")
        packed = Units("x", np.ones(3), np.ones(3), np.zeros(3, int)).pack()[1]
        file.write_text(re.sub(r'("units":\["\w+",")[^"]+', rf"\g<1>{packed}", text, count=1), "utf-8")
        with pytest.raises(DataError, match="different numbers of units"):
            put(file)

    @pytest.mark.parametrize("begin", ["```", "~~~~ md", "  ```text"])
    def test_shows_markers_in_prose_and_code(self, tmp_path: Path, file: Path, begin: str) -> None:
        end = re.match(" *[`~]+", begin)[0]  # type: ignore[index]
        code = f"see evalkit:leaderboard: and {BEGIN}\n\n{begin}\n{BEGIN}\n{END}\n```x\n{end}\n\n"
        file.write_text(f"\ufeff{code}{BEGIN}\n{END}\nafter\n")
        for name in "ab":
            put(file, able(tmp_path, name, 0.5))
        text = file.read_text("utf-8")
        assert text.startswith(f"\ufeff{code}{BEGIN}\n")
        assert text.endswith(f"{END}\nafter\n")
        file.write_text(code)
        put(file, tmp_path / "a")
        assert file.read_text("utf-8").startswith(f"{code}{BEGIN}\n")

    def test_may_begin_with_a_byte_order_mark(self, tmp_path: Path, file: Path) -> None:
        file.write_text(f"\ufeff{BEGIN}\n{END}\n")
        put(file, able(tmp_path, "a", 0.5))
        assert file.read_text("utf-8").startswith(f"\ufeff{BEGIN}\n")
        assert file.read_text("utf-8").endswith(f"\n{END}\n")

    def test_that_ends_in_code_is_refused(self, tmp_path: Path, file: Path) -> None:
        file.write_text("text\n```\ncode\n")
        with pytest.raises(UsageError, match="the code fence of line 2 is never closed"):
            put(file, able(tmp_path, "a", 0.5))
        assert file.read_text() == "text\n```\ncode\n"

    def test_is_replaced_in_one_piece(self, tmp_path: Path, file: Path) -> None:
        put(file, able(tmp_path, "a", 0.5))
        file.chmod(0o640)
        before, run = file.read_bytes(), able(tmp_path, "b", 0.5)
        with (
            mock.patch.object(Path, "replace", side_effect=OSError(28, "No space left on device")),
            pytest.raises(UsageError, match="cannot be written"),
        ):
            put(file, run)
        assert file.read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["LEADERBOARD.md", "a", "b"]
        put(file, run)
        assert file.stat().st_mode & 0o777 == 0o640

    def test_behind_a_link_is_the_one_that_changes(self, tmp_path: Path) -> None:
        (tmp_path / "real.md").write_text("# Mine\n")
        (tmp_path / "link.md").symlink_to("real.md")
        put(tmp_path / "link.md", able(tmp_path, "a", 0.5))
        assert (tmp_path / "link.md").is_symlink()
        assert BEGIN in (tmp_path / "real.md").read_text("utf-8")

    def test_that_cannot_be_written(self, tmp_path: Path) -> None:
        run = able(tmp_path, "a", 0.5)
        (tmp_path / "file").touch()
        (tmp_path / "results.md").symlink_to(run / "results.json")
        kept = (run / "results.json").read_bytes()
        outputs = (tmp_path, tmp_path / "file/L.md", run / "results.json", tmp_path / "results.md")
        for output in outputs:
            ran = cli("leaderboard", run, "-o", output)
            assert ran.code == 2
            assert str(output) in ran.err
        assert (run / "results.json").read_bytes() == kept

    def test_may_have_any_name_of_markdown(self, tmp_path: Path) -> None:
        run = able(tmp_path, "a", 0.5)
        for name in ("L.MD", "L.markdown", "a/L.md"):
            assert cli("leaderboard", run, "-o", tmp_path / name).code == 0

    def test_needs_a_run_first(self, file: Path) -> None:
        ran = cli("leaderboard", "-o", file)
        assert ran.code == 2
        assert "no scores to show; name runs that have some" in ran.err
        assert not file.exists()
        assert cli("leaderboard").code == 2


class TestUpdates:
    def test_in_any_order_end_the_same(self, tmp_path: Path) -> None:
        runs = [able(tmp_path, name, share) for name, share in (("a", 0.5), ("b", 0.55), ("c", 0.3))]
        runs.append(write_run(tmp_path / "more", {CEVAL: {"law": right(0.5), "art": right(0.4)}}, "a"))
        put(tmp_path / "at once.md", *runs)
        expected = (tmp_path / "at once.md").read_bytes()
        for k, order in enumerate(itertools.permutations(runs)):
            file = tmp_path / f"{k}.md"
            for run in order:
                put(file, run)
            assert file.read_bytes() == expected

    def test_need_no_directory_again(self, tmp_path: Path, file: Path) -> None:
        runs = [able(tmp_path, name, share) for name, share in (("a", 0.5), ("b", 0.55), ("c", 0.6))]
        put(tmp_path / "at once.md", *runs)
        for run in runs:
            put(file, run)
            shutil.rmtree(run)
        assert file.read_bytes() == (tmp_path / "at once.md").read_bytes()

    def test_by_a_newer_run_replace_the_older(self, tmp_path: Path, file: Path) -> None:
        old = write_run(tmp_path / "old", {CMMLU: {"a": [0, 1]}, CEVAL: {"x": [1, 1]}}, day=1)
        new = write_run(tmp_path / "new", {CMMLU: {"a": [1, 1]}}, day=2)
        put(file, old)
        board = put(file, new)
        (place,) = board.places
        assert [(score.run_id, score.value) for score in place.scores if score] == [("old", 1), ("new", 1)]
        assert rows(file)[1][-2:] == ["2026-01-02", "new, old"]
        put(file, old)  # an older one changes nothing
        assert [score.run_id for score in board.places[0].scores if score] == ["old", "new"]
        put(tmp_path / "at once.md", new, old)
        assert file.read_bytes() == (tmp_path / "at once.md").read_bytes()

    def test_by_the_same_run_examined_since(self, tmp_path: Path, file: Path) -> None:
        put(file, write_run(tmp_path / "a", {CMMLU: {"a": [0, 1]}}))
        assert "Contamination" not in rows(file)[0]
        shutil.rmtree(tmp_path / "a")
        put(file, write_run(tmp_path / "a", {CMMLU: {"a": [0, 1]}}, verdict="file leak"))
        header, line = rows(file)
        assert line[header.index("Contamination")] == "cmmlu: file leak"

    @pytest.mark.parametrize(
        ("newer", "message"),
        [
            ({"data": "f" * 64}, r"on different data \(0123456789ab and ffffffffffff\)"),
            ({"n": 40}, "scored 400 and 40 samples of"),
            ({"n": 40, "manifest": False}, "scored 400 and 40 samples of"),
        ],
    )
    def test_by_a_lesser_run_are_refused_in_any_order(
        self, tmp_path: Path, newer: dict[str, Any], message: str
    ) -> None:
        full = able(tmp_path / "1", "a", 0.5, manifest=newer.get("manifest", True))
        lesser = able(tmp_path / "2", "a", 0.5, **newer, day=2)
        for first, second in ((full, lesser), (lesser, full)):
            file = tmp_path / f"{first.parent.name}.md"
            put(file, first)
            before = file.read_bytes()
            if first is full or "data" in newer:
                with pytest.raises(UsageError, match=message):
                    put(file, second)
                assert file.read_bytes() == before
            put(file, second, mixed=True)
            (score,) = put(file).places[0].scores
            assert score

    def test_by_a_run_with_a_caveat_are_refused(
        self, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(file, able(tmp_path / "1", "a", 0.5))
        again = able(tmp_path / "2", "a", 0.5, day=2)
        monkeypatch.setattr(Run, "caveats", lambda self, task: iter(["partial run"]))
        with pytest.raises(UsageError, match=r"are not alike on gsm8k.*the newer: partial run"):
            put(file, again)
        put(file, again, mixed=True)
        shutil.rmtree(again)
        put(file, mixed=False)
        assert re.search("^. partial run", file.read_text("utf-8"), re.MULTILINE)

    def test_of_a_model_in_another_precision_are_another_entry(self, tmp_path: Path, file: Path) -> None:
        for dtype in ("float32", "bfloat16"):
            put(file, write_run(tmp_path / dtype, {CMMLU: {"a": [0, 1]}}, dtype=dtype))
        assert [row[1] for row in rows(file)[1:]] == ["m (bfloat16)", "m (float32)"]

    def test_take_a_model_out_by_deleting_its_line(self, tmp_path: Path, file: Path) -> None:
        put(file, able(tmp_path, "a", 0.5), able(tmp_path, "b", 0.5))
        lines = file.read_text("utf-8").splitlines(keepends=True)
        file.write_text("".join(line for line in lines if not line.startswith('{"name":"a"')), "utf-8")
        assert cli("leaderboard", "-o", file).code == 0
        assert [row[1] for row in rows(file)[1:]] == ["b"]


class TestRanks:
    def test_have_the_range_that_uncertainty_leaves(self, tmp_path: Path, file: Path) -> None:
        runs = [
            able(tmp_path, "best", 0.9),
            able(tmp_path, "good", 0.5),
            able(tmp_path, "equal", 0.49, seed=1),
            able(tmp_path, "poor", 0.1),
        ]
        board = put(file, *runs)
        by_score = {"best": "1", "good": "2 (2–3)", "equal": "3 (2–3)", "poor": "4"}
        if ranks(board)["equal"].startswith("2"):
            by_score |= {"equal": "2 (2–3)", "good": "3 (2–3)"}
        assert ranks(board) == by_score
        assert [row[0] for row in rows(file)[1:]] == [place.shown_rank for place in board.places]

    def test_are_sharper_where_the_same_questions_are_hard(self, tmp_path: Path, file: Path) -> None:
        same = [able(tmp_path / "same", "a", 0.50), able(tmp_path / "same", "b", 0.55)]
        other = [able(tmp_path / "other", "a", 0.50), able(tmp_path / "other", "b", 0.55, data="f" * 64)]
        assert ranks(put(tmp_path / "same.md", *same)) == {"b": "1", "a": "2"}
        assert ranks(put(tmp_path / "other.md", *other, mixed=True)) == {"b": "1 (1–2)", "a": "2 (1–2)"}

    def test_of_equal_scores_are_equal(self, tmp_path: Path, file: Path) -> None:
        board = put(file, *(able(tmp_path, name, 0.5) for name in "cab"))
        assert ranks(board) == {"a": "1 (1–3)", "b": "1 (1–3)", "c": "1 (1–3)"}

    def test_hold_what_they_say(self, tmp_path: Path, file: Path) -> None:
        """In a range lies the rank by true ability, for nearly all of many made-up models."""
        generator = np.random.default_rng(5)
        shares = np.linspace(0.4, 0.7, 12)
        inside = 0
        for repeat in range(4):
            hard = generator.random(400)
            runs = []
            for i, share in enumerate(shares):
                scores = (generator.random(400) < np.clip(hard + share - 0.5, 0, 1)).astype(float).tolist()
                root = tmp_path / str(repeat) / f"m{i:02}"
                runs.append(write_run(root, {GSM8K: {str(s): scores[s::20] for s in range(20)}}, root.name))
            board = put(tmp_path / f"{repeat}.md", *runs)
            inside += sum(
                place.first <= len(shares) - int(place.name[1:]) <= place.last for place in board.places
            )
        assert inside / (4 * len(shares)) > 0.9
        assert max(place.last - place.first for place in board.places) < 11

    def test_rest_on_the_columns_all_models_share(self, tmp_path: Path, file: Path) -> None:
        few = {"x": right(0.5), "y": right(0.4)}
        put(file, write_run(tmp_path / "a", {CMMLU: few, CEVAL: few, GSM8K: few}, "a"))
        assert rows(file)[0][2] == "Average"
        assert "Ranked by the average of all columns." in file.read_text("utf-8")
        better = {"x": right(0.9), "y": right(0.9)}
        board = put(file, write_run(tmp_path / "b", {CMMLU: better, CEVAL: few}, "b"))
        header, first, second = rows(file)
        assert header[2:6] == ["Ranking score", "ceval acc¹", "cmmlu acc²", "gsm8k acc³"]
        assert (first[1], first[5], second[1]) == ("b", "–", "a")
        assert [place.mean for place in board.places] == [
            pytest.approx(100 * np.mean([score.value for score in place.scores[:2] if score]))
            for place in board.places
        ]
        assert "the mean of the columns that all share: ceval acc, cmmlu acc." in file.read_text("utf-8")
        assert "No average: not every model has every column." in file.read_text("utf-8")

    def test_need_a_column_that_all_share(self, tmp_path: Path, file: Path) -> None:
        put(file, write_run(tmp_path / "b", {CMMLU: {"x": [1, 0]}}, "b"))
        board = put(file, write_run(tmp_path / "a", {CEVAL: {"x": [1, 0]}}, "a"))
        assert ranks(board) == {"a": "–", "b": "–"}
        assert "Not ranked: no column is shared by all models." in file.read_text("utf-8")
        assert [path.name[:1] for path in write_badges(board, tmp_path / "badges")] == ["a", "b"]

    def test_count_protocols_of_one_benchmark_as_one_measurement(self, tmp_path: Path) -> None:
        """Twice the same samples are not twice the evidence."""
        ours = [right(0.500, 1000), right(0.530, 1000, seed=7)]
        once, twice = [], []
        for name, scores in zip("ab", ours, strict=True):
            subsets = {str(i): scores[i::20] for i in range(20)}
            once.append(write_run(tmp_path / "once" / name, {GSM8K: subsets}, name))
            tasks = {GSM8K: subsets, "gsm8k@oc4:test:4shot": subsets}
            twice.append(write_run(tmp_path / "twice" / name, tasks, name))
        assert ranks(put(tmp_path / "1.md", *once)) == ranks(put(tmp_path / "2.md", *twice))


class TestTable:
    def test_of_a_real_run(self, tmp_path: Path, file: Path) -> None:
        mock_run(tmp_path / "run", "cmmlu,ceval", backend=failing(3), limit=5)
        put(file, tmp_path / "run")
        text = file.read_text("utf-8")
        header, line = rows(file)
        assert header[:3] == ["Rank", "Model", "Average"]
        assert line[:2] == ["1", "mock"]
        for note in (
            "made-up sample data, not the benchmark",
            "1 of 15 samples failed",
            f"{CMMLU}: acc, macro average",
            f"{CEVAL}: acc, macro average",
        ):
            assert note in text

    def test_has_a_date_and_a_run(self, tmp_path: Path, file: Path) -> None:
        put(file, able(tmp_path, "a", 0.5, day=7), able(tmp_path, "b", 0.4, manifest=False))
        assert [row[-2:] for row in rows(file)] == [["Date", "Run"], ["2026-01-07", "a"], ["–", "b"]]

    def test_of_mixtures_is_refused_or_has_footnotes(self, tmp_path: Path, file: Path) -> None:
        put(file, able(tmp_path, "a", 0.5, data="a" * 64))
        before = file.read_bytes()
        ran = cli("leaderboard", able(tmp_path, "b", 0.5, data="b" * 64), "-o", file)
        assert ran.code == 2
        assert (
            f"a (run a) and b (run b) ran {GSM8K} on different data (aaaaaaaaaaaa and bbbbbbbbbbbb)"
            in ran.err
        )
        assert file.read_bytes() == before
        assert cli("leaderboard", tmp_path / "b", "-o", file, "--mixed").code == 0
        assert f"{GSM8K}, data bbbbbbbbbbbb" in file.read_text("utf-8")
        # The run on other data may also be replaced by one on the same.
        shutil.rmtree(tmp_path / "a")
        assert (
            cli("leaderboard", able(tmp_path, "a", 0.5, data="b" * 64, day=3), "-o", file, "--mixed").code
            == 0
        )
        assert cli("leaderboard", "-o", file, "--no-mixed").code == 0

    def test_is_written_as_last_time(self, tmp_path: Path, file: Path) -> None:
        layout = tmp_path / "mine.yaml"
        layout.write_text(
            "{title: '-->', corner: c, models: rows, entries: [{key: Law, runs: [cmmlu], subsets: [law]}]}"
        )
        for name, data in (("a", "a" * 64), ("b", "b" * 64)):
            write_run(tmp_path / name, {CMMLU: {"law": [1, 0], "art": [0, 1]}}, name, data=data)
        runs = [tmp_path / "a", tmp_path / "b"]
        assert cli("leaderboard", *runs, "-o", file, "--layout", layout, "--mixed").code == 0
        written = file.read_bytes()
        layout.unlink()
        assert "nothing new" in cli("leaderboard", "-o", file).err
        assert "Law" in rows(file)[0][2]
        assert "nothing new" in cli("leaderboard", *runs, "-o", file).err
        assert file.read_bytes() == written
        assert cli("leaderboard", "-o", file, "--layout", "scores").code == 0
        assert "cmmlu acc" in rows(file)[0][2]
        ran = cli("leaderboard", "-o", file, "--no-mixed")
        assert (ran.code, "on different data" in ran.err) == (2, True)

    def test_takes_the_columns_of_a_layout(self, tmp_path: Path, file: Path) -> None:
        layout = Layout.model_validate(
            {
                "name": "mine",
                "title": "Mine",
                "corner": "c",
                "models": "columns",
                "digits": 1,
                "entries": [
                    {"key": "Hard", "runs": ["cmmlu"], "category": "All of it"},
                    {"key": "Half", "runs": ["cmmlu"], "metric": "half", "group": "G"},
                    {"key": "Law", "runs": ["cmmlu"], "subsets": ["law"]},
                    {"key": "Low", "runs": ["cmmlu"], "best": "lower"},
                    {"key": "Mean", "mean_of": ["Hard", "Law"]},
                    {"key": "Memory", "model": "memory_gb"},
                    {"key": "Leak", "runs": ["cmmlu"], "leakage": 0.2},
                    {"key": "MMLU", "runs": ["mmlu"]},
                ],
            }
        )
        run = write_run(tmp_path / "a", {CMMLU: {"law": [1, 1], "art": [0, 1]}}, "a")
        board = put(file, run, able(tmp_path, "b", 0.5), layout=layout)
        header, line = rows(file)
        assert header[1:7] == ["Model", "Ranking score", "Hard¹", "G · Half²", "Law³", "Low⁴"]
        assert [cell.split(" [")[0] for cell in line[2:7]] == ["70.8", "75.0", "37.5", "100.0", "75.0"]
        assert f"³ {CMMLU}: law, acc, macro average" in file.read_text("utf-8")
        assert board.left_out == ("b",)
        assert "Without a score in these columns: b." in file.read_text("utf-8")
        assert [row[1] for row in rows_after(file, DEFAULT)] == ["a", "b"]  # what is not shown is kept

    @pytest.mark.parametrize(
        "entries", [[{"key": "x", "runs": ["x"]}], [{"key": "x", "runs": ["gsm8k"], "leakage": 0.2}]]
    )
    def test_of_a_layout_without_scores_is_refused(
        self, tmp_path: Path, file: Path, entries: list[dict[str, Any]]
    ) -> None:
        layout = Layout.model_validate(
            {
                "name": "l",
                "title": "t",
                "corner": "c",
                "models": "rows",
                "entries": entries,
            }
        )
        with pytest.raises(UsageError, match="no scores to show in the columns of layout l"):
            put(file, able(tmp_path, "a", 0.5), layout=layout)

    def test_names_a_task_in_full_where_several_read_alike(self, tmp_path: Path, file: Path) -> None:
        other = "gsm8k@oc4:test:4shot"
        put(file, write_run(tmp_path / "a", {GSM8K: {"": [1, 0]}, other: {"": [1, 0]}, CMMLU: {"": [1, 0]}}))
        assert rows(file)[0][3:6] == ["cmmlu acc¹", f"{GSM8K} acc²", f"{other} acc³"]


def rows_after(file: Path, layout: Layout) -> list[list[str]]:
    put(file, layout=layout)
    return rows(file)[1:]


class TestHostileText:
    NAMES = (
        END,
        "-->",
        "--!>",
        BEGIN,
        "<!-- evalkit:leaderboard:state",
        HOSTILE.replace("\ud800", ""),
        "\\u003e",
        "",
    )

    def test_ends_neither_table_nor_comment(self, tmp_path: Path, file: Path) -> None:
        file.write_text(f"before\n\n{BEGIN}\n{END}\n\nafter\n")
        for k, name in enumerate(self.NAMES):
            tasks = {f"{name}@p:test:0shot": {name: [1, 0, 1]}, GSM8K: {"": [1, 0]}}
            put(file, write_run(tmp_path / str(k), tasks, name, verdict=name or "x"))
        text = file.read_text("utf-8")
        assert text.startswith("before\n\n")
        assert text.endswith("\n\nafter\n")
        assert text.count("-->") == 3  # two markers and the end of what is kept
        table = rows(file)
        assert {len(row) for row in table} == {len(table[0])}
        assert {row[1] for row in table[1:]} == {one_line(name) for name in self.NAMES}
        assert {kind for kind in kinds(text) if "html" in kind} == {"html_block"}  # markers and comment
        assert not kinds(text) & {"em_open", "code_inline", "link_open", "html_inline", "fence"}
        board = put(file)
        assert len(board.places) == len(self.NAMES)

    def test_that_is_no_unicode_is_refused(self, tmp_path: Path, file: Path) -> None:
        run = write_run(tmp_path / "a", {GSM8K: {"": [1, 0]}}, "\ud800")
        with pytest.raises(DataError, match=r"a/results.json: .*Invalid JSON"):
            put(file, run)


class TestBadges:
    def test_are_endpoints_of_shields(self, tmp_path: Path, file: Path) -> None:
        runs = [
            able(tmp_path, "org/Best", 0.9),
            able(tmp_path, "other", 0.5),
            able(tmp_path, "Third", 0.49, seed=1),
        ]
        ran = cli("leaderboard", *runs, "-o", file, "--badges", tmp_path / "badges")
        assert "3 badges in" in ran.err
        found = {path.name: json.loads(path.read_text("utf-8")) for path in (tmp_path / "badges").iterdir()}
        assert all(re.fullmatch(r"[a-z0-9-]+-[0-9a-f]{8}\.json", name) for name in found)
        best = next(badge for name, badge in found.items() if name.startswith("org-best-"))
        score = rows(file)[1][2].split(" [")[0]
        assert best == {
            "schemaVersion": 1,
            "label": "org/Best",
            "message": f"rank 1 of 3, {float(score):.1f}",
            "color": "brightgreen",
        }
        others = [badge for badge in found.values() if badge != best]
        assert {badge["color"] for badge in others} == {"blue"}
        assert sorted(badge["message"].split(",")[0] for badge in others) == [
            "rank 2 (2–3) of 3",
            "rank 3 (2–3) of 3",
        ]

    def test_have_safe_names_that_stay(self, tmp_path: Path, file: Path) -> None:
        names = ["../../etc/passwd", "a/b", "a-b", "A-B", "模型", "", "." * 300, "con"]
        for k, name in enumerate(names):
            put(file, write_run(tmp_path / str(k), {GSM8K: {"": [1, 0]}}, name))
        first = write_badges(put(file), tmp_path / "badges")
        assert len({path.name.lower() for path in first}) == len(names)
        assert all(path.parent == tmp_path / "badges" and len(path.name) < 90 for path in first)
        stamps = {path: path.stat().st_mtime_ns for path in first}
        assert write_badges(put(file), tmp_path / "badges") == first
        assert {path: path.stat().st_mtime_ns for path in first} == stamps
        again = write_badges(
            put(file, write_run(tmp_path / "x", {GSM8K: {"": [1, 1]}}, "x")), tmp_path / "badges"
        )
        assert set(first) < set(again)

    def test_are_not_written_unasked(self, tmp_path: Path, file: Path) -> None:
        cli("leaderboard", able(tmp_path, "a", 0.5), "-o", file)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["LEADERBOARD.md", "a"]

    def test_need_a_folder(self, tmp_path: Path, file: Path) -> None:
        (tmp_path / "file").touch()
        ran = cli("leaderboard", able(tmp_path, "a", 0.5), "-o", file, "--badges", tmp_path / "file")
        assert ran.code == 2
        assert "cannot be written" in ran.err
        ran = cli("leaderboard", tmp_path / "a", "-o", file, "--badges", "")
        assert (ran.code, "--badges names no folder" in ran.err) == (2, True)


def test_units_survive_being_kept() -> None:
    generator = np.random.default_rng(6)
    for n in (2, 67, 1319):
        units = Units("x", generator.random(n), generator.integers(1, 99, n).astype(float), np.zeros(n, int))
        kept = Units.unpack(units.pack())
        assert kept.of == "x"
        np.testing.assert_allclose(kept.values, units.values, atol=1e-5)
        np.testing.assert_array_equal(kept.weights, units.weights)
