"""Gates: how many calls may be out at once, per expert and per embedded engine, over all runs of a runner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from router_service.types import Expert

__all__ = ["Gates"]


class Gates:
    """Waiting lines, first come first served. Kept per event loop: one runner may serve several `asyncio.run`s."""

    def __init__(self, max_parallel_batched: int) -> None:
        self._max_parallel_batched = max_parallel_batched
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = WeakKeyDictionary()

    @asynccontextmanager
    async def slot(self, expert: Expert, *, is_batched: bool) -> AsyncIterator[None]:
        """Wait for a turn: one of the expert's `max_concurrency`, or for an embedded engine its backend's only one."""
        if not is_batched:
            async with self._line(f"expert {expert.id}", expert.limits.max_concurrency):
                yield
            return
        backend_line = self._line(f"backend {expert.backend}", 1)
        async with backend_line, self._line("batched", self._max_parallel_batched):
            yield

    def _line(self, name: str, places: int) -> asyncio.Semaphore:
        lines = self._lines.setdefault(asyncio.get_running_loop(), {})
        return lines.setdefault(name, asyncio.Semaphore(max(1, places)))
