"""`evalkit diff --plots`, and the numbers beside it."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _planted import SUBJECTS, mock, parted
from helpers import cli, write_cmmlu

from evalkit.backends.mock import MockBackend
from evalkit.diff import figures
from evalkit.diff.logprobs import Options, spread
from evalkit.reports import plots
from evalkit.reports.figures import Drawing
from evalkit.store import RunStore

N = sum(SUBJECTS.values())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_cmmlu(tmp_path / "data", SUBJECTS)


@pytest.fixture
def runs(data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two models."""
    for name in "ab":
        mock(tmp_path / name, data, backend=MockBackend(name), model=name)
    return tmp_path / "a", tmp_path / "b"


def texts(svg: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


def made_up(n: int) -> Options:
    """Options of two models of which the second is a little off."""
    random = np.random.default_rng(0)
    a = -random.exponential(2, n)
    gain = random.choice([-1.0, 0.0, 1.0], n, p=[0.05, 0.9, 0.05])
    return Options(a, a + random.normal(0, 0.01, n), gain, [("s", str(i)) for i in range(n)])


def written(found: Options, folder: Path) -> tuple[Path, Path]:
    png, svg = plots.write(
        (Drawing("it", "title", "", figures.logprobs(o, "A", "B")) for o in [found]), folder
    )
    return png, svg


class TestPlots:
    def test_show_every_option_and_which_samples_flipped(
        self, runs: tuple[Path, Path], tmp_path: Path
    ) -> None:
        ran = cli("diff", *runs, "--plots", tmp_path / "plots")
        assert ran.code == 0, ran.err
        png, svg = sorted((tmp_path / "plots").iterdir())
        assert [line.removeprefix("wrote ") for line in ran.err.splitlines()] == [str(png), str(svg)]
        effect = parted(*runs)[2]["effect"]
        flipped = {side: 4 * effect[f"higher_in_{side}"] for side in "ab"}
        assert flipped["a"] + flipped["b"] > 0
        found = texts(svg)
        assert f"cmmlu@official:test:5shot: log-probabilities of {4 * N} options" in found
        assert f"A judged better ({flipped['a']})" in found
        assert f"B judged better ({flipped['b']})" in found
        assert f"judged alike ({4 * N - flipped['a'] - flipped['b']})" in found
        assert f"A: {runs[0]} (nat)"[-20:] in " ".join(found)

    def test_are_the_same_every_time(self, runs: tuple[Path, Path], tmp_path: Path) -> None:
        for name in ("one", "two"):
            assert cli("diff", *runs, "--plots", tmp_path / name).code == 0
        one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
        assert one == two

    def test_of_large_runs_stay_small(self, tmp_path: Path) -> None:
        png, svg = written(made_up(60_000), tmp_path)
        assert png.stat().st_size < 300_000
        assert svg.stat().st_size < 300_000
        assert "<image" in svg.read_text("utf-8")

    def test_keep_the_points_of_small_runs_as_shapes(self, tmp_path: Path) -> None:
        _, svg = written(made_up(50), tmp_path)
        assert "<image" not in svg.read_text("utf-8")

    @pytest.mark.parametrize("n", [1, 2, 5000])
    def test_of_equal_runs_have_nothing_on_the_right(self, n: int, tmp_path: Path) -> None:
        found = made_up(n)
        _, svg = written(replace(found, b=found.a), tmp_path)
        assert f"differences ({n:,} options are equal)" in texts(svg)

    def test_of_one_option(self, tmp_path: Path) -> None:
        _, svg = written(made_up(1), tmp_path)
        assert "differences (0 options are equal)" in texts(svg)

    def test_leave_out_tasks_that_generate(self, data: Path, tmp_path: Path) -> None:
        for name in "ab":
            mock(tmp_path / name, data, "cmmlu@oc-gen")
        ran = cli("diff", tmp_path / "a", tmp_path / "b", "--plots", tmp_path / "plots")
        assert (ran.code, list((tmp_path / "plots").iterdir())) == (0, [])
        assert "nothing was drawn" in ran.err

    @pytest.mark.parametrize("folder", ["taken", "taken/inside", ""])
    def test_into_what_is_no_folder(self, folder: str, runs: tuple[Path, Path], tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("a file")
        ran = cli("diff", *runs, "--plots", tmp_path / folder if folder else "")
        assert (ran.code, ran.out) == (2, "")
        assert "--plots" in ran.err
        assert "Traceback" not in ran.err

    def test_need_matplotlib(
        self, runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plots, "HAS_MATPLOTLIB", False)
        ran = cli("diff", *runs, "--plots", tmp_path / "plots")
        assert (ran.code, "pip install 'evalkit[report]'" in ran.err) == (2, True)


def test_quantiles_of_the_differences() -> None:
    gaps = np.arange(1001) / 100.0
    found = spread(Options(np.zeros(1001), -gaps, np.zeros(1001), [("s", str(i)) for i in range(1001)]))
    assert (found.n, found.median, found.p99, found.largest) == (1001, 5.0, pytest.approx(9.9), 10.0)
    assert found.key == ("s", "1000")


def test_scores_that_are_not_finite_are_left_out(runs: tuple[Path, Path], tmp_path: Path) -> None:
    store = RunStore(runs[1])
    first, *others = store.read_samples()
    broken = replace(first, choice_logprobs=(-math.inf, math.nan, -1.0, -2.0), correct=None)
    store.write_samples([broken, *others])
    ran = cli("diff", *runs, "--json", "--examples", str(N), "--plots", tmp_path / "plots")
    assert ran.code == 0, ran.err
    (task,) = json.loads(ran.out)["tasks"]
    assert task["logprobs"]["n"] == 4 * N - 2
    assert [None, None, -1.0, -2.0] in [example["b"]["logprobs"] for example in task["examples"]]
    assert "(not finite, not finite, -1.000, -2.000)" in cli("diff", *runs, "--examples", str(N)).out
