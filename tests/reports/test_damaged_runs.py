"""Files of runs that are damaged, or no longer what they were: one clear error, or a report."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _made_up import CMMLU, GSM8K, write_run
from helpers import cli, mock_run

import evalkit
from evalkit.errors import DataError, UsageError
from evalkit.reports import plots
from evalkit.reports.comparison import Scored, Units, gap
from evalkit.reports.filling import fill
from evalkit.reports.html import page
from evalkit.reports.layouts import DEFAULT, load
from evalkit.reports.leaderboard import update
from evalkit.reports.renderers import FORMATS
from evalkit.reports.runs import open_runs

Place = tuple[str | int, ...]

_DELETED = object()
_VALUES = (_DELETED, None, "x", math.nan, -1, 1e308, [], {}, [1], True)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with all that a document can hold."""
    monkeypatch.setattr(plots, "HAS_MATPLOTLIB", False)  # figures read no more than the rest, but slowly
    root = write_run(tmp_path / "a", {CMMLU: {"s": [1, 0, 1], "t": [0, 1]}}, verdict="no evidence")
    results = json.loads((root / "results.json").read_text())
    task, whole = results["tasks"][CMMLU], results["tasks"][CMMLU]["metrics"]["acc"]
    task |= {"strata": {"0-4k": {"s": {"acc": whole}}}, "truncated_share": {"s": 0.5}, "submission": "s.json"}
    task |= {
        "samples_total": 9,
        "subsets_present": 2,
        "subsets_total": 3,
        "score_range": {"low": 0, "high": 1},
    }
    lead = {"subset": "s", "sample_id": "0", "rank": 1, "gap": 2.0, "p": 0.01, "fdr": 0.1}
    rate = {"flagged": 0.3, "ci95": [0.2, 0.4], "null_floor": 0.3, "null_floor_ci95": [0.2, 0.4]}
    points = {"value": 1.0, "ci95": [0.0, 2.0]}
    results["leakage"]["run_id"] = "leak"
    results["leakage"]["tasks"][CMMLU] |= {
        "leads": [lead],
        "methods": {"scenario b, threshold -0.2": rate},
        "clean_score": {"all": whole, "clean": whole, "inflation_points": points, "n_with_evidence": 1},
    }
    (root / "results.json").write_text(json.dumps(results))
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["tasks"][CMMLU]["data"] = {"source": "local", "official": False, "variant": "partial"}
    manifest["model"] = {"details": {"random_weights": True}}
    manifest["equality_gate"] = {"passed": False, "max_difference": 0.5}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def everything(run: Path, board: Path) -> Iterator[Callable[[], object]]:
    """Everything that reads a run."""
    yield lambda: [
        FORMATS[name]([fill(load(layout), open_runs([run]), ties=True)])
        for name in ("md", "json")
        for layout in ("scores", "orion-leakage")
    ]
    yield lambda: page.render([fill(DEFAULT, found := open_runs([run]))], found)
    yield lambda: update(board, open_runs([run]), DEFAULT)
    yield lambda: (evalkit.load_runs(run), evalkit.load_runs(run, level="samples"))


def problem(action: Callable[[], object]) -> str | None:
    """The line that says what is wrong, if it is not done."""
    try:
        action()
    except (DataError, UsageError) as error:
        return str(error)
    return None


def read(run: Path) -> None:
    """Read a run in every way; each either works or says in one line what is wrong."""
    board = run.parent / "board.md"
    for action in everything(run, board):
        board.unlink(missing_ok=True)
        assert "\n" not in (problem(action) or "")


def places(document: Any, before: Place = ()) -> Iterator[Place]:
    """The place of everything in a document."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        yield (*before, key)
        if isinstance(value, dict | list):
            yield from places(value, (*before, key))


def test_what_is_whole_is_read(run: Path) -> None:
    for action in everything(run, run.parent / "board.md"):
        action()


@pytest.mark.parametrize("name", ["results.json", "manifest.json"])
def test_anything_may_be_missing_or_another_thing(run: Path, name: str) -> None:
    whole = json.loads((run / name).read_text())
    accepted = 0
    for place in places(whole):
        for value in _VALUES:
            document = copy.deepcopy(whole)
            *outer, last = place
            inner = document
            for key in outer:
                inner = inner[key]
            if value is _DELETED:
                del inner[last]
            else:
                inner[last] = value
            (run / name).write_text(json.dumps(document))
            if refused := problem(lambda: open_runs([run])):
                assert refused.startswith(f"{run / name}: ")
                assert "\n" not in refused
            else:
                accepted += 1
                read(run)
    assert accepted


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("model",), _DELETED, "model: is missing"),
        (("cost",), {}, "cost.wall_s: is missing"),
        (("status",), "done", "status: must be 'complete' or 'partial'"),
        (("tasks", CMMLU, "counters"), [], f"tasks.{CMMLU}.counters: must be a mapping"),
        (("tasks", CMMLU, "metrics", "acc", "n"), "many", "metrics.acc.n: must be a whole number"),
        (("tasks", CMMLU, "metrics", "acc", "n"), -1, "metrics.acc.n: must be greater than or equal to 0"),
        (("tasks", CMMLU, "metrics", "acc", "ci95"), [0.1], "metrics.acc.ci95.1: is missing"),
        (("tasks", CMMLU, "metrics", "acc", "ci95"), [0.2, 0.1], "acc.ci95: ends below where it begins"),
        (("tasks", CMMLU, "metrics", "acc", "value"), True, "metrics.acc.value: must be a number"),
        (("tasks", CMMLU, "metrics", "acc", "value"), math.inf, "Infinity is no number of JSON"),
        (("tasks", CMMLU, "subsets_total"), _DELETED, "'subsets_present' and 'subsets_total'"),
    ],
)
def test_errors_name_file_and_place(run: Path, place: Place, value: object, why: str) -> None:
    document = json.loads((run / "results.json").read_text())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner.pop(place[-1])
    if value is not _DELETED:
        inner[place[-1]] = value
    (run / "results.json").write_text(json.dumps(document))
    ran = cli("report", run)
    assert (ran.code, ran.out) == (4, "")
    message = " ".join(ran.err.split())
    assert f"{run / 'results.json'}: " in message
    assert why in message


# -- samples ------------------------------------------------------------------------------------


def _strings(*values: str | None) -> Callable[[int], pa.Array]:
    return lambda n: pa.array([*values] * n, pa.string())


def _lists(values: list[Any], type_: pa.DataType) -> Callable[[int], pa.Array]:
    return lambda n: pa.array([values] * n, pa.list_(type_))


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("sample_id", lambda n: pa.array(range(n)), "column sample_id is int64, not string"),
        ("subset", _strings(None), "row 0: subset is null"),
        ("correct", _strings("x"), "column correct is string, not double"),
        ("correct", lambda n: pa.array([math.nan] * n), "row 0: correct is nan, not between 0 and 1"),
        ("correct", lambda n: pa.array([7.0] * n), "row 0: correct is 7.0, not between 0 and 1"),
        ("metrics", _strings(None), "row 0: metrics is no JSON object of numbers"),
        ("metrics", _strings("{"), "row 0: metrics is no JSON object of numbers"),
        ("metrics", _strings("[1]"), "row 0: metrics is no JSON object of numbers"),
        ("metrics", _strings('{"acc": "x"}'), "row 0: metrics is no JSON object of numbers"),
        ("metrics", _strings('{"acc": NaN}'), "row 0: metrics is no JSON object of numbers"),
        ("choice_logprobs", _lists([None, 1.0], pa.float64()), "row 0: choice_logprobs holds null"),
        ("choice_tokens", _lists([1], pa.int32()), "choice_tokens is not one number for each"),
        ("truncated", lambda n: pa.nulls(n, pa.bool_()), "row 0: truncated is null"),
    ],
)
def test_samples_of_another_kind(
    tmp_path: Path, column: str, values: Callable[[int], pa.Array], why: str
) -> None:
    run = tmp_path / "run"
    mock_run(run)
    table = pq.read_table(run / "samples.parquet")
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, values(len(table))), run / "samples.parquet")
    with pytest.raises(DataError) as raised:
        evalkit.load_runs(run, level="samples")
    assert str(raised.value).startswith(f"{run / 'samples.parquet'}: ")
    assert why in str(raised.value)
    read(run)


def test_samples_that_lack_a_column(tmp_path: Path) -> None:
    run = tmp_path / "run"
    mock_run(run)
    table = pq.read_table(run / "samples.parquet")
    for name in table.column_names:
        pq.write_table(table.drop_columns([name]), run / "samples.parquet")
        with pytest.raises(DataError, match=f"lacks the columns {name}"):
            evalkit.load_runs(run, level="samples")
        read(run)


# -- paths --------------------------------------------------------------------------------------


def test_paths_that_cannot_be_followed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, why in (("loop", "Too many levels of symbolic links"), ("x" * 300, "File name too long")):
        with pytest.raises(UsageError, match=rf"cannot be read \({why}\); name the directory of a run"):
            open_runs([tmp_path / name])


@pytest.mark.parametrize("name", ["results.json", "manifest.json"])
def test_documents_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = write_run(tmp_path / "a", {CMMLU: {"s": [1, 0]}})
    for content in ("[" * 100_000, '{"schema_version": 1, "x": NaN}'):
        (run / name).write_text(content)
        with pytest.raises(DataError, match=rf"{re.escape(name)}: not valid JSON"):
            open_runs([run])

    def refused(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)  # the tests may run as root, who may read everything
    with pytest.raises(UsageError, match=r"results\.json: Permission denied; make it readable"):
        open_runs([run])


# -- comparisons --------------------------------------------------------------------------------


def units(values: list[float], strata: list[int] | None = None) -> Units:
    n = len(values)
    return Units("x", np.array(values), np.ones(n), np.array(strata or [0] * n))


def test_scores_that_differ_by_less_than_what_is_kept_are_alike() -> None:
    kept = Units.unpack(units([0.5, 0.25, 0.75]).pack())
    apart = gap(Scored(0.5, 0.1, kept), Scored(0.500004, 0.1, kept))
    assert (apart.value, apart.half, apart.is_clear) == (0, 0, False)


def test_strata_are_compared_within_themselves() -> None:
    """How far one subset lies above the other is no chance where these are the ones that are meant."""
    generator = np.random.default_rng(5)
    stratum = np.repeat([0, 1], 400)
    a = (generator.random(800) < 0.45).astype(float)
    b = (generator.random(800) < np.where(stratum == 0, 0.60, 0.70)).astype(float)
    mine, theirs = (units(x.tolist(), stratum.tolist()) for x in (a, b))
    apart = gap(Scored(0, 0, theirs), Scored(0, 0, mine))
    difference = b - a
    variances = [difference[stratum == s].var(ddof=1) / 400 for s in (0, 1)]
    assert apart.value == pytest.approx(difference.mean())
    assert apart.half == pytest.approx(1.966 * math.sqrt(sum(variances)) / 2, rel=1e-3)
    assert apart.is_clear


@pytest.mark.parametrize(
    "damaged",
    [
        units([0.5]),
        units([0.5, 0.5, 0.5], [0, 0, 1]),
        Units("x", np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.zeros(2, np.int64)),
        Units("x", np.array([0.5, 0.5]), np.array([1.0, math.nan]), np.zeros(2, np.int64)),
        Units("x", np.array([0.5, 0.5]), np.array([1.0, -1.0]), np.zeros(2, np.int64)),
    ],
)
def test_units_that_cannot_be_compared_are_refused(damaged: Units) -> None:
    with pytest.raises(ValueError, match=r"two units in each stratum|positive and finite"):
        Units.unpack(damaged.pack())


def test_a_board_with_them_is_left_alone(tmp_path: Path) -> None:
    board = tmp_path / "board.md"
    update(board, open_runs([write_run(tmp_path / "a", {GSM8K: {"s": [1, 0, 1]}})]), DEFAULT)
    (kept,) = {one for line in board.read_text().splitlines() for one in _packed(line)}
    board.write_text(board.read_text().replace(kept, units([0.5]).pack()[1]))
    with pytest.raises(DataError, match="is damaged"):
        update(board, [], DEFAULT)


def _packed(line: str) -> Iterator[str]:
    if line.startswith('{"name"'):
        yield from (score["units"][1] for score in json.loads(line)["scores"])
