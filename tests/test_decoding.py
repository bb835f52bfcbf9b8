"""When a completion is done, and which prompts are computed together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.decoding import MIN_SHARED, Draft, Growing, PromptGroup, buckets, prompt_groups
from evalkit.tokens import EncodedPrompt, Ids
from evalkit.types import Completion, Message

END = 0


class Pieces:
    """A vocabulary of byte strings; id 0 ends a text and is left out of it.

    With `drops_blank` it leaves out a blank in front of a text, as SentencePiece tokenizers do.
    """

    leading_ids: tuple[int, ...] = ()
    prefix_id = END
    bos_id = None
    end_ids = (END,)
    has_chat_template = False
    chat_template = None

    def __init__(self, *, drops_blank: bool = False) -> None:
        self._drops_blank = drops_blank
        self._pieces: list[bytes] = [b""]

    def ids(self, *pieces: str | bytes) -> list[int]:
        """One id per piece."""
        for piece in pieces:
            raw = piece.encode() if isinstance(piece, str) else piece
            if raw not in self._pieces:
                self._pieces.append(raw)
        return [self._pieces.index(p.encode() if isinstance(p, str) else p) for p in pieces]

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.asarray(self.ids(*text), np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        text = b"".join(self._pieces[i] for i in ids).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._drops_blank else text

    def chat(self, messages: Sequence[Message]) -> str:
        return "".join(m.content for m in messages)


def grown(
    pieces: Sequence[str | bytes | None],
    *,
    stop: Sequence[str] = (),
    limit: int = 100,
    least: int = 0,
    prompt: Sequence[str | bytes] = ("Q", ":"),
    drops_blank: bool = False,
) -> tuple[Completion | None, int]:
    """What becomes of tokens one by one, None being the model's end; and how many were taken."""
    tokenizer = Pieces(drops_blank=drops_blank)
    ids = np.asarray(tokenizer.ids(*prompt), np.int32)
    encoded = EncodedPrompt(ids, limit, tuple(stop), min_new_tokens=least)
    growing = Growing(Draft(0, 0, encoded), frozenset({END}), tokenizer)
    tokens = [END if p is None else tokenizer.ids(p)[0] for p in pieces]
    for taken, token in enumerate(tokens, 1):
        if (completion := growing.add(token, -0.5)) is not None:
            assert completion.n_tokens == taken
            assert completion.token_ids == tuple(tokens[:taken])
            assert completion.logprob == -0.5 * taken
            return completion, taken
    return None, len(tokens)


def ended(pieces: Sequence[str | bytes | None], **options: object) -> tuple[str, str, int]:
    completion, taken = grown(pieces, **options)  # type: ignore[arg-type]
    assert completion is not None
    return completion.text, completion.finish_reason, taken


# -- one completion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["a", "b\n", "de", "f x", "c"], ["\ndef"], ("ab", "stop", 4)),
        (["\n", "d", "e", "f"], ["\ndef"], ("", "stop", 4)),
        (["\ndef f():", "x"], ["\ndef"], ("", "stop", 1)),
        (["x Question: y", "z"], ["Question:"], ("x ", "stop", 1)),
        (["a\nb Q: c"], ["Q:", "\n"], ("a", "stop", 1)),
        (["a", "b"], ["ab", "b"], ("", "stop", 2)),
        (["a", "b"], ["abc", "b"], ("a", "stop", 2)),
        (["a\n", "class"], ["\nclass", "\ndef"], ("a", "stop", 2)),
        (["a", None], ["\n"], ("a", "eos", 2)),
        ([None], ["\n"], ("", "eos", 1)),
        (["\nde", None], ["\ndef"], ("\nde", "eos", 2)),
        (["a", "\n"], ["", "\n"], ("a", "stop", 2)),
        (["a", None], [""], ("a", "eos", 2)),
    ],
)
def test_stops(pieces: list[str | None], stop: list[str], expected: tuple[str, str, int]) -> None:
    assert ended(pieces, stop=stop) == expected


def test_a_stop_in_the_prompt_is_none() -> None:
    assert ended(["a", None], stop=["Q:"], prompt=["Q", ":"]) == ("a", "eos", 2)
    assert ended([":", None], stop=["Q:"], prompt=["x", "Q"]) == (":", "eos", 2)


def test_without_a_stop_it_grows_to_its_limit() -> None:
    assert grown(["a"] * 4, limit=5) == (None, 4)
    assert ended(["a"] * 9, limit=5) == ("aaaaa", "length", 5)
    assert ended(["a", "a", "b\n"], limit=3, stop=["\n"]) == ("aab", "stop", 3)
    assert ended(["a", "a", None], limit=3) == ("aa", "eos", 3)


def test_the_fewest_tokens_hold_no_stop() -> None:
    """samsum of LongBench: a line break ends the answer, but not as its first token."""
    assert ended(["\n", "a", "\n", "b"], stop=["\n"], least=1) == ("\na", "stop", 3)
    assert ended(["a", "\n"], stop=["\n"], least=1) == ("a", "stop", 2)
    assert ended(["\n", None], stop=["\n"], least=1) == ("\n", "eos", 2)


def test_the_end_is_barred_until_there_are_enough_tokens() -> None:
    tokenizer = Pieces()
    prompt = EncodedPrompt(np.asarray(tokenizer.ids("Q"), np.int32), 9, min_new_tokens=2)
    growing = Growing(Draft(0, 0, prompt), frozenset({END}), tokenizer)
    seen = []
    for piece in "abc":
        seen.append(END not in growing.forbidden)
        growing.add(tokenizer.ids(piece)[0], 0.0)
    assert seen == [False, False, True]


@pytest.mark.parametrize("drops_blank", [False, True])
def test_a_leading_blank_is_part_of_the_completion(drops_blank: bool) -> None:
    assert ended([" four", None], drops_blank=drops_blank) == (" four", "eos", 2)
    assert ended([" a", " b", None], drops_blank=drops_blank, prompt=[" x"]) == (" a b", "eos", 3)


@pytest.mark.parametrize("drops_blank", [False, True])
def test_a_stop_that_begins_with_a_blank_is_seen(drops_blank: bool) -> None:
    assert ended([" stop", "x"], stop=[" stop"], drops_blank=drops_blank) == ("", "stop", 1)
    assert ended([" ", "x"], stop=[" "], drops_blank=drops_blank) == ("", "stop", 1)
    assert ended(["a", " st", "op"], stop=[" stop"], drops_blank=drops_blank) == ("a", "stop", 3)


def test_characters_split_over_tokens_are_put_together() -> None:
    raw = "题。".encode()
    assert ended([raw[:1], raw[1:4], raw[4:], "x"], stop=["。"]) == ("题", "stop", 3)
    assert ended([raw[:2], None]) == ("\ufffd", "eos", 2)
    assert ended([*(bytes([b]) for b in raw), None]) == ("题。", "eos", 7)


def test_a_prompt_that_ends_within_a_character() -> None:
    raw = "题".encode()
    text, reason, _ = ended([raw[1:], "a", None], prompt=["x", raw[:1]])
    assert reason == "eos"
    assert text.endswith("a")


texts = st.text(alphabet="ab\n。 Q:", max_size=30)


@given(texts, st.lists(st.sampled_from(["\n", "Q:", "a\nb", "。", " a", "aab"]), max_size=3), st.data())
@settings(deadline=None)
def test_however_a_text_is_cut_into_tokens_it_ends_at_its_first_stop(
    text: str, stop: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    joints = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=10)))
    edges = [0, *(j for j in joints if j < len(raw)), len(raw)]
    pieces: list[str | bytes | None] = [raw[a:b] for a, b in itertools.pairwise(edges) if a < b]
    drops_blank = data.draw(st.booleans())
    found, reason, taken = ended([*pieces, None], stop=stop, drops_blank=drops_blank)
    # Which token it was seen at is part of the answer: a stop that ends in the first tokens hides later ones.
    seen = b"".join(p for p in pieces[:taken] if isinstance(p, bytes)).decode("utf-8", "replace")
    places = [seen.find(s) for s in stop if s in seen]
    assert found == (seen[: min(places)] if places else seen)
    assert reason == ("stop" if places else "eos")
    if not places:
        assert found == text


# -- what is computed together ------------------------------------------------------------------------

HEADERS = [np.arange(n, dtype=np.int32) * 7 + start for n, start in ((70, 1), (200, 2), (64, 3), (63, 4))]


@st.composite
def drafts(draw: st.DrawFn) -> list[Draft]:
    """Prompts with and without one of some headers, or a part of it, repeated draws among them."""
    made = []
    for index in range(draw(st.integers(0, 12))):
        header = draw(st.sampled_from(HEADERS))
        kept = draw(st.sampled_from([0, 10, 63, 64, len(header)]))
        own = draw(st.lists(st.integers(5000, 5003), min_size=0 if kept else 1, max_size=90))
        ids = np.concatenate([header[:kept], np.asarray(own, np.int32)]).astype(np.int32)
        prompt = EncodedPrompt(ids, draw(st.integers(1, 300)))
        made += [Draft(index, k, prompt) for k in range(draw(st.integers(1, 3)))]
    return made


def names(found: Sequence[Draft]) -> list[tuple[int, int]]:
    return sorted((d.index, d.k) for d in found)


@given(drafts(), st.sampled_from([1, 20, 100, 1000]))
@settings(deadline=None)
def test_groups_share_what_they_say_they_share(given_: list[Draft], batch_tokens: int) -> None:
    groups = prompt_groups(given_, batch_tokens)
    assert names([d for g in groups for d in g.drafts]) == names(given_)
    for group in groups:
        first = group.drafts[0].prompt.ids
        for draft in group.drafts:
            assert draft.prompt.n_inputs > group.shared
            assert np.array_equal(draft.prompt.ids[: group.shared], first[: group.shared])
            assert draft.prompt.n_inputs - group.shared <= batch_tokens or len(group.drafts) == 1
        if len(group.drafts) > 1:
            assert group.shared == 0 or group.shared >= MIN_SHARED


def only(found: list[PromptGroup]) -> PromptGroup:
    (group,) = found
    return group


def test_a_few_shot_prefix_is_shared_and_equal_prompts_leave_one_token() -> None:
    header = HEADERS[1]
    own = [np.concatenate([header, np.full(n, 9000 + n, np.int32)]) for n in (3, 5, 9)]
    few_shot = [Draft(i, 0, EncodedPrompt(ids, 8)) for i, ids in enumerate(own)]
    assert only(prompt_groups(few_shot, 1000)).shared == len(header)
    drawn = [Draft(0, k, EncodedPrompt(header, 8)) for k in range(200)]
    group = only(prompt_groups(drawn, 1000))
    assert (group.shared, len(group.drafts)) == (len(header) - 1, 200)


def test_a_long_own_part_is_a_group_whose_beginning_is_computed_piece_by_piece() -> None:
    long = Draft(0, 0, EncodedPrompt(np.arange(500, dtype=np.int32), 8))
    group = only(prompt_groups([long], 100))
    assert (group.shared, group.drafts) == (499, [long])
    assert only(prompt_groups([long], 500)).shared == 0
    assert prompt_groups([], 100) == []


@given(drafts())
@settings(deadline=None)
def test_buckets_hold_every_draft_once_and_waste_less_than_half(given_: list[Draft]) -> None:
    found = list(buckets(given_))
    assert names([d for bucket in found for d in bucket]) == names(given_)
    for bucket in found:
        assert bucket
        assert all(2 * d.longest >= bucket[0].longest >= d.longest for d in bucket)
    firsts = [bucket[0].longest for bucket in found]
    assert firsts == sorted(firsts, reverse=True)


def test_a_stop_text_that_decodes_to_nothing_ends_the_answer() -> None:
    """Chat marks such as <|im_end|> are special tokens, which decoding leaves out."""
    tokenizer = Pieces()
    mark = tokenizer.ids("<|im_end|>")[0]
    prompt = EncodedPrompt(np.asarray(tokenizer.ids("Q"), np.int32), 9, ("<|im_end|>",))
    growing = Growing(Draft(0, 0, prompt), frozenset({END}), tokenizer)
    growing.stop_ids = frozenset({mark})
    decode = tokenizer.decode
    tokenizer.decode = lambda ids: decode([i for i in ids if i != mark])  # type: ignore[method-assign]
    assert growing.add(tokenizer.ids("a")[0], 0.0) is None
    completion = growing.add(mark, 0.0)
    assert completion is not None
    assert (completion.text, completion.finish_reason, completion.n_tokens) == ("a", "stop", 2)


# -- reasoning ----------------------------------------------------------------------------------------

TAGS = ("<think>", "</think>")


class Hiding(Pieces):
    """Has the tags as special tokens, which decoding leaves out."""

    def ids(self, *pieces: str | bytes) -> list[int]:
        return super().ids(*(p.encode().join([b"\0", b"\0"]) if p in TAGS else p for p in pieces))

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.asarray(self.ids(*([text] if text in TAGS else text)), np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return super().decode([i for i in ids if not self._pieces[i].startswith(b"\0")])


def thought(
    pieces: Sequence[str | None],
    *,
    tokenizer: Pieces,
    stop: Sequence[str] = (),
    limit: int = 100,
    least: int = 0,
    prompt: Sequence[str] = ("Q", ":"),
) -> tuple[str, str, str, int]:
    """Reasoning, answer, why it ended and after how many tokens."""
    ids = np.asarray(tokenizer.ids(*prompt), np.int32)
    encoded = EncodedPrompt(ids, limit, tuple(stop), min_new_tokens=least, reasoning=TAGS)
    growing = Growing(Draft(0, 0, encoded), frozenset({END}), tokenizer)
    for piece in pieces:
        token = END if piece is None else tokenizer.ids(piece)[0]
        if (done := growing.add(token, 0.0)) is not None:
            return done.reasoning, done.text, done.finish_reason, done.n_tokens
    raise AssertionError("it did not end")


@pytest.fixture(params=[Pieces, Hiding])
def reasoner(request: pytest.FixtureRequest) -> Pieces:
    return request.param()  # type: ignore[no-any-return]


BEGIN, CLOSE = TAGS


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([BEGIN, "a", "b", CLOSE, "c", None], ("ab", "c", "eos", 6)),
        (["\n", BEGIN, "a", CLOSE, "\n", "\n", "c", None], ("a", "c", "eos", 8)),
        ([BEGIN, CLOSE, "  c", None], ("", "  c", "eos", 4)),
        ([BEGIN, "a", CLOSE, None], ("a", "", "eos", 4)),
        # Cut off before an answer.
        ([BEGIN, "a", None], ("a", "", "eos", 3)),
        ([None], ("", "", "eos", 1)),
        # No tags: all is answer; a tag amid the answer begins nothing.
        (["a", "b", None], ("", "ab", "eos", 3)),
        (["a", BEGIN, None], ("", "a<think>", "eos", 3)),
        # The begin tag was lost on the way.
        (["a", CLOSE, "b", None], ("a", "b", "eos", 4)),
        (["a", BEGIN, "b", CLOSE, "c", None], ("a<think>b", "c", "eos", 6)),
        # A second pair is part of the answer.
        ([BEGIN, "a", CLOSE, "b", BEGIN, "c", CLOSE, None], ("a", "b<think>c</think>", "eos", 8)),
    ],
)
def test_reasoning_is_told_from_the_answer(
    pieces: list[str | None], expected: tuple[str, str, str, int], reasoner: Pieces
) -> None:
    if isinstance(reasoner, Hiding):
        reasoning, text, *rest = expected
        hidden = [part.replace(BEGIN, "").replace(CLOSE, "") for part in (reasoning, text)]
        expected = (*hidden, *rest)  # type: ignore[assignment]
    assert thought(pieces, tokenizer=reasoner) == expected


@pytest.mark.parametrize("blank", [[], ["\n"], ["\n", "\n"]])
def test_a_prompt_that_ends_with_a_tag_begins_or_spares_the_reasoning(
    blank: list[str], reasoner: Pieces
) -> None:
    opened = ["Q", BEGIN, *blank]
    assert thought(["a", CLOSE, "b", None], tokenizer=reasoner, prompt=opened) == ("a", "b", "eos", 4)
    assert thought(["a", None], tokenizer=reasoner, prompt=opened) == ("a", "", "eos", 2)
    assert thought(["a", "b"], tokenizer=reasoner, prompt=opened, limit=2) == ("ab", "", "length", 2)
    spared = ["Q", BEGIN, "\n", CLOSE, *blank]
    assert thought(["a", "\n"], tokenizer=reasoner, prompt=spared, stop=["\n"]) == ("", "a", "stop", 2)
    # An example's reasoning further up is none of the answer's.
    mentioned = ["Q", BEGIN, "x", CLOSE, "A", "Q"]
    assert thought(["a", None], tokenizer=reasoner, prompt=mentioned) == ("", "a", "eos", 2)


def test_stop_texts_count_in_the_answer_only(reasoner: Pieces) -> None:
    stop = ["\n", "Q:"]
    assert thought([BEGIN, "a\n", "Q:", CLOSE, "b", "\n", "c"], tokenizer=reasoner, stop=stop) == (
        *("a\nQ:", "b", "stop", 6),
    )
    # The line break after the tag is no end of an empty answer.
    assert thought([BEGIN, "a", CLOSE, "\n", "\n", "b\nc"], tokenizer=reasoner, stop=stop) == (
        *("a", "b", "stop", 6),
    )
    # That there is no reasoning shows at the end only.
    assert thought(["a", "\n", "b", None], tokenizer=reasoner, stop=stop) == ("", "a", "eos", 4)
    assert thought(["a", "\n", "b"], tokenizer=reasoner, stop=stop, limit=3) == ("", "a", "stop", 3)
    assert thought(["a", "b"], tokenizer=reasoner, stop=stop, limit=2) == ("", "ab", "length", 2)


def test_the_end_of_an_answer_is_not_barred_by_its_reasoning() -> None:
    tokenizer = Pieces()
    prompt = EncodedPrompt(np.asarray(tokenizer.ids("Q"), np.int32), 9, ("\n",), reasoning=TAGS)
    growing = Growing(Draft(0, 0, prompt), frozenset({END}), tokenizer)
    line = tokenizer.ids("\n")[0]
    assert growing.closing_ids == {END}
    for piece in (BEGIN, CLOSE):
        growing.add(tokenizer.ids(piece)[0], 0.0)
    assert growing.closing_ids == {END, line}


@given(
    st.text(alphabet="ab\n题 ", max_size=12), st.text(alphabet="ab。题 ", min_size=1, max_size=12), st.data()
)
@settings(deadline=None)
def test_however_tags_are_cut_into_tokens_they_are_found(
    reasoning: str, answer: str, data: st.DataObject
) -> None:
    raw = f"{BEGIN}{reasoning}{CLOSE}{answer}".encode()
    joints = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    edges = [0, *joints, len(raw)]
    tokenizer = Pieces(drops_blank=data.draw(st.booleans()))
    ids = np.asarray(tokenizer.ids("Q", ":"), np.int32)
    growing = Growing(
        Draft(0, 0, EncodedPrompt(ids, 999, ("a",), reasoning=TAGS)), frozenset({END}), tokenizer
    )
    tokens = [tokenizer.ids(raw[a:b])[0] for a, b in itertools.pairwise(edges)]
    done = next(d for token in [*tokens, END] if (d := growing.add(token, 0.0)) is not None)
    assert (done.reasoning, done.text) == (reasoning, answer.split("a")[0])
