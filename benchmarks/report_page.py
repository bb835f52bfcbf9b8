"""How long the HTML report takes: to make, to open in a browser, and to filter.

Runs of the mock backend on MMLU and CMMLU with their prompts, cut or joined to as many samples as asked
for. The browser is Debian's chromium (`make chromium`), started anew for every load.

    python benchmarks/report_page.py --data DIR
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import _common

from evalkit.backends.mock import MockBackend
from evalkit.data.source import open_source
from evalkit.preparation import RunOptions
from evalkit.reports.filling import fill
from evalkit.reports.html.page import render
from evalkit.reports.layouts import DEFAULT
from evalkit.reports.runs import Run, open_runs
from evalkit.runner import run
from evalkit.store import RunStore

SIZES = (20_000, 50_000)
REPEATS = 5

_CHANGE = """
const [name, value, done] = arguments;
const field = document.forms[0].elements[name];
const start = performance.now();
field.value = value;
const seen = new MutationObserver(() => {
  seen.disconnect();
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
});
seen.observe(document.querySelector(".list .tabulator-table"), {childList: true});
field.dispatchEvent(new Event("change", {bubbles: true}));
"""


def main() -> None:
    args = _common.parser(__doc__ or "").parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs = [_mock_run(Path(folder) / name, args.data) for name in ("a", "b")]
        for size in SIZES:
            rows.append(_measured(Path(folder), runs, size))
            print(rows[-1])
    _common.save(args, "report-page", {"rows": rows, "repeats": REPEATS})


def _mock_run(root: Path, data: str | None) -> Path:
    run(
        RunOptions(root.name, "mmlu,cmmlu", log_prompts=True),
        open_source(data or "auto", offline=True),
        lambda: MockBackend(root.name),
        RunStore(root),
    )
    return root


def _measured(folder: Path, runs: list[Path], size: int) -> dict[str, Any]:
    """Median times of one size."""
    opened = _cut(folder / str(size), runs, size)
    file = folder / f"{size}.html"
    start = time.perf_counter()
    file.write_text(render([fill(DEFAULT, opened)], opened), encoding="utf-8")
    rendering = time.perf_counter() - start
    times = [_in_browser(file) for _ in range(REPEATS)]
    medians = {name: round(statistics.median(one[name] for one in times), 3) for name in times[0]}
    found = {
        "samples": size,
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "render_s": round(rendering, 2),
    }
    return found | medians


def _cut(folder: Path, runs: list[Path], size: int) -> list[Run]:
    """Copies of the runs with so many samples in all."""
    for source in runs:
        shutil.copytree(source, folder / source.name)
        store = RunStore(folder / source.name)
        store.write_samples(store.read_samples()[: size // len(runs)])
    return open_runs([folder / source.name for source in runs])


def _in_browser(file: Path) -> dict[str, float]:
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        start = time.perf_counter()
        browser.get(file.as_uri())
        while not browser.execute_script("return document.documentElement.dataset.ready"):
            time.sleep(0.01)
        times = {"load_s": time.perf_counter() - start}
        for name, field, value in (
            ("wrong_s", "show", "wrong"),
            ("task_s", "task", "0"),
            ("model_s", "model", "0"),
            ("disagreements_s", "versus", "1"),
        ):
            times[name] = browser.execute_async_script(_CHANGE, field, value) / 1000
        browser.execute_script("document.forms[0].elements.reset.click()")
        times["search_all_texts_s"] = _search(browser)
    finally:
        browser.quit()
    return times


def _search(browser: Any) -> float:
    """Seconds until every text was searched."""
    time.sleep(0.3)
    start = time.perf_counter()
    browser.execute_script(
        "const query = document.forms[0].elements.query; query.value = 'photosynthesis';"
        "document.querySelector('progress').hidden = false; query.dispatchEvent(new Event('input'))"
    )
    while not browser.execute_script("return document.querySelector('progress').hidden"):
        time.sleep(0.01)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
