from __future__ import annotations

import csv
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evalkit import demo_models
from evalkit.backends.mock import MockBackend, WordTokenizer
from evalkit.backends.tokenizer import load_tokenizer
from evalkit.leakage.formats import (
    ANCHOR_IN_QUESTION,
    ANCHOR_MISSING,
    DUPLICATE_OPTIONS,
    FORMATS,
    Encoded,
    Format,
    encode_items,
    excluded,
    lettered,
    ni2024,
    reference_anchor,
)
from evalkit.leakage.items import Item
from evalkit.leakage.scores import Orders, all_orders, sampled_orders
from evalkit.tokens import Ids, Tokenizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def item(*options: str, question: str = "Which is even?", lead: str = "") -> Item:
    return Item("maths", "0", question, options, lead)


FOUR = item("one", "two", "three", "five", lead="About maths.\n\n")


class PieceTokenizer(WordTokenizer):
    """Cuts a text wherever a pattern says, and can put it together again."""

    def __init__(self, pattern: str, *, leading: bool = False) -> None:
        self._pattern = re.compile(pattern, re.DOTALL)
        self._pieces = ["<s>"]
        self.leading_ids = (0,) if leading else ()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.array([self._id(p) for p in self._pattern.findall(text)], np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces[i] for i in ids)

    def _id(self, piece: str) -> int:
        if piece not in self._pieces:
            self._pieces.append(piece)
        return self._pieces.index(piece)


WORDS = r" ?\w+|."
"""Words and single other characters, as most tokenizers cut."""


def scored(tokenizer: Tokenizer, encoded: Encoded, k: int = 0) -> str:
    """The text whose tokens count in order k."""
    return tokenizer.decode(encoded.request.sequence(k)[encoded.request.starts[k] :].tolist())


class TestTexts:
    def test_the_published_format_to_the_byte(self) -> None:
        assert ni2024(FOUR) == "\nWhich is even?:\nA:one\nB:two\nC:three \nD:five\n"

    @pytest.mark.parametrize(
        ("n", "block"),
        [
            (2, "A:o1\nB:o2\n"),
            (3, "A:o1\nB:o2\nC:o3 \n"),
            (5, "A:o1\nB:o2\nC:o3 \nD:o4\nE:o5\n"),
            (6, "A:o1\nB:o2\nC:o3 \nD:o4\nE:o5\nF:o6\n"),
        ],
    )
    def test_other_numbers_of_options(self, n: int, block: str) -> None:
        assert ni2024(item(*[f"o{i + 1}" for i in range(n)])) == f"\nWhich is even?:\n{block}"

    def test_the_benchmarks_own_format(self) -> None:
        expected = "About maths.\n\nWhich is even?\nA. one\nB. two\nC. three\nD. five\n"
        assert lettered(FOUR) == expected

    @pytest.mark.parametrize("name", FORMATS)
    def test_the_option_block_starts_with_the_first_letter(self, name: str) -> None:
        fmt = FORMATS[name]
        text = fmt.text(FOUR)
        assert text[fmt.start(FOUR) :].startswith(("A:one", "A. one"))

    @pytest.mark.parametrize(
        ("refused", "reason"),
        [
            (item("a", "a", "a"), "fewer than two distinct options"),
            (item("a"), "fewer than two distinct options"),
            (item("a", ""), "empty text"),
            (item("a", "b", question=" "), "empty text"),
            (item("a", "b", "b"), None),
        ],
    )
    def test_items_that_say_nothing_are_named(self, refused: Item, reason: str | None) -> None:
        assert excluded(refused) == reason


@pytest.mark.parametrize(
    ("pieces", "place"),
    [
        (["q", "\n", "A", ":", "x"], 2),
        (["q", "\n", "A", ":x"], 2),
        (["q", "\n", "A:", "x"], 2),
        (["sin", "A", ":", "B", "\n", "A", ":"], 1),
        (["A", "B", "\n", "A", ":"], 3),
        (["q", "\nA", ":", "x"], None),
        (["q", " A", ":", "x"], None),
        (["q", "A"], None),
        ([], None),
    ],
)
def test_the_references_anchor(pieces: list[str], place: int | None) -> None:
    assert reference_anchor(pieces) == place


def encode_orders(tokenizer: Tokenizer, one: Item, orders: Orders, fmt: Format) -> Encoded:
    (encoded,) = encode_items(tokenizer, [one], fmt, lambda _: orders)
    return encoded


class TestTokens:
    @pytest.mark.parametrize("leading", [False, True])
    @pytest.mark.parametrize("name", FORMATS)
    def test_every_order_is_the_tokenizers_own_reading_of_its_text(self, name: str, leading: bool) -> None:
        tokenizer, fmt = PieceTokenizer(WORDS, leading=leading), FORMATS[name]
        orders = all_orders(4)
        encoded = encode_orders(tokenizer, FOUR, orders, fmt)
        for k, order in enumerate(itertools.permutations(range(4))):
            ids = encoded.request.sequence(k).tolist()
            assert tokenizer.decode(ids) == "<s>" * leading + fmt.text(FOUR.ordered(order))
            assert encoded.request.starts[k] == encoded.request.starts[0]
            assert len(encoded.request.tails[k]) >= 1
        assert encoded.flags == ()

    @pytest.mark.parametrize(
        ("pattern", "begins"),
        [
            (WORDS, ":one\nB:two"),  # the colon is a token of its own and counts
            (r"A:|" + WORDS, "one\nB:two"),  # it is part of the letter's token and does not
            (r":one|" + WORDS, ":one\nB:two"),
        ],
    )
    def test_the_published_sum_begins_behind_the_letters_token(self, pattern: str, begins: str) -> None:
        tokenizer = PieceTokenizer(pattern)
        encoded = encode_orders(tokenizer, FOUR, all_orders(4), FORMATS["ni2024"])
        text = scored(tokenizer, encoded)
        assert text.startswith(begins)
        assert text.endswith("\nD:five\n")
        assert encoded.flags == ()

    def test_our_own_sum_begins_with_the_option_block(self) -> None:
        tokenizer = PieceTokenizer(WORDS)
        encoded = encode_orders(tokenizer, FOUR, all_orders(4), FORMATS["lettered"])
        assert scored(tokenizer, encoded, 23) == "A. five\nB. three\nC. two\nD. one\n"

    def test_a_letter_merged_with_its_line_break_has_no_anchor(self) -> None:
        tokenizer = PieceTokenizer(r"\n[A-Z]|" + WORDS)
        encoded = encode_orders(tokenizer, FOUR, all_orders(4), FORMATS["ni2024"])
        assert encoded.flags == (ANCHOR_MISSING,)
        # The token that holds the first letter differs from the head's own and is scored with it.
        assert scored(tokenizer, encoded).startswith("\nA:one")

    def test_an_anchor_only_some_orders_have_is_none(self) -> None:
        tokenizer = PieceTokenizer(r"\n[A-Z]|" + WORDS)
        tricky = item("x", "A:y", "z", "w")
        encoded = encode_orders(tokenizer, tricky, all_orders(4), FORMATS["ni2024"])
        assert encoded.flags == (ANCHOR_MISSING,)
        assert len(set(encoded.request.starts)) == 1

    @pytest.mark.parametrize(
        "question", ["In a triangle sin(A):sin(B) is", "若sinA:sinB=3:2", "Which is icon A"]
    )
    def test_an_anchor_in_the_question_is_followed_and_told(self, question: str) -> None:
        tokenizer = PieceTokenizer(r"[A-Z]|[a-z]+| |.")
        encoded = encode_orders(
            tokenizer, item("1", "2", question=question), all_orders(2), FORMATS["ni2024"]
        )
        found = ANCHOR_IN_QUESTION in encoded.flags
        assert found == ("(A)" not in question)
        if found:
            assert scored(tokenizer, encoded).startswith(":")
            assert scored(tokenizer, encoded).endswith("\nA:1\nB:2\n")
            assert len(scored(tokenizer, encoded)) > len(":1\nB:2\n")

    def test_equal_options_are_told_and_read_alike(self) -> None:
        same = item("one", "two", "one")
        encoded = encode_orders(PieceTokenizer(WORDS), same, all_orders(3), FORMATS["lettered"])
        assert encoded.flags == (DUPLICATE_OPTIONS,)
        texts = {encoded.request.sequence(k).tobytes() for k in range(6)}
        assert len(texts) == 3

    def test_a_text_whose_first_token_is_an_option_still_has_a_context(self) -> None:
        tokenizer = PieceTokenizer(r"q\nA.*")
        encoded = encode_orders(tokenizer, item("1", "2", question="q"), all_orders(2), FORMATS["lettered"])
        assert encoded.request.starts == (1, 1)

    def test_items_encoded_together_are_those_encoded_alone(self) -> None:
        generator = np.random.default_rng(0)
        items = [item(*"abcd", question=f"q{i}?") for i in range(200)]
        items += [item(*"abcde", question=f"r{i}?") for i in range(3)]
        items.append(item(*"abcdef"))
        orders = {4: all_orders(4), 5: all_orders(5), 6: sampled_orders(6, 20, generator)}
        together = encode_items(WordTokenizer(), items, FORMATS["lettered"], lambda i: orders[len(i.options)])
        assert [len(e.request.tails) for e in together] == [24] * 200 + [120] * 3 + [20]
        for one, encoded in zip(items, together, strict=True):
            alone = encode_orders(WordTokenizer(), one, orders[len(one.options)], FORMATS["lettered"])
            assert encoded.request.base.tolist() == alone.request.base.tolist()
            assert [t.tolist() for t in encoded.request.tails] == [t.tolist() for t in alone.request.tails]
            assert (encoded.request.starts, encoded.flags) == (alone.request.starts, alone.flags)

    def test_no_items_make_no_requests(self) -> None:
        assert encode_items(WordTokenizer(), [], FORMATS["lettered"], lambda _: all_orders(4)) == []

    def test_a_backend_scores_what_was_encoded(self) -> None:
        backend = MockBackend()
        encoded = encode_orders(backend.tokenizer, FOUR, all_orders(4), FORMATS["ni2024"])
        ((_, response),) = backend.score([encoded.request])
        request = encoded.request
        expected = [request.length(k) - request.starts[k] for k in range(24)]
        assert [score.n_tokens for score in response.scores] == expected


@pytest.mark.model
def test_the_demo_model_reads_both_formats() -> None:
    tokenizer = load_tokenizer(str(demo_models.ensure("demo")))
    chinese = item("一", "二", "三", "四", question="下列哪一个数是偶数？")
    for one, name in itertools.product((FOUR, chinese), FORMATS):
        encoded = encode_orders(tokenizer, one, all_orders(4), FORMATS[name])
        first, second = one.options[:2]
        begins = {"ni2024": f":{first}\nB:{second}\n", "lettered": f"A. {first}\nB. {second}\n"}
        assert scored(tokenizer, encoded).startswith(begins[name])
        assert encoded.flags == ()


@pytest.mark.data
@pytest.mark.model
def test_the_anchor_misleads_on_two_official_questions(official_data: Path) -> None:
    tokenizer = load_tokenizer(str(demo_models.ensure("demo")))
    for subject, row in (("elementary_information_and_technology", 34), ("high_school_mathematics", 23)):
        with (official_data / f"CMMLU/data/test/{subject}.csv").open(encoding="utf-8", newline="") as file:
            record = list(csv.DictReader(file))[row]
        published = item(*(record[letter] for letter in "ABCD"), question=record["Question"])
        encoded = encode_orders(tokenizer, published, all_orders(4), FORMATS["ni2024"])
        assert encoded.flags == (ANCHOR_IN_QUESTION,)


@pytest.mark.data
@pytest.mark.model
def test_shared_prefixes_give_the_references_numbers(official_data: Path, tmp_path: Path) -> None:
    sizes = ["--items", "2", "--five", "1", "--most-orders", "12", "--shortest"]
    arguments = ["--data", str(official_data), "--out", str(tmp_path), "--threads", "1", *sizes]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(BENCHMARKS / "leakage_parity.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "leakage_parity.json").read_text("utf-8"))
    assert found["max_difference"] < 1e-3
    assert found["items"] == 3
    assert set(found["flagged_differently"].values()) == {0}
