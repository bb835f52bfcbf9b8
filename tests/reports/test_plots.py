import json

import numpy as np
import pytest
from helpers import cli, mock_run, samples
from matplotlib.colors import to_hex

from evalkit.backends.mock import MockBackend
from evalkit.leakage.files import write_scores
from evalkit.leakage.scores import ItemScores, PermutationScores, all_orders
from evalkit.reports import plots
from evalkit.reports.figures import SERIES, drawings
from evalkit.reports.leaked import ranks
from evalkit.reports.runs import open_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models; names of the second need fonts that few machines have. Only that one ran C-Eval."""
    folder = tmp_path_factory.mktemp("runs")
    for name, tasks in (("a", "cmmlu"), ("b", "cmmlu,ceval")):
        mock_run(folder / name, tasks, backend=MockBackend(name), model=name)
        edit(folder / name, add_lengths)
    edit(folder / "b", rename)
    return [folder / "a", folder / "b"]


def edit(run, change):
    path = run / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def add_lengths(results):
    for task in results["tasks"].values():
        task["strata"] = {"0-4k": task["subsets"], "8k+": dict(list(task["subsets"].items())[:1])}


def rename(results):
    results["model"]["name"] = "模型 العربية $x$"
    for task in results["tasks"].values():
        task["groups"] = {f"{group} 中国特色": scores for group, scores in task["groups"].items()}


def test_every_figure_is_written_as_png_and_svg(runs, tmp_path):
    ran = cli("report", *runs, "--plots", tmp_path / "plots", "-o", tmp_path / "t.md")
    assert ran.code == 0, ran.err
    found = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"scores.png", "scores.svg"} < found
    assert {name.split("-")[0] for name in found} >= {"categories", "radar", "lengths"}
    assert (tmp_path / "plots/scores.png").read_bytes().startswith(b"\x89PNG")


def test_needs_no_font_but_matplotlib_s_own(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_FAMILIES", ("DejaVu Sans",))
    plots.draw(open_runs(runs), tmp_path)  # a warning would be an error
    text = (tmp_path / "scores.svg").read_text("utf-8")
    assert "模型 العربية $x$" in text


def test_a_model_has_one_colour_in_all_figures(runs):
    with plots.style():
        found = {one.name: one.figure for one in drawings(open_runs(runs))}
    alone = next(figure for name, figure in found.items() if name.startswith("categories-ceval"))
    assert to_hex(alone.axes[0].patches[0].get_facecolor()) == SERIES[1]


def test_what_leakage_found_is_drawn(tmp_path):
    run = tmp_path / "run"
    mock_run(run, "cmmlu")
    method = {"flagged": 0.4, "ci95": [0.3, 0.5], "null_floor": 0.3, "null_floor_ci95": None}
    edit(
        run,
        lambda results: results.update(
            leakage={
                "run_id": "leak",
                "tasks": {
                    task: {
                        "methods": {"scenario a": method},
                        "verdict": {"short": "inconclusive", "sentence": "Inconclusive."},
                    }
                    for task in results["tasks"]
                },
            }
        ),
    )
    orders, rows = all_orders(4), samples(run)
    items = [ItemScores(row["subset"], row["sample_id"], orders, np.arange(24.0), ()) for row in rows]
    scores = PermutationScores(rows[0]["task"], tuple(items))
    write_scores(tmp_path / "leak" / "permutations.parquet", [scores])
    (opened,) = open_runs([run])
    assert ranks(opened, scores.task).counts == [0] * 23 + [len(rows)]
    files = [path.name for path in plots.draw([opened], tmp_path / "plots")]
    assert any(name.startswith("leakage-ranks") for name in files)
    assert any(name.startswith("leakage-flagged") for name in files)


def test_without_matplotlib_says_how_to_get_it(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "HAS_MATPLOTLIB", False)
    ran = cli("report", *runs, "--plots", tmp_path / "plots", "-o", tmp_path / "t.md")
    assert ran.code == 2
    assert "pip install 'evalkit[report]'" in ran.err


def test_models_whose_names_have_no_latin_letter_have_figures_of_their_own(tmp_path):
    method = {"flagged": 0.4, "ci95": [0.3, 0.5], "null_floor": 0.3, "null_floor_ci95": None}
    found = {"methods": {"a": method}, "verdict": {"short": "none", "sentence": "None."}}
    for name in ("模型一", "模型二", "a/b", "a b"):
        run = tmp_path / name.replace("/", "|")
        mock_run(run, "cmmlu", backend=MockBackend(name), model=name)
        edit(run, lambda r: r.update(leakage={"tasks": dict.fromkeys(r["tasks"], found)}))
    names = [one.name for one in drawings(open_runs(sorted(tmp_path.iterdir())))]
    assert len({name for name in names if name.startswith("leakage-flagged")}) == 4
    assert len(names) == len({name.lower() for name in names})
