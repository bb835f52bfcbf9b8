import copy
import io
import re
import subprocess
import sys

import pytest
from _made_up import kinds
from rich.console import Console

from evalkit.reports.summary import cost_line, markdown, terminal


def estimate(value, low, high, n):
    return {"acc": {"value": value, "stderr": 0.01, "ci95": [low, high], "n": n}}


@pytest.fixture
def results():
    counters = {"samples": 11582, "errors": 0, "truncated": 3, "ties": 2, "non_finite": 0, "unparsed": 0}
    return {
        "schema_version": 1,
        "evalkit_version": "0.1.0",
        "run_id": "20250101T000000-demo-abcdef",
        "status": "complete",
        "model": {"name": "demo", "backend": "hf", "dtype": "bfloat16", "fingerprint": "sha256:1234"},
        "tasks": {
            "cmmlu@official:test:5shot": {
                "task": "cmmlu",
                "protocol": "official",
                "split": "test",
                "shots": 5,
                "average": "macro",
                "metrics": estimate(0.51234, 0.504, 0.52, 11582),
                "groups": {
                    "STEM": estimate(0.4, 0.35, 0.45, 2531),
                    "中国特色": estimate(0.6, 0.5, 0.7, 2000),
                },
                "subsets": {"agronomy": estimate(0.25, 0.2, 0.3, 169), "odd|name": estimate(1, 0.2, 1, 1)},
                "averages": {"macro": {"acc": 0.51234}, "micro": {"acc": 0.5}},
                "counters": {**counters, "close_calls": 23},
                "score_range": {"low": 0.5091, "high": 0.515},
            }
        },
        "cost": {
            "wall_s": 30.0,
            "load_s": 5.0,
            "tokens_logical": 1_000_000,
            "tokens_computed": 250_000,
            "tokens_generated": 0,
            "peak_memory_bytes": 3 * 2**30,
        },
    }


@pytest.fixture
def task(results):
    return results["tasks"]["cmmlu@official:test:5shot"]


def render(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def hide_labels(task):
    task |= {"metrics": {}, "groups": {}, "subsets": {}, "averages": {}}
    task.pop("score_range")


def test_headline_row(results):
    assert (
        "| cmmlu | official | test | 5 | acc (macro) | 51.23 [50.4, 52.0] | 11,582 | 0 | 3 | 0 | 2 "
        "| 23 (50.91–51.50) |\n"
    ) in markdown(results)


def test_categories_averages_and_subsets(results):
    text = markdown(results)
    assert "| STEM | 40.00 [35.0, 45.0] | 2,531 |" in text
    assert "| 中国特色 | 60.00 [50.0, 70.0] | 2,000 |" in text
    assert "| macro acc, published | 51.23 |" in text
    assert "| micro acc | 50.00 |" in text
    details = text.split("<details>")[1].split("</details>")[0]
    assert "<summary>2 subsets</summary>\n\n|" in details
    assert "| agronomy | 25.00 [20.0, 30.0] | 169 |" in details


def test_tables_are_well_formed(results):
    """Every row of a table has as many cells as its heading, and a blank line stands before the heading."""
    columns = None
    previous = ""
    for line in markdown(results).splitlines():
        if line.startswith("|"):
            cells = line.replace(r"\|", "").count("|")
            assert columns in (None, cells)
            assert columns is not None or previous == ""
            columns = cells
        else:
            columns = None
        previous = line


def test_names_cannot_break_a_table(results):
    assert r"| odd\|name |" in markdown(results)


def test_a_task_without_groups_has_no_category_table(results, task):
    task["groups"] = {}
    assert "Category" not in markdown(results)


def test_model_and_cost(results):
    text = markdown(results)
    for fact in ("demo", "hf", "bfloat16", "sha256:1234", "20250101T000000-demo-abcdef, evalkit 0.1.0"):
        assert fact in text
    assert "| Tokens | 1,000,000 logical, 250,000 computed (4.0× fewer) |" in text
    assert "| Peak memory | 3.00 GiB |" in text


def test_a_clean_run_has_no_warning(results):
    official = {"equality_gate": {"passed": True}, "tasks": {"cmmlu@official:test:5shot": {"data": {}}}}
    assert "WARNING" not in markdown(results)
    assert "WARNING" not in markdown(results, official)


def test_warnings_stand_before_the_scores(results, task):
    results["status"] = "partial"
    task["counters"] |= {"errors": 1500, "non_finite": 12, "unparsed": 4}
    task |= {"subsets_present": 3, "subsets_total": 67, "samples_total": 20000}
    gate = {"passed": False, "max_difference": 0.25}
    data = {"cmmlu@official:test:5shot": {"data": {"source": "path", "official": False}}}
    text = markdown(results, {"equality_gate": gate, "tasks": data})
    block = text.split("## Results")[0]
    assert "> [!WARNING]\n> - The equality gate failed: log-probabilities differ" in block
    assert "by 0.25." in block
    assert "not complete (status: partial)" in block
    assert "1,500 of 11,582 samples failed, 12 with non-finite scores." in block
    assert "4 answers could not be parsed." in block
    assert "reasoned" not in block
    task["counters"]["unfinished_reasoning"] = 7
    assert "7 samples reached the token limit while the model still reasoned: no answer." in markdown(results)
    assert "only 11,582 of the official 20,000 samples, 3 of 67 subsets." in block
    assert "cmmlu@official:test:5shot: the data differ from the official release." in block


def test_random_weights_are_a_warning(results):
    manifest = {"model": {"details": {"random_weights": True}}}
    assert "> - random weights: results are not meaningful." in markdown(results, manifest)


def test_sample_data_is_a_warning_of_its_own(results):
    data = {"cmmlu@official:test:5shot": {"data": {"source": "sample", "official": False}}}
    text = markdown(results, {"tasks": data})
    assert "made-up sample data" in text
    assert "differ from the official" not in text


def test_hidden_labels(results, task):
    hide_labels(task)
    task["submission"] = "submission.json"
    text = markdown(results)
    assert "| cmmlu | official | test | 5 | – | – | 0 | 0 | 3 | 0 | 2 | 23 |" in text
    assert "a submission file was written to submission.json" in text
    assert "<details>" not in text


def test_hidden_labels_without_a_submission_format(results, task):
    hide_labels(task)
    assert "submission file" not in markdown(results)
    assert "predictions are in samples.parquet" in markdown(results)


def test_a_task_of_errors_only_is_not_taken_for_hidden_labels(results, task):
    hide_labels(task)
    task["counters"]["errors"] = task["counters"]["samples"]
    text = markdown(results)
    assert "labels" not in text
    assert "11,582 of 11,582 samples failed" in text


def test_unmeasured_noise_shows_no_count(results, task):
    task["counters"]["close_calls"] = None
    task.pop("score_range")
    assert "| 3 | 0 | 2 | – |\n" in markdown(results)


def test_rendering_leaves_the_document_alone(results):
    before = copy.deepcopy(results)
    markdown(results)
    render(terminal(results))
    assert results == before


def test_terminal(results):
    text = render(terminal(results))
    assert "cmmlu@official:test:5shot" in text
    assert "51.23 [50.4, 52.0]" in text
    assert "23 (50.91–51.50)" in text
    assert text.rstrip().splitlines()[-1] == cost_line(results["cost"])


def test_terminal_says_why_there_is_no_score(results, task):
    hide_labels(task)
    task["submission"] = "submission.json"
    assert "submission.json" in render(terminal(results))


def test_cost_line(results):
    assert cost_line(results["cost"]) == (
        "wall time 30.0 s (loading 5.0 s) · tokens 1,000,000 logical, 250,000 computed (4.0× fewer)"
        " · speed 10,000 computed tokens/s · peak memory 3.00 GiB"
    )


def test_cost_line_prefers_the_scoring_time(results):
    assert "speed 12,500 computed tokens/s" in cost_line({**results["cost"], "score_s": 20.0})


def test_cost_of_a_run_answered_from_the_cache(results):
    cost = {**results["cost"], "tokens_computed": 0, "peak_memory_bytes": 0, "wall_s": 3800.0}
    assert cost_line(cost) == "wall time 1 h 03 min (loading 5.0 s) · tokens 1,000,000 logical, 0 computed"


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, evalkit.reports.summary;"
        "heavy = {'torch', 'transformers', 'pandas', 'rich', 'scipy', 'evalkit.tasks', 'evalkit.backends'};"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def hostile(results):
    name = "[x](https://a.example) *b* @somebody \x1b[31m\u202e"
    results["model"]["name"] = name
    (task,) = results["tasks"].values()
    results["tasks"] = {name: task | {"task": name}}
    return results


def test_hostile_names_are_text_in_markdown(results):
    text = markdown(hostile(results))
    assert not re.search("\x1b|\u202e|\\w://|@\\w", text)
    assert kinds(text) <= {
        *("heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "text"),
        *("table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close"),
        *("tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close"),
        *("text_special", "softbreak", "html_block"),  # the blocks are our <details>
    }


def test_hostile_names_reach_no_terminal(results):
    results = hostile(results)
    for task in results["tasks"].values():
        hide_labels(task)
    text = render(terminal(results))
    assert "no score" in text
    assert not re.search("[\x1b\u202e]", text)
