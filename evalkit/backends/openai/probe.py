"""What a server can do, by proof: numbers that disagree with what it generates are not believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evalkit.backends.openai.bridge import LoopThread
from evalkit.backends.openai.client import GaveUp, Refused
from evalkit.backends.openai.completions import Completions, Continued, Habits, id_of_label
from evalkit.backends.openai.scoring import BY_BIAS, BY_IDS, ECHO, Ways
from evalkit.backends.openai.tokenizer import PROBE_TEXT, ServerTokenizer
from evalkit.backends.tokenizer import HfTokenizer
from evalkit.errors import UsageError
from evalkit.tokens import Ids, encode_prompt

_TEXTS = ("The capital of France is", "One, two, three, four, five,", "Monday, Tuesday, Wednesday,")
_UNLIKELY = (" xylophone", " zebra", "@@", "ß")
_TOP = 5
_ATTEMPTS = 4
"""A server may answer what it cannot do with an error 500; asking often does not mend that."""
_TOLERANCE = 0.25
"""Largest |Δ log p| of a likely token: logits of half precision near 20 are an eighth apart."""
_UNLIKELY_TOLERANCE = 1.0
_MARGIN = 0.01
_N_CASES = 2
_ABSENT = (404, 405, 501)
"""HTTP statuses of an endpoint that is not there."""

Ask = Callable[[Ids, Sequence[int]], dict[int, float]]


class _NotOffered(Exception):
    """The server says, or shows, that it does not do this."""


class _Wrong(Exception):
    """The server claims to do this, and its numbers are not true."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A prompt, its most likely next token with its log-probability, and a token nobody expects."""

    ids: Ids
    likely: int
    logprob: float
    unlikely: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What the probe found out."""

    completions: bool
    habits: Habits = field(default_factory=Habits)
    ways: Ways = field(default_factory=Ways)
    no_scores: str | None = None
    """Why the server cannot score."""
    distrust: str | None = None
    """Why the scores it offers must not be believed."""
    details: dict[str, Any] = field(default_factory=dict)
    """For the manifest."""


class Probe:
    """Questions whose right answers are known, put to one server."""

    def __init__(
        self, bridge: LoopThread, completions: Completions, tokenizer: HfTokenizer | ServerTokenizer
    ) -> None:
        """Nothing is asked yet."""
        self._run, self._completions, self._tokenizer = bridge.run, completions, tokenizer

    def findings(self) -> Findings:
        """Find out how the completions endpoint wants to be asked and which of its numbers are true.

        Raises:
            UsageError: the tokenizer is not the served model's.
        """
        try:
            first = self._find_habits()
        except _NotOffered as reason:
            return Findings(False, no_scores=f"the server has no completions endpoint ({reason})")
        habits = self._completions.habits
        details: dict[str, Any] = {
            "takes_token_ids": habits.takes_ids,
            "names_token_ids": habits.labels_ids,
            "added_tokens": habits.added_tokens,
        }
        found = Findings(True, habits, details=details)
        if not first.logprobs:
            return replace(found, no_scores="the server gives no log-probabilities with its completions")
        cases = [case for text in _TEXTS if (case := self._case(text))][:_N_CASES]
        if not cases:
            return replace(found, no_scores="what the server generates cannot be told apart into tokens")
        verdicts = {
            BY_IDS: _verdict(self._by_ids, cases),
            ECHO: _verdict(self._by_echo, cases),
        }
        if not verdicts[BY_IDS].proven:
            verdicts[BY_BIAS] = _verdict(self._by_bias, cases)
        return _concluded(found, verdicts)

    def _find_habits(self) -> Continued:
        """Find the way the server takes prompts, set it, and return its first answer."""
        ids = encode_prompt(self._tokenizer, _TEXTS[0])
        for habits in (Habits(), Habits(labels_ids=False)):
            try:
                answer = self._first_answer(ids, habits)
            except (Refused, GaveUp) as error:
                if isinstance(error, Refused) and error.status in _ABSENT:
                    raise _NotOffered(str(error)) from None
                continue
            names = bool(answer.ids) and all(id_of_label(label) is not None for label in answer.labels)
            if isinstance(self._tokenizer, HfTokenizer):
                self._check_local(self._tokenizer)
            self._completions.habits = replace(habits, labels_ids=habits.labels_ids and names)
            return answer
        return self._find_text_habits()

    def _check_local(self, tokenizer: HfTokenizer) -> None:
        """Of a text, the server must make as many tokens: ids of another tokenizer would mean other words."""
        ids = encode_prompt(tokenizer, PROBE_TEXT)
        lead = tokenizer.leading_ids
        for added in dict.fromkeys((len(lead), 0, 1)):
            try:
                self._first_answer(ids, Habits(False, False, lead, added))
                return
            except (Refused, GaveUp) as error:
                if not isinstance(error, Refused) or error.status != 200:
                    return  # it takes no text, or not this one
                last = error
        raise UsageError(
            f"--tokenizer is not that of the served model: {last}; leave it out, or give the model's own"
        )

    def _find_text_habits(self) -> Continued:
        """The same for a server that takes only text and puts its own first tokens in front of it."""
        tokenizer = self._tokenizer
        lead, tokenizer.leading_ids = tokenizer.leading_ids, ()
        # Special tokens cannot be sent as text with certainty: a line break stands for an empty context.
        tokenizer.prefix_id = int(tokenizer.encode(["\n"])[0][-1])
        (ids,) = tokenizer.encode([_TEXTS[0]])
        for added in dict.fromkeys((len(lead), 0, 1)):
            try:
                return self._first_answer(ids, Habits(False, False, lead, added))
            except (Refused, GaveUp) as error:
                last = error
        if "reads the prompt as" in str(last):
            raise UsageError(
                f"the tokenizer is not that of the served model: {last}; give the model's own with "
                "--tokenizer"
            )
        raise _NotOffered(str(last))

    def _first_answer(self, ids: Ids, habits: Habits) -> Continued:
        self._completions.habits = habits
        try:
            return self._generate(ids, logprobs=_TOP)
        except (Refused, GaveUp) as error:
            if isinstance(error, Refused) and error.status in (200, *_ABSENT):
                raise
        return self._generate(ids, logprobs=None)

    def _generate(self, ids: Ids, logprobs: int | None) -> Continued:
        return self._run(
            self._completions.generate(ids, 1, logprobs=logprobs, temperature=0, attempts=_ATTEMPTS)
        )

    def _case(self, text: str) -> _Case | None:
        """Let the server generate one token; None where the token cannot be told from its text."""
        ids = encode_prompt(self._tokenizer, text)
        answer = self._generate(ids, logprobs=_TOP)
        known = [self._id(ids, text, label) for label in (answer.labels[0], *answer.top)]
        words = (int(word[-1]) for word in self._tokenizer.encode(_UNLIKELY))
        unlikely = next((i for i in words if i not in known), None)
        if known[0] is None or unlikely is None:
            return None
        return _Case(ids, known[0], answer.logprobs[0], unlikely)

    def _id(self, ids: Ids, text: str, label: str) -> int | None:
        if (named := id_of_label(label)) is not None:
            return named
        whole = encode_prompt(self._tokenizer, text + label)
        return int(whole[-1]) if len(whole) == len(ids) + 1 else None

    def _by_ids(self, ids: Ids, targets: Sequence[int]) -> dict[int, float]:
        if not self._completions.habits.labels_ids:
            raise _NotOffered("the server does not name token ids")
        try:
            scored = self._run(self._completions.next_by_ids(ids, targets, attempts=_ATTEMPTS))
        except GaveUp as error:  # most servers ignore a field they do not know
            raise _NotOffered(str(error)) from None
        return {t: s.logprob for t, s in scored.items()}

    def _by_bias(self, ids: Ids, targets: Sequence[int]) -> dict[int, float]:
        try:
            scored = self._run(self._completions.next_by_bias(ids, targets, attempts=_ATTEMPTS))
        except GaveUp as error:
            raise _NotOffered(str(error)) from None
        return {t: s.logprob for t, s in scored.items()}

    def _by_echo(self, ids: Ids, targets: Sequence[int]) -> dict[int, float]:
        asked = (np.append(ids, np.int32(target)) for target in targets)
        scored = [self._run(self._completions.echo(whole, attempts=_ATTEMPTS)) for whole in asked]
        return {target: tokens[-1].logprob for target, tokens in zip(targets, scored, strict=True)}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What became of one way to score."""

    outcome: str
    """`proven`, `not offered` or `wrong`."""
    reason: str = ""
    unlikely: tuple[float, ...] = ()
    """What it says of each case's unlikely token."""

    @property
    def proven(self) -> bool:
        return self.outcome == "proven"

    def __str__(self) -> str:
        return f"{self.outcome} ({self.reason})" if self.reason else self.outcome


def _verdict(ask: Ask, cases: Sequence[_Case]) -> _Verdict:
    unlikely = []
    try:
        for case in cases:
            got = ask(case.ids, (case.likely, case.unlikely))
            _check(case, got)
            unlikely.append(got[case.unlikely])
    except (_NotOffered, Refused) as reason:
        return _Verdict("not offered", str(reason))
    except (_Wrong, GaveUp) as reason:
        return _Verdict("wrong", str(reason))
    return _Verdict("proven", unlikely=tuple(unlikely))


def _check(case: _Case, got: dict[int, float]) -> None:
    likely, unlikely = got[case.likely], got[case.unlikely]
    if abs(likely - case.logprob) > _TOLERANCE:
        raise _Wrong(
            f"the token that the server generates with log-probability {case.logprob:.3f} has "
            f"{likely:.3f} when asked about"
        )
    if unlikely > likely - _MARGIN:
        raise _Wrong(f"a token nobody expects has {unlikely:.3f}, the one it generates {likely:.3f}")


def _concluded(found: Findings, verdicts: dict[str, _Verdict]) -> Findings:
    proven = [way for way, verdict in verdicts.items() if verdict.proven]
    if len(proven) == 2:
        pairs = zip(*(verdicts[way].unlikely for way in proven), strict=True)
        if any(abs(a - b) > _UNLIKELY_TOLERANCE for a, b in pairs):
            reason = f"{' and '.join(proven)} disagree about unlikely tokens"
            verdicts |= {way: _Verdict("wrong", reason) for way in proven}
            proven = []
    found = replace(found, details=found.details | {way: str(v) for way, v in verdicts.items()})
    if proven:
        next_token = next((way for way in (BY_IDS, BY_BIAS) if way in proven), None)
        return replace(found, ways=Ways(next_token, ECHO in proven))
    # A bias is not meant for scoring: that it cannot be used so is no false claim.
    lies = [f"`{way}` is {v}" for way, v in verdicts.items() if v.outcome == "wrong" and way != BY_BIAS]
    if lies:
        return replace(
            found, distrust=f"the server's log-probabilities must not be believed: {'; '.join(lies)}"
        )
    reasons = "; ".join(f"`{way}` is {verdict}" for way, verdict in verdicts.items())
    return replace(found, no_scores=f"the server cannot score given text ({reasons})")
