"""The schedule's bookkeeping: who waits for which model, which devices are to serve it, and what runs where."""

from __future__ import annotations

from collections.abc import Sequence

from router_service.backends.base import Footprint
from router_service.dispatch._schedule_place import Place, Stage
from router_service.dispatch._schedule_queue import Queue, Ticket, effective_s
from router_service.dispatch._schedule_types import SchedulerSettings, Work

__all__ = ["Board"]


class Board:
    """Every waiting model has a queue, and homes: the devices on whose agenda it is, or whose visit it has.

    A place's `ahead_s` is kept in step: its share of its models' waiting runs, and their loads.
    """

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.places: dict[str, Place] = {}
        self.queues: dict[str, Queue] = {}
        self.homes: dict[str, list[Place]] = {}
        self.tickets: dict[str, Ticket] = {}
        self.homeless: dict[str, None] = {}
        """Waiting models without a home, in order."""
        self.unplanned = 0
        """Works that came since the last plan."""
        self.running: dict[str, tuple[Place, Work]] = {}
        self.version = 0
        """Goes up whenever a device without an agenda may find something to do."""
        self._rank = 0
        self._number = 0
        self._loads_ahead_s: dict[tuple[str, str], float] = {}

    def wait(self, work: Work, *, is_front: bool = False) -> None:
        """A work waits from now on, at its model's homes where it has any."""
        self._number += 1
        self.version += 1
        self.unplanned += 1
        ticket = Ticket(work, self._number, is_front=is_front)
        model = work.footprint.model
        self.tickets[work.id] = ticket
        queue = self.queues.get(model)
        if queue is None:
            queue = self.queues[model] = Queue(work.footprint)
            self.homeless[model] = None
        queue.push(ticket)
        self._spread(model, effective_s(work))
        for place in list(self.homes.get(model, ())):
            if not place.holds(queue.footprint):
                self.leave(model, place)
            elif queue.first() is ticket and model in place.ranks:
                place.noted(ticket)

    def drop(self, ticket: Ticket) -> None:
        """A work waits no more; with its model's last one the homes, quotas and bars end."""
        model = ticket.work.footprint.model
        del self.tickets[ticket.work.id]
        queue = self.queues[model]
        before_s = queue.run_s
        queue.drop(ticket)
        self._spread(model, queue.run_s - before_s)
        if queue.count:
            return
        for place in list(self.homes.get(model, ())):
            self.leave(model, place)
        del self.queues[model]
        self.homeless.pop(model, None)
        for place in self.places.values():
            place.barred.discard(model)

    def settle(self, model: str, place: Place, *, quota_s: float | None = None) -> None:
        """Put a waiting model on a device's agenda, last; it becomes one of its homes."""
        self.version += 1
        queue = self.queues[model]
        self._spread(model, -queue.run_s)
        self.homeless.pop(model, None)
        homes = self.homes.setdefault(model, [])
        if place not in homes:
            homes.append(place)
        self._spread(model, queue.run_s)
        self._count_load(model, place, place.cost_s(queue.footprint))
        if quota_s is not None:
            place.quotas[model] = quota_s
        self._rank += 1
        if place.visiting != model:
            place.plan(model, self._rank, queue.first())

    def leave(self, model: str, place: Place) -> None:
        """The device is none of the model's homes any more; the visit's residency stays."""
        homes = self.homes.get(model, [])
        if place in homes:
            run_s = self.queues[model].run_s
            self._spread(model, -run_s)
            homes.remove(place)
            self._spread(model, run_s)
        if not homes:
            self.homes.pop(model, None)
            if self.queues[model].count:
                self.homeless[model] = None
        self._count_load(model, place, 0.0)
        place.unplan(model)
        place.quotas.pop(model, None)
        if len(homes) == 1:
            homes[0].quotas.pop(model, None)

    def arrived(self, model: str, place: Place) -> None:
        """The model's load on the device is begun, and so not ahead any more."""
        self._count_load(model, place, 0.0)

    def begin_visit(self, model: str, place: Place, now: float) -> None:
        """It is the model's turn."""
        place.unplan(model)
        place.visiting = model
        place.visit_began_s = now

    def end_visit(self, place: Place) -> None:
        """Another model's turn comes; works that the model still has here go to the agenda's end."""
        model = place.visiting
        place.visiting = None
        if model in self.queues and place in self.homes.get(model, ()):
            self.settle(model, place)

    def eldest(self, place: Place) -> Ticket | None:
        """The oldest work on the device's agenda, which the visited model is not on."""
        while (ticket := place.eldest()) is not None:
            if ticket.is_waiting:
                return ticket
            place.forget_eldest()
            place.noted(self.queues[ticket.work.footprint.model].first())
        return None

    def possible(self, footprint: Footprint) -> list[Place]:
        """The devices that could ever hold the model."""
        return [p for p in self.places.values() if footprint.model not in p.barred and p.holds(footprint)]

    def stranded(self, model: str) -> list[str]:
        """Drops the waiting works of a model that no device can hold any more, and returns their ids."""
        queue = self.queues.get(model)
        works = queue.tickets() if queue and not self.possible(queue.footprint) else []
        for ticket in works:
            self.drop(ticket)
        return [ticket.work.id for ticket in works]

    def window_ends_s(self, model: str) -> float:
        """When the model's first work has waited long enough for company."""
        return self.queues[model].first().work.arrived_s + self.settings.window_s

    def is_on_its_way(self, model: str, place: Place) -> bool:
        """Whether the device has the model, or is loading it."""
        residency = place.there.get(model)
        return residency is not None and residency.stage is not Stage.LEAVING

    def _spread(self, model: str, run_s: float) -> None:
        homes: Sequence[Place] = self.homes.get(model, ())
        for place in homes:
            place.ahead_s += run_s / len(homes)

    def _count_load(self, model: str, place: Place, load_s: float) -> None:
        key = (place.device.name, model)
        place.ahead_s += load_s - self._loads_ahead_s.pop(key, 0.0)
        if load_s:
            self._loads_ahead_s[key] = load_s
