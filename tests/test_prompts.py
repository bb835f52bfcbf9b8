"""Prompts that do not fit: each protocol's own way to shorten them, or a clear error before inference."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from toy import resolved_toy

from evalkit.backends.mock import WordTokenizer
from evalkit.errors import UsageError
from evalkit.prompts import Encoder, Prompt, prepare, render
from evalkit.task import Grouping, Overlong, PromptInput, Protocol
from evalkit.types import NextToken, Request, Sample, ScoreRequest, SpanRequest

OPTIONS = (" A", " B")
SHOT_LENGTHS = (4, 9, 2, 9, 3)
QUESTION = "one two three four five"
HEADER = "read this"

FULL = " ".join([HEADER, *(" ".join(["w"] * n) for n in SHOT_LENGTHS), QUESTION])
N_FULL = 2 + sum(SHOT_LENGTHS) + 5
"""Tokens of the whole prompt: one per word. An option is one more, which is only predicted."""


def sample(text: str, name: str = "0") -> Sample:
    return Sample(name, "s", {"text": text}, "A")


def few_shot(p: PromptInput) -> Request:
    return ScoreRequest(
        " ".join([HEADER, *(shot.fields["text"] for shot in p.shots), p.sample.fields["text"]]), OPTIONS
    )


def bare(p: PromptInput) -> Request:
    return ScoreRequest(p.sample.fields["text"], OPTIONS)


def prepared(overlong: Overlong, max_length: int = 1000, request: Request | None = None) -> Prompt:
    protocol = Protocol(
        name="p",
        source="",
        render=few_shot if request is None else lambda p: request,
        average="micro",
        groups=Grouping({}, "micro"),
        overlong=overlong,
        default_split="test",
    )
    resolved = resolved_toy(protocol, subsets=["s"], shots=len(SHOT_LENGTHS), choices=("A", "B"))
    shots = [sample(" ".join(["w"] * n)) for n in SHOT_LENGTHS]
    rendered = render(resolved, [sample(QUESTION, "row 7")], [shots])
    (prompt,) = prepare(resolved, rendered, Encoder(WordTokenizer(), max_length))
    return prompt


def with_shots(lengths: Sequence[int]) -> str:
    return " ".join([HEADER, *(" ".join(["w"] * n) for n in lengths), QUESTION])


POLICIES = ("error", "left", "drop_last_shot", "drop_longest_shot")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("limit", "max_length"), [(None, N_FULL), (N_FULL, 1000), (1000, N_FULL)])
def test_a_prompt_that_just_fits_is_left_alone(policy: str, limit: int | None, max_length: int) -> None:
    prompt = prepared(Overlong(policy, limit), max_length)
    assert (prompt.text, prompt.truncated) == (FULL, False)
    assert prompt.encoded.n_inputs == N_FULL


@pytest.mark.parametrize(
    ("policy", "fits", "kept"),
    [
        ("drop_last_shot", N_FULL - 1, (4, 9, 2, 9)),
        ("drop_last_shot", N_FULL - 3, (4, 9, 2, 9)),
        ("drop_last_shot", N_FULL - 4, (4, 9, 2)),
        ("drop_last_shot", 7, ()),
        ("drop_longest_shot", N_FULL - 1, (4, 2, 9, 3)),
        ("drop_longest_shot", N_FULL - 9, (4, 2, 9, 3)),
        ("drop_longest_shot", N_FULL - 10, (4, 2, 3)),
        ("drop_longest_shot", N_FULL - 19, (2, 3)),
        ("drop_longest_shot", 7, ()),
    ],
)
@pytest.mark.parametrize("published", [True, False], ids=["published limit", "model's context"])
def test_examples_go_in_the_published_order(
    policy: str, fits: int, kept: tuple[int, ...], published: bool
) -> None:
    prompt = prepared(Overlong(policy, fits)) if published else prepared(Overlong(policy), fits)
    assert (prompt.text, prompt.truncated) == (with_shots(kept), True)


@pytest.mark.parametrize("fits", [1, 8, N_FULL - 1])
def test_left_keeps_the_last_token_ids_and_the_whole_text(fits: int) -> None:
    whole, cut = prepared(Overlong("left")), prepared(Overlong("left"), fits)
    assert cut.truncated
    assert cut.text == FULL
    assert [cut.encoded.sequence(j).tolist() for j in (0, 1)] == [
        whole.encoded.sequence(j)[-fits - 1 :].tolist() for j in (0, 1)
    ]


def test_the_bare_question_is_the_last_resort_and_may_fill_the_models_context() -> None:
    policy = Overlong("drop_longest_shot", limit=3, bare=bare)
    prompt = prepared(policy, max_length=5)
    assert (prompt.text, prompt.truncated) == (QUESTION, True)
    with pytest.raises(UsageError, match="no way to shorten it further"):
        prepared(policy, max_length=4)


@pytest.mark.parametrize("policy", ["error", "drop_last_shot", "drop_longest_shot"])
def test_what_cannot_be_shortened_is_an_error_naming_sample_and_lengths(policy: str) -> None:
    with pytest.raises(UsageError, match=rf"toy@p:test:5shot: .* s sample row 7 has {N_FULL} tokens, 6 fit"):
        prepared(Overlong(policy), max_length=6)


@pytest.mark.parametrize("request_", [ScoreRequest("a", (" b c d e",)), SpanRequest(("a b c d", "a b c e"))])
def test_an_option_longer_than_the_context_is_an_error(request_: Request) -> None:
    with pytest.raises(UsageError, match="use a model with a longer context"):
        prepared(Overlong("left"), 2, request_)


@pytest.mark.parametrize(
    "request_",
    [ScoreRequest("a", (" b", "")), ScoreRequest("", ("",)), ScoreRequest("a", (NextToken(""),))],
)
def test_an_option_that_tokenises_to_nothing_is_an_error(request_: Request) -> None:
    with pytest.raises(UsageError, match="tokenises to nothing"):
        prepared(Overlong("error"), request=request_)
