"""Runs as tables: what is refused, what stands beside what, and that no text does anything but be shown."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _made_up import CEVAL, CMMLU, GFM, GSM8K, HOSTILE, cells, kinds, plain, right, write_run
from helpers import cli, failing, mock_run, stopping
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evalkit.errors import RunInterrupted
from evalkit.reports import text
from evalkit.reports.filling import fill
from evalkit.reports.layouts import DEFAULT, Entry, Layout, load
from evalkit.reports.renderers import FORMATS, terminal
from evalkit.reports.runs import entrants, open_runs, unique_names
from evalkit.reports.table import Table

FEW = {CMMLU: {"agronomy": [1, 0, 1, 1], "anatomy": [0, 0, 1, 0]}}


def tables(*paths: Path, layout: Layout = DEFAULT, **options: bool) -> Table:
    return fill(layout, open_runs(paths), **options)


def shown(table: Table) -> list[list[str]]:
    return [[row.heading.label, *(cell.text for cell in row.cells)] for row in table.rows]


def bold(table: Table) -> list[list[bool]]:
    return [[cell.best for cell in row.cells] for row in table.rows]


class TestBadInput:
    @pytest.mark.parametrize("command", ["report", "leaderboard"])
    def test_that_is_no_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").touch()
        output = ("-o", "table.md")
        for name, problem in (
            ("nowhere", "'nowhere' does not exist; name the directory of a run"),
            ("file", "'file' is a file; name the directory of a run"),
            ("empty", "'empty' holds no finished run (results.json is missing)"),
        ):
            ran = cli(command, name, *output)
            assert (ran.code, ran.out) == (2, ""), ran
            assert problem in ran.err
        assert not (tmp_path / "table.md").exists()

    def test_an_interrupted_run_says_how_to_finish_it(self, tmp_path: Path) -> None:
        with pytest.raises(RunInterrupted):
            mock_run(tmp_path / "run", backend=stopping(after=20))
        ran = cli("report", tmp_path / "run")
        assert ran.code == 2
        assert f"was interrupted before its results were written; finish it first: repeat its command line with --output {tmp_path / 'run'} --resume" in ran.err  # fmt: skip # noqa: E501

    def test_a_run_named_twice(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", FEW)
        ran = cli("report", tmp_path / "a", tmp_path / "." / "a")
        assert ran.code == 2
        assert "is named twice; name every run once" in ran.err

    @pytest.mark.parametrize(
        ("layout", "instead"),
        [("scores", ""), ("orion-base", ", or add --published to show the model card alone")],
    )
    def test_no_runs_at_all(self, layout: str, instead: str) -> None:
        ran = cli("report", "--layout", layout)
        assert ran.code == 2
        assert f"no runs to show; name some{instead}" in ran.err

    def test_a_published_table_that_the_layout_lacks(self, tmp_path: Path) -> None:
        ran = cli("report", write_run(tmp_path / "a", FEW), "--published")
        assert (ran.code, ran.out) == (2, "")
        assert "layout scores repeats no published table; name one that does" in ran.err
        assert "--layouts" in ran.err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--layout orion-bas", "unknown layout 'orion-bas'; did you mean orion-base"),
            ("--layout mine.yaml", "--layout mine.yaml: No such file"),
            ("--layout ,", "--layout names no layout"),
            ("--format markdown", "unknown value for --format 'markdown'"),
            ("--format jsn", "did you mean json?"),
            (
                "-o table.docx",
                "--output table.docx: which format? Call it *.md, *.html, *.tex, *.csv, *.json",
            ),
            ("-o table", "--output table: which format?"),
            ("-o file/table.md", "file/table.md: cannot be written ("),
            ("-o folder.md", "folder.md: cannot be written (Is a directory); name another file"),
            ("-o a/results.json", "a/results.json: a run keeps its own results there; name another file"),
            ("--format csv -o x.md", "--format csv contradicts --output x.md"),
            ("--language fr", "unknown value for --language 'fr'"),
        ],
    )
    def test_of_options(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_run(tmp_path / "a", FEW)
        (tmp_path / "file").touch()
        (tmp_path / "folder.md").mkdir()
        ran = cli("report", "a", *arguments.split())
        assert (ran.code, ran.out) == (2, ""), ran
        assert message in ran.err

    def test_of_a_folder_without_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write_run(tmp_path / "a", FEW)
        ran = cli("report", "a", "-o", "t.md", "--plots", "")
        assert (ran.code, "--plots names no folder" in ran.err) == (2, True)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    @pytest.mark.parametrize("name", ["results.json", "manifest.json", "samples.parquet", "journal/x.json"])
    def test_a_file_of_a_run_as_output(self, tmp_path: Path, name: str) -> None:
        run = write_run(tmp_path / "a", FEW)
        (run / "journal").mkdir()
        before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
        ran = cli("report", run, "--format", "json", "-o", run / name)
        if name.endswith(".json"):
            assert (ran.code, "a run keeps its own results there" in ran.err) == (2, True)
        assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
        assert cli("report", run, "-o", run / "report.md").code == 0
        for _ in range(2):
            assert cli("report", run, "-o", tmp_path / "results.json").code == 0

    @pytest.mark.parametrize("name", ["results.json", "manifest.json", "samples.parquet"])
    def test_a_damaged_file(self, tmp_path: Path, name: str) -> None:
        run = write_run(tmp_path / "a", {GSM8K: {"": [1, 0, 1]}})
        write_run(tmp_path / "b", {GSM8K: {"": [1, 0, 0]}})
        (run / name).write_bytes(b"{")
        ran = cli("report", run, tmp_path / "b", "--ties")
        assert ran.code == 4
        assert str(run / name) in ran.err

    def test_hostile_names_in_errors_do_nothing(self, tmp_path: Path) -> None:
        for name, task in (("a", "cmmlu@\x1b[31mx:test:5shot"), ("b", CMMLU)):
            write_run(tmp_path / name, {task: FEW[CMMLU]}, name)
        (tmp_path / "l.yaml").write_text(
            "{title: t, corner: c, models: rows, entries: [{key: C, runs: [cmmlu]}]}"
        )
        ran = cli("report", tmp_path / "a", tmp_path / "b", "--layout", tmp_path / "l.yaml")
        assert ran.code == 2
        assert "\x1b" not in ran.err
        assert "␛[31mx" in ran.err


class TestRuns:
    def test_of_one_model_on_different_tasks_share_a_column(self, tmp_path: Path) -> None:
        runs = [
            write_run(tmp_path / "a", FEW),
            write_run(tmp_path / "b", {CEVAL: {"law": [1, 1, 0, 1]}}),
            write_run(tmp_path / "c", FEW, "other"),
        ]
        table = tables(*runs)
        assert [column.label for column in table.columns] == ["m", "other"]
        assert shown(table) == [
            [f"{CMMLU} acc", "50.00", "50.00"],
            [f"{CMMLU} half", "25.00", "25.00"],
            [f"{CEVAL} acc", "75.00", "–"],
            [f"{CEVAL} half", "37.50", "–"],
        ]
        assert "Runs: m = a, b; other = c." in table.notes[0]

    def test_of_one_model_on_one_task_stay_apart(self, tmp_path: Path) -> None:
        table = tables(*(write_run(tmp_path / name, FEW) for name in "ab"))
        assert [column.label for column in table.columns] == ["m (a)", "m (b)"]

    def test_of_equal_names_are_told_apart_by_what_differs(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / dtype, FEW, dtype=dtype) for dtype in ("float32", "bfloat16")]
        assert [one.name for one in entrants(open_runs(runs))] == ["m (float32)", "m (bfloat16)"]

    @pytest.mark.parametrize(
        ("names", "features", "expected"),
        [
            (["a", "b"], ["x", "x"], ["a", "b"]),
            (["a", "a "], ["x", "y"], ["a (x)", "a (y)"]),
            (["a", "a", "a"], ["x", "y", "y"], ["a (1)", "a (2)", "a (3)"]),
            (["a", "a", "a (x)"], ["x", "y", "z"], ["a (x) (1)", "a (y)", "a (x) (3)"]),
            (["a\n", "a"], ["x", "x"], ["a (1)", "a (2)"]),
        ],
    )
    def test_names_are_unique(self, names: list[str], features: list[str], expected: list[str]) -> None:
        assert unique_names(names, features, list("123")[: len(names)]) == expected

    def test_with_failed_samples_are_marked(self, tmp_path: Path) -> None:
        mock_run(tmp_path / "run", backend=failing(3, 5))
        ran = cli("report", tmp_path / "run")
        assert ran.code == 0
        assert "| mock¹ |" in ran.out
        assert "¹ The run is not complete (status: partial); the scores rest on what was done." in ran.out
        assert "2 of 72 samples failed" in ran.out

    def test_on_other_than_the_benchmark_say_so(self, tmp_path: Path) -> None:
        mock_run(tmp_path / "run")
        assert "made-up sample data, not the benchmark" in cli("report", tmp_path / "run").out

    def test_without_a_manifest_are_shown(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "a", FEW, manifest=False, samples=False)
        assert [row[1] for row in shown(tables(run))] == ["50.00", "25.00"]


class TestMixtures:
    LAYOUT = "{title: T, corner: C, models: columns, entries: [{key: CMMLU, runs: [cmmlu]}]}"

    @pytest.fixture
    def layout(self, tmp_path: Path) -> Path:
        (tmp_path / "mine.yaml").write_text(self.LAYOUT)
        return tmp_path / "mine.yaml"

    def test_of_protocols_are_refused(self, tmp_path: Path, layout: Path) -> None:
        a = write_run(tmp_path / "a", FEW, "a")
        b = write_run(tmp_path / "b", {"cmmlu@lm-eval:test:5shot": FEW[CMMLU]}, "b")
        ran = cli("report", a, b, "--layout", layout)
        assert (ran.code, ran.out) == (2, "")
        assert f"'CMMLU': {a} has {CMMLU} and {b} has cmmlu@lm-eval:test:5shot" in ran.err
        assert "--mixed" in ran.err

    def test_of_data_are_refused(self, tmp_path: Path) -> None:
        a = write_run(tmp_path / "a", FEW, "a", manifest=False)
        b = write_run(tmp_path / "b", FEW, "b", data="b" * 64)
        c = write_run(tmp_path / "c", FEW, "c", data="c" * 64)
        assert cli("report", a, b).code == 0  # nothing is known of the data of one
        ran = cli("report", a, b, c)
        assert ran.code == 2
        assert f"{b} and {c} ran {CMMLU} on different data (bbbbbbbbbbbb and cccccccccccc)" in ran.err

    def test_that_are_wanted_have_footnotes(self, tmp_path: Path, layout: Path) -> None:
        a = write_run(tmp_path / "a", FEW, "a", data="a" * 64)
        b = write_run(tmp_path / "b", {"cmmlu@lm-eval:test:5shot": FEW[CMMLU]}, "b", data="b" * 64)
        table = tables(a, b, layout=load(str(layout)), mixed=True)
        assert table.footnotes == (f"{CMMLU}, data {'a' * 12}", f"cmmlu@lm-eval:test:5shot, data {'b' * 12}")
        assert [table.marks(cell.notes) for cell in table.rows[0].cells] == [(1,), (2,)]

    def test_there_are_none_between_other_tasks(self, tmp_path: Path) -> None:
        """A name that is also a pattern stands for itself."""
        run = write_run(tmp_path / "a", {CMMLU: {"x": [1, 1]}, "cmm*@official:test:5shot": {"x": [0, 0]}})
        assert [row[1] for row in shown(tables(run))][::2] == ["100.00", "0.00"]


class TestTies:
    def three(self, tmp_path: Path, subsets: int) -> list[Path]:
        """Close behind the best one on the same hard questions; equally close, but on others."""
        scores = {
            "best": right(0.60, 1000),
            "behind": right(0.57, 1000),
            "beside": right(0.57, 1000, seed=1),
        }
        return [
            write_run(tmp_path / name, {GSM8K: {str(i): one[i::subsets] for i in range(subsets)}}, name)
            for name, one in scores.items()
        ]

    @pytest.mark.parametrize("subsets", [1, 20])
    def test_are_decided_pair_by_pair(self, tmp_path: Path, subsets: int) -> None:
        runs = self.three(tmp_path, subsets)
        assert bold(tables(*runs))[0] == [True, False, False]
        assert bold(tables(*runs, ties=True))[0] == [True, False, True]

    def test_without_samples_are_decided_by_intervals(self, tmp_path: Path) -> None:
        runs = self.three(tmp_path, 1)
        (runs[1] / "samples.parquet").unlink()
        assert bold(tables(*runs, ties=True))[0] == [True, True, True]

    def test_on_other_data_are_decided_by_intervals(self, tmp_path: Path) -> None:
        runs = self.three(tmp_path, 20)
        shutil.rmtree(runs[1])
        behind = right(0.57, 1000)
        write_run(runs[1], {GSM8K: {str(i): behind[i::20] for i in range(20)}}, "behind", data="f" * 64)
        assert bold(tables(*runs, ties=True, mixed=True))[0] == [True, True, True]

    def test_in_a_second_metric(self, tmp_path: Path) -> None:
        assert bold(tables(*self.three(tmp_path, 1), ties=True))[1] == [True, False, True]

    def test_of_what_reads_alike_need_no_option(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / name, FEW, name) for name in "ab"]
        assert bold(tables(*runs)) == [[True, True]] * 2

    @pytest.mark.parametrize(("average", "other"), [("macro", "micro"), ("micro", "macro")])
    def test_under_another_average_are_those_of_its_own_protocol(
        self, tmp_path: Path, average: str, other: str
    ) -> None:
        """What a layout averages otherwise has the interval that the protocol would have given it."""
        subsets = {"s": right(0.5, 30), "t": right(0.7, 300), "u": right(0.2, 80)}
        entries = [{"key": "x", "runs": ["gsm8k"], "average": other}]
        layout = Layout(**{**DEFAULT.model_dump(), "entries": entries})
        runs = [write_run(tmp_path / one, {GSM8K: subsets}, average=one) for one in (average, other)]
        mine, theirs = (tables(run, layout=layout).rows[0].cells[0] for run in runs)
        assert mine.value == pytest.approx(theirs.value)
        assert mine.ci95 == pytest.approx(theirs.ci95)

    def test_need_two_models(self, tmp_path: Path) -> None:
        assert bold(tables(write_run(tmp_path / "a", FEW), ties=True)) == [[False]] * 2

    def test_the_best_may_be_the_lowest_or_nothing(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / str(s), {GSM8K: {"": [s, 1]}}, str(s)) for s in (0, 1)]
        for best, expected in (("lower", [True, False]), ("higher", [False, True]), ("none", [False] * 2)):
            assert bold(tables(*runs, layout=DEFAULT.model_copy(update={"best": best})))[0] == expected


@pytest.fixture
def hostile(tmp_path: Path) -> Table:
    layout = Layout.model_validate(
        {
            "name": "l",
            "title": HOSTILE,
            "corner": HOSTILE,
            "models": "columns",
            "notes": [HOSTILE, "1. one", "- two", "===", "+ three"],
            "entries": [
                {"key": "x", "label": HOSTILE, "group": HOSTILE, "runs": ["*"]},
                {"key": "=1+1", "runs": ["*"], "subsets": ["s"]},
                {"key": "[0pt]", "model": "dtype"},
            ],
        }
    )
    task, some = f"{HOSTILE}@official:test:5shot", {"s": [1, 0, 1], "t": [0, 1]}
    runs = [
        write_run(tmp_path / name, {task: some}, model, dtype=HOSTILE, verdict=HOSTILE, samples=False)
        for name, model in (("a", HOSTILE), ("b", "@SUM(A1)"))
    ]
    return tables(*runs, layout=layout)


class TestHostileText:
    def test_is_text_in_markdown(self, hostile: Table) -> None:
        rendered = FORMATS["md"]([hostile])
        rendered.encode()
        rows = cells(rendered)
        assert [len(row) for row in rows] == [3] * 4
        line = text.one_line(HOSTILE)
        assert rows[0] == [line, line, "@SUM(A1)"]
        assert rows[1][0] == f"{line} · {line}¹"
        assert rows[3] == ["[0pt]", line, line]
        assert kinds(rendered) <= {
            *("heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "text"),
            *("table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close"),
            *("tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close"),
            *("text_special", "strong_open", "strong_close", "hardbreak"),
        }

    def test_survives_csv(self, hostile: Table) -> None:
        rows = list(csv.reader(io.StringIO(FORMATS["csv"]([hostile]))))
        line = text.one_line(HOSTILE)
        assert rows[0] == [line, line, "'@SUM(A1)"]
        assert rows[1][0] == f"{line} · {line}"
        assert rows[2] == ["'=1+1", "66.7", "66.7"]
        assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)

    def test_survives_json(self, hostile: Table) -> None:
        rendered = FORMATS["json"]([hostile])
        rendered.encode()
        table = json.loads(rendered)["tables"][0]
        assert table["title"] == HOSTILE
        assert table["rows"][0]["cells"][0]["protocol"] == f"{HOSTILE}@official:test:5shot"
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", rendered)

    def test_is_text_in_latex(self, hostile: Table) -> None:
        rendered = FORMATS["latex"]([hostile])
        rendered.encode()
        for line in rendered.split("\n"):
            # What is left without our own commands and escapes holds no special character.
            rest = re.sub(r"\\(?:begin|end|cmidrule\(lr\))\{[a-z0-9-]+\}(?:\{l[lr]*\})?", "", line)
            rest = re.sub(r"\\multicolumn\{\d\}\{c\}|\\(?:text[a-z]+|ascii[a-z]+|par|footnotesize)", "", rest)
            rest = re.sub(
                r"\\(?:toprule|midrule|bottomrule|centering|caption|scriptsize)|\\[#$%&_{}]", "", rest
            )
            rest = re.sub(r" & | \\\\$", "", rest)
            assert not re.search(r"[\\#$%&_~^<>|`]", rest), line
            assert not line.startswith(("[", "*"))
        if pdflatex := shutil.which("pdflatex"):  # the escapes were checked above
            compiles(pdflatex, rendered)

    def test_reaches_no_terminal(self, hostile: Table) -> None:
        file = io.StringIO()
        Console(file=file, force_terminal=True, color_system=None, width=400).print(terminal.render(hostile))
        assert "[31m" in file.getvalue()
        escapes = re.findall("\x1b\\[([0-9;]*)m", file.getvalue())
        assert set(escapes) <= {"1", "3", "0"}  # bold and italics are ours
        assert not re.search("[\x00-\x09\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202e\ud800]", file.getvalue())

    @pytest.mark.parametrize("format", FORMATS)
    def test_reaches_no_stdout(self, tmp_path: Path, format: str) -> None:
        write_run(tmp_path / "a", {f"{HOSTILE}\x9b@p:test:5shot": {"s": [1, 0]}}, HOSTILE, samples=False)
        ran = cli("report", tmp_path / "a", "--format", format)
        assert ran.code == 0
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", ran.out)


def compiles(pdflatex: str, rendered: str) -> None:
    document = (
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{rendered}\end{{document}}"
    )
    subprocess.run(
        [pdflatex, "-interaction=batchmode", "-output-directory=/dev/null"],
        input=document.encode(),
        check=True,
    )


WRITTEN = st.text(st.one_of(st.characters(), st.sampled_from("\\`*_|<>~[]$&#-+=.)1!\n\t ab:/@^{}%\"'")))


class TestEscapes:
    def test_no_xml_is_broken(self) -> None:
        assert text.one_line("a\ufffeb\uffff") == "a⟨U+FFFE⟩b⟨U+FFFF⟩"

    @given(WRITTEN)
    def test_markdown_gives_the_text_back(self, written: str) -> None:
        escaped = text.markdown(written)
        line = text.one_line(written)
        *_, paragraph = [token for token in GFM.parse(f"paragraph\n{escaped}") if token.type == "inline"]
        assert GFM.parse(escaped)[1:2] == [] or plain(GFM.parse(escaped)[1]) == line
        assert plain(paragraph) in (line, f"paragraph{line}")
        assert kinds(escaped) <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
        rows = cells(f"| a | {escaped} |\n|:--|--:|\n| {escaped} | b |")
        assert rows == [["a", line], [line, "b"]]

    @pytest.mark.parametrize(
        "name",
        [
            "https://a.example/b",
            "FTP://a.example",
            "www.a.example",
            "@somebody",
            "see/@somebody",
            "a@b.example",
        ],
    )
    def test_markdown_of_a_name_links_and_notifies_nobody(self, name: str) -> None:
        escaped = text.markdown(name)
        assert plain(GFM.parse(escaped)[1]) == name
        assert not re.search(r"\w://|(?i:www)\.|@\w", escaped)

    @pytest.mark.parametrize("task", ["cmmlu@official:test:5shot", "51.23 [50.4, 52.0]", "a/b"])
    def test_markdown_leaves_alone_what_is_harmless(self, task: str) -> None:
        assert text.markdown(task) == task

    def test_markdown_of_notes_keeps_links(self) -> None:
        note = "Published: A, https://www.a.example/@b, by @c"
        assert text.markdown(note, links=True) == note.replace("@c", "@&#8203;c")

    @given(WRITTEN)
    def test_latex_holds_no_special_character(self, written: str) -> None:
        escaped = text.latex(written)
        words = r"\\text(?:backslash|asciitilde|asciicircum|asciigrave|less|greater|bar)\{\}"
        rest = re.sub(rf"{words}|\\[#$%&_{{}}]|\{{[\[*]\}}|(?<=-)\{{\}}(?=-)", "", escaped)
        assert not re.search(r"[\\#$%&_~^{}<>|`\[*]", rest)
        assert "--" not in escaped

    @given(WRITTEN)
    def test_one_line_is_one_line_of_visible_text(self, written: str) -> None:
        line = text.one_line(written)
        assert line.split() == line.split(" ") or line == ""
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]", line)
        assert text.one_line(line) == line
        line.encode()


class TestDocumentation:
    PAGE = (Path(__file__).parents[2] / "docs/reports.md").read_text("utf-8")

    def test_has_a_layout_that_loads(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(self.PAGE.split("```yaml\n")[1].split("```")[0], "utf-8")
        assert len(load(str(tmp_path / "mine.yaml")).entries) == 6

    def test_explains_every_key(self) -> None:
        explained = re.findall(r"^\| `(\w+)` \|", self.PAGE.split("The keys of an entry")[1], re.MULTILINE)
        assert explained[: len(Entry.model_fields)] == list(Entry.model_fields)


def test_the_benchmark_runs(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks/report_tables.py"
    sizes = ["--runs", "3", "--tasks", "2", "--samples", "40", "--repeats", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(script), *sizes, "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)
    assert json.loads((tmp_path / "report_tables.json").read_text())["medians"].keys() >= {"md", "md, ties"}


class TestFormats:
    def test_follow_the_name_of_the_output(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "a", FEW)
        for suffix, begin in (
            (".md", "### Scores"),
            (".tex", r"\begin{table}"),
            (".csv", "Benchmark,m"),
            (".json", "{"),
        ):
            ran = cli("report", run, "-o", tmp_path / f"new/table{suffix}")
            assert (ran.code, ran.out) == (0, "")
            assert (tmp_path / f"new/table{suffix}").read_text("utf-8").startswith(begin)

    def test_json_knows_everything(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "a", FEW, verdict="no evidence above 5 %")
        document = json.loads(cli("report", run, "--format", "json").out)
        cell = document["tables"][0]["rows"][0]["cells"][0]
        low, high = cell.pop("ci95")
        assert low < cell.pop("value") == 50 < high
        assert cell == {
            "text": "50.00",
            "origin": "run",
            "n": 8,
            "protocol": CMMLU,
            "source": "a",
            "notes": ["contamination: no evidence above 5 %"],
            "best": False,
        }

    def test_markdown_has_footnotes_in_reading_order(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / v, FEW, v, verdict=v) for v in ("file leak", "inconclusive")]
        lines = FORMATS["md"]([tables(*runs)]).splitlines()
        assert "50.00 [0.00, 100.00]**¹ | **50.00 [0.00, 100.00]**² |" in lines[4]
        assert lines[-3:-1] == ["¹ contamination: file leak  ", "² contamination: inconclusive  "]
