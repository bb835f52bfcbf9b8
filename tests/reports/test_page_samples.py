import base64
import gzip
import json
from dataclasses import replace

import pytest
from helpers import mock_run

from evalkit.reports.html.samples import pack
from evalkit.reports.runs import entrants, open_runs
from evalkit.store import RunStore


def labels(run):
    """Names that the page gives the options of each sample."""
    (chunk,) = pack(entrants(open_runs([run]))).chunks[:1]
    rows = json.loads(gzip.decompress(base64.b64decode(chunk)))["rows"]
    return {tuple(option[0] for option in row["options"]) for row in rows}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"A": "one", "B": "two", "C": "three", "D": "four"}, ("one", "two", "three", "four")),
        ({"A": "one", "B": "two", "C": "one", "D": "four"}, ("A", "B", "C", "D")),
    ],
)
def test_options_are_named_by_predictions_that_tell_them_apart(tmp_path, names, expected):
    mock_run(tmp_path / "run", "cmmlu")
    store = RunStore(tmp_path / "run")
    store.write_samples([replace(o, prediction=names[o.prediction]) for o in store.read_samples()])
    assert labels(tmp_path / "run") == {expected}


def test_options_have_letters_where_predictions_follow_something_else(tmp_path):
    mock_run(tmp_path / "run", "cmmlu")
    store = RunStore(tmp_path / "run")
    first, *others = (replace(o, prediction=o.prediction.lower()) for o in store.read_samples())
    store.write_samples([first, *others])
    assert labels(tmp_path / "run") == {("a", "b", "c", "d")}
    other = next(o.prediction for o in others if o.prediction != first.prediction)
    store.write_samples([replace(first, prediction=other), *others])
    assert labels(tmp_path / "run") == {("A", "B", "C", "D")}
