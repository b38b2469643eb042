"""Gates: how many calls may be out at once, per expert and over all embedded engines, over all runs of a runner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from router_service.types import Expert

__all__ = ["Gates", "Line"]


class Line:
    """So many places at once, first come first served; tells whether anybody waits for one."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(max(1, places))
        self._waiting = 0

    @property
    def is_wanted(self) -> bool:
        """True while somebody waits for a place."""
        return self._waiting > 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the places, once it is free."""
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()


class Gates:
    """Waiting lines, kept per event loop: one runner may serve several `asyncio.run`s."""

    def __init__(self, max_parallel_batched: int) -> None:
        self._max_parallel_batched = max_parallel_batched
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Line]] = WeakKeyDictionary()

    @asynccontextmanager
    async def slot(self, expert: Expert, *, is_batched: bool) -> AsyncIterator[None]:
        """Wait for a turn: one of the expert's `max_concurrency`, or for an embedded engine its backend's only one."""
        if not is_batched:
            async with self._line(f"expert {expert.id}", expert.limits.max_concurrency).place():
                yield
            return
        async with self._line(f"backend {expert.backend}", 1).place(), self.engines().place():
            yield

    def engines(self) -> Line:
        """The line in which embedded engines stand, one place for each that works (`max_parallel_batched`)."""
        return self._line("engines", self._max_parallel_batched)

    def _line(self, name: str, places: int) -> Line:
        lines = self._lines.setdefault(asyncio.get_running_loop(), {})
        return lines.setdefault(name, Line(places))
