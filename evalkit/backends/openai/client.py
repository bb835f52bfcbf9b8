"""One question to the server: a valid answer after as many attempts as it takes, or the reason why not."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from evalkit.backends.openai.address import Address
from evalkit.backends.openai.limit import AdaptiveLimit
from evalkit.errors import ServerLost

T = TypeVar("T")

_CONNECT_S = 5.0
_LONGEST_PAUSE_S = 300.0
"""The longest `Retry-After` that is kept to."""
_MESSAGE_CHARS = 300
_MOST_GIVEN_UP = 20
"""Questions in a row without a valid answer before the server counts as gone."""
_PASSING = (408, 409, 425, 429, 502, 503, 504)
"""HTTP statuses of trouble that has nothing to do with what was asked."""


class InvalidAnswer(Exception):
    """The server's answer is not what was asked for."""


class Refused(Exception):
    """The server understood the question and will not answer it, however often it is asked."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Unusable(Exception):
    """The question cannot be put to this server, or its answer is of no use, however often it is asked."""


class GaveUp(Exception):
    """No attempt brought a valid answer."""

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing
        """Whether the last attempt failed for a reason that says nothing about the question."""


class Unreachable(Exception):
    """There is no connection to the server."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server and how often to ask it."""

    timeout_s: float = 600.0
    attempts: int = 6
    first_wait_s: float = 0.5
    """Before the second attempt; it doubles with every further one, less a random part."""
    longest_wait_s: float = 30.0
    silent_s: float = 10.0
    """How long a server that refuses connections may stay away before the run ends."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to spend on one question; None is as much as usual."""

    attempts: int | None = None
    timeout_s: float | None = None


USUAL = Effort()
SHORT_S = 60.0
"""For questions that take a server no time, such as those of a probe: a longer silence is no answer."""


class _Trouble(Exception):
    """What another attempt may mend."""

    def __init__(
        self,
        reason: str,
        *,
        retry_after_s: float = 0.0,
        congested: bool = False,
        cut_off: bool = False,
        passing: bool = False,
    ) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.congested = congested
        self.cut_off = cut_off
        self.passing = passing or congested or cut_off


class Client:
    """Asks one server, never more of it than it keeps up with."""

    def __init__(self, address: Address, max_concurrency: int, patience: Patience) -> None:
        """Nothing is sent yet."""
        from openai import AsyncOpenAI, Timeout

        for library in ("httpx", "httpx2"):  # they would log every URL, and one may hold a password
            logging.getLogger(library).setLevel(logging.WARNING)
        self.address, self.patience = address, patience
        self.limit = AdaptiveLimit(max_concurrency)
        self.retries = 0
        """Attempts that had to be repeated so far."""
        self._http = AsyncOpenAI(
            base_url=address.url,
            api_key=address.key or "none",  # the library insists on one; servers without keys ignore it
            default_query=dict(address.query),
            default_headers=dict(address.headers),
            max_retries=0,
            timeout=Timeout(patience.timeout_s, connect=_CONNECT_S),
        )
        self._door = asyncio.Lock()
        self._reached_at = float("-inf")
        self._away_since: float | None = None
        self._started = False
        self._given_up = 0
        """Questions given up since the last valid answer."""

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[Any], T],
        effort: Effort = USUAL,
    ) -> T:
        """Send a question until `read` accepts an answer.

        Args:
            path: below the base URL, or a whole URL.
            body: sent as JSON; None asks with GET.
            read: takes the parsed JSON and raises InvalidAnswer (or trips over it) if it will not do.
            effort: how often to ask and how long to wait.

        Raises:
            Refused: the server says that it will not.
            GaveUp: every attempt failed.
            ServerLost: the server went away and did not come back, or answers nothing any more.
        """
        most = effort.attempts or self.patience.attempts
        timeout_s = min(effort.timeout_s or self.patience.timeout_s, self.patience.timeout_s)
        for attempt in range(1, most + 1):
            try:
                async with self.limit.slot():
                    sent_at = _now()
                    try:
                        answer = _read(read, await self._send(path, body, timeout_s))
                    except _Trouble as trouble:
                        if trouble.congested:
                            self.limit.congested(sent_at)
                        raise
                    self._succeeded()
                return answer
            except _Trouble as trouble:
                self.retries += 1
                last = trouble
                if trouble.cut_off:
                    await self._until_reachable(_now())
                if attempt < most:
                    await asyncio.sleep(max(self._wait_s(attempt), trouble.retry_after_s))
        self._give_up(str(last))
        raise GaveUp(
            f"no valid answer from {self.address.url} in {most} attempts; the last: {last}",
            passing=last.passing,
        )

    async def first_contact(self, path: str) -> Any:
        """What the server answers to a first GET.

        Raises:
            Unreachable: it cannot be connected to.
            Refused: it says no; a wrong key is status 401 or 403.
            GaveUp: it answers nonsense.
        """
        for _ in range(3):
            try:
                answer = await self._send(path, None, timeout_s=2 * _CONNECT_S)
                self._started = True
                return answer
            except _Trouble as trouble:
                last = trouble
                await asyncio.sleep(max(self.patience.first_wait_s, min(trouble.retry_after_s, _CONNECT_S)))
        raise (Unreachable if last.cut_off else GaveUp)(str(last))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def _send(self, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> Any:
        import openai

        url = path if "://" in path else f"/{path}"
        try:
            async with asyncio.timeout(timeout_s):
                if body is None:
                    return await self._http.get(url, cast_to=object)
                return await self._http.post(url, body=body, cast_to=object)
        except (openai.APITimeoutError, TimeoutError) as error:
            never_connected = type(error.__cause__).__name__ == "ConnectTimeout"
            raise _Trouble(
                f"no answer within {_CONNECT_S if never_connected else timeout_s:g} s",
                congested=not never_connected,
                cut_off=never_connected,
            ) from None
        except openai.APIConnectionError as error:
            raise _Trouble(self._clean(f"connection failed ({_cause(error)})"), cut_off=True) from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except ValueError as error:  # of the JSON parser
            raise _Trouble(f"malformed answer ({type(error).__name__})", passing=True) from None

    def _refusal(self, error: Any) -> Exception:
        status, reason = error.status_code, self._clean(_message(error))
        if status in (401, 403) and self._started:
            return ServerLost(f"{self.address.url} does not accept the key any more ({status}: {reason})")
        if "insufficient_quota" in _codes(error):
            return ServerLost(f"{self.address.url}: the quota of this key is used up ({status}: {reason})")
        if status in _PASSING or status >= 500:
            return _Trouble(
                f"{status} {reason}",
                retry_after_s=_retry_after_s(error.response.headers.get("retry-after")),
                congested=status in (429, 503),
                passing=status in _PASSING,
            )
        return Refused(status, reason)

    def _clean(self, text: str) -> str:
        return self.address.without_secrets(" ".join(text.split()))[:_MESSAGE_CHARS]

    def _succeeded(self) -> None:
        self.limit.succeeded()
        self._reached_at, self._away_since, self._given_up = _now(), None, 0

    def _give_up(self, reason: str) -> None:
        """Count a question as given up: behind a gateway a server that is gone still takes connections.

        Raises:
            ServerLost: so many in a row are no accident.
        """
        self._given_up += 1
        if self._given_up >= _MOST_GIVEN_UP:
            raise ServerLost(
                f"the server at {self.address.url} gave no valid answer to {self._given_up} questions in a "
                f"row (the last: {reason}); what was answered is kept, see to the server"
            )

    def _wait_s(self, attempt: int) -> float:
        longest = min(self.patience.longest_wait_s, self.patience.first_wait_s * 2 ** (attempt - 1))
        return float(longest * random.uniform(0.5, 1.0))

    async def _until_reachable(self, failed_at: float) -> None:
        """After a lost connection, wait for the server; one caller knocks for all.

        Raises:
            ServerLost: nothing has come through for too long.
        """
        async with self._door:
            while self._reached_at < failed_at:
                if self._away_since is None:
                    self._away_since = failed_at
                away_s = _now() - self._away_since
                if await self._answers():
                    self._reached_at, self._away_since = _now(), None
                elif away_s > self.patience.silent_s:
                    raise ServerLost(
                        f"the server at {self.address.url} went away (no connection for {away_s:.0f} s); "
                        "what was answered is kept, start the server again"
                    )
                else:
                    await asyncio.sleep(self.patience.silent_s / 10)

    async def _answers(self) -> bool:
        try:
            await self._send("models", None, timeout_s=2 * _CONNECT_S)
        except _Trouble as trouble:
            return not trouble.cut_off
        except Refused:
            pass
        return True


def _read(read: Callable[[Any], T], answer: Any) -> T:
    try:
        return read(answer)
    except InvalidAnswer as error:
        raise _Trouble(f"invalid answer: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        # An answer of another shape than the protocol's trips its reader in any of these ways.
        raise _Trouble(f"invalid answer: {type(error).__name__} {error}") from None


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, Mapping) else {}
    return str(body.get("message") or body.get("detail") or error.message)


def _codes(error: Any) -> tuple[Any, ...]:
    body = error.body if isinstance(error.body, Mapping) else {}
    return body.get("code"), body.get("type")


def _cause(error: BaseException) -> str:
    """The innermost reason: what the operating system said."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return str(error) or type(error).__name__


def _retry_after_s(header: str | None) -> float:
    """Seconds to wait according to a `Retry-After` header: a number, or a date (RFC 9110)."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE_S)


def _now() -> float:
    return asyncio.get_running_loop().time()
