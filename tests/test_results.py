import json
import math
import random
from dataclasses import replace

import pytest
from scipy import stats
from toy import judged, resolved_toy

from evalkit.results import aggregate
from evalkit.stats.intervals import wilson
from evalkit.task import Grouping, Judgement, Overlong, Protocol, by_mean_logprob, each
from evalkit.types import Completion, ContinuationScore, Failure, GenerateResponse, Sample, ScoreResponse

SUBSETS = ("physics", "biology", "law")


def resolve(average="macro", groups_average="macro", sizes=None, **protocol):
    groups = {"STEM": ("physics", "biology"), "Life": ("biology", "law"), "Empty": ("law",)}
    official = Protocol(
        name="official",
        source="",
        render=lambda given: pytest.fail("aggregation must not render"),
        average=average,
        groups=Grouping(groups, groups_average),
        overlong=Overlong("error"),
        default_split="test",
        **protocol,
    )
    return resolved_toy(official, subsets=SUBSETS, shots=5, sizes=sizes)


def answer(resolved, subset, logprobs, target="A", tokens=(1, 1, 1), truncated=False):
    scores = zip(logprobs, tokens, strict=True)
    response = ScoreResponse(tuple(ContinuationScore(lp, n, is_greedy=False) for lp, n in scores))
    sample = Sample(id="0", subset=subset, fields={}, target=target)
    return judged(resolved, sample, response, truncated=truncated)


def right(resolved, subset):
    return answer(resolved, subset, (-1, -5, -9))


def wrong(resolved, subset):
    return answer(resolved, subset, (-9, -1, -5))


def broken(resolved, subset):
    return judged(resolved, Sample("0", subset, {}, "A"), Failure("out of memory"))


@pytest.fixture
def example():
    """Physics 1/2, biology 4/4, law not run."""
    resolved = resolve()
    outcomes = [right(resolved, "physics"), wrong(resolved, "physics"), *[right(resolved, "biology")] * 4]
    return resolved, outcomes


def test_the_entry_names_what_was_run(example):
    entry = aggregate(*example, noise=None)
    named = {key: entry[key] for key in ("task", "protocol", "split", "shots", "average")}
    assert named == {"task": "toy", "protocol": "official", "split": "test", "shots": 5, "average": "macro"}


def test_macro_average(example):
    acc = aggregate(*example, noise=None)["metrics"]["acc"]
    half = stats.t.ppf(0.975, 1) * 0.25
    assert acc == {"value": 0.75, "stderr": pytest.approx(0.25), "ci95": [0.0, 1.0], "n": 6}
    assert half > 0.75  # which is why the interval was cut at both ends


def test_micro_average(example):
    resolved, outcomes = example
    resolved = replace(resolved, protocol=replace(resolved.protocol, average="micro"))
    acc = aggregate(resolved, outcomes, noise=None)["metrics"]["acc"]
    # Residual sums 1 - 2·5/6 = -2/3 and 4 - 4·5/6 = 2/3.
    assert acc["value"] == pytest.approx(5 / 6)
    assert acc["stderr"] == pytest.approx(math.sqrt(8 / 9) / 6 * math.sqrt(2))
    assert acc["n"] == 6


def test_both_averages_are_given_and_the_published_one_is_the_metric(example):
    entry = aggregate(*example, noise=None)
    assert entry["averages"] == {"macro": {"acc": 0.75}, "micro": {"acc": pytest.approx(5 / 6)}}
    assert entry["averages"]["macro"]["acc"] == entry["metrics"]["acc"]["value"]


def test_subsets_have_wilson_intervals(example):
    subsets = aggregate(*example, noise=None)["subsets"]
    assert subsets == {
        "physics": {"acc": {"value": 0.5, "stderr": pytest.approx(0.5), "ci95": list(wilson(1, 2)), "n": 2}},
        "biology": {"acc": {"value": 1.0, "stderr": 0.0, "ci95": list(wilson(4, 4)), "n": 4}},
    }


@pytest.mark.parametrize(("average", "stem"), [("macro", 0.75), ("micro", 5 / 6)])
def test_groups_overlap_and_skip_what_was_not_run(average, stem):
    resolved = resolve(groups_average=average)
    outcomes = [right(resolved, "physics"), wrong(resolved, "physics"), *[right(resolved, "biology")] * 4]
    groups = aggregate(resolved, outcomes, noise=None)["groups"]
    assert list(groups) == ["STEM", "Life"]
    assert groups["STEM"]["acc"]["value"] == pytest.approx(stem)
    assert groups["STEM"]["acc"]["n"] == 6
    assert groups["Life"]["acc"]["value"] == 1.0
    assert groups["Life"]["acc"]["ci95"] == list(wilson(4, 4))


def test_subsets_come_in_official_order_whatever_the_order_of_outcomes(example):
    resolved, outcomes = example
    shuffled = random.Random(3).sample(outcomes, len(outcomes))
    entry = aggregate(resolved, shuffled, noise=0.1)
    assert entry == aggregate(resolved, outcomes, noise=0.1)
    assert list(entry["subsets"]) == ["physics", "biology"]


def test_a_partial_run_says_so(example):
    resolved, outcomes = example
    entry = aggregate(resolved, outcomes, noise=None)
    assert (entry["subsets_present"], entry["subsets_total"]) == (2, 3)
    assert "samples_total" not in entry
    resolved = replace(resolved, task=replace(resolved.task, sizes={"test": 100}))
    assert aggregate(resolved, outcomes, noise=None)["samples_total"] == 100


def test_a_whole_run_says_nothing_of_coverage():
    resolved = resolve(sizes={"test": 3})
    entry = aggregate(resolved, [right(resolved, s) for s in SUBSETS], noise=None)
    assert not {"subsets_present", "subsets_total", "samples_total"} & set(entry)


def test_errors_are_counted_and_not_scored(example):
    resolved, outcomes = example
    entry = aggregate(resolved, [*outcomes, broken(resolved, "physics"), broken(resolved, "law")], noise=0.1)
    assert entry["metrics"]["acc"] == aggregate(resolved, outcomes, noise=0.1)["metrics"]["acc"]
    assert (entry["counters"]["samples"], entry["counters"]["errors"]) == (8, 2)
    assert "law" not in entry["subsets"]


def test_non_finite_scores_are_errors():
    resolved = resolve()
    outcomes = [right(resolved, "law"), answer(resolved, "law", (math.nan, -1, -2))]
    outcomes += [answer(resolved, "law", (-math.inf, -math.inf, -2))]
    entry = aggregate(resolved, outcomes, noise=1.0)
    assert entry["metrics"]["acc"]["n"] == 1
    assert (entry["counters"]["non_finite"], entry["counters"]["errors"]) == (2, 2)
    assert (entry["counters"]["ties"], entry["counters"]["close_calls"]) == (0, 0)


def test_ties_are_of_the_best_score_only():
    resolved = resolve()
    tied = answer(resolved, "law", (-1, -1, -2))
    tied_behind = answer(resolved, "law", (-1, -2, -2))
    assert aggregate(resolved, [tied, tied_behind], noise=None)["counters"]["ties"] == 1


def test_counters_without_a_measured_noise(example):
    resolved, outcomes = example
    outcomes[0] = replace(outcomes[0], truncated=True)
    entry = aggregate(resolved, outcomes, noise=None)
    assert entry["counters"] == {
        "samples": 6,
        "errors": 0,
        "truncated": 1,
        "ties": 0,
        "non_finite": 0,
        "unparsed": 0,
        "unfinished": 0,
        "unfinished_reasoning": 0,
        "close_calls": None,
    }
    assert "score_range" not in entry


def close_examples(resolved):
    """Physics: a close right and a close wrong answer; law: wrong ones, close only among wrong options."""
    return [
        answer(resolved, "physics", (-1.0, -1.05, -9)),
        answer(resolved, "physics", (-1.05, -1.0, -9)),
        answer(resolved, "law", (-9, -1.0, -1.05)),
        answer(resolved, "law", (-9, -1.0, -5)),
        right(resolved, "law"),
        right(resolved, "law"),
    ]


@pytest.mark.parametrize(("average", "low", "high"), [("macro", 0.25, 0.75), ("micro", 2 / 6, 4 / 6)])
def test_close_calls_span_a_score_range(average, low, high):
    resolved = resolve(average=average)
    entry = aggregate(resolved, close_examples(resolved), noise=0.1)
    assert entry["counters"]["close_calls"] == 3
    assert entry["metrics"]["acc"]["value"] == 0.5
    assert entry["score_range"] == {"low": pytest.approx(low), "high": pytest.approx(high)}


def test_without_noise_only_ties_are_close():
    resolved = resolve()
    outcomes = [*close_examples(resolved), answer(resolved, "physics", (-1, -1, -2), target="B")]
    entry = aggregate(resolved, outcomes, noise=0.0)
    assert entry["counters"]["close_calls"] == entry["counters"]["ties"] == 1
    assert entry["score_range"]["low"] == entry["metrics"]["acc"]["value"]
    assert entry["score_range"]["high"] > entry["metrics"]["acc"]["value"]


def test_close_calls_live_on_the_scale_of_the_protocol():
    resolved = resolve(choice_scores=by_mean_logprob)
    outcome = answer(resolved, "law", (-10.0, -10.5, -90), tokens=(10, 10, 10))
    assert aggregate(resolved, [outcome], noise=0.1)["counters"]["close_calls"] == 1


def test_hidden_labels_give_counters_but_no_metric():
    resolved = resolve()
    outcomes = [answer(resolved, s, (-1, -1, -2), target=None, truncated=True) for s in SUBSETS]
    entry = aggregate(resolved, outcomes, noise=0.1)
    assert entry["metrics"] == entry["groups"] == entry["subsets"] == entry["averages"] == {}
    assert "score_range" not in entry
    assert entry["counters"] == {
        "samples": 3,
        "errors": 0,
        "truncated": 3,
        "ties": 3,
        "non_finite": 0,
        "unparsed": 0,
        "unfinished": 0,
        "unfinished_reasoning": 0,
        "close_calls": 3,
    }


def test_nothing_to_aggregate():
    entry = aggregate(resolve(), [], noise=0.1)
    assert entry["metrics"] == {}
    assert entry["counters"]["samples"] == 0


def test_json_without_nan_survives_a_round_trip(example):
    resolved, outcomes = example
    outcomes += [broken(resolved, "law"), answer(resolved, "law", (math.nan, -1, -2)), right(resolved, "law")]
    entry = aggregate(resolved, outcomes, noise=0.1)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry["subsets"]["law"]["acc"]["stderr"] is None


def test_answers_that_were_never_begun_are_counted_apart():
    resolved = resolve(judge=each(lambda sample, text: Judgement(text or None, {"acc": 0.0})))
    ends = [
        ("", "length", "so"),
        ("x", "length", "so"),
        ("", "length", ""),
        ("", "eos", "so"),
        ("x", "stop", ""),
    ]
    outcomes = [
        judged(
            resolved,
            Sample("0", "law", {}, "A"),
            GenerateResponse((Completion(text, reason, 5, reasoning=thought),)),
        )
        for text, reason, thought in ends
    ]
    counters = aggregate(resolved, outcomes, noise=None)["counters"]
    assert (counters["unfinished"], counters["unfinished_reasoning"]) == (3, 1)
