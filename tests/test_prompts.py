"""Prompts that do not fit: each protocol's own way to shorten them, or a clear error before inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import resolved_toy

from evalkit.backends.mock import WordTokenizer
from evalkit.errors import UsageError
from evalkit.prompts import Encoder, Prompt, prepare, render
from evalkit.task import Grouping, Overlong, PromptInput, Protocol
from evalkit.tokens import EncodedPrompt, Ids
from evalkit.types import GenerateRequest, Message, NextToken, Request, Sample, ScoreRequest, SpanRequest

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


# -- prompts of generation ----------------------------------------------------------------------------


class Bytes:
    """One id per byte, a start token (256) in front, and perhaps a chat template."""

    leading_ids = (256,)
    prefix_id = 256
    bos_id = 256
    end_ids: tuple[int, ...] = ()
    chat_template = None

    def __init__(self, *, template: bool = False) -> None:
        self.has_chat_template = template
        self.decoded: list[list[int]] = []

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.asarray([*text.encode()], np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        self.decoded.append(list(ids))
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")

    def chat(self, messages: Sequence[Message]) -> str:
        return "".join(f"<{m.role[0]}>{m.content}" for m in messages) + "<a>"


def seen(encoded: EncodedPrompt) -> str:
    """The text a model is given; only a chat template may leave the start token out, and this one does."""
    begins = 0 if encoded.turns else 1
    assert (encoded.ids[:begins] == 256).all()
    assert (encoded.ids[begins:] < 256).all()
    return bytes(encoded.ids[begins:].tolist()).decode("utf-8", "replace")


def generated(overlong: Overlong, request: GenerateRequest, encoder: Encoder) -> tuple[Prompt, EncodedPrompt]:
    protocol = Protocol(
        name="p",
        source="",
        render=lambda p: request,
        average="micro",
        groups=Grouping({}, "micro"),
        overlong=overlong,
        default_split="test",
    )
    resolved = resolved_toy(protocol, subsets=["s"])
    (prompt,) = prepare(resolved, render(resolved, [sample("q")], [()]), encoder)
    assert isinstance(prompt.encoded, EncodedPrompt)
    return prompt, prompt.encoded


LONG = "".join(map(chr, range(33, 127)))


def as_turn(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


class TestMiddleCut:
    def test_keeps_the_first_and_the_last_half_of_the_tokens(self) -> None:
        prompt, encoded = generated(Overlong("middle", 21), GenerateRequest(LONG, 5), Encoder(Bytes(), 1000))
        # The start token is one of the first ten.
        assert prompt.text == seen(encoded) == LONG[:9] + LONG[-10:]
        assert prompt.truncated
        assert encoded.n_inputs == 20

    def test_decodes_the_halves_apart(self) -> None:
        tokenizer = Bytes()
        prompt, _ = generated(Overlong("middle", 10), GenerateRequest("题" * 20, 5), Encoder(tokenizer, 1000))
        assert prompt.text == "题\ufffd" + "\ufffd\ufffd题"
        assert [len(ids) for ids in tokenizer.decoded] == [5, 5]

    @pytest.mark.parametrize("limit", [len(LONG) + 1, len(LONG) + 2, None])
    def test_leaves_a_prompt_within_the_limit_alone(self, limit: int | None) -> None:
        request = GenerateRequest(LONG, 5)
        prompt, encoded = generated(Overlong("middle", limit), request, Encoder(Bytes(), len(LONG) + 6))
        assert (prompt.text, prompt.truncated, prompt.request) == (LONG, False, request)
        assert seen(encoded) == LONG

    def test_leaves_room_for_the_answer(self) -> None:
        prompt, encoded = generated(Overlong("middle", 90), GenerateRequest(LONG, 30), Encoder(Bytes(), 80))
        assert encoded.n_inputs == 50
        assert prompt.text == LONG[:24] + LONG[-25:]

    def test_puts_the_chat_template_around_what_is_left(self) -> None:
        encoder = Encoder(Bytes(template=True), 1000)
        prompt, encoded = generated(Overlong("middle", 20), GenerateRequest(as_turn(LONG), 5), encoder)
        assert prompt.text == LONG[:9] + LONG[-10:]
        assert seen(encoded) == f"<u>{prompt.text}<a>"

    def test_counts_the_template_against_the_window_only(self) -> None:
        # The limit is on the bare prompt, as published.
        text = LONG[:19]
        encoder = Encoder(Bytes(template=True), 1000)
        prompt, encoded = generated(Overlong("middle", 20), GenerateRequest(as_turn(text), 5), encoder)
        assert (prompt.truncated, seen(encoded)) == (False, f"<u>{text}<a>")
        prompt, encoded = generated(
            Overlong("middle", 20), GenerateRequest(as_turn(text), 5), replace(encoder, window=25)
        )
        assert prompt.truncated
        assert encoded.n_inputs <= 20
        assert seen(encoded).startswith(f"<u>{text[:4]}")
        assert seen(encoded).endswith(f"{text[-4:]}<a>")

    @pytest.mark.parametrize(("window", "new"), [(6, 5), (10, 20), (8, 7)])
    def test_needs_room_for_two_tokens(self, window: int, new: int) -> None:
        with pytest.raises(UsageError, match="no way to shorten it further"):
            generated(Overlong("middle"), GenerateRequest(LONG, new), Encoder(Bytes(), window))

    @given(
        st.text(alphabet="aé题🙂", max_size=60),
        st.integers(32, 120),
        st.integers(1, 12),
        st.none() | st.integers(2, 60),
        st.sampled_from([None, True, False]),
        st.booleans(),
    )
    @settings(deadline=None)
    def test_always_fits(
        self, text: str, window: int, new: int, limit: int | None, chat: bool | None, turn: bool
    ) -> None:
        request = GenerateRequest(as_turn(text) if turn else text, new)
        encoder = Encoder(Bytes(template=True), window, chat)
        prompt, encoded = generated(Overlong("middle", limit), request, encoder)
        assert encoded.n_inputs + new <= window
        whole = encoder.prompt(PromptInput("s", "S", (), sample("q")), request)
        assert prompt.truncated == (not np.array_equal(whole.ids, encoded.ids))
        assert encoded.max_new_tokens == new


def test_left_cut_of_a_prompt_leaves_room_for_the_answer() -> None:
    request = GenerateRequest(LONG, 30, stop=("x",))
    prompt, encoded = generated(Overlong("left"), request, Encoder(Bytes(), 80))
    assert (prompt.text, prompt.truncated) == (LONG, True)
    assert bytes(encoded.ids.tolist()).decode() == LONG[-50:]
    assert (encoded.max_new_tokens, encoded.stop) == (30, ("x",))
    whole, encoded = generated(Overlong("left"), request, Encoder(Bytes(), len(LONG) + 31))
    assert (whole.truncated, seen(encoded)) == (False, LONG)
    with pytest.raises(UsageError, match="0 fit"):
        generated(Overlong("left"), request, Encoder(Bytes(), 30))


def test_examples_go_from_a_prompt_that_is_continued_too() -> None:
    def render_turns(p: PromptInput) -> Request:
        return GenerateRequest(tuple(Message("user", s.fields["text"]) for s in (*p.shots, p.sample)), 10)

    protocol = Protocol(
        name="p",
        source="",
        render=render_turns,
        average="micro",
        groups=Grouping({}, "micro"),
        overlong=Overlong("drop_last_shot"),
        default_split="test",
    )
    resolved = resolved_toy(protocol, subsets=["s"], shots=3)
    rendered = render(resolved, [sample("q" * 10)], [[sample(c * 10) for c in "abc"]])
    (prompt,) = prepare(resolved, rendered, Encoder(Bytes(), 10 + 1 + 32))
    assert (prompt.text, prompt.truncated) == ("a" * 10 + "b" * 10 + "q" * 10, True)


TURNS = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))


@pytest.mark.parametrize(
    ("chat", "template", "prompt", "expected"),
    [
        (None, False, "text", "text"),
        (None, True, "text", "text"),
        (True, True, "text", "<u>text<a>"),
        (False, True, "text", "text"),
        (None, False, TURNS, "one\ntwo\nthree"),
        (None, True, TURNS, "<u>one<a>two<u>three<a>"),
        (True, True, TURNS, "<u>one<a>two<u>three<a>"),
        (False, True, TURNS, "one\ntwo\nthree"),
    ],
)
@pytest.mark.parametrize("prefill", ["", "Sure:\n"])
def test_conversations_go_through_the_template_where_there_is_one(
    chat: bool | None, template: bool, prompt: str | tuple[Message, ...], expected: str, prefill: str
) -> None:
    encoder = Encoder(Bytes(template=template), 1000, chat)
    request = GenerateRequest(prompt, 5, prefill=prefill)
    assert seen(encoder.prompt(PromptInput("s", "S", (), sample("q")), request)) == expected + prefill
    assert encoder.uses_template(request) == expected.startswith("<u>")


@pytest.mark.parametrize(
    ("texts", "tokens"), [((), 9), (("ab", "abcd", ""), 4), (("a" * 20,), 9), (("题",), 3)]
)
def test_an_answer_is_no_longer_than_the_longest_of_the_texts(texts: tuple[str, ...], tokens: int) -> None:
    request = GenerateRequest("q", 9, no_longer_than=texts)
    encoded = Encoder(Bytes(), 100).prompt(PromptInput("s", "S", (), sample("q")), request)
    assert encoded.max_new_tokens == tokens


def test_every_sample_has_a_seed_of_its_own_whatever_the_order() -> None:
    def seeds(samples: Sequence[Sample], seed: int = 0) -> list[int]:
        encoder = Encoder(Bytes(), 100, seed=seed)
        pairs = [(PromptInput(s.subset, "", (), s), GenerateRequest("same text", 5)) for s in samples]
        return [e.seed for e in encoder.encode_all(pairs) if isinstance(e, EncodedPrompt)]

    samples = [Sample(str(i), subset, {}, None) for subset in ("s", "s1") for i in (1, 11, 2)]
    found = seeds(samples)
    assert len(set(found)) == 6
    assert seeds(samples[::-1]) == found[::-1]
    assert seeds(samples[2:4]) == found[2:4]
    assert not set(found) & set(seeds(samples, seed=1))
    assert all(0 <= seed < 2**63 for seed in found)


def test_scored_and_continued_prompts_keep_their_order() -> None:
    encoder = Encoder(Bytes(), 100)
    p = PromptInput("s", "S", (), sample("q"))
    pairs: list[tuple[PromptInput, Request]] = [
        (p, GenerateRequest("one", 5)),
        (p, ScoreRequest("two", ("a",))),
        (p, GenerateRequest("three", 5)),
    ]
    kinds = [type(e).__name__ for e in encoder.encode_all(pairs)]
    assert kinds == ["EncodedPrompt", "EncodedRequest", "EncodedPrompt"]
