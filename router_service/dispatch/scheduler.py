"""The scheduler: which model is on which device when, and which work runs next; pure, and told what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from router_service.backends.base import Device
from router_service.dispatch._schedule_place import Place, Residency, Stage
from router_service.dispatch._schedule_queue import Queue, Ticket
from router_service.dispatch._schedule_types import Action, Load, Release, SchedulerSettings, Start, Work

__all__ = ["Action", "Load", "Release", "Schedule", "SchedulerSettings", "Start", "Work"]


class Schedule:
    """The state of all devices and the plan for what waits; every method is told the time, none reads a clock.

    On one device one model computes at a time, with up to `max_works` works of one turn; meanwhile one other model may
    be loaded where memory allows (`prefetches`). A sleeping model takes neither memory nor one of `max_models`.
    """

    def __init__(self, devices: Sequence[Device], settings: SchedulerSettings | None = None) -> None:
        """`devices` in order of preference; a name twice is a `ValueError`."""
        self._settings = settings or SchedulerSettings()
        self._places: dict[str, Place] = {}
        self._queues: dict[str, Queue] = {}
        self._tickets: dict[str, Ticket] = {}
        self._running: dict[str, tuple[Place, Work]] = {}
        self._numbers = 0
        for device in devices:
            self.added(device, now=0.0)

    def submit(self, works: Sequence[Work], *, now: float) -> list[str]:
        """Works that wait from now on. Offline: a whole wave at once; online: as they come.

        Returns the ids of those that no device can hold, even empty: they do not wait, and are the caller's to fail.
        An id that waits or runs already is a `ValueError`. Of one model's works the latest footprint counts.
        """
        refused = []
        for work in works:
            if work.id in self._tickets or work.id in self._running:
                raise ValueError(f"work {work.id!r} was submitted already; give each work an id of its own")
            if any(self._possible(work)):
                self._wait(work)
            else:
                refused.append(work.id)
        return refused

    def withdraw(self, work_id: str, *, now: float) -> None:
        """A waiting work that nobody wants any more; one that runs is `finished` instead. Unknown ids are ignored."""
        ticket = self._tickets.pop(work_id, None)
        if ticket is not None:
            self._drop(ticket)

    def actions(self, now: float) -> list[Action]:
        """What is to be begun now, in order; each is handed out once and counts as begun from then on."""
        found: list[Action] = []
        for place in self._places.values():
            found += self._starts(place)
            found += self._changes(place, now)
        return found

    def next_check_s(self, now: float) -> float | None:
        """In how many seconds from now `actions` may have something new though nothing was reported; None where only
        a report can. Never negative; asked after `actions(now)`."""
        waits = [
            ticket.work.arrived_s + self._settings.window_s - now
            for ticket in (queue.first() for queue in self._queues.values())
            if ticket is not None
        ]
        return min((wait for wait in waits if wait > 0), default=None)

    def loaded(self, device: str, model: str, *, now: float) -> None:
        """A `Load` is done."""
        place = self._places[device]
        place.there[model].stage = Stage.READY
        place.asleep.pop(model, None)

    def load_failed(self, device: str, model: str, *, now: float) -> list[str]:
        """A `Load` failed; returns the works that wait for that model and can run on no other device: they are
        withdrawn here, for the caller to fail.

        The model is not loaded on this device again while works wait for it; once none waits it may be tried anew.
        """
        place = self._places[device]
        place.there.pop(model, None)
        place.asleep.pop(model, None)
        place.barred.add(model)
        return self._stranded(model)

    def released(self, device: str, model: str, *, now: float) -> None:
        """A `Release` is done; the memory counts as free from now on."""
        place = self._places[device]
        residency = place.there.pop(model)
        if residency.sleeps:
            place.asleep[model] = residency.footprint

    def finished(self, work_id: str, *, now: float) -> None:
        """A started work ended, well or badly. One that waits again after its device was lost waits no more."""
        if work_id in self._tickets:
            self.withdraw(work_id, now=now)
            return
        place, work = self._running.pop(work_id)
        residency = place.there.get(work.footprint.model)
        if residency is not None:
            residency.running.pop(work_id, None)

    def crashed(self, device: str, model: str, *, now: float) -> None:
        """A resident or sleeping model is gone from its device by itself; its started works are reported as
        `finished`."""
        place = self._places[device]
        place.there.pop(model, None)
        place.asleep.pop(model, None)

    def lost(self, device: str, *, now: float) -> list[str]:
        """A device is gone with all on it. Its started works wait again (at the front, once each); returns those that
        no device is left for, withdrawn here. An unknown device is ignored."""
        place = self._places.pop(device, None)
        if place is None:
            return []
        for work_id, (where, work) in list(self._running.items()):
            if where is place:
                del self._running[work_id]
                self._wait(work, is_front=True)
        return [work_id for model in list(self._queues) for work_id in self._stranded(model)]

    def added(self, device: Device, *, now: float) -> None:
        """A further device, also one that was lost and is back, empty."""
        if device.name in self._places:
            raise ValueError(f"device {device.name!r} is there already; give each device a name of its own")
        self._places[device.name] = Place(device)

    def _wait(self, work: Work, *, is_front: bool = False) -> None:
        self._numbers += 1
        ticket = Ticket(work, self._numbers, is_front=is_front)
        self._tickets[work.id] = ticket
        self._queues.setdefault(work.footprint.model, Queue()).push(ticket)

    def _drop(self, ticket: Ticket) -> None:
        model = ticket.work.footprint.model
        queue = self._queues[model]
        queue.drop(ticket)
        if not queue.count:
            del self._queues[model]
            for place in self._places.values():
                place.barred.discard(model)

    def _possible(self, work: Work) -> Iterator[Place]:
        model = work.footprint.model
        return (p for p in self._places.values() if model not in p.barred and p.holds(work.footprint))

    def _stranded(self, model: str) -> list[str]:
        queue = self._queues.get(model)
        stranded = [t for t in queue.tickets() if not any(self._possible(t.work))] if queue else []
        for ticket in stranded:
            self.withdraw(ticket.work.id, now=0.0)
        return [ticket.work.id for ticket in stranded]

    def _starts(self, place: Place) -> list[Action]:
        model = place.computing or next((m for m in place.there if m in self._queues and place.is_ready(m)), None)
        if model is None or not place.is_ready(model):
            return []
        residency = place.there[model]
        found: list[Action] = []
        while model in self._queues:
            queue = self._queues[model]
            ticket = queue.first(residency.turn if residency.running else None)
            if ticket is None or len(residency.running) >= ticket.work.footprint.max_works:
                break
            work = ticket.work
            del self._tickets[work.id]
            self._drop(ticket)
            residency.turn = work.footprint.turn
            residency.running[work.id] = work
            self._running[work.id] = (place, work)
            found.append(Start(device=place.device.name, work_id=work.id))
        return found

    def _changes(self, place: Place, now: float) -> list[Action]:
        is_busy = place.computing is not None
        if place.loading or (is_busy and not self._settings.prefetches):
            return []
        if any(r.stage is Stage.LEAVING for r in place.there.values()):
            return []
        ticket = self._next(place, now)
        if ticket is None:
            return []
        footprint = ticket.work.footprint
        name, model = place.device.name, footprint.model
        if place.has_room(footprint):
            wakes = model in place.asleep
            place.there[model] = Residency(footprint)
            return [Load(device=name, model=model, work_id=ticket.work.id, wakes=wakes)]
        leaving = []
        gone: set[str] = set()
        for other, residency in place.there.items():
            if residency.running or other in self._queues:
                continue
            leaving.append((other, residency))
            gone.add(other)
            if place.has_room(footprint, without=frozenset(gone)):
                break
        else:
            return []
        for _, residency in leaving:
            residency.stage = Stage.LEAVING
            residency.sleeps = residency.footprint.wake_s is not None
        return [Release(device=name, model=other, sleeps=r.sleeps) for other, r in leaving]

    def _next(self, place: Place, now: float) -> Ticket | None:
        """The oldest work for a model that is nowhere yet."""
        tickets = []
        for model, queue in self._queues.items():
            ticket = queue.first()
            if ticket is None or ticket.work.arrived_s + self._settings.window_s > now or model in place.barred:
                continue
            if any(model in other.there for other in self._places.values()) or not place.holds(queue.footprint):
                continue
            tickets.append(ticket)
        return min(tickets, default=None)
