"""What the four-option knowledge exams share: lettered blocks, few-shot prompts and request shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from evalkit.task import Choice, Judge, Judgement, PromptInput, each
from evalkit.types import (
    GenerateRequest,
    Message,
    NextToken,
    Sample,
    ScoreRequest,
    ScoreResponse,
    SpanRequest,
)

LETTERS = ("A", "B", "C", "D")

Block = Callable[[Sample], str]
"""Renders one question up to and including the cue its answer follows."""


def block(cue: str, *, lead: str = "", strip: bool = False) -> Block:
    """Make the renderer of a question, its options line by line, and the cue on a line of its own.

    `strip` removes white space around the question, as lm-evaluation-harness does.
    """

    def render(sample: Sample) -> str:
        question = sample.fields["question"].strip() if strip else sample.fields["question"]
        options = "".join(f"{letter}. {sample.fields[letter]}\n" for letter in LETTERS)
        return f"{lead}{question}\n{options}{cue}"

    return render


def as_choice(lead: str = "") -> Callable[[Sample], Choice]:
    """Make the reader of a record as a question with its options."""

    def read(sample: Sample) -> Choice:
        return Choice(sample.fields["question"], tuple(sample.fields[x] for x in LETTERS), lead)

    return read


def few_shot(header: str, render: Block, p: PromptInput, *, delimiter: str) -> str:
    """Join header, answered examples with a blank line after each, and the open question."""
    shots = "".join(f"{render(shot)}{delimiter}{shot.target}\n\n" for shot in p.shots)
    return f"{header}{shots}{render(p.sample)}"


def letters(header: str, render: Block, p: PromptInput, *, delimiter: str) -> ScoreRequest:
    """Compare the letters as text that continues the prompt after `delimiter`."""
    context = few_shot(header, render, p, delimiter=delimiter)
    return ScoreRequest(context, tuple(delimiter + letter for letter in LETTERS))


def whole_texts(prefix: str, question: str, *, delimiter: str) -> SpanRequest:
    """Compare the four whole texts that differ in the last letter (OpenCompass PPL)."""
    return SpanRequest(tuple(f"{prefix}{question}{delimiter}{letter}" for letter in LETTERS))


ANSWER_AND_COLON = tuple(NextToken(text) for letter in LETTERS for text in (letter, f"：{letter}"))
"""Two vocabulary entries per letter: the letter by itself and the letter after a full-width colon."""


def chinese_mixtral(p: PromptInput) -> ScoreRequest:
    """Ask as the Chinese-Mixtral scripts do, for C-Eval and CMMLU alike.

    The header holds the English handle and is left out without examples.
    """
    header = f"以下是中国关于{p.subset}考试的单项选择题，请选出其中的正确答案。\n\n" if p.shots else ""
    context = few_shot(header, block("答案："), p, delimiter="")
    return ScoreRequest(context, ANSWER_AND_COLON)


def sum_of_two(response: ScoreResponse) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Add up the two entries of every letter, as Chinese-Mixtral's constrained decoding does."""
    pairs = list(zip(response.scores[::2], response.scores[1::2], strict=True))
    return tuple(a.logprob + b.logprob for a, b in pairs), tuple(a.n_tokens + b.n_tokens for a, b in pairs)


OC_MAX_NEW_TOKENS = 100
COT_MAX_NEW_TOKENS = 512


def turns(question: Block, answer: str, p: PromptInput) -> GenerateRequest:
    """Ask in chat turns, as OpenCompass does; `answer` is how an example is answered, with {letter}."""
    shots = [
        message
        for shot in p.shots
        for message in (
            Message("user", question(shot)),
            Message("assistant", answer.format(letter=shot.target)),
        )
    ]
    return GenerateRequest((*shots, Message("user", question(p.sample))), OC_MAX_NEW_TOKENS)


def judge_by(extract: Callable[[str], str | None]) -> Judge:
    """Judge a free answer by the letter `extract` finds in it."""

    def judge(sample: Sample, completion: str) -> Judgement:
        letter = extract(completion)
        metrics = {} if sample.target is None else {"acc": float(letter == sample.target)}
        return Judgement(letter, metrics)

    return each(judge)


def first_capital(text: str) -> str | None:
    """The first upper-case letter anywhere, as OpenCompass takes it: 'The answer is B' gives T."""
    return next((character for character in text if character.isupper()), None)


def last_between(text: str, begin: str, end: str) -> str | None:
    """What the last match of `begin(.+?)end` on one line holds, in linear time; None without a match."""
    found = None
    for line in text.split("\n"):
        place = 0
        while (start := line.find(begin, place)) >= 0:
            start += len(begin)
            if (stop := line.find(end, start + 1)) < 0:
                break
            found, place = line[start:stop], stop + len(end)
    return found


def members(categories: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Turn category to space-separated handles into category to handles."""
    return {category: tuple(handles.split()) for category, handles in categories.items()}


def without(handles: Iterable[str], taken: Iterable[str]) -> tuple[str, ...]:
    """Return the handles that are not taken, in order."""
    gone = set(taken)
    return tuple(handle for handle in handles if handle not in gone)
