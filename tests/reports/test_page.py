"""The HTML page in a real browser: Debian's chromium, driven through chromedriver."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers import cli, missing, mock_run, samples

from evalkit.backends.mock import MockBackend
from evalkit.reports.text import one_line, visible
from evalkit.store import RunStore
from evalkit.types import Outcome

LOAD_S, FILTER_S = 3.0, 0.3
"""What the page promises of 20,000 samples. Times are recorded; a busy machine has ten times that."""

HOSTILE = {
    "script": "<script>window.hacked = 1</script>",
    "image": '<img src=x onerror="window.hacked = 2">',
    "end": "</script></pre><!-- ]]> &lt;b&gt; {{ 7 * 7 }}",
    "pipes": "| a | b |\n|--|--|\n`code` **bold** [x](javascript:alert(1))",
    "ansi": "\x1b[31mred\x1b[0m\x07\x00nul\x7f\x85",
    "marks": "\u202ereversed\u2066isolated\u200f\u2028line",
    "arabic": "مرحبا بالعالم 123 (abc)",
    "cjk": "中文 日本語 한국어 𠀀",
    "crlf": "a\r\nb\rc",
}
LONG = "x" * 1_000_000


class Page:
    """A report in the browser, asked as its reader would."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> float:
        """Load a file; seconds until it is ready."""
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        start = time.perf_counter()
        self.driver.get(path.as_uri())
        self.until("document.documentElement.dataset.ready === 'true'")
        return time.perf_counter() - start

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.js(f"return Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def choose(self, **fields: str) -> float:
        """Set filters as a reader does, one after the other; seconds until the last one's rows stand."""
        elapsed = 0.0
        for name, label in fields.items():
            elapsed = self.driver.execute_async_script(
                """
                const [name, label, done] = arguments;
                const field = document.forms[0].elements[name];
                const option = [...field.options].find((one) => one.text === label);
                const start = performance.now();
                field.value = option.value;
                const list = document.querySelector(".list .tabulator-table");
                const seen = new MutationObserver(() => {
                  seen.disconnect();
                  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
                });
                seen.observe(list, {childList: true});
                field.dispatchEvent(new Event("change", {bubbles: true}));
                """,
                name,
                label,
            )
        return elapsed / 1000

    def search(self, text: str) -> float:
        """Type into the search field; seconds until all texts have been searched."""
        start = time.perf_counter()
        self.js(
            "const f = document.forms[0].elements.query; f.value = arguments[0];"
            "document.querySelector('progress').hidden = false; f.dispatchEvent(new Event('input'))",
            text,
        )
        self.until("document.querySelector('progress').hidden")
        return time.perf_counter() - start

    def reset(self) -> None:
        self.js("document.forms[0].elements.reset.click()")
        self.until("document.querySelector('[role=status]').textContent.match(/^([\\d,]+) of \\1 samples$/)")

    @property
    def count(self) -> int:
        """How many samples the list says there are."""
        text = self.js("return document.querySelector('[role=status]').textContent")
        return int(text.split(" of ")[0].replace(",", ""))

    def rows(self) -> list[list[str]]:
        """Texts of the rows in sight."""
        found: list[list[str]] = self.js(
            "return [...document.querySelectorAll('.list .tabulator-row')].map("
            "row => [...row.querySelectorAll('.tabulator-cell')].map(cell => cell.textContent))"
        )
        return found

    def open_sample(self, id_: str) -> None:
        self.js(
            "[...document.querySelectorAll('.list .tabulator-row')].find("
            "row => row.querySelector('[tabulator-field=id]').textContent === arguments[0]).click()",
            id_,
        )
        self.until(f"document.querySelector('dialog[open] h2')?.textContent.includes({json.dumps(id_)})")

    def section(self, title: str) -> str:
        """Text of a part of the open sample."""
        found: str = self.js(
            "return [...document.querySelectorAll('dialog section')].find("
            "s => s.querySelector('h3').textContent === arguments[0]).querySelector('pre').textContent",
            title,
        )
        return found

    def press(self, key: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def shot(self, name: str, part: str = "document.body") -> None:
        self.js(f"{part}.scrollIntoView()")
        folder = artifacts()
        assert self.driver.save_screenshot(str(folder / f"{name}.png"))

    def complaints(self) -> list[str]:
        """What the console shows."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened, its own among them."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]


def artifacts() -> Path:
    folder = Path(os.environ.get("EVALKIT_ARTIFACTS", "build/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    browser, bridge = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not bridge:
        missing("needs a browser; run: make chromium")
    options = Options()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = Chrome(options=options, service=Service(bridge))
    yield started
    started.quit()


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    opened = Page(driver)
    opened.resize(1280, 900)
    yield opened
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def reported(output: Path, *runs: Path) -> Path:
    ran = cli("report", *runs, "-o", output)
    assert ran.code == 0, ran.err
    return output


def rewritten(run: Path, outcomes: Sequence[Outcome]) -> Path:
    RunStore(run).write_samples(outcomes)
    return run


# -- many samples -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(official_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two mock models on real benchmarks, 25,624 and 11,582 samples with their prompts, and their page."""
    folder = tmp_path_factory.mktemp("big")
    a, b = folder / "a", folder / "b"
    mock_run(a, "mmlu,cmmlu", data=official_data, log_prompts=True)
    mock_run(b, "cmmlu", data=official_data, backend=MockBackend("other"), model="other", log_prompts=True)
    return reported(folder / "report.html", a, b), a, b


@pytest.mark.data
def test_many_samples_open_quickly_and_filter_at_once(page: Page, big: tuple[Path, Path, Path]) -> None:
    file, a, b = big
    size = len(samples(a)) + len(samples(b))
    times = {"load_s": page.open(file)}
    assert page.count == size > 20_000
    times["filter_s"] = page.choose(show="Wrong (below ½)")
    times["filter_task_s"] = page.choose(task="mmlu@official:test:5shot")
    page.reset()
    times["disagreements_s"] = page.choose(versus="other")
    page.reset()
    times["search_all_texts_s"] = page.search("photosynthesis")
    assert page.count == sum("photosynthesis" in row["prompt"].lower() for row in samples(a) + samples(b))
    record = {"samples": size, "bytes": file.stat().st_size, **{k: round(v, 3) for k, v in times.items()}}
    (artifacts() / "page-times.json").write_text(json.dumps(record, indent=1) + "\n")
    print(record)
    assert times["load_s"] < 10 * LOAD_S
    assert max(times[k] for k in ("filter_s", "filter_task_s", "disagreements_s")) < 10 * FILTER_S
    assert page.complaints() == []
    assert page.requests() == [file.as_uri()]


@pytest.mark.data
def test_filters_give_the_rows_of_the_samples(page: Page, big: tuple[Path, Path, Path]) -> None:
    file, a, b = big
    mine, theirs = samples(a), samples(b)
    page.open(file)
    page.choose(show="Wrong (below ½)", model="mock")
    assert page.count == sum(row["correct"] == 0 for row in mine)
    assert {row[4] for row in page.rows()} == {"wrong"}
    page.choose(show="All samples", task="mmlu@official:test:5shot", subset="virology")
    virology = [row for row in mine if row["subset"] == "virology" and row["task"].startswith("mmlu")]
    assert page.count == len(virology)
    assert [(row[3], row[5], row[6]) for row in page.rows()] == [
        (row["sample_id"], row["prediction"], row["target"]) for row in virology[:25]
    ]
    page.reset()
    page.choose(model="mock", versus="other")
    scores = {(row["subset"], row["sample_id"]): row["correct"] for row in theirs}
    cmmlu = [row for row in mine if row["task"].startswith("cmmlu")]
    pairs = [(row["correct"], scores[row["subset"], row["sample_id"]]) for row in cmmlu]
    assert page.count == sum(x != y for x, y in pairs)
    page.choose(kind="Only B right")
    assert page.count == sum(x < y for x, y in pairs)


def test_filters_set_at_once_all_count(page: Page, hostile: Path) -> None:
    page.open(hostile)
    page.js(
        "const {show, model} = document.forms[0].elements;"
        "for (const [field, value] of [[show, 'errors'], [model, '0'], [model, '1'], [show, 'right']]) {"
        "  field.value = value; field.dispatchEvent(new Event('change', {bubbles: true}));"
        "}"
    )
    page.until("document.querySelector('[role=status]').textContent.startsWith('0 of')")
    page.until("!document.querySelector('.list .tabulator-row')")
    assert page.complaints() == []


@pytest.mark.data
def test_counts_of_a_pair_lead_to_its_samples(page: Page, big: tuple[Path, Path, Path]) -> None:
    page.open(big[0])
    cell = "document.querySelector('.pair [data-kind=only-a][data-subset=agronomy]')"
    text = page.js(f"return {cell}.textContent")
    page.js(f"{cell}.click()")
    page.until(f"document.querySelector('[role=status]').textContent.startsWith('{text} of')")
    assert {row[2] for row in page.rows()} == {"agronomy"}
    assert {row[4] for row in page.rows()} == {"right"}
    page.shot("pairs", "document.getElementById('pairs')")


@pytest.mark.data
def test_a_score_leads_to_its_samples(page: Page, big: tuple[Path, Path, Path]) -> None:
    page.open(big[0])
    page.js("document.querySelectorAll('#scores button[data-task]')[0].click()")
    page.until("document.querySelector('[role=status]').textContent.startsWith('14,042 of')")


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_a_score_leads_to_the_samples_of_its_model(page: Page, tmp_path: Path, axis: str) -> None:
    """Also where the runs of two models have one name."""
    layout = tmp_path / "l.yaml"
    layout.write_text(
        f"{{title: t, corner: c, models: {axis}, entries: [{{key: CMMLU, runs: [cmmlu]}}]}}", encoding="utf-8"
    )
    runs = [tmp_path / name / "run" for name in "ab"]
    for run in runs:
        mock_run(run, "cmmlu", backend=MockBackend(run.parent.name), model=run.parent.name)
    assert cli("report", *runs, "--layout", layout, "-o", tmp_path / "r.html").code == 0
    page.open(tmp_path / "r.html")
    for k in (1, 0):
        page.js(f"document.querySelectorAll('#scores button[data-task]')[{k}].click()")
        page.until(f"document.forms[0].elements.model.value === '{k}'")


@pytest.mark.data
def test_fits_a_phone(page: Page, big: tuple[Path, Path, Path]) -> None:
    page.resize(360, 740)
    page.open(big[0])
    assert page.js("const e = document.documentElement; return e.scrollWidth <= e.clientWidth")
    for part in ("scores", "pairs", "charts", "samples"):
        page.shot(f"phone-{part}", f"document.getElementById('{part}')")
    page.js("document.querySelector('.list .tabulator-row').click()")
    page.until("document.querySelector('dialog').open")
    assert page.js("const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")
    page.shot("phone-sample", "document.querySelector('dialog')")


@pytest.mark.data
def test_light_and_dark(page: Page, big: tuple[Path, Path, Path]) -> None:
    def colours() -> Any:
        return page.js(
            "return [document.body, document.querySelector('figure.chart svg text'), "
            "document.querySelector('.list .tabulator-row')].map(e => [getComputedStyle(e).color, "
            "getComputedStyle(e).fill, getComputedStyle(e).backgroundColor])"
        )

    page.open(big[0])
    page.shot("desktop-light")
    page.shot("charts-light", "document.getElementById('charts')")
    light = colours()
    page.js("document.getElementById('theme').click()")
    dark = colours()
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert light[2] != dark[2]
    page.shot("desktop-dark")
    page.shot("charts-dark", "document.getElementById('charts')")
    page.shot("samples-dark", "document.getElementById('samples')")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.open(big[0])
    if page.js("return document.documentElement.dataset.theme") is None:
        assert colours() == dark


# -- single samples -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose names and texts all try to be more than text."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("a", "b"):
        mock_run(folder / name, "cmmlu", backend=MockBackend(name), model=name)
        outcomes = RunStore(folder / name).read_samples()
        changed = [
            replace(
                outcome,
                sample_id=key,
                completions=(text, f"second {text}"),
                reasonings=(text, ""),
                choice_logprobs=None,
                choice_tokens=None,
                prediction=text,
                target=text,
                error=text if name == "b" else None,
                correct=None if name == "b" else 1.0,
                prompt=text,
            )
            for outcome, (key, text) in zip(outcomes, {**HOSTILE, "long": LONG}.items(), strict=False)
        ]
        rewritten(folder / name, changed)
        path = folder / name / "results.json"
        results = json.loads(path.read_text())
        results["model"]["name"] = f"{name} $x$ " + " ".join(HOSTILE.values()) + "\ud800"
        path.write_text(json.dumps(results))
    return reported(folder / "report.html", folder / "a", folder / "b")


def test_hostile_texts_appear_as_text(page: Page, hostile: Path) -> None:
    page.open(hostile)
    page.choose(show="Right (½ or more)")
    for key, text in HOSTILE.items():
        page.open_sample(key)
        assert page.section("Completion 1") == visible(text)
        assert page.section("Reasoning 1") == visible(text)
        assert page.section("Prompt") == visible(text)
        page.js("document.querySelector('dialog').close()")
    assert page.rows()[0][-3] == one_line(HOSTILE["script"])
    assert page.js("return window.hacked") is None
    assert page.js("return document.querySelectorAll('img').length") == 0
    assert page.complaints() == []
    page.shot("hostile")


def test_controls_are_shown_by_the_rule_of_all_reports(page: Page, tmp_path: Path) -> None:
    text = "".join(map(chr, [*range(0x250), *range(0x600, 0x620), *range(0x2000, 0x2070), 0xFEFF]))
    mock_run(tmp_path / "run", "cmmlu")
    first, *_ = RunStore(tmp_path / "run").read_samples()
    rewritten(tmp_path / "run", [replace(first, completions=(text,))])
    page.open(reported(tmp_path / "report.html", tmp_path / "run"))
    page.js("document.querySelector('.list .tabulator-row').click()")
    page.until("document.querySelector('dialog').open")
    assert page.section("Completion") == visible(text)


def test_a_very_long_line_is_cut_until_asked_for(page: Page, hostile: Path) -> None:
    page.open(hostile)
    page.search("xxxx")
    start = time.perf_counter()
    page.open_sample("long")
    assert time.perf_counter() - start < 10
    assert len(page.section("Completion 1")) < 21_000
    page.js("document.querySelector('dialog section pre + button').click()")
    assert LONG in page.js("return document.querySelector('dialog').textContent")
    assert page.js("const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")


def test_errors_are_found(page: Page, hostile: Path) -> None:
    page.open(hostile)
    page.choose(show="Errors")
    assert page.count == len(HOSTILE) + 1
    assert {row[4] for row in page.rows()} == {"error"}
    page.open_sample("arabic")
    assert page.section("Error") == HOSTILE["arabic"]
    page.shot("arabic")


def test_works_by_keyboard(page: Page, hostile: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open(hostile)
    page.press("/")
    assert page.js("return document.activeElement.name") == "query"
    assert page.js("return document.activeElement.matches(':focus-visible')")
    for _ in range(40):
        page.press(Keys.TAB)
        if page.js("return document.activeElement.matches('.list .tabulator-row')"):
            break
    page.press(Keys.ARROW_DOWN)
    second = page.js("return document.activeElement.querySelector('[tabulator-field=id]').textContent")
    assert second == list(HOSTILE)[1]
    page.press(Keys.ENTER)
    page.until("document.querySelector('dialog').open")
    assert second in page.js("return document.querySelector('dialog h2').textContent")
    page.press(Keys.ARROW_RIGHT)
    third = list(HOSTILE)[2]
    page.until(f"document.querySelector('dialog h2').textContent.includes({json.dumps(third)})")
    page.press(Keys.ESCAPE)
    page.until("!document.querySelector('dialog').open")
    page.until("document.activeElement.matches('.list .tabulator-row')")
    assert page.js("return document.activeElement.querySelector('[tabulator-field=id]').textContent") == third


def test_policy_lets_nothing_else_run_or_load(page: Page, hostile: Path) -> None:
    page.open(hostile)
    page.js(
        "const script = document.createElement('script');"
        "script.textContent = 'window.hacked = 3'; document.body.append(script)"
    )
    assert page.js("return window.hacked") is None
    blocked = page.driver.execute_async_script(
        "const done = arguments[0]; fetch('https://example.org').then(() => done(false), () => done(true))"
    )
    assert blocked
    assert len([line for line in page.complaints() if "Content Security Policy" in line]) >= 2


# -- what stands in a page ----------------------------------------------------------------------


class Tags(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_needs_no_other_file(hostile: Path) -> None:
    text = hostile.read_text("utf-8")
    elements = Tags(text).found
    assert {"table", "svg", "dialog"} < {tag for tag, _ in elements}
    assert not {"img", "iframe", "object", "embed", "base"} & {tag for tag, _ in elements}
    assert not [attributes for _, attributes in elements if "src" in attributes or "style" in attributes]
    addresses = [str(attributes["href"]) for _, attributes in elements if "href" in attributes]
    assert all(address.startswith(("#", "data:,")) for address in addresses)
    assert not re.search(r"@import|sourceMappingURL", text)
    assert "Copyright (c) 2015" in text


def test_tables_sort_by_keyboard_and_filter(page: Page, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    def column(k: int) -> list[str]:
        found: list[str] = page.js(
            "return [...document.querySelectorAll('#scores .tabulator-row')].map("
            f"row => row.querySelectorAll('.tabulator-cell')[{k}].textContent)"
        )
        return found

    file = tmp_path / "published.html"
    assert cli("report", "--published", "--layout", "orion-base", "-o", file).code == 0
    page.open(file)
    assert page.complaints() == []
    before = column(1)
    page.js("document.querySelectorAll('#scores .tabulator-header button')[1].focus()")
    page.press(Keys.ENTER)
    page.until("document.querySelector('#scores [aria-sort=descending]')")
    assert column(1) == sorted(before, key=float, reverse=True) != before
    page.shot("published")


def test_heads_of_two_levels_span_their_columns(page: Page, tmp_path: Path) -> None:
    mock_run(tmp_path / "run", "mmlu,cmmlu,ceval")
    layout = tmp_path / "two.yaml"
    layout.write_text(
        "{title: Two, corner: Model, models: rows, entries: [{key: MMLU, runs: [mmlu]}, "
        "{key: C-Eval, group: 中文, runs: [ceval]}, {key: CMMLU, group: 中文, runs: [cmmlu]}]}",
        encoding="utf-8",
    )
    file = tmp_path / "two.html"
    assert cli("report", tmp_path / "run", "--layout", layout, "-o", file).code == 0
    page.open(file)
    heads = page.js(
        "const group = document.querySelector('#scores .tabulator-col-group');"
        "return [group.querySelector('.tabulator-col-title').textContent, "
        "...[...group.querySelectorAll('button')].map(b => b.firstChild.textContent)]"
    )
    assert heads == ["中文", "C-Eval", "CMMLU"]
    page.shot("two-levels")


def test_without_prompts_says_how_to_keep_them(page: Page, tmp_path: Path) -> None:
    mock_run(tmp_path / "run", "cmmlu")
    page.open(reported(tmp_path / "report.html", tmp_path / "run"))
    page.js("document.querySelector('.list .tabulator-row').click()")
    page.until("document.querySelector('dialog').open")
    text = page.js("return document.querySelector('dialog').textContent")
    assert "--log-prompts" in text
    option = page.js("return document.querySelector('dialog table').textContent")
    assert "predicted" in option
    assert "target" in option


def test_without_samples_or_matplotlib_says_so(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_run(tmp_path / "run", "cmmlu")
    (tmp_path / "run" / "samples.parquet").unlink()
    monkeypatch.setattr("evalkit.reports.plots.HAS_MATPLOTLIB", False)
    file = reported(tmp_path / "report.html", tmp_path / "run")
    assert "pip install &#39;evalkit[report]&#39;" in file.read_text("utf-8")
    page.open(file)
    assert "samples.parquet" in page.js("return document.getElementById('samples').textContent")
    assert page.js("return document.querySelectorAll('.grid .tabulator-row').length") == 1
    assert page.complaints() == []


def test_items_with_evidence_of_a_leak(page: Page, tmp_path: Path) -> None:
    mock_run(tmp_path / "run", "cmmlu")
    leaked = samples(tmp_path / "run")[3]
    lead = {"rank": 1, "gap": 3.2, "p": 0.0004, "fdr": 0.05}
    path = tmp_path / "run" / "results.json"
    results = json.loads(path.read_text())
    (task,) = results["tasks"]
    keys = {name: leaked[name] for name in ("subset", "sample_id")}
    method = {"flagged": 0.4, "ci95": [0.3, 0.5], "null_floor": 0.3, "null_floor_ci95": [0.25, 0.35]}
    verdict = {"short": "inconclusive", "sentence": "Inconclusive."}
    entry = {"leads": [{**keys, **lead}], "methods": {"scenario b": method}, "verdict": verdict}
    results["leakage"] = {"run_id": "x", "tasks": {task: entry}}
    path.write_text(json.dumps(results))
    file = reported(tmp_path / "report.html", tmp_path / "run")
    page.open(file)
    page.choose(show="With evidence of a leak")
    assert [row[2] for row in page.rows()] == [leaked["sample_id"]]
    page.open_sample(leaked["sample_id"])
    text = page.js("return document.querySelector('dialog').textContent")
    assert "published order ranks 1, gap 3.20" in text
    assert "null floor" in page.js("return document.getElementById('charts').textContent")
