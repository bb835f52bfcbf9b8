"""What a server can do, by proof: numbers that disagree with what it generates are not believed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from evalkit.backends.openai.bridge import LoopThread
from evalkit.backends.openai.client import SHORT_S, Effort, GaveUp, Refused, Unusable
from evalkit.backends.openai.completions import Completions, Continued, Habits, MisreadPrompt, id_of_label
from evalkit.backends.openai.scoring import BY_BIAS, BY_IDS, ECHO, Ways
from evalkit.backends.openai.tokenizer import PROBE_TEXT, ServerTokenizer
from evalkit.backends.tokenizer import HfTokenizer
from evalkit.errors import UntrustedResultError, UsageError
from evalkit.tokens import Ids, encode_prompt

_TEXTS = ("The capital of France is", "One, two, three, four, five,", "Monday, Tuesday, Wednesday,")
_UNLIKELY = (" xylophone", " zebra", "@@", "ß")
_TOP = 5
_N_UNLIKELY = 2
_EFFORT = Effort(attempts=4, timeout_s=SHORT_S)
"""A server may answer what it cannot do with an error 500; asking often does not mend that."""
_TOLERANCE = 0.25
"""Largest |Δ log p| of a likely token: logits of half precision near 20 are an eighth apart."""
_UNLIKELY_TOLERANCE = 1.0
_MARGIN = 0.01
_N_CASES = 2
_ABSENT = (404, 405, 501)
"""HTTP statuses of an endpoint that is not there."""

T = TypeVar("T")
Ask = Callable[[Ids, Sequence[int]], dict[int, float]]


class _NotOffered(Exception):
    """The server says, or shows, that it does not do this."""


class _Wrong(Exception):
    """The server claims to do this, and its numbers are not true."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A prompt, its most likely next token with its log-probability, and tokens nobody expects."""

    ids: Ids
    likely: int
    logprob: float
    unlikely: tuple[int, ...]


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
        self._bridge, self._completions, self._tokenizer = bridge, completions, tokenizer

    def findings(self) -> Findings:
        """Find out how the completions endpoint wants to be asked and which of its numbers are true.

        Raises:
            UsageError: the tokenizer is not the served model's.
            UntrustedResultError: the server is in trouble, so that nothing can be found out.
        """
        try:
            first = self._find_habits()
        except _NotOffered as reason:
            return Findings(False, no_scores=f"the server has no completions endpoint ({reason})")
        habits = replace(self._completions.habits, counts=first.n_prompt is not None)
        self._completions.habits = habits
        details: dict[str, Any] = {
            "takes_token_ids": habits.takes_ids,
            "names_token_ids": habits.labels_ids,
            "added_tokens": habits.added_tokens,
        }
        found = Findings(True, habits, details=details)
        if not (habits.takes_ids or habits.counts):
            return replace(
                found,
                no_scores="the server takes only text and does not count its tokens: nothing proves that it "
                "reads the tokens that are to be scored",
            )
        answers = [answered for text in _TEXTS if (answered := self._answered(text))]
        if not any(answer.logprobs for _, _, answer in answers):
            return replace(found, no_scores="the server gives no log-probabilities with its completions")
        cases = [case for answered in answers if (case := self._case(*answered))][:_N_CASES]
        if not cases:
            return replace(found, no_scores="what the server generates cannot be told apart into tokens")
        verdicts = {
            BY_IDS: _verdict(self._by_ids, cases),
            ECHO: _verdict(self._by_echo, cases),
        }
        if not verdicts[BY_IDS].proven:
            verdicts[BY_BIAS] = _verdict(self._by_bias, cases)
        return _concluded(found, verdicts)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Ask; what a server in passing trouble does not answer is no sign of what it can do."""
        try:
            return self._bridge.run(work)
        except GaveUp as error:
            if error.passing:
                raise _unanswered(error) from error
            raise

    def _find_habits(self) -> Continued:
        """Find the way the server takes prompts, set it, and return its first answer."""
        refused = False
        for habits in (Habits(), Habits(labels_ids=False)):
            try:
                answer = self._telling_answer(habits)
            except (Refused, Unusable, GaveUp) as error:
                if isinstance(error, Refused) and error.status in _ABSENT:
                    raise _NotOffered(str(error)) from None
                refused = refused or not isinstance(error, GaveUp)
                continue
            names = bool(answer.ids) and all(id_of_label(label) is not None for label in answer.labels)
            if isinstance(self._tokenizer, HfTokenizer):
                self._check_local(self._tokenizer)
            self._completions.habits = replace(habits, labels_ids=habits.labels_ids and names)
            return answer
        return self._find_text_habits(refused)

    def _telling_answer(self, habits: Habits) -> Continued:
        """The first answer to one of the texts that has a token: an end mark may show nowhere."""
        for text in _TEXTS:
            answer = self._first_answer(encode_prompt(self._tokenizer, text), habits)
            if answer.labels or answer.finish_reason != "stop":
                break
        return answer

    def _check_local(self, tokenizer: HfTokenizer) -> None:
        """Of a text, the server must make as many tokens: ids of another tokenizer would mean other words."""
        ids = encode_prompt(tokenizer, PROBE_TEXT)
        lead = tokenizer.leading_ids
        for added in dict.fromkeys((len(lead), 0, 1)):
            try:
                self._first_answer(ids, Habits(False, False, lead, added))
                return
            except MisreadPrompt as error:
                last = error
            except (Refused, Unusable, GaveUp):
                return  # it takes no text, or not this one
        raise UsageError(
            f"--tokenizer is not that of the served model: {last}; leave it out, or give the model's own"
        )

    def _find_text_habits(self, refused: bool) -> Continued:
        """The same for a server that takes only text and puts its own first tokens in front of it.

        `refused` says whether the server refused a question before, rather than to fail at it.
        """
        tokenizer = self._tokenizer
        lead, tokenizer.leading_ids = tokenizer.leading_ids, ()
        # Special tokens cannot be sent as text with certainty: a line break stands for an empty context.
        tokenizer.prefix_id = int(tokenizer.encode(["\n"])[0][-1])
        (ids,) = tokenizer.encode([_TEXTS[0]])
        errors: list[Exception] = []
        for added in dict.fromkeys((len(lead), 0, 1)):
            try:
                return self._first_answer(ids, Habits(False, False, lead, added))
            except (Refused, Unusable, GaveUp) as error:
                errors.append(error)
        if misread := next((e for e in errors if isinstance(e, MisreadPrompt)), None):
            raise UsageError(
                f"the tokenizer is not that of the served model: {misread}; give the model's own with "
                "--tokenizer"
            )
        if not refused and all(isinstance(e, GaveUp) for e in errors):
            raise _unanswered(errors[-1])
        raise _NotOffered(str(errors[-1]))

    def _first_answer(self, ids: Ids, habits: Habits) -> Continued:
        self._completions.habits = habits
        try:
            return self._generate(ids, logprobs=_TOP)
        except Refused as error:
            if error.status in _ABSENT:
                raise
        except GaveUp:
            pass
        return self._generate(ids, logprobs=None)

    def _generate(self, ids: Ids, logprobs: int | None) -> Continued:
        return self._run(self._completions.generate(ids, 1, logprobs=logprobs, temperature=0, effort=_EFFORT))

    def _answered(self, text: str) -> tuple[str, Ids, Continued] | None:
        """One generated token with its log-probability; None where the server does not give it."""
        ids = encode_prompt(self._tokenizer, text)
        try:
            return text, ids, self._generate(ids, logprobs=_TOP)
        except (Refused, Unusable, GaveUp):
            return None

    def _case(self, text: str, ids: Ids, answer: Continued) -> _Case | None:
        """None where the token cannot be told from its text, or is an end mark that shows nowhere."""
        if not answer.labels:
            return None
        known = [self._id(ids, text, label) for label in (answer.labels[0], *answer.top)]
        words = dict.fromkeys(int(word[-1]) for word in self._tokenizer.encode(_UNLIKELY))
        unlikely = tuple(i for i in words if i not in known)[:_N_UNLIKELY]
        if known[0] is None or len(unlikely) < _N_UNLIKELY:
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
            scored = self._run(self._completions.next_by_ids(ids, targets, effort=_EFFORT))
        except GaveUp as error:  # most servers ignore a field they do not know
            raise _NotOffered(str(error)) from None
        return {t: s.logprob for t, s in scored.items()}

    def _by_bias(self, ids: Ids, targets: Sequence[int]) -> dict[int, float]:
        try:
            scored = self._run(self._completions.next_by_bias(ids, targets, effort=_EFFORT))
        except GaveUp as error:
            raise _NotOffered(str(error)) from None
        return {t: s.logprob for t, s in scored.items()}

    def _by_echo(self, ids: Ids, targets: Sequence[int]) -> dict[int, float]:
        asked = (np.append(ids, np.int32(target)) for target in targets)
        scored = [self._run(self._completions.echo(whole, effort=_EFFORT)) for whole in asked]
        return {target: tokens[-1].logprob for target, tokens in zip(targets, scored, strict=True)}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What became of one way to score."""

    outcome: str
    """`proven`, `not offered` or `wrong`."""
    reason: str = ""
    unlikely: tuple[float, ...] = ()
    """What it says of the unlikely tokens of all cases."""

    @property
    def proven(self) -> bool:
        return self.outcome == "proven"

    def __str__(self) -> str:
        return f"{self.outcome} ({self.reason})" if self.reason else self.outcome


def _unanswered(error: Exception) -> UntrustedResultError:
    return UntrustedResultError(f"the server did not answer the probe: {error}; try again when it does")


def _verdict(ask: Ask, cases: Sequence[_Case]) -> _Verdict:
    unlikely = []
    try:
        for case in cases:
            got = ask(case.ids, (case.likely, *case.unlikely))
            _check(case, got)
            unlikely.append([got[token] for token in case.unlikely])
        if all(len(set(values)) == 1 for values in unlikely):  # rounding alone makes some equal
            raise _Wrong(f"different tokens nobody expects all have {unlikely[0][0]:.3f}")
    except (_NotOffered, Refused, Unusable) as reason:
        return _Verdict("not offered", str(reason))
    except (_Wrong, GaveUp) as reason:
        return _Verdict("wrong", str(reason))
    return _Verdict("proven", unlikely=tuple(value for values in unlikely for value in values))


def _check(case: _Case, got: dict[int, float]) -> None:
    likely, unlikely = got[case.likely], max(got[token] for token in case.unlikely)
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
