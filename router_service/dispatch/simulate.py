"""The schedule on made-up time: the same planner as for real engines, and what it is measured against."""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from router_service.backends.base import Device, Footprint
from router_service.dispatch._schedule_place import fits_together
from router_service.dispatch.scheduler import Action, Release, Schedule, SchedulerSettings, Start, Work

__all__ = [
    "DeviceLoss",
    "LoadFailure",
    "SimulationReport",
    "Span",
    "first_come_first_served",
    "per_question",
    "simulate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailure:
    """The first `times` loads of a model on a device fail, each after its full load time."""

    device: str
    model: str
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLoss:
    """A device is gone at a time, and back (empty) at another one where that is given."""

    device: str
    at_s: float
    back_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that took time on a device: `kind` is load, wake, release or run; `what` the model or the work's id.

    `is_done` is False where it failed or the device was lost meanwhile.
    """

    device: str
    kind: str
    what: str
    begin_s: float
    end_s: float = 0
    is_done: bool = True


@dataclass(slots=True, kw_only=True)
class SimulationReport:
    """What happened. Every work is `finished` or `failed`; `waits_s` are from arrival to the (last) start."""

    makespan_s: float = 0.0
    loads: Counter[str] = field(default_factory=Counter)
    wakes: Counter[str] = field(default_factory=Counter)
    waits_s: dict[str, float] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    timeline: list[Span] = field(default_factory=list)
    events: int = 0
    """Reports made to the schedule, arrivals included."""

    @property
    def load_count(self) -> int:
        """Loads in all, wakes apart."""
        return self.loads.total()

    def device_timeline(self, device: str) -> list[Span]:
        """One device's spans by their begin."""
        return sorted((span for span in self.timeline if span.device == device), key=lambda s: (s.begin_s, s.end_s))


def simulate(
    devices: Sequence[Device],
    works: Sequence[Work],
    settings: SchedulerSettings | None = None,
    *,
    load_failures: Sequence[LoadFailure] = (),
    device_losses: Sequence[DeviceLoss] = (),
    release_s: float = 0,
) -> SimulationReport:
    """Run all works, each submitted at its `arrived_s`, by `Schedule`; loads, wakes and runs take what the works say.

    Times may be whole numbers, and then all of the report's are. A run takes `run_s` whatever runs beside it.
    """
    simulation = _Simulation(Schedule(devices, settings or SchedulerSettings()), works, release_s)
    simulation.failures = Counter({(f.device, f.model): f.times for f in load_failures})
    by_name = {device.name: device for device in devices}
    for loss in device_losses:
        simulation.at(loss.at_s, lambda loss=loss: simulation.lose(loss.device))  # type: ignore[misc]
        if loss.back_s is not None:
            simulation.at(loss.back_s, lambda loss=loss: simulation.add(by_name[loss.device]))  # type: ignore[misc]
    simulation.run()
    return simulation.report


class _Simulation:
    """A clock, what is due when, and the schedule that is told."""

    def __init__(self, schedule: Schedule, works: Sequence[Work], release_s: float) -> None:
        self.schedule = schedule
        self.report = SimulationReport()
        self.failures: Counter[tuple[str, str]] = Counter()
        self.now: float = 0
        self._works = {work.id: work for work in works}
        self._release_s = release_s
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._open: dict[str, dict[Span, int]] = {}
        """Per device, what is under way there, and the number of its end."""
        self._cancelled: set[int] = set()
        arrivals: dict[float, list[Work]] = {}
        for work in works:
            arrivals.setdefault(work.arrived_s, []).append(work)
        for when, arrived in arrivals.items():
            self.at(when, lambda arrived=arrived: self._submit(arrived))  # type: ignore[misc]

    def at(self, when: float, then: Callable[[], None]) -> int:
        """Have something done later; of one time, what was asked for first."""
        self._count += 1
        heapq.heappush(self._due, (when, self._count, then))
        return self._count

    def run(self) -> None:
        """Until nothing is due."""
        while self._due:
            self.now = self._due[0][0]
            while self._due and self._due[0][0] == self.now:
                _, number, then = heapq.heappop(self._due)
                if number not in self._cancelled:
                    self.report.events += 1
                    then()
            for action in self.schedule.actions(self.now):
                self._begin(action)
            wait_s = self.schedule.next_check_s(self.now)
            if wait_s is not None:
                self.at(self.now + wait_s, lambda: None)

    def lose(self, device: str) -> None:
        """The device is gone with all that is under way there."""
        for span, number in self._open.pop(device, {}).items():
            self._cancelled.add(number)
            self.report.timeline.append(replace(span, end_s=self.now, is_done=False))
        self.report.failed += self.schedule.lost(device, now=self.now)

    def add(self, device: Device) -> None:
        """A device is there (again)."""
        self.schedule.added(device, now=self.now)

    def _submit(self, works: Sequence[Work]) -> None:
        self.report.failed += self.schedule.submit(works, now=self.now)

    def _begin(self, action: Action) -> None:
        if isinstance(action, Start):
            work = self._works[action.work_id]
            self.report.started.append(work.id)
            self.report.waits_s[work.id] = self.now - work.arrived_s
            self._open_span(Span(device=action.device, kind="run", what=work.id, begin_s=self.now), work.run_s)
        elif isinstance(action, Release):
            span = Span(device=action.device, kind="release", what=action.model, begin_s=self.now)
            self._open_span(span, self._release_s)
        else:
            footprint = self._works[action.work_id].footprint
            took_s = footprint.wake_s if action.wakes and footprint.wake_s is not None else footprint.load_s
            kind = "wake" if action.wakes else "load"
            self._open_span(Span(device=action.device, kind=kind, what=action.model, begin_s=self.now), took_s)

    def _open_span(self, span: Span, took_s: float) -> None:
        self._open.setdefault(span.device, {})[span] = self.at(self.now + took_s, lambda: self._end(span))

    def _end(self, span: Span) -> None:
        device, kind, what = span.device, span.kind, span.what
        del self._open[device][span]
        is_failed = kind in ("load", "wake") and self.failures[device, what] > 0
        self.report.timeline.append(replace(span, end_s=self.now, is_done=not is_failed))
        if kind == "run":
            self.report.finished.append(what)
            self.report.makespan_s = self.now
            self.schedule.finished(what, now=self.now)
        elif kind == "release":
            self.schedule.released(device, what, now=self.now)
        elif is_failed:
            self.failures[device, what] -= 1
            self.report.failed += self.schedule.load_failed(device, what, now=self.now)
        else:
            (self.report.loads if kind == "load" else self.report.wakes)[what] += 1
            self.schedule.loaded(device, what, now=self.now)


def first_come_first_served(devices: Sequence[Device], works: Sequence[Work]) -> SimulationReport:
    """The naive server: works in order of arrival, one at a time per device, least recently used models released.

    Each goes to the device that is free first, and of those free when it can begin to one that has its model. Nothing
    is loaded ahead. A work that no device can hold fails.
    """
    report = SimulationReport()
    shelves = [_Shelf(device) for device in devices]
    for work in sorted(works, key=lambda work: work.arrived_s):
        able = [shelf for shelf in shelves if shelf.holds(work.footprint)]
        if not able:
            report.failed.append(work.id)
            continue
        begin_s = max(work.arrived_s, min(shelf.free_s for shelf in able))
        shelf = min(able, key=lambda s: (max(s.free_s, begin_s), work.footprint.model not in s.models))
        shelf.serve(work, report)
    return report


def per_question(devices: Sequence[Device], works: Sequence[Work]) -> SimulationReport:
    """Question after question in the order given: each loads each of its experts, runs it, and keeps none.

    A work answers for the one question of its `queries`; works of one question and model share a load. Questions go to
    the device that is free first.
    """
    report = SimulationReport()
    shelves = [_Shelf(device) for device in devices]
    questions: dict[str, list[Work]] = {}
    for work in works:
        questions.setdefault(next(iter(work.queries), work.id), []).append(work)
    for asked in questions.values():
        shelf = min(shelves, key=lambda shelf: shelf.free_s)
        for model in dict.fromkeys(work.footprint.model for work in asked):
            shelf.models.clear()
            for work in asked:
                if work.footprint.model == model:
                    shelf.serve(work, report)
    return report


class _Shelf:
    """A device of a naive server: its models, least recently used first, and when it is free."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.free_s: float = 0
        self.models: OrderedDict[str, Footprint] = OrderedDict()

    def holds(self, footprint: Footprint) -> bool:
        """Whether the model fits when alone."""
        return fits_together(self.device, [footprint])

    def make_room(self, footprint: Footprint) -> None:
        """Release the least recently used models until the wanted one fits."""
        while not fits_together(self.device, [*self.models.values(), footprint]):
            self.models.popitem(last=False)

    def serve(self, work: Work, report: SimulationReport) -> None:
        """Load the work's model where it is not there, and run it, once the device is free and the work has come."""
        footprint, name = work.footprint, self.device.name
        begin_s = max(self.free_s, work.arrived_s)
        if footprint.model not in self.models:
            self.make_room(footprint)
            loaded_s = begin_s + footprint.load_s
            span = Span(device=name, kind="load", what=footprint.model, begin_s=begin_s, end_s=loaded_s)
            report.timeline.append(span)
            report.loads[footprint.model] += 1
            begin_s = loaded_s
        self.models[footprint.model] = footprint
        self.models.move_to_end(footprint.model)
        self.free_s = begin_s + work.run_s
        report.timeline.append(Span(device=name, kind="run", what=work.id, begin_s=begin_s, end_s=self.free_s))
        report.started.append(work.id)
        report.finished.append(work.id)
        report.waits_s[work.id] = begin_s - work.arrived_s
        report.makespan_s = max(report.makespan_s, self.free_s)
