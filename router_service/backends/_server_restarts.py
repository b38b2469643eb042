"""When a server that keeps dying may be started again: at once the first time, later and later after that, then not."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["Restarts"]

_FIRST_PAUSE_S: Final = 1.0
"""Pause after the second death within the span; it doubles with every further one."""


class Restarts:
    """The deaths of one server, failed starts included: at most `most` of them within `span_s` are followed by a new
    start."""

    def __init__(self, *, most: int, span_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._span_s = span_s
        self._clock = clock
        self._deaths: deque[tuple[float, str]] = deque(maxlen=most + 1)

    def died(self, message: str) -> None:
        """Take note of a death and what is known of it."""
        self._deaths.append((self._clock(), message))

    def pause_s(self) -> float:
        """Seconds until the next start, where there may be one."""
        deaths = self._recent()
        if len(deaths) < 2:
            return 0.0
        due_s = deaths[-1][0] + _FIRST_PAUSE_S * 2.0 ** (len(deaths) - 2)
        return max(0.0, due_s - self._clock())

    def refusal(self) -> str | None:
        """Why there is no further start now; None where there may be one."""
        deaths = self._recent()
        if len(deaths) <= self._most:
            return None
        wait_s = deaths[0][0] + self._span_s - self._clock()
        return (
            f"it ended {len(deaths)} times within {self._span_s:g} s (option max_restarts) and is "
            f"started again in {wait_s:.0f} s at the earliest; the last time {deaths[-1][1]}"
        )

    def _recent(self) -> list[tuple[float, str]]:
        return [death for death in self._deaths if death[0] > self._clock() - self._span_s]
