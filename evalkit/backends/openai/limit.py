"""How many requests may be on their way at once: more while the server keeps up, half when it does not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_START = 8.0


class AdaptiveLimit:
    """Additive increase, multiplicative decrease; until the first trouble it grows by one per answer."""

    def __init__(self, maximum: int) -> None:
        """`maximum` bounds the requests on their way, whatever the server can take."""
        self.maximum = maximum
        self.allowed = min(_START, float(maximum))
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._halved_at = float("-inf")

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a free place and hold it."""
        await self._enter()
        try:
            yield
        finally:
            self.in_flight -= 1
            self._admit()

    def succeeded(self) -> None:
        """The server kept up."""
        untroubled = self._halved_at == float("-inf")
        self.allowed = min(float(self.maximum), self.allowed + (1.0 if untroubled else 1.0 / self.allowed))
        self._admit()

    def congested(self, sent_at: float) -> None:
        """A request sent at loop time `sent_at` met an overloaded server; one overload halves once."""
        if sent_at >= self._halved_at:
            self.allowed = max(1.0, self.allowed / 2)
            self._halved_at = asyncio.get_running_loop().time()

    async def _enter(self) -> None:
        if not self._waiting and self.in_flight < int(self.allowed):
            self.in_flight += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # admitted in the same moment: hand the place on
                self.in_flight -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self.in_flight < int(self.allowed):
            place = self._waiting.popleft()
            if not place.done():
                self.in_flight += 1
                place.set_result(None)
