"""Continuation boundaries against the tokens of the whole string, for every kind of tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from evalkit.backends.tokenizer import HfTokenizer
from evalkit.errors import UsageError
from evalkit.tokens import EncodedRequest, Ids, common_prefix, encode, has_leading_ids
from evalkit.types import NextToken, Request, ScoreRequest, SpanRequest

CORPUS = [
    "The following are multiple choice questions (with answers) about world history.",
    "Question: Which city is the capital of Italy?\nA. Rome\nB. Milan\nC. Turin\nD. Genoa\nAnswer: A\n\n",
    "Question: What does 12 + 30 make?\nA. 42\nB. 41\nC. 40\nD. 43\nAnswer: A\n\n",
    "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n题目：下列哪一种作物最耐旱？\n",
    "A. 水稻\nB. 小麦\nC. 高粱\nD. 玉米\n答案是：C\n\n",
    "选：A，答：A。其：A；为：A、选：B，答：B。其：B；为：B、" * 9,
]
SPECIAL = ["<unk>", "<s>", "</s>"]


def gpt2_like() -> Tokenizer:
    """Byte-level BPE behind the pre-tokenizer expression of GPT-2."""
    return byte_level(use_regex=True)


def merging_across_words() -> Tokenizer:
    """Byte-level BPE without a pre-tokenizer: a colon merges with the letter after it."""
    return byte_level(use_regex=False)


def byte_level(*, use_regex: bool) -> Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return bpe


def llama_like() -> Tokenizer:
    """Character BPE with byte fallback; blanks become "▁", one more stands in front of every text."""
    blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    bpe.normalizer = normalizers.Sequence(blanks)
    words = [word for text in CORPUS for word in text.replace("\n", "\0").split("\0")]
    bpe.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    )
    saved = json.loads(bpe.to_str())
    vocabulary = saved["model"]["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    saved["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(saved))


def unigram() -> Tokenizer:
    """Unigram over pieces that begin with "▁"."""
    model = Tokenizer(models.Unigram())
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    model.train_from_iterator(CORPUS * 3, trainer)
    return model


KINDS: list[Callable[[], Tokenizer]] = [gpt2_like, merging_across_words, llama_like, unigram]


@cache
def tokenizer(kind: Callable[[], Tokenizer], *, adds_bos: bool) -> HfTokenizer:
    built = kind()
    if adds_bos:
        built.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", built.token_to_id("<s>"))]
        )
    return HfTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    )


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Callable[[], Tokenizer]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[False, True], ids=["no BOS", "adds BOS"])
def tok(kind: Callable[[], Tokenizer], request: pytest.FixtureRequest) -> HfTokenizer:
    return tokenizer(kind, adds_bos=request.param)


# -- texts in which boundaries fall everywhere --------------------------------------------------------

PIECES = [
    *("Answer:", "Question: ", "答案是：", "答案：", "A", "B", "AB", ".", ". ", " ", "\n", "\n\n", "\t"),
    *("the", " The", "ing", "12", "3", "'s", "水稻", "农", "，", "：", ": ", "é", "🙂", "a\u0301", "\u3000"),
    *("Which city is the capital of Italy", "下列哪一种作物最耐旱？\n", "\nA. Rome\nB. Milan", "aaa", "=="),
]
texts = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
options = st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join)
score_requests = st.builds(
    ScoreRequest, texts, st.lists(options, min_size=1, max_size=4, unique=True).map(tuple)
)
thorough = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def one(tok: HfTokenizer, request: Request) -> EncodedRequest:
    (encoded,) = encode(tok, [request])
    return encoded


def ids(tok: HfTokenizer, text: str) -> list[int]:
    (found,) = tok.encode([text])
    return found.tolist()  # type: ignore[no-any-return]


Outcome = tuple[list[list[int]], tuple[int, ...]] | None
"""All ids of every option and the index of its first scored one; None where the request is refused."""


def plain(encoded: EncodedRequest) -> Outcome:
    return [encoded.sequence(j).tolist() for j in range(len(encoded.tails))], encoded.starts


def outcome(tok: HfTokenizer, request: ScoreRequest) -> Outcome:
    try:
        return plain(one(tok, request))
    except UsageError:
        return None


def by_whole_strings(tok: HfTokenizer, request: ScoreRequest) -> Outcome:
    """The outcome read from the tokens of the whole strings alone."""
    context = np.asarray(ids(tok, request.context.rstrip()))
    wholes = [ids(tok, request.context + str(c)) for c in request.continuations]
    kept = [common_prefix(context, np.asarray(whole)) for whole in wholes]
    if any(k == len(whole) for k, whole in zip(kept, wholes, strict=True)):
        return None
    lead = [] if has_leading_ids(tok, context) else list(tok.leading_ids)
    if not lead and min(kept) == 0:
        lead = [tok.prefix_id]
    return [[*lead, *whole] for whole in wholes], tuple(len(lead) + k for k in kept)


class TestBoundary:
    @given(request=score_requests)
    @thorough
    def test_is_that_of_the_whole_string(self, tok: HfTokenizer, request: ScoreRequest) -> None:
        assert outcome(tok, request) == by_whole_strings(tok, request)

    @given(requests=st.lists(score_requests, max_size=4))
    @thorough
    def test_does_not_depend_on_what_is_encoded_beside_it(
        self, tok: HfTokenizer, requests: list[ScoreRequest]
    ) -> None:
        usable = [r for r in requests if outcome(tok, r) is not None]
        assert [plain(e) for e in encode(tok, usable)] == [outcome(tok, r) for r in usable]

    def test_of_a_trailing_blank_belongs_to_the_option(self, tok: HfTokenizer) -> None:
        blank_in_context = one(tok, ScoreRequest("Answer: ", ("Rome",)))
        blank_in_option = one(tok, ScoreRequest("Answer:", (" Rome",)))
        assert plain(blank_in_context) == plain(blank_in_option)


class CountingTokenizer(HfTokenizer):
    """Counts the characters it is asked to tokenise."""

    chars = 0

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        self.chars += sum(map(len, texts))
        return super().encode(texts)


def test_a_long_context_is_not_tokenised_again_for_every_option(tok: HfTokenizer) -> None:
    counting = CountingTokenizer(tok.tokenizer)
    context = "Question: Which city is the capital of Italy?\n" * 100
    list(encode(counting, [ScoreRequest(context, (" Rome", " Milan", " Turin", " Genoa"))]))
    assert counting.chars < len(context) + 1000


def test_an_option_that_merges_with_the_end_of_its_context_is_scored_as_the_merged_token() -> None:
    tok = tokenizer(merging_across_words, adds_bos=False)
    context = "题目：下列哪一种作物最耐旱？\n" * 9 + "正确答案是："
    n = len(ids(tok, context))
    assert len(ids(tok, context + "A")) == n, "the colon must merge with the letter"
    found = one(tok, ScoreRequest(context, ("A", "水稻")))
    assert found.sequence(0).tolist() == ids(tok, context + "A")
    assert found.starts == (n - 1, n)
    assert (found.reported_tokens(0), len(found.base)) == (1, n - 1)


def test_a_context_that_merges_whole_into_an_option_leaves_the_prefix_token_to_predict_from() -> None:
    tok = tokenizer(merging_across_words, adds_bos=False)
    (merged,) = ids(tok, "：A")
    found = one(tok, ScoreRequest("：", ("A",)))
    assert found.sequence(0).tolist() == [tok.prefix_id, merged]
    assert (found.starts, found.reported_tokens(0)) == ((1,), 1)


class TestEmptyTexts:
    @pytest.mark.parametrize("context", ["", " ", "\n"])
    def test_an_empty_context_is_the_prefix_token(self, tok: HfTokenizer, context: str) -> None:
        found = one(tok, ScoreRequest(context, ("Rome", "Milan")))
        assert found.starts == (1, 1)
        assert [found.sequence(j).tolist() for j in range(2)] == [
            [tok.prefix_id, *ids(tok, context + "Rome")],
            [tok.prefix_id, *ids(tok, context + "Milan")],
        ]

    @pytest.mark.parametrize("context", ["", "Answer:"])
    @pytest.mark.parametrize("option", ["", NextToken("")])
    def test_an_empty_option_is_refused(
        self, tok: HfTokenizer, context: str, option: str | NextToken
    ) -> None:
        with pytest.raises(UsageError, match="tokenises to nothing"):
            one(tok, ScoreRequest(context, ("A", option)))

    def test_a_text_without_a_token_to_score_is_refused(self, tok: HfTokenizer) -> None:
        with pytest.raises(UsageError, match="no token that could be scored"):
            one(tok, SpanRequest(("Rome", "")))


class TestNextToken:
    def test_is_the_last_id_of_its_own_text_after_the_whole_context(self, tok: HfTokenizer) -> None:
        found = one(tok, ScoreRequest("答案是：", (NextToken("A"), NextToken("：B"))))
        context = [*tok.leading_ids, *ids(tok, "答案是：")]
        assert found.sequence(0).tolist() == [*context, ids(tok, "A")[-1]]
        assert found.sequence(1).tolist() == [*context, ids(tok, "：B")[-1]]
        assert found.starts == (len(context), len(context))
        assert found.n_logical == len(context)


class TestLeadingIds:
    def test_are_what_the_tokenizer_adds(self, kind: Callable[[], Tokenizer]) -> None:
        assert tokenizer(kind, adds_bos=False).leading_ids == ()
        assert tokenizer(kind, adds_bos=True).leading_ids == (1,)

    @pytest.mark.parametrize(
        "ask", [lambda text: ScoreRequest(text, (" A",)), lambda text: SpanRequest((text + " A",))]
    )
    def test_are_not_doubled_where_the_text_spells_them(
        self, kind: Callable[[], Tokenizer], ask: Callable[[str], Request]
    ) -> None:
        tok = tokenizer(kind, adds_bos=True)
        spelled = one(tok, ask("<s>Answer:")).sequence(0).tolist()
        assert spelled.count(1) == 1
        assert spelled == ids(tok, "<s>Answer: A")


class TestSpans:
    @given(spans=st.lists(st.tuples(texts, options), min_size=1, max_size=4))
    @thorough
    def test_are_the_tokens_of_the_whole_texts(
        self, tok: HfTokenizer, spans: Sequence[tuple[str, str]]
    ) -> None:
        whole = ["x" + start + end for start, end in spans]
        found = one(tok, SpanRequest(tuple(whole)))
        for j, text in enumerate(whole):
            assert found.sequence(j).tolist() == [*tok.leading_ids, *ids(tok, text)]
            assert found.reported_tokens(j) == found.length(j)
        assert set(found.starts) == {1}
        assert min(map(len, found.tails)) >= 1


class TestTruncation:
    def request(self, tok: HfTokenizer) -> EncodedRequest:
        return one(tok, ScoreRequest("Which city is the capital of Italy?\nAnswer:", (" Rome", " Milan A")))

    def test_cuts_from_the_left_until_the_longest_option_fits(self, tok: HfTokenizer) -> None:
        full = self.request(tok)
        limit = full.n_inputs - 3
        cut = full.kept_right(limit)
        assert cut.n_inputs == limit
        for j in range(2):
            assert cut.sequence(j).tolist() == full.sequence(j).tolist()[3:]
            assert cut.reported_tokens(j) == full.reported_tokens(j)

    def test_leaves_what_fits_alone(self, tok: HfTokenizer) -> None:
        full = self.request(tok)
        assert full.kept_right(full.n_inputs) is full

    def test_never_cuts_into_an_option(self, tok: HfTokenizer) -> None:
        with pytest.raises(UsageError, match="longer than the model's context"):
            self.request(tok).kept_right(1)


class TestCounts:
    def encoded(self, base: list[int], *tails: list[int]) -> EncodedRequest:
        return EncodedRequest(
            np.asarray(base, np.int32),
            tuple(np.asarray(t, np.int32) for t in tails),
            (len(base),) * len(tails),
        )

    def test_one_token_options_cost_a_plain_harness_one_input(self) -> None:
        assert self.encoded([1, 2, 3], [4], [5], [6]).n_logical == 3

    def test_longer_options_cost_an_input_each_unless_they_differ_in_the_last_token_only(self) -> None:
        assert self.encoded([1, 2, 3], [4, 5], [4, 6], [7, 8, 9]).n_logical == (3 + 1) + (3 + 2)

    def test_the_last_token_is_predicted_but_never_fed(self) -> None:
        assert self.encoded([1, 2, 3], [4], [5, 6, 7]).n_inputs == 5
