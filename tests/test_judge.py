import hashlib
import math
from dataclasses import replace

import pytest
from toy import judged, resolved_toy

from evalkit import judge
from evalkit.task import Grouping, Overlong, Protocol, by_mean_logprob
from evalkit.types import ContinuationScore, Failure, Sample, ScoreResponse

SAMPLE = Sample(id="17", subset="anatomy", fields={}, target="B")


@pytest.fixture
def resolved():
    protocol = Protocol(
        name="official",
        source="",
        render=lambda given: pytest.fail("judging must not render"),
        average="macro",
        groups=Grouping({}, "macro"),
        overlong=Overlong("error"),
        default_split="test",
    )
    return resolved_toy(protocol, subsets=("anatomy",))


def response(*logprobs, tokens=(1, 1, 1)):
    scores = zip(logprobs, tokens, strict=True)
    return ScoreResponse(tuple(ContinuationScore(lp, n, is_greedy=False) for lp, n in scores))


def test_the_best_option_is_predicted(resolved):
    outcome = judged(resolved, SAMPLE, response(-2, -1, -3), truncated=True, keep_prompt=True)
    assert (outcome.prediction, outcome.target, outcome.correct, outcome.error) == ("B", "B", 1.0, None)
    assert (outcome.task, outcome.subset, outcome.sample_id) == ("toy@official:test:0shot", "anatomy", "17")
    assert (outcome.choice_logprobs, outcome.choice_tokens) == ((-2, -1, -3), (1, 1, 1))
    assert (outcome.truncated, outcome.prompt) == (True, "Q")
    assert outcome.prompt_sha256 == hashlib.sha256(b"Q").hexdigest()


def test_a_wrong_answer_scores_zero(resolved):
    outcome = judged(resolved, SAMPLE, response(-1, -2, -3))
    assert (outcome.prediction, outcome.correct) == ("A", 0.0)


def test_the_first_of_equal_options_wins(resolved):
    assert judge.predict(resolved.protocol, "ABC", [-2, -1, -1], [1, 1, 1]) == "B"


def test_the_protocol_says_what_is_compared(resolved):
    by_mean = replace(resolved.protocol, choice_scores=by_mean_logprob)
    assert judge.predict(resolved.protocol, "ABC", [-2, -3, -4], [1, 1, 4]) == "A"
    assert judge.predict(by_mean, "ABC", [-2, -3, -4], [1, 1, 4]) == "C"


def test_the_protocol_combines_the_response(resolved):
    resolved = replace(
        resolved,
        protocol=replace(resolved.protocol, combine=lambda response: ((-5.0, -4.0, -3.0), (1, 1, 1))),
    )
    assert judged(resolved, SAMPLE, ScoreResponse(())).prediction == "C"


def test_without_a_target_there_is_a_prediction_but_no_score(resolved):
    hidden = replace(SAMPLE, target=None)
    outcome = judged(resolved, hidden, response(-1, -2, -3))
    assert (outcome.prediction, outcome.correct, outcome.error) == ("A", None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_are_an_error(resolved, bad):
    outcome = judged(resolved, SAMPLE, response(-1, bad, -3))
    assert (outcome.prediction, outcome.correct) == (None, None)
    assert outcome.error is not None
    assert f"{bad:g}" in outcome.error


def test_a_mean_over_no_tokens_is_an_error(resolved):
    resolved = replace(resolved, protocol=replace(resolved.protocol, choice_scores=by_mean_logprob))
    outcome = judged(resolved, SAMPLE, response(-1, 0, -3, tokens=(1, 0, 1)))
    assert outcome.error is not None


def test_one_score_per_option_is_needed(resolved):
    with pytest.raises(ValueError, match="2 scores for 3 options"):
        judge.predict(resolved.protocol, "ABC", [-1, -2], [1, 1])


def test_rejudging_changes_nothing_of_a_judged_outcome(resolved):
    for scores in (response(-2, -1, -3), response(-2, math.inf, -3)):
        outcome = judged(resolved, SAMPLE, scores)
        assert judge.judge(resolved, [outcome], {}) == [outcome]


def test_rejudging_follows_a_changed_protocol(resolved):
    outcome = judged(resolved, SAMPLE, response(-2, -3, -4, tokens=(1, 2, 4)))
    resolved = replace(resolved, protocol=replace(resolved.protocol, choice_scores=by_mean_logprob))
    assert judge.judge(resolved, [outcome], {})[0].prediction == "C"
    assert judge.judge(resolved, [replace(outcome, error="stale")], {})[0].error is None


def test_a_failed_sample_stays_failed(resolved):
    outcome = judged(resolved, SAMPLE, Failure("prompt too long"))
    assert (outcome.prediction, outcome.correct, outcome.choice_logprobs) == (None, None, None)
    assert (outcome.error, outcome.target) == ("prompt too long", "B")
    assert judge.judge(resolved, [outcome], {}) == [outcome]
