"""A batch fanned out to one server: as many assignments at once as the expert allows, each failing for itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from weakref import WeakKeyDictionary

from router_service.backends._chat_backend import Piece
from router_service.backends._text_requests import refusals_of, samples_of
from router_service.backends.openai import Openai
from router_service.errors import ExpertError, ExpertTimeout, ExpertUnavailable
from router_service.types import Assignment, Completion, Expert, ExpertBatch

__all__ = ["ServerCalls"]

_NEVER_IDLE_S = 1e6
"""A stream may be silent for as long as its call may take: what waits in a busy engine says nothing."""

Examine = Callable[[], Awaitable[None]]
"""Raises what the end of the server means for all of its calls, where it has ended; nothing otherwise."""


class ServerCalls:
    """Calls of all experts over one pool of connections."""

    def __init__(self) -> None:
        self._openai = Openai(idle_timeout_s=_NEVER_IDLE_S)
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = WeakKeyDictionary()

    async def answers(self, served: Expert, batch: ExpertBatch, *, examine: Examine) -> AsyncGenerator[Piece, None]:
        """What comes of a batch, as it comes. `served` is the expert with address, key and name of its server.

        What fails an assignment is a completion with `error` for each sample that is missing; after one that the
        server may have had no chance to answer, `examine` tells whether it is still there.
        """
        pieces: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        asks = (self._ask(served, assignment, pieces, examine=examine) for assignment in batch.assignments)
        tasks = [asyncio.create_task(ask) for ask in asks]
        left = len(tasks)
        try:
            while left:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                if piece is None:
                    left -= 1
                else:
                    yield piece
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._openai.aclose()

    def check(self, served: Expert) -> None:
        """Raise `ConfigError` where the server's address makes no sense."""
        self._openai.check(served)

    async def _ask(
        self,
        served: Expert,
        assignment: Assignment,
        pieces: asyncio.Queue[Piece | Exception | None],
        *,
        examine: Examine,
    ) -> None:
        try:
            async with self._gate(served), aclosing(self._one(served, assignment, examine=examine)) as items:
                async for piece in items:
                    pieces.put_nowait(piece)
        except Exception as broke:
            pieces.put_nowait(broke)
        finally:
            pieces.put_nowait(None)

    async def _one(self, served: Expert, assignment: Assignment, *, examine: Examine) -> AsyncGenerator[Piece, None]:
        missing = set(samples_of(assignment))
        batch = ExpertBatch(expert_id=served.id, assignments=(assignment,))
        try:
            async with aclosing(self._openai.complete(served, batch)) as items:
                async for piece in items:
                    if isinstance(piece, Completion):
                        missing.discard(piece.sample)
                    yield piece
        except ExpertError as error:
            if isinstance(error, ExpertUnavailable | ExpertTimeout):
                await examine()
            for failed in refusals_of(assignment, error):
                if failed.sample in missing:
                    yield failed

    def _gate(self, served: Expert) -> asyncio.Semaphore:
        gates = self._gates.setdefault(asyncio.get_running_loop(), {})
        return gates.setdefault(served.id, asyncio.Semaphore(served.limits.max_concurrency))
