"""An asyncio loop in a thread of its own, seen from ordinary code as plain calls and iterators."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_CANCEL_S = 5.0


class LoopThread:
    """Runs coroutines for threads that know nothing of them."""

    def __init__(self) -> None:
        """Start the thread; it never keeps the process alive."""
        self.loop = asyncio.new_event_loop()
        self._stopped = False
        self._thread = threading.Thread(target=self.loop.run_forever, name="evalkit-http", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """The result of one coroutine; Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def each(
        self, work: Callable[[T], Awaitable[R]], items: Iterable[T], at_once: int
    ) -> Iterator[tuple[T, R]]:
        """Yield (item, result) in completion order.

        At most `at_once` items are worked on or wait to be taken, so neither requests nor answers pile
        up. Closing the iterator cancels what is under way; the first exception does so too and is raised.
        """
        results: queue.SimpleQueue[tuple[T, R] | BaseException | None] = queue.SimpleQueue()
        places = asyncio.Semaphore(at_once)
        ended = threading.Event()

        async def one(item: T) -> None:
            results.put((item, await work(item)))

        async def feed() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for item in items:
                        await places.acquire()
                        group.create_task(one(item))
                results.put(None)
            except BaseExceptionGroup as errors:
                results.put(errors.exceptions[0])
            finally:
                ended.set()

        feeding = asyncio.run_coroutine_threadsafe(feed(), self.loop)
        try:
            while (result := results.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                self.loop.call_soon_threadsafe(places.release)
                yield result
        finally:
            feeding.cancel()
            ended.wait(_CANCEL_S)

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what comes `last`, then end the loop and its thread; safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        if threading.current_thread() is self._thread:  # the garbage collector may run in any thread
            self.loop.create_task(last()).add_done_callback(lambda _: self.loop.stop())
            return
        self.run(last())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_CANCEL_S)
        if not self._thread.is_alive():
            self.loop.close()
