"""The scheduler: which model is on which device when, and which work runs next; pure, and told what happened."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from router_service.backends.base import Device
from router_service.dispatch._schedule_board import Board
from router_service.dispatch._schedule_place import Place, Stage
from router_service.dispatch._schedule_placing import find_homes, take_over
from router_service.dispatch._schedule_turns import Turn
from router_service.dispatch._schedule_types import Action, Load, Release, SchedulerSettings, Start, Work

__all__ = ["Action", "Load", "Release", "Schedule", "SchedulerSettings", "Start", "Work"]


class Schedule:
    """The state of all devices and the plan for what waits; every method is told the time, none reads a clock.

    *A device.* One model computes at a time, up to `max_works` works of one turn at once; meanwhile one other model
    may be loaded where memory allows (`prefetches`). Loads are one at a time. A sleeping model takes neither memory nor
    one of `max_models`; a model of unknown size is alone; a device of unknown size without `max_models` holds one.

    *Grouping.* A model's waiting works run before it is left. Works that came together are never split up by fairness,
    so each model is loaded once per wave on a device, in Johnson's order or a better one.

    *Placement.* Where many works came, all waiting models are planned anew: longest first onto the device that would be
    done soonest (experts of the same queries apart where that is nearly equal), then moved, split (a copy on another
    device) and swapped while the last device gets done sooner. A single new model goes to the device done soonest. A
    device without an agenda takes over from the one done last whatever makes both done sooner, as a copy only where its
    load is shorter than the queue time it saves (`replicates`).

    *The window.* No load begins before its model's first work has waited `window_s`, not even on an idle device: a load
    takes a thousand windows and cannot be taken back. Works of a model that is there never wait for it.

    *Fairness.* A work may overtake an older one of another model only for `turn_cap` loads (c) of that model, counted
    from when the older one came or the visit began; whose turn comes next, too, is one whose first work came at most c
    loads later than the oldest's. Without failures a work waits at most

        window_s + (1 + L / (c l)) S + (M + 1) ((1 + c) L + r + release)

    with L and l the longest and shortest load, r the longest run, M the number of models, and S the run time of what is
    senior to it: works not ended when it came that arrived at most c loads of its model after it. Why: each visit
    before its own begins for a senior work. A visit that leaves some senior works of its model took at least c l for
    senior ones, so there are at most S / (c l) of these, each with one load; one that leaves none is the model's last
    before it, and costs a load, a cap of c L for younger works, and one work that began in it.
    """

    def __init__(self, devices: Sequence[Device], settings: SchedulerSettings | None = None) -> None:
        """`devices` in order of preference; a name twice is a `ValueError`."""
        self._board = Board(settings or SchedulerSettings())
        self._windows: list[float] = []
        for device in devices:
            self.added(device, now=0.0)

    def submit(self, works: Sequence[Work], *, now: float) -> list[str]:
        """Works that wait from now on. Offline: a whole wave at once; online: as they come.

        Returns the ids of those that no device can hold, even empty: they do not wait, and are the caller's to fail.
        An id that waits or runs already is a `ValueError`. Of one model's works the latest footprint counts.
        """
        board = self._board
        refused = []
        for work in works:
            if work.id in board.tickets or work.id in board.running:
                raise ValueError(f"work {work.id!r} was submitted already; give each work an id of its own")
            if not board.possible(work.footprint):
                refused.append(work.id)
                continue
            board.wait(work)
            if board.settings.window_s > 0:
                heapq.heappush(self._windows, work.arrived_s + board.settings.window_s)
        return refused

    def withdraw(self, work_id: str, *, now: float) -> None:
        """A waiting work that nobody wants any more; one that runs is `finished` instead. Unknown ids are ignored."""
        ticket = self._board.tickets.get(work_id)
        if ticket is not None:
            self._board.drop(ticket)

    def actions(self, now: float) -> list[Action]:
        """What is to be begun now, in order; each is handed out once and counts as begun from then on."""
        board = self._board
        find_homes(board, now)
        found: list[Action] = []
        for place in board.places.values():
            found += Turn(board, place, now).starts()
        for place in board.places.values():
            if take_over(board, place, now):
                found += Turn(board, place, now).starts()
            found += Turn(board, place, now).changes()
        return found

    def next_check_s(self, now: float) -> float | None:
        """In how many seconds from now `actions` may have something new though nothing was reported (a window ends);
        None where only a report can. Positive; asked after `actions(now)`."""
        while self._windows and self._windows[0] <= now:
            heapq.heappop(self._windows)
        return self._windows[0] - now if self._windows and self._board.queues else None

    def loaded(self, device: str, model: str, *, now: float) -> None:
        """A `Load` is done."""
        place = self._board.places[device]
        place.there[model].stage = Stage.READY
        place.there[model].used_s = now
        place.asleep.pop(model, None)

    def load_failed(self, device: str, model: str, *, now: float) -> list[str]:
        """A `Load` failed; returns the works that wait for that model and can run on no other device: they are
        withdrawn here, for the caller to fail.

        The model is not loaded on this device again while works wait for it; once none waits it may be tried anew.
        """
        place = self._board.places[device]
        if model in self._board.queues:
            place.barred.add(model)
        self._gone(place, model)
        if model in self._board.queues:
            self._board.leave(model, place)
        return self._board.stranded(model)

    def released(self, device: str, model: str, *, now: float) -> None:
        """A `Release` is done; the memory counts as free from now on."""
        place = self._board.places[device]
        residency = place.there.pop(model)
        if residency.sleeps:
            place.asleep[model] = residency.footprint

    def finished(self, work_id: str, *, now: float) -> None:
        """A started work ended, well or badly. One that waits again after its device was lost waits no more."""
        if work_id in self._board.tickets:
            self.withdraw(work_id, now=now)
            return
        place, work = self._board.running.pop(work_id)
        residency = place.there.get(work.footprint.model)
        if residency is not None:
            residency.running.pop(work_id, None)

    def crashed(self, device: str, model: str, *, now: float) -> None:
        """A resident or sleeping model is gone from its device by itself; its started works are reported as
        `finished`."""
        self._gone(self._board.places[device], model)

    def lost(self, device: str, *, now: float) -> list[str]:
        """A device is gone with all on it. Its started works wait again (at the front, once each); returns those that
        no device is left for, withdrawn here. An unknown device is ignored."""
        board = self._board
        place = board.places.pop(device, None)
        if place is None:
            return []
        for model in list(board.queues):
            board.leave(model, place)
        for work_id, (where, work) in list(board.running.items()):
            if where is place:
                del board.running[work_id]
                board.wait(work, is_front=True)
        return [work_id for model in list(board.queues) for work_id in board.stranded(model)]

    def added(self, device: Device, *, now: float) -> None:
        """A further device, also one that was lost and is back, empty."""
        if device.name in self._board.places:
            raise ValueError(f"device {device.name!r} is there already; give each device a name of its own")
        self._board.places[device.name] = Place(device)
        self._board.version += 1

    def _gone(self, place: Place, model: str) -> None:
        """The model is on the device no more; its waiting works go to the agenda, for a load."""
        self._board.version += 1
        place.there.pop(model, None)
        place.asleep.pop(model, None)
        if place.visiting == model:
            self._board.end_visit(place)
