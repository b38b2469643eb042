"""Loads and releases that are under way: tasks of their own, so that whoever asked for one may go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial

from router_service.dispatch.scheduler import Load, Release

__all__ = ["Ended", "Moves"]

Ended = Callable[[BaseException | None], None]
"""Told when a load or release has ended: how it failed, or None."""

_Move = Load | Release


class Moves:
    """At most one per model and device at a time; one that was given up ends unheard."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], tuple[_Move, asyncio.Task[None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._tasks)

    @property
    def under_way(self) -> list[_Move]:
        """What has begun and not ended."""
        return [move for move, _ in self._tasks.values()]

    def begin(self, move: _Move, work: Coroutine[None, None, None], ended: Ended) -> None:
        """Carry it out, and tell `ended` once, however it ends."""
        name = f"{type(move).__name__.lower()} {move.model} on {move.device}"
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[move.device, move.model] = (move, task)
        task.add_done_callback(partial(self._ended, move, ended))

    def give_up(self, device: str | None = None) -> list[asyncio.Task[None]]:
        """Forget all of a device, or all; their tasks, which may still be at work."""
        places = [place for place in self._tasks if device in (None, place[0])]
        return [self._tasks.pop(place)[1] for place in places]

    def _ended(self, move: _Move, ended: Ended, task: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        place = (move.device, move.model)
        if place in self._tasks and self._tasks[place][1] is task:
            del self._tasks[place]
            ended(error)
