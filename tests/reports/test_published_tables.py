"""Published tables against the documents they were copied from, and layouts against tasks and runs."""

from __future__ import annotations

import csv
import fnmatch
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import missing

from evalkit import registry
from evalkit.errors import UsageError
from evalkit.leakage.published_cards import cards
from evalkit.reports import layouts, published
from evalkit.reports.filling import fill
from evalkit.reports.layouts import Layout
from evalkit.reports.renderers import markdown
from evalkit.reports.runs import Run, open_runs
from evalkit.reports.table import Table
from evalkit.store import RunStore
from evalkit.types import Outcome

Grid = list[list[str]]

SHIPPED = {name: layout for name, layout in layouts.layouts().items() if layout != layouts.DEFAULT}
RUNS = Path(__file__).parents[2] / "docs/results"
SUPERSCRIPT = "[⁰¹²³⁴⁵⁶⁷⁸⁹˒]+"

CSV_BLOCKS = (
    "orion-base",
    "orion-japanese",
    "orion-korean",
    "orion-multilingual",
    "orion-leakage",
    "orion-speed",
    "orion-speed-by-length",
    "xverse-summary",
    "xverse-mmlu",
    "xverse-ceval",
    "xverse-quantization",
    "openorca",
    "chinese-mixtral-ceval",
    "chinese-mixtral-cmmlu",
    "chinese-mixtral-mmlu",
    "chinese-mixtral-longbench",
    "chinese-mixtral-quantization",
    "huozi",
)
"""Layouts in the order of the tables of published_tables.md."""

README_TABLES = {
    "orion-base": ("orion-moe8x7b", "### 3.1.", 0),
    "orion-japanese": ("orion-moe8x7b", "### 3.2.", 0),
    "orion-korean": ("orion-moe8x7b", "### 3.3.", 0),
    "orion-multilingual": ("orion-moe8x7b", "### 3.4.", 0),
    "orion-leakage": ("orion-moe8x7b", "### 3.5.", 0),
    "orion-speed": ("orion-moe8x7b", "### 3.6.", 0),
    "orion-speed-by-length": ("orion-moe8x7b", "### 3.6.", 1),
    "xverse-summary": ("xverse-7b", "## 评测结果", 0),
    "xverse-mmlu": ("xverse-7b", "### MMLU 各类别指标", 0),
    "xverse-ceval": ("xverse-7b", "### C-Eval 各类别指标", 0),
    "xverse-quantization": ("xverse-7b", "## 模型量化", 0),
    "chinese-mixtral-ceval": ("chinese-mixtral", "#### C-Eval", 0),
    "chinese-mixtral-cmmlu": ("chinese-mixtral", "#### CMMLU", 0),
    "chinese-mixtral-mmlu": ("chinese-mixtral", "#### MMLU", 0),
    "chinese-mixtral-longbench": ("chinese-mixtral", "#### LongBench", 0),
    "chinese-mixtral-quantization": ("chinese-mixtral", "### 量化效果评测", 0),
}
"""README, heading above the table, how many tables stand between."""


# -- what is printed where ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def collected(official_data: Path) -> str:
    """The document that collects the published tables."""
    return read(official_data.parent / "protocols/published_tables.md")


def read(path: Path) -> str:
    if not path.is_file():
        missing(f"needs {path.name} beside the official data")
    return path.read_text("utf-8")


def csv_blocks(text: str) -> list[Grid]:
    return [list(csv.reader(block.split("\n"))) for block in re.findall(r"```csv\n(.*?)\n```", text, re.S)]


def readme_table(text: str, heading: str, index: int) -> Grid:
    """A pipe table of a README, its HTML cells as pipes, its emphasis and links gone."""
    section = re.split(r"\n#", text[text.index(f"\n{heading}") + 1 :], maxsplit=1)[0]
    section = re.sub(r"<sup>2</sup>", "*", section)
    section = re.sub(r"<sup>1</sup>|</t[dh]>|</tr>", "", section)
    section = re.sub(r"<t[dh][^>]*>", "|", section.replace("<tr>", "\n"))
    section = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", section).replace("**", "")
    tables = re.findall(r"(?:^ *\|.*\n?)+", section, re.M)
    lines = [line.strip() for line in tables[index].strip().split("\n")]
    grid = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in grid if not all(re.fullmatch(":?-+:?", cell) for cell in row)]


def rendered(layout: Layout, language: layouts.Language = "en") -> Grid:
    """The layout with published numbers, parsed from its Markdown; a mark of a number is `*`."""
    table = fill(layout, [], language=language, with_published=True)
    lines = [line for line in markdown.render([table]).split("\n") if line.startswith("|")]
    head, _, *rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[heading(cell) for cell in head], *([body(cell) for cell in row] for row in rows)]


def heading(text: str) -> str:
    return re.sub(SUPERSCRIPT, "", plain(text))


def body(text: str) -> str:
    return re.sub(SUPERSCRIPT, "*", plain(text))


def plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text.strip().removeprefix("**").replace("**", ""))


def shown(rows: Grid) -> Grid:
    """How a source's cells must appear."""
    return [["–" if cell == "-" else cell for cell in row] for row in rows]


def without_added(layout: Layout, grid: Grid) -> Grid:
    """Without the columns that evalkit adds."""
    added = len(published.load(str(layout.published)).added)
    return [row[: len(row) - added] for row in grid]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in CSV_BLOCKS if name != "openorca"])
def test_a_table_is_its_source_cell_by_cell(name: str, collected: str) -> None:
    layout = SHIPPED[name]
    head, *rows = csv_blocks(collected)[CSV_BLOCKS.index(name)]
    found_head, *found = without_added(layout, rendered(layout))
    assert found == shown(rows)
    if layout.models == "columns":
        assert found_head[1:] == head[1:]
    else:
        assert [entry.key for entry in layout.entries] == head[1:]


@pytest.mark.data
def test_every_table_of_the_collection_is_compared(collected: str) -> None:
    assert len(csv_blocks(collected)) == len(CSV_BLOCKS)


@pytest.mark.data
def test_the_list_of_openorca_is_its_source(collected: str) -> None:
    _, *rows = csv_blocks(collected)[CSV_BLOCKS.index("openorca")]
    named = [[f"{metric} ({shots}-shot)", value] for metric, shots, value in rows[:4]]
    named.append(["Average", rows[4][2]])
    assert rendered(SHIPPED["openorca"])[1:] == named
    assert rendered(SHIPPED["openorca-further"])[1:] == [[metric, value] for metric, _, value in rows[5:]]


@pytest.mark.data
@pytest.mark.parametrize("name", README_TABLES)
def test_a_table_is_the_readmes_cell_by_cell(name: str, official_data: Path) -> None:
    readme, above, index = README_TABLES[name]
    text = read(official_data.parent / f"readmes/{readme}.md")
    head, *rows = readme_table(text, above, index)
    if name == "orion-multilingual":
        head = two_level(head, rows.pop(0))
    layout = SHIPPED[name]
    found = {language: without_added(layout, rendered(layout, language)) for language in layouts.LANGUAGES}
    assert shown(rows) in [grid[1:] for grid in found.values()]
    for printed, *translations in zip(head, *(grid[0] for grid in found.values()), strict=True):
        assert words(printed) in ([], *map(words, translations))


def two_level(groups: Sequence[str], labels: Sequence[str]) -> list[str]:
    group, found = "", [labels[0]]
    for above, label in zip(groups[1:], labels[1:], strict=True):
        group = above or group
        found.append(f"{group} {label}")
    return found


@pytest.mark.data
def test_the_list_of_openorca_is_the_readmes(official_data: Path) -> None:
    text = read(official_data.parent / "readmes/mistral-7b-openorca.md")
    rows = [list(row) for row in re.findall(r"^(\S.*) \|\n([\d.]+) \|$", text, re.M)]
    assert len(rows) == 5
    assert rendered(SHIPPED["openorca"], "zh")[1:] == rows
    for _, value in rendered(SHIPPED["openorca-further"])[1:]:
        assert f"平均分为 {value}" in text


@pytest.mark.data
def test_anchors_from_running_text_are_as_printed(collected: str) -> None:
    line = next(line for line in collected.split("\n") if line.startswith("Reference rows"))
    quoted = [re.findall(r"[\d.]+(?![\w-])", part) for part in re.findall("`([^`]*)`", line)]
    for name, numbers in zip(("knowledge", "japanese", "korean"), quoted[:3], strict=True):
        assert rendered(SHIPPED[f"orion-14b-{name}"])[1][1:] == numbers
    _, base, int4 = rendered(SHIPPED["orion-14b-int4"])
    assert [cell for pair in zip(base[1:], int4[1:], strict=True) for cell in pair] == quoted[3]
    for model, rating in rendered(SHIPPED["chinese-mixtral-gpt4"])[1:]:
        assert f"{model} {rating}" in collected


@pytest.mark.data
def test_huozi_3_0_is_the_later_table_but_for_the_uncorrected_humaneval(collected: str) -> None:
    _, extra, *rows = rendered(SHIPPED["huozi-v3"])
    printed = re.search(r"extra row `Baichuan2-13B-Chat v2: ([^`]*)`", collected)
    assert printed
    assert extra[2:] == printed[1].split(", ")
    uncorrected = re.search(r"uncorrected HumanEval: (.*?);", collected)
    assert uncorrected
    assert [extra[-1], *(row[-1] for row in rows)] == re.findall(r"\d+\.\d\d", uncorrected[1])
    later = {row[0]: row for row in rendered(SHIPPED["huozi"])[1:]}
    assert [row[:-1] for row in rows] == [later[row[0]][:-1] for row in rows]


# -- layouts ------------------------------------------------------------------------------------


def test_every_published_table_has_one_layout_and_every_layout_a_table() -> None:
    assert sorted(str(layout.published) for layout in SHIPPED.values()) == sorted(published.tables())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_layout_shows_all_that_its_table_holds_in_both_languages(name: str) -> None:
    layout = SHIPPED[name]
    card = published.load(str(layout.published))
    assert {entry.key for entry in layout.entries} == set(
        card.columns if layout.models == "rows" else card.rows
    )
    english, chinese = (rendered(layout, language) for language in layouts.LANGUAGES)
    assert [len(row) for row in english] == [len(row) for row in chinese]
    if layout.models == "rows":
        assert english[1:] == chinese[1:]
    for text in (
        layout.title,
        layout.corner,
        *(entry.label for entry in layout.entries),
        *card.notes,
        *card.marks.values(),
    ):
        assert text.en
        assert text.zh
    assert layout.corner.en != layout.corner.zh


@pytest.mark.parametrize("name", SHIPPED)
def test_the_markdown_has_no_html_and_as_many_cells_in_every_line(name: str) -> None:
    text = markdown.render([fill(SHIPPED[name], [], with_published=True)])
    assert not re.search(r"(?<!\\)<|&\w+;", text)
    lines = [re.split(r"(?<!\\)\|", line) for line in text.split("\n") if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("name", [n for n, one in SHIPPED.items() if any(e.mean_of for e in one.entries)])
def test_means_are_the_printed_averages(name: str) -> None:
    layout = SHIPPED[name]
    table = fill(layout, [], with_published=True)
    lines = [row.cells for row in table.rows]
    keys = [entry.key for entry in layout.entries]
    for cells in lines if layout.models == "rows" else zip(*lines, strict=True):
        values = dict(zip(keys, (cell.value for cell in cells), strict=True))
        for entry in layout.entries:
            if entry.mean_of:
                mean = sum(values[key] for key in entry.mean_of) / len(entry.mean_of)
                digits = layout.digits if entry.digits is None else entry.digits
                assert abs(mean - values[entry.key]) <= 0.5 * 10**-digits + 1e-9


@pytest.mark.parametrize("name", SHIPPED)
def test_every_run_that_a_layout_asks_for_can_be_made(name: str) -> None:
    for entry in SHIPPED[name].entries:
        for pattern in entry.runs:
            task = registry.get_task(pattern.partition("@")[0])
            assert pattern == task.name or fnmatch.filter(resolved_names(task.name), pattern), pattern
            assert set(entry.subsets) <= set(task.subsets)
            if entry.category:
                for protocol in task.protocols.values():
                    assert entry.category in protocol.groups.members


def resolved_names(name: str) -> Iterator[str]:
    task = registry.get_task(name)
    for protocol in task.protocols.values():
        for split in task.splits:
            for shots in range(protocol.max_shots + 1):
                yield f"{name}@{protocol.name}:{split}:{shots}shot"


def test_every_task_is_asked_for_by_the_protocol_of_its_card_first() -> None:
    first = {entry.key: entry.runs[0] for entry in SHIPPED["huozi"].entries if entry.runs}
    assert first == {
        "C-Eval": "ceval@oc-gen:val:5shot",
        "CMMLU": "cmmlu@oc-gen:test:5shot",
        "MMLU": "mmlu@oc-gen:test:5shot",
        "GSM8K": "gsm8k@oc4:test:4shot",
        "HumanEval": "humaneval@oc-v2:test:0shot",
    }


def test_the_null_floor_is_the_computed_one() -> None:
    (added,) = published.load("orion-moe8x7b/leakage").added
    card = cards()["orion-moe8x7b"]
    assert added.cells == dict.fromkeys(card.rows, f"{card.floor:.2f}")
    table = fill(SHIPPED["orion-leakage"], [], with_published=True)
    assert table.columns[-1].label == "null floor"
    assert "noise" in table.columns[-1].notes[0]
    floors = [row.cells[-1] for row in table.rows]
    assert {cell.origin for cell in floors} == {"computed"}
    assert {cell.source for cell in floors} == {None}


def test_numbers_of_other_authors_are_marked() -> None:
    table = fill(SHIPPED["xverse-summary"], [], with_published=True)
    assert len(table.footnotes) == 2
    marked = {(row.heading.label, row.cells[1].text) for row in table.rows if row.cells[1].notes}
    assert ("Vicuna-7B-v1.5", "49.8") in marked
    assert "XVERSE-7B" not in {model for model, _ in marked}


def test_the_best_value_is_found_where_the_card_emphasises_another() -> None:
    table = fill(SHIPPED["orion-base"], [], with_published=True)
    humaneval = next(row for row in table.rows if row.heading.label == "HumanEval")
    assert [cell.text for cell in humaneval.cells if cell.best] == ["53.0"]
    japanese = fill(SHIPPED["orion-japanese"], [], with_published=True)
    assert [row.heading.label for row in japanese.rows if row.cells[-1].best] == ["Orion-14B"]


# -- runs in layouts ----------------------------------------------------------------------------


def test_a_longbench_run_fills_the_chinese_columns_from_their_datasets() -> None:
    (run,) = open_runs([RUNS / "demo-longbench"])
    task = run.tasks["longbench@official:test:0shot"]
    score = {name: 100 * metrics["score"]["value"] for name, metrics in task["subsets"].items()}
    expected = [
        *(score[name] for name in ("multifieldqa_zh", "dureader", "vcsum", "lsht")),
        (score["lcc"] + score["repobench-p"]) / 2,
        score["passage_retrieval_zh"],
    ]
    expected.append(sum(expected) / 6)
    table = fill(SHIPPED["chinese-mixtral-longbench"], [run])
    (row,) = table.rows
    assert [cell.value for cell in row.cells] == pytest.approx(expected)
    code = row.cells[4]
    assert code.n == sum(task["subsets"][name]["score"]["n"] for name in ("lcc", "repobench-p"))
    low, high = code.ci95
    assert low < code.value < high


def test_a_kobest_run_stands_beside_the_published_models() -> None:
    (run,) = open_runs([RUNS / "demo-kobest"])
    table = fill(SHIPPED["orion-korean"], [run], with_published=True)
    cells = dict(zip((column.label for column in table.columns), table.rows[-1].cells, strict=True))
    accuracy = run.tasks["kobest_hellaswag@lm-eval:test:0shot"]["metrics"]["acc_norm"]["value"]
    assert cells["KoBEST HellaSwag"].text == f"{100 * accuracy:.1f}"
    assert cells["HAE-RAE"].text == cells["Average"].text == "–"


def made_up_run(name: str, **scores: dict[str, Any]) -> Run:
    """A finished run with these entries per task."""
    model = {"name": name, "backend": "mock", "dtype": "float32", "fingerprint": name}
    tasks = {
        f"{task}@p:test:0shot": {
            "task": task,
            "average": "micro",
            "groups": {},
            "subsets": {},
            "counters": {"samples": 100, "errors": 0, "unparsed": 0},
            **entry,
        }
        for task, entry in scores.items()
    }
    results = {"run_id": f"run-{name}", "status": "complete", "model": model, "tasks": tasks, "cost": {}}
    return Run(Path(name), results, None)


def estimate(value: float, n: int = 100) -> dict[str, Any]:
    return {"acc": {"value": value, "stderr": 0.01, "ci95": [value - 0.02, value + 0.02], "n": n}}


def filled(entries: str, *runs: Run, tmp_path: Path, more: str = "") -> Table:
    file = tmp_path / "mine.yaml"
    file.write_text(f"title: T\ncorner: C\nmodels: rows\n{more}\nentries:\n{entries}", "utf-8")
    return fill(layouts.load(str(file)), runs)


def texts(table: Table) -> Grid:
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_what_is_missing_is_a_dash_and_nothing_correct_is_zero(tmp_path: Path) -> None:
    runs = (made_up_run("a", x={"metrics": estimate(0)}), made_up_run("b", y={"metrics": estimate(0.5)}))
    table = filled(
        "  - {key: x, runs: [x]}\n  - {key: y, runs: [y]}\n  - {key: mean, mean_of: [x, y]}",
        *runs,
        tmp_path=tmp_path,
    )
    assert texts(table) == [["0.0", "–", "–"], ["–", "50.0", "–"]]
    assert [cell.value for cell in table.rows[1].cells] == [None, 50, None]
    assert not any(cell.best for row in table.rows for cell in row.cells)


def test_a_part_that_a_run_lacks_is_missing_and_says_so(tmp_path: Path) -> None:
    run = made_up_run("a", x={"metrics": estimate(0.5), "subsets": {"s": estimate(0.5)}})
    entries = ("metric: f1", "category: c", "subsets: [s, t]")
    table = filled(
        "\n".join(f"  - {{key: '{entry}', runs: [x], {entry}}}" for entry in entries), run, tmp_path=tmp_path
    )
    for cell in table.rows[0].cells:
        assert cell.text == "–"
        assert cell.notes == ("x@p:test:0shot has no score here",)


def test_the_best_value_is_emphasised_in_the_direction_of_its_entry(tmp_path: Path) -> None:
    runs = [made_up_run(name, x={"metrics": estimate(value)}) for name, value in (("a", 0.2), ("b", 0.7))]
    entries = "\n".join(
        f"  - {{key: {best}, runs: [x], best: {best}}}" for best in ("higher", "lower", "none")
    )
    table = filled(f"{entries}\n  - {{key: as the layout, runs: [x]}}", *runs, tmp_path=tmp_path)
    assert [[cell.best for cell in row.cells] for row in table.rows] == [
        [False, True, False, False],
        [True, False, False, True],
    ]
    lower = filled("  - {key: x, runs: [x]}", *runs, tmp_path=tmp_path, more="best: lower")
    assert [row.cells[0].best for row in lower.rows] == [True, False]


def test_decimal_places_and_scale_are_the_entrys_else_the_layouts(tmp_path: Path) -> None:
    run = made_up_run("a", x={"metrics": estimate(0.12345)})
    entries = "  - {key: x, runs: [x]}\n  - {key: y, runs: [x], digits: 0}\n  - {key: z, runs: [x], scale: 1}"
    assert texts(filled(entries, run, tmp_path=tmp_path, more="digits: 3")) == [["12.345", "12", "0.123"]]


def test_parts_of_a_task_can_be_taken_and_averaged_as_the_card_does(tmp_path: Path) -> None:
    entry = {
        "metrics": estimate(0.5, 400),
        "groups": {"c": estimate(0.3, 100)},
        "subsets": {"s": estimate(0.2, 100), "t": estimate(0.6, 300)},
        "averages": {"macro": {"acc": 0.4}, "micro": {"acc": 0.5}},
    }
    table = filled(
        "  - {key: category, runs: [x], category: c}\n"
        "  - {key: subset, runs: [x], subsets: [s]}\n"
        "  - {key: subsets, runs: [x], subsets: [s, t]}\n"
        "  - {key: macro, runs: [x], average: macro}\n"
        "  - {key: micro, runs: [x], average: micro}",
        made_up_run("a", x=entry),
        tmp_path=tmp_path,
    )
    cells = table.rows[0].cells
    assert [(cell.text, cell.n) for cell in cells] == [
        ("30.0", 100),
        ("20.0", 100),
        ("40.0", 400),
        ("40.0", 400),
        ("50.0", 400),
    ]
    assert all(cell.ci95 for cell in cells)
    halves = [(cell.ci95[1] - cell.ci95[0]) / 2 for cell in cells[1:3]]
    assert halves[1] == pytest.approx(math.hypot(*2 * halves[:1]) / 2)  # subsets are independent


def sampled_run(root: Path, **correct: int) -> Run:
    """A run with so many correct samples of 100 in each subset, and its samples."""
    scores = {subset: [float(i < n) for i in range(100)] for subset, n in correct.items()}
    entry = {"metrics": estimate(0), "subsets": {name: estimate(sum(s) / 100) for name, s in scores.items()}}
    outcomes = [
        Outcome("x@p:test:0shot", subset, str(i), "", "A", "A", score, None, None, metrics={"acc": score})
        for subset, its in scores.items()
        for i, score in enumerate(its)
    ]
    root.mkdir()
    RunStore(root).write_samples(outcomes)
    return replace(made_up_run(root.name, x=entry), root=root)


@pytest.mark.parametrize(
    ("mine", "better", "tied"),
    [
        ({"s": 50, "t": 50}, {"s": 53, "t": 49}, True),
        ({"s": 50, "t": 50}, {"s": 81, "t": 82}, False),
        ({"s": 47, "t": 45}, {"s": 62, "t": 70}, False),  # subset from subset, two means tell nothing
    ],
)
@pytest.mark.parametrize("samples", [True, False])
def test_means_over_subsets_are_compared_sample_by_sample(
    mine: dict[str, int], better: dict[str, int], tied: bool, samples: bool, tmp_path: Path
) -> None:
    """Without samples, by the intervals of the subsets."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: T\ncorner: C\nmodels: rows\nentries: [{key: x, runs: [x], subsets: [s, t]}]", "utf-8"
    )
    runs = [sampled_run(tmp_path / "a", **mine, other=90), sampled_run(tmp_path / "b", **better, other=10)]
    if not samples:
        for run in runs:
            (run.root / "samples.parquet").unlink()
    table = fill(layouts.load(str(file)), runs, ties=True)
    assert [row.cells[0].best for row in table.rows] == [tied, True]


def test_a_headings_own_footnote_stands_before_the_protocol(tmp_path: Path) -> None:
    run = made_up_run("a", x={"metrics": estimate(0.5)})
    table = filled("  - {key: x, runs: [x], notes: [single-choice alone]}", run, tmp_path=tmp_path)
    assert table.columns[0].notes == ("single-choice alone", "runs: x@p:test:0shot")


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("title: T\ncorner: C\nmodels: rows\nentries: [{key: x, colour: red}]", "entries.0.colour"),
        ("title: T\ncorner: C\nmodels: sideways", "models"),
        ("title: {en: T}\ncorner: C\nmodels: rows", "title.zh"),
        ("title: T\ncorner: C\nmodels: rows\nentries: [{key: x, mean_of: [y]}]", "mean of 'y'"),
        ("title: T\ncorner: C\nmodels: rows\nentries: [{key: x}, {key: x}]", "two entries have the key 'x'"),
        ("title: [", "not YAML"),
        ("title: 2020-13-45", "not YAML"),
        ("- " * 5000, "not YAML"),
        *(
            (f"title: T\ncorner: C\nmodels: rows\nentries: [{{key: y}}, {{key: x, {entry}}}]", problem)
            for entry, problem in (
                ("category: c, subsets: [s]", "entries.1: 'category' and 'subsets' exclude each other"),
                ("category: c, average: micro", "'category' and 'average' exclude each other"),
                ("subsets: [s], average: micro", "'subsets' and 'average' exclude each other"),
                ("subsets: [s, s]", "'subsets' names 's' twice"),
                ("mean_of: [y], runs: [x]", "'mean_of' and 'runs' exclude each other"),
                ("mean_of: [y], model: dtype", "'mean_of' and 'model' exclude each other"),
                ("mean_of: [x]", "entry 'x' is the mean of 'x', which has no score of its own"),
                ("scale: 0", "entries.1.scale: must be greater than 0"),
                ("scale: .inf", "entries.1.scale: must be a finite number"),
                ("digits: -1", "entries.1.digits: must be greater than or equal to 0"),
                ("digits: 11", "entries.1.digits: must be less than or equal to 10"),
                ("label: 1", "entries.1.label: must be a text, or a text in each language"),
                ("runs: mmlu", "entries.1.runs: must be a list"),
            )
        ),
        ("- 1", "not a layout"),
        ("title: \xff", "not UTF-8"),
    ],
)
def test_a_layout_of_the_users_is_refused_with_file_and_place(
    content: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as refused:
        layouts.load(str(file))
    assert str(file) in str(refused.value)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_layout_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml: No such file"):
        layouts.load(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(UsageError, match="unknown layout 'orion-bse'; did you mean orion-base"):
        layouts.load("orion-bse")
    with pytest.raises(UsageError, match="did you mean orion-moe8x7b/base"):
        published.load("orion-moe8x7b/bse")


def test_a_layout_of_a_published_table_that_does_not_exist_is_refused() -> None:
    layout = SHIPPED["orion-base"].model_copy(update={"published": "orion-moe8x7b/bases"})
    with pytest.raises(UsageError, match="unknown published table"):
        fill(layout, [], with_published=True)
