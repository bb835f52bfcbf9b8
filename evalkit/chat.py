"""Few-shot prompts as conversations: every example becomes a user's and an assistant's turn.

Protocols render text, in which examples and question run into each other. Where one ends and the next
begins shows when the prompt grows example by example: the prompt that asks the first example is how the
prompt with that example answered begins, and so on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from evalkit.errors import EvalkitError
from evalkit.task import PromptInput, Render
from evalkit.types import GenerateRequest, Message, Request, ScoreRequest


def plain_text(request: Request) -> str | None:
    """The text of a prompt that is not made of turns; None for turns and for whole texts to compare."""
    if isinstance(request, ScoreRequest):
        return request.context
    if isinstance(request, GenerateRequest) and isinstance(request.prompt, str):
        return request.prompt
    return None


def all_separable(render: Render, rendered: Iterable[tuple[PromptInput, Request]]) -> bool:
    """Whether the examples of every plain prompt can be told apart: all samples are asked alike."""
    texts = ((p, plain_text(request)) for p, request in rendered if p.shots)
    return all(text is None or example_turns(render, p, text) is not None for p, text in texts)


def example_turns(render: Render, p: PromptInput, text: str) -> tuple[Message, ...] | None:
    """Take a few-shot prompt apart: question and answer of every example, then the open question.

    Turns hold all of the text but the white space around them; what a protocol writes above the first
    example stays with its question.

    Args:
        render: how the protocol asks.
        p: the examples and the question.
        text: the prompt as it was rendered, perhaps shortened since.

    Returns:
        None where the text is not what the protocol renders, or does not show where an answer ends.
    """
    asked = (*p.shots, p.sample)
    try:
        grown = [plain_text(render(replace(p, shots=p.shots[:i], sample=s))) for i, s in enumerate(asked)]
        alone = [plain_text(render(replace(p, shots=(), sample=s))) for s in asked]
    except (LookupError, EvalkitError):  # examples may lack what it takes to ask them
        return None
    if grown[-1] != text:
        return None
    return _separated([t or "" for t in grown], [t or "" for t in alone])


def _separated(grown: Sequence[str], alone: Sequence[str]) -> tuple[Message, ...] | None:
    # Above a question may stand what every prompt begins with; a question itself is never cut.
    header = len(os.path.commonprefix(alone))  # noqa: RUF071 - texts, character by character
    turns = [Message("user", grown[0].strip())]
    for before, after, one in zip(grown, grown[1:], alone[1:], strict=False):
        if not after.startswith(before):
            return None
        added = after[len(before) :]
        begin = _question_start(added, one)
        answer, question = added[:begin].strip(), added[begin:].strip()
        if not answer or not question or len(one) - len(added[begin:]) > header:
            return None
        turns += [Message("assistant", answer), Message("user", question)]
    return tuple(turns)


def _question_start(added: str, alone: str) -> int:
    """Where in an answer and the question after it the question begins; 0 where that does not show.

    The question is what both texts end in, from the beginning of a line: without that, an answer that ends
    as the header above `alone` does would lose its end.
    """
    shared = len(os.path.commonprefix([added[::-1], alone[::-1]]))  # noqa: RUF071 - as above
    begin = len(added) - shared
    is_whole = shared == len(alone)  # which begins a line, whatever stands before it in `added`
    return added.find("\n", max(0, begin - is_whole)) + 1
