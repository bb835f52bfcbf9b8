import hashlib
import math
from dataclasses import replace

import pytest
from toy import judged, resolved_toy

from evalkit import judge
from evalkit.task import Grouping, Judgement, Overlong, Protocol, by_mean_logprob, each
from evalkit.types import Completion, ContinuationScore, Failure, GenerateResponse, Sample, ScoreResponse

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


# -- completions ----------------------------------------------------------------------------------------


def completions(*texts, reasons=("stop",)):
    found = zip(texts, reasons * len(texts), strict=False)
    return GenerateResponse(tuple(Completion(text, reason, len(text)) for text, reason in found))


def judged_by(resolved, judging, headline="exact"):
    return replace(resolved, protocol=replace(resolved.protocol, judge=judging, headline=headline))


def exact(sample, text):
    return Judgement(text.strip() or None, {"exact": float(text == sample.target), "length": len(text) / 100})


def test_a_completion_is_judged(resolved):
    resolved = judged_by(resolved, each(exact))
    outcome = judged(resolved, SAMPLE, completions("B", reasons=("length",)), truncated=True)
    assert (outcome.prediction, outcome.correct, outcome.target) == ("B", 1.0, "B")
    assert outcome.metrics == {"exact": 1.0, "length": 0.01}
    assert (outcome.completions, outcome.finish_reason) == (("B",), "length")
    assert (outcome.choice_logprobs, outcome.error, outcome.truncated) == (None, None, True)


def test_an_empty_completion_is_unparsed_and_wrong_but_no_error(resolved):
    outcome = judged(judged_by(resolved, each(exact)), SAMPLE, completions(""))
    assert (outcome.prediction, outcome.correct, outcome.error) == (None, 0.0, None)
    assert outcome.completions == ("",)


def test_the_headline_is_what_the_protocol_says(resolved):
    outcome = judged(judged_by(resolved, each(exact), "length"), SAMPLE, completions("B"))
    assert outcome.correct == 0.01
    none = judged(judged_by(resolved, each(exact), "other"), SAMPLE, completions("B"))
    assert none.correct is None


def test_all_completions_reach_the_judge_at_once(resolved):
    seen = []

    def by_share(answered, settings):
        seen.append([texts for _, texts in answered])
        return [Judgement(t[0], {"exact": t.count(s.target) / len(t)}) for s, t in answered]

    resolved = judged_by(resolved, by_share)
    other = replace(SAMPLE, id="18", target="A")
    samples = {(s.subset, s.id): s for s in (SAMPLE, other)}
    first = judged(resolved, SAMPLE, completions("A", "B"))
    failed = judged(resolved, SAMPLE, Failure("out of memory"))
    last = judged(resolved, other, completions("A", "A"))
    seen.clear()
    again = judge.judge(resolved, [last, failed, first], samples)
    assert seen == [[("A", "A"), ("A", "B")]]
    assert [o.correct for o in again] == [1.0, None, 0.5]
    assert again == [last, failed, first]


def test_completions_are_judged_again_by_a_changed_judge(resolved):
    samples = {(SAMPLE.subset, SAMPLE.id): SAMPLE}
    outcome = judged(judged_by(resolved, each(exact)), SAMPLE, completions(" B"))
    assert outcome.correct == 0.0
    lenient = judged_by(resolved, each(lambda s, t: Judgement("b", {"exact": float(t.strip() == s.target)})))
    (again,) = judge.judge(lenient, [outcome], samples)
    assert (again.prediction, again.correct, again.metrics) == ("b", 1.0, {"exact": 1.0})
    assert again.completions == outcome.completions
    (cleared,) = judge.judge(lenient, [replace(outcome, error="stale")], samples)
    assert cleared.error is None


def test_failures_stay_and_need_no_sample(resolved):
    resolved = judged_by(resolved, lambda answered, settings: pytest.fail("there is nothing to judge"))
    outcome = judged(resolved, SAMPLE, Failure("out of memory"))
    assert (outcome.error, outcome.completions, outcome.correct) == ("out of memory", None, None)
    assert judge.judge(resolved, [outcome], {}) == [outcome]


def test_a_sample_without_a_target_has_a_prediction_only(resolved):
    resolved = judged_by(resolved, each(lambda s, t: Judgement(t, {})))
    outcome = judged(resolved, replace(SAMPLE, target=None), completions("B"))
    assert (outcome.prediction, outcome.correct, outcome.metrics) == ("B", None, {})


def test_a_text_is_judged_as_it_is_stored(resolved):
    """UTF-8 cannot hold half a surrogate pair, and a rescored run must not differ from the run."""
    outcome = judged(judged_by(resolved, each(exact)), SAMPLE, completions("a\ud83d题🙂"))
    assert outcome.completions == ("a?题🙂",)
    assert outcome.prediction == "a?题🙂"


def test_the_stratum_and_the_length_of_options_are_put_down(resolved):
    protocol = replace(
        resolved.protocol, stratum=lambda s: f"of {s.subset}", option_texts=lambda s: ("a", "bb", "ccc")
    )
    outcome = judged(replace(resolved, protocol=protocol), SAMPLE, response(-4, -5, -5.5))
    assert (outcome.stratum, outcome.choice_chars) == ("of anatomy", (1, 2, 3))
    assert outcome.metrics == {"acc": 0.0, "acc_norm": 0.0}
    assert outcome.prediction == "A"


def test_reasoning_is_kept_but_not_judged(resolved):
    protocol = replace(
        resolved.protocol,
        judge=each(lambda sample, text: Judgement(text, {"acc": float(text == sample.target)})),
    )
    resolved = replace(resolved, protocol=protocol)
    thinking = GenerateResponse((Completion("B", "stop", 9, reasoning="A? No."),))
    outcome = judged(resolved, SAMPLE, thinking)
    assert (outcome.completions, outcome.reasonings, outcome.correct) == (("B",), ("A? No.",), 1.0)
    plain = judged(resolved, SAMPLE, GenerateResponse((Completion("B", "stop", 1),)))
    assert plain.reasonings is None
