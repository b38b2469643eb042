"""Bears a store's outages for a while: calls again with growing pauses, then a clear end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from router_service.errors import RouterError, StoreUnavailable
from router_service.types import Completion, CompletionMemo

__all__ = ["GuardedMemo", "Patience"]

T = TypeVar("T")


class Patience:
    """Calls a store again while it is unavailable, for `total_s` seconds from its first failure in a row; then its
    `StoreUnavailable` is raised on. `clock` and `sleep` are replaceable, for tests."""

    def __init__(
        self,
        total_s: float = 60.0,
        *,
        first_pause_s: float = 0.1,
        max_pause_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._total_s = total_s
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s
        self._clock = clock
        self._sleep = sleep
        self._is_over = False

    def end(self) -> None:
        """Try nothing again from now on: the work is being stopped."""
        self._is_over = True

    async def __call__(
        self, call: Callable[[], Awaitable[T]], *, before_again: Callable[[], Awaitable[object]] | None = None
    ) -> T:
        """What the call returns in the end; `before_again` is awaited before each further try, and may fail too."""
        deadline, pause_s, is_again = None, self._first_pause_s, False
        while True:
            try:
                if is_again and before_again is not None:
                    await before_again()
                return await call()
            except StoreUnavailable:
                now = self._clock()
                deadline = now + self._total_s if deadline is None else deadline
                if self._is_over or now >= deadline:
                    raise
                await self._sleep(min(pause_s, deadline - now))
                pause_s, is_again = min(2 * pause_s, self._max_pause_s), True


class GuardedMemo:
    """A memo that bears outages, and remembers as `lost` the error that it could not bear: a part of the engine that
    swallowed it would otherwise answer as if an expert had failed."""

    def __init__(self, memo: CompletionMemo, patience: Patience) -> None:
        self._memo = memo
        self._patience = patience
        self.lost: RouterError | None = None

    async def recall(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Those of the keys that are kept."""
        try:
            return await self._memo.recall(keys)
        except StoreUnavailable:
            return await self._guarded(lambda: self._memo.recall(keys))

    async def keep(self, key: str, completion: Completion) -> None:
        """Keep a completion."""
        try:
            await self._memo.keep(key, completion)
        except StoreUnavailable:
            await self._guarded(lambda: self._memo.keep(key, completion))

    async def _guarded(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._patience(call)
        except RouterError as lost:
            self.lost = lost
            raise
