"""What one device does next: which works start, whose turn comes, what is loaded for it and what makes room."""

from __future__ import annotations

from collections.abc import Iterator

from router_service.dispatch._schedule_board import Board
from router_service.dispatch._schedule_place import Place, Residency, Stage
from router_service.dispatch._schedule_queue import Ticket, effective_s
from router_service.dispatch._schedule_types import Action, Load, Release, Start

__all__ = ["Turn"]

_LOOKAHEAD = 8
"""Models that are tried, in order, for one that fits beside what runs."""


class Turn:
    """One device at one moment."""

    def __init__(self, board: Board, place: Place, now: float) -> None:
        self.board = board
        self.place = place
        self.now = now

    def starts(self) -> list[Action]:
        """The works that start now, of the visited model or, where nothing of it may, of the next one."""
        found = list(self._starts_of_visit())
        if found or self.place.computing is not None:
            return found
        model = self._next_ready()
        if model is None:
            return found
        self.board.end_visit(self.place)
        self.board.begin_visit(model, self.place, self.now)
        return list(self._starts_of_visit())

    def changes(self) -> list[Action]:
        """The load that begins now, or what must leave for it."""
        place = self.place
        if any(place.staged(Stage.LOADING)) or any(place.staged(Stage.LEAVING)):
            return []
        if place.computing is not None and not self.board.settings.prefetches:
            return []
        sooner: set[str] = set()
        looked_at = 0
        for model in self._senior():
            if not place.is_ready(model) and self.board.window_ends_s(model) <= self.now:
                if place.has_room(self.board.queues[model].footprint):
                    return [self._load(model)]
                leaving = self._room_for(model, sooner)
                if leaving:
                    return [self._release(other) for other in leaving]
                looked_at += 1
                if looked_at == _LOOKAHEAD:
                    break
            sooner.add(model)
        return []

    def _next_ready(self) -> str | None:
        """Whose turn comes of those that are there: the first of the agenda that may, or where nothing is left to load
        the one with the oldest work."""
        eldest = self.board.eldest(self.place)
        if eldest is not None and self._are_all_ready():
            return eldest.work.footprint.model
        ready = [m for m in self.place.there if m in self.place.ranks and self.place.is_ready(m) and self._is_senior(m)]
        return min(ready, key=self.place.ranks.__getitem__, default=None)

    def _are_all_ready(self) -> bool:
        return all(self.place.is_ready(model) for _, model in self.place.order)

    def _starts_of_visit(self) -> Iterator[Action]:
        model = self.place.visiting
        while model is not None and self.place.is_ready(model) and model in self.board.queues:
            residency = self.place.there[model]
            if not self._is_home(model):
                return
            ticket = self.board.queues[model].first(residency.turn if residency.running else None)
            if not self._joins(residency, ticket) or not self._may_go(ticket):
                return
            yield self._start(residency, ticket)

    def _is_home(self, model: str) -> bool:
        """Whether the device still serves the model. One that had its share leaves it to the others where it has
        something else to do, and where what is left is worth a load of theirs."""
        board, place = self.board, self.place
        others = [home for home in board.homes.get(model, ()) if home is not place]
        if place not in board.homes.get(model, ()):
            return False
        quota_s = place.quotas.get(model)
        queue = board.queues[model]
        if quota_s is None or not others or not place.order or quota_s >= effective_s(queue.first().work) / 2:
            return True
        if queue.run_s < min(other.cost_s(queue.footprint) for other in others):
            return True
        board.leave(model, place)
        return False

    def _joins(self, residency: Residency, ticket: Ticket) -> bool:
        """Whether the work may run beside those that run: of their turn, and not for ever before an older one of
        another turn."""
        if not residency.running:
            return True
        if ticket.work.footprint.turn != residency.turn or len(residency.running) >= ticket.work.footprint.max_works:
            return False
        first = self.board.queues[residency.footprint.model].first()
        begun_s = max(residency.turn_began_s, first.work.arrived_s)
        cap_s = self.board.settings.turn_cap * residency.footprint.load_s
        return ticket.is_no_younger_than(first) or self.now < begun_s + cap_s

    def _may_go(self, ticket: Ticket) -> bool:
        """Whether a work of the visited model may go before the oldest of those on the agenda.

        It may where it is no younger, and for `turn_cap` loads of the other's model after that one came (or the visit
        began). Where all models of the agenda are there, grouping saves nothing and the older one goes first.
        """
        eldest = self.board.eldest(self.place)
        if eldest is None or ticket.is_no_younger_than(eldest):
            return True
        if self._are_all_ready():
            return False
        begun_s = max(self.place.visit_began_s, eldest.work.arrived_s)
        return self.now < begun_s + self.board.settings.turn_cap * eldest.work.footprint.load_s

    def _start(self, residency: Residency, ticket: Ticket) -> Action:
        work, place, now = ticket.work, self.place, self.now
        self.board.drop(ticket)
        if not residency.running:
            residency.due_s = now
            if residency.turn != work.footprint.turn:
                residency.turn = work.footprint.turn
                residency.turn_began_s = now
        if work.footprint.model in place.quotas:
            place.quotas[work.footprint.model] -= effective_s(work)
        residency.running[work.id] = work
        residency.due_s = max(residency.due_s, now + work.run_s)
        residency.used_s = now
        self.board.running[work.id] = (place, work)
        return Start(device=place.device.name, work_id=work.id)

    def _senior(self) -> Iterator[str]:
        """The agenda's models in order, but for those that may not go before its oldest work."""
        return (model for _, model in self.place.order if self._is_senior(model))

    def _is_senior(self, model: str) -> bool:
        """Whether an agenda model's turn may come before that of the oldest work's model: its own first work came at
        most `turn_cap` loads of that one later."""
        eldest = self.board.eldest(self.place)
        if eldest is None or model == eldest.work.footprint.model:
            return True
        limit_s = eldest.work.arrived_s + self.board.settings.turn_cap * eldest.work.footprint.load_s
        return self.board.queues[model].first().work.arrived_s <= limit_s

    def _load(self, model: str) -> Action:
        place, queue = self.place, self.board.queues[model]
        wakes = model in place.asleep
        place.there[model] = Residency(queue.footprint, due_s=self.now + place.cost_s(queue.footprint))
        self.board.arrived(model, place)
        return Load(device=place.device.name, model=model, work_id=queue.first().work.id, wakes=wakes)

    def _release(self, model: str) -> Action:
        residency = self.place.there[model]
        residency.stage = Stage.LEAVING
        residency.sleeps = residency.footprint.wake_s is not None
        if self.place.visiting == model:
            self.board.end_visit(self.place)
        return Release(device=self.place.device.name, model=model, sleeps=residency.sleeps)

    def _room_for(self, wanted: str, sooner: set[str]) -> list[str]:
        """The models to release for the wanted one, fewest and least soon used (Belady 1966: whose next use is
        farthest); none where no release makes room. Never one that runs, or is used `sooner`."""
        place, footprint = self.place, self.board.queues[wanted].footprint
        last = 1 << 62
        free: list[tuple[int, float, str]] = []
        for model, residency in place.there.items():
            next_use = place.ranks.get(model, last)
            if not residency.running and model not in sooner and residency.stage is Stage.READY:
                free.append((-next_use, residency.used_s, model))
        leaving: list[str] = []
        for _, _, model in sorted(free, key=lambda found: found[:2]):
            leaving.append(model)
            if place.has_room(footprint, without=leaving):
                needed = [m for m in leaving if not place.has_room(footprint, without=[o for o in leaving if o != m])]
                return needed or leaving
        return []
