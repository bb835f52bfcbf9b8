"""How an item and its options are printed for the detectors, and which of its tokens are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evalkit.leakage.items import Item
from evalkit.leakage.scores import Orders
from evalkit.tokens import EncodedRequest, Ids, Tokenizer, common_prefix, with_leading

ANCHOR_IN_QUESTION = "anchor_in_question"
"""The reference's token rule takes something in the question for the first option's letter."""
ANCHOR_MISSING = "anchor_missing"
"""The reference's token rule finds no letter, or not the same place in every order."""
DUPLICATE_OPTIONS = "duplicate_options"
"""Some options have the same text, so that some orders are the same text."""

_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Format:
    """A way of printing an item: its question, then its option block."""

    head: Callable[[Item], str]
    """What comes before the first option's letter."""
    block: Callable[[Item], str]
    """The options, from the first one's letter on."""
    anchored: bool = False
    """Whether the scored tokens begin where the reference's token rule says."""

    def text(self, item: Item) -> str:
        """The whole text that a model reads."""
        return self.head(item) + self.block(item)

    def start(self, item: Item) -> int:
        """Offset in characters of the option block in the text."""
        return len(self.head(item))


def ni2024(item: Item) -> str:
    r"""The text of Ni et al.: ``\n{question}:\nA:{1st}\nB:{2nd}\nC:{3rd} \nD:{4th}\n``.

    The blank behind the third option is theirs. They print four options; any further line is like the fourth.

    Source: "Training on the Benchmark Is Not All You Need", arXiv 2409.01790.
    """
    return FORMATS["ni2024"].text(item)


def lettered(item: Item) -> str:
    r"""The benchmark's own text, with what leads it: ``{question}\nA. {1st}\nB. {2nd}\n…``."""
    return FORMATS["lettered"].text(item)


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _ni2024_block(item: Item) -> str:
    return "".join(f"{_letter(i)}:{option}{' ' if i == 2 else ''}\n" for i, option in enumerate(item.options))


FORMATS = {
    "ni2024": Format(lambda item: f"\n{item.question}:\n", _ni2024_block, anchored=True),
    "lettered": Format(
        lambda item: f"{item.lead}{item.question}\n",
        lambda item: "".join(f"{_letter(i)}. {option}\n" for i, option in enumerate(item.options)),
    ),
}
"""Formats by name."""


def excluded(item: Item) -> str | None:
    """Why the detectors can say nothing of an item, in fixed words; None where they can."""
    if not all(text.strip() for text in (item.question, *item.options)):
        return "empty text"
    if item.n_distinct < 2:
        return "fewer than two distinct options"
    return None


def reference_anchor(pieces: Sequence[str]) -> int | None:
    """Where the reference finds the first option's letter among tokens decoded one by one.

    That is the first token 'A' whose successor begins with ':', or the first token 'A:'. The reference fails
    where there is none, and on a text that ends in 'A'; here the one is None and the other no hit.

    Source: the code released with arXiv 2409.01790.
    """
    following = [*pieces, ""][1:]
    hits = (
        place
        for place, (piece, after) in enumerate(zip(pieces, following, strict=True))
        if piece == "A:" or (piece == "A" and after.startswith(":"))
    )
    return next(hits, None)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One item in every order, as token ids."""

    request: EncodedRequest
    """Sequence k is the text of order k; the scored tokens are those from `starts[k]` to its end."""
    flags: tuple[str, ...]
    """`ANCHOR_IN_QUESTION`, `ANCHOR_MISSING`, `DUPLICATE_OPTIONS`, where they hold."""


def encode_items(
    tokenizer: Tokenizer, items: Sequence[Item], fmt: Format, orders_of: Callable[[Item], Orders]
) -> list[Encoded]:
    """Tokenise items in all their orders, with what the tokenizer itself puts in front of a text.

    In an anchored format the first scored token is the one behind the reference's anchor, so that the
    letter A is not scored. Elsewhere, and where that rule fails (flag `anchor_missing`), it is the first
    token in which the text and its head, tokenised on its own, differ in any order.

    Args:
        tokenizer: the model's.
        items: none of them `excluded`.
        fmt: one of `FORMATS`.
        orders_of: the orders an item is scored in, shape (m, n).
    """
    pieces = _Pieces(tokenizer)
    found = []
    for chunk in _chunks(items, orders_of):
        texts = [text for item, orders in chunk for text in _texts(item, orders, fmt)]
        encoded = iter(tokenizer.encode(texts))
        for item, orders in chunk:
            head, *sequences = (with_leading(tokenizer, next(encoded)) for _ in range(1 + len(orders)))
            found.append(_encoded(item, head, sequences, fmt, pieces))
    return found


def _chunks(
    items: Sequence[Item], orders_of: Callable[[Item], Orders]
) -> Iterator[list[tuple[Item, Orders]]]:
    """Items with their orders, so many at once that they make about `_TEXTS_AT_ONCE` texts."""
    chunk: list[tuple[Item, Orders]] = []
    for item in items:
        chunk.append((item, orders_of(item)))
        if sum(len(orders) for _, orders in chunk) >= _TEXTS_AT_ONCE:
            yield chunk
            chunk = []
    yield chunk


def _texts(item: Item, orders: Orders, fmt: Format) -> Iterator[str]:
    head = fmt.head(item)
    yield head
    for order in orders:
        yield head + fmt.block(item.ordered(order))


def _encoded(item: Item, head: Ids, sequences: list[Ids], fmt: Format, pieces: _Pieces) -> Encoded:
    shared = min(common_prefix(sequences[0], ids) for ids in sequences)
    # Keep at least one token in every tail, so that a sequence's last token is never in the base.
    base = sequences[0][: min(shared, min(map(len, sequences)) - 1)]
    boundary = min(common_prefix(head, ids) for ids in sequences)
    anchor = _anchor(base, sequences, pieces) if fmt.anchored else None
    # A first token has no predecessor that could predict it.
    start = max(boundary, 1) if anchor is None else anchor + 1
    request = EncodedRequest(base, tuple(ids[len(base) :] for ids in sequences), (start,) * len(sequences))
    flags = {
        ANCHOR_IN_QUESTION: anchor is not None and anchor < boundary,
        ANCHOR_MISSING: fmt.anchored and anchor is None,
        DUPLICATE_OPTIONS: item.n_distinct < len(item.options),
    }
    return Encoded(request, tuple(flag for flag, holds in flags.items() if holds))


def _anchor(base: Ids, sequences: Sequence[Ids], pieces: _Pieces) -> int | None:
    """The reference's anchor, if it is the same in every order."""
    # What the sequences share decides for all of them: the rule looks at one token and the next.
    if (shared := reference_anchor(pieces.of(base))) is not None:
        return shared
    (anchor, *others) = {reference_anchor(pieces.of(ids)) for ids in sequences}
    return None if others else anchor


class _Pieces:
    """The text of single tokens, each decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def of(self, ids: Ids) -> list[str]:
        return [self._known[i] if i in self._known else self._decode(i) for i in ids.tolist()]

    def _decode(self, token: int) -> str:
        return self._known.setdefault(token, self._tokenizer.decode([token]))
