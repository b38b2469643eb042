"""The works that wait for one model, oldest first, over all its turns and within each."""

from __future__ import annotations

import heapq

from router_service.backends.base import Footprint
from router_service.dispatch._schedule_types import Work

__all__ = ["Queue", "Ticket", "effective_s"]


class Ticket:
    """One wait of one work; a work that waits again has a new one. Sorts by who is served first."""

    __slots__ = ("is_waiting", "key", "work")

    def __init__(self, work: Work, number: int, *, is_front: bool = False) -> None:
        self.work = work
        self.is_waiting = True
        self.key = (not is_front, work.arrived_s, -work.run_s, number)
        """Redone work first, then by arrival; of those that came together the longest, so that the short ones level
        what several devices end with. Ids play no part."""

    def __lt__(self, other: Ticket) -> bool:
        return self.key < other.key

    def is_no_younger_than(self, other: Ticket) -> bool:
        """Whether it was there when the other came, and so overtakes nobody by going first."""
        return not self.key[0] or self.work.arrived_s <= other.work.arrived_s


class Queue:
    """Waiting works of one model. Removal is lazy: a ticket that waits no more is dropped when it comes up."""

    __slots__ = ("_all", "_turns", "count", "footprint", "run_s")

    def __init__(self, footprint: Footprint) -> None:
        self.footprint = footprint
        """The latest work's: estimates may get better."""
        self.count = 0
        self.run_s = 0.0
        """Device time the waiting works are expected to take, `max_works` of them at once."""
        self._all: list[Ticket] = []
        self._turns: dict[str, list[Ticket]] = {}

    def push(self, ticket: Ticket) -> None:
        """One more waits."""
        self.footprint = ticket.work.footprint
        self.count += 1
        self.run_s += effective_s(ticket.work)
        heapq.heappush(self._all, ticket)
        heapq.heappush(self._turns.setdefault(ticket.work.footprint.turn, []), ticket)

    def drop(self, ticket: Ticket) -> None:
        """It waits no more: it starts, or nobody wants it."""
        ticket.is_waiting = False
        self.count -= 1
        self.run_s = max(0.0, self.run_s - effective_s(ticket.work)) if self.count else 0.0

    def first(self, turn: str | None = None) -> Ticket:
        """Who is served first; with `turn`, of that turn where any waits."""
        heap = _alive(self._turns.get(turn, [])) if turn is not None else []
        return (heap or _alive(self._all))[0]

    def tickets(self) -> list[Ticket]:
        """Everybody who waits, first served first."""
        return sorted(ticket for ticket in self._all if ticket.is_waiting)


def effective_s(work: Work) -> float:
    """Device time of a work where its model runs as many at once as it can."""
    return work.run_s / max(1, work.footprint.max_works)


def _alive(heap: list[Ticket]) -> list[Ticket]:
    """The heap with one that waits on top."""
    while heap and not heap[0].is_waiting:
        heapq.heappop(heap)
    return heap
