"""Gathers calls that come at the same time into groups, so that many of them share one commit or one round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Gathering"]

Op = TypeVar("Op")


class Gathering(Generic[Op]):
    """Hands operations on in groups: what is asked for while a group is under way becomes the next one.

    `perform` gets the operations of a group in order and gives one result each; an exception among the results is
    raised where its operation was asked for, one that it raises itself fails the whole group.
    """

    def __init__(
        self, perform: Callable[[Sequence[Op]], Awaitable[Sequence[object]]], *, max_group: int = 1024
    ) -> None:
        self._perform = perform
        self._max_group = max_group
        self._waiting: deque[tuple[Op, asyncio.Future[object]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, op: Op) -> object:
        """The operation's result. Who is cancelled while waiting hears of none, but the operation takes place."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append((op, future))
        if self._task is None or self._task.done():
            self._start()
        return await future

    async def settled(self) -> None:
        """Return when nothing is under way any more."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_group))]
            try:
                results = await self._perform([op for op, _ in group])
            except Exception as error:
                results = [error] * len(group)
            except asyncio.CancelledError:  # by a loop that is being closed: nobody may wait for ever
                for _, future in group:
                    future.cancel()
                self._start()
                raise
            for (_, future), result in zip(group, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _start(self) -> None:
        if self._waiting:
            self._task = asyncio.create_task(self._work(), name="work groups off")
