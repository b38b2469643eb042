"""The works that wait for one model, oldest first, over all its turns and within each."""

from __future__ import annotations

import heapq

from router_service.dispatch._schedule_types import Work

__all__ = ["Queue", "Ticket"]


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


class Queue:
    """Waiting works of one model. Removal is lazy: a ticket that waits no more is dropped when it comes up."""

    __slots__ = ("_all", "_turns", "count", "footprint", "run_s")

    def __init__(self) -> None:
        self.count = 0
        self.run_s = 0.0
        self._all: list[Ticket] = []
        self._turns: dict[str, list[Ticket]] = {}

    def push(self, ticket: Ticket) -> None:
        """One more waits; the model's estimates are the latest work's."""
        self.footprint = ticket.work.footprint
        self.count += 1
        self.run_s += ticket.work.run_s
        heapq.heappush(self._all, ticket)
        heapq.heappush(self._turns.setdefault(ticket.work.footprint.turn, []), ticket)

    def drop(self, ticket: Ticket) -> None:
        """It waits no more: it starts, or nobody wants it."""
        ticket.is_waiting = False
        self.count -= 1
        self.run_s = self.run_s - ticket.work.run_s if self.count else 0.0
        if not self.count:
            self._all.clear()
            self._turns.clear()

    def first(self, turn: str | None = None) -> Ticket | None:
        """Who is served first, of all or of one turn."""
        heap = self._all if turn is None else self._turns.get(turn, [])
        while heap and not heap[0].is_waiting:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def tickets(self) -> list[Ticket]:
        """Everybody who waits, first served first."""
        return sorted(ticket for ticket in self._all if ticket.is_waiting)
