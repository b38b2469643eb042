"""What no schedule can beat: lower bounds of a wave's makespan, and the longest wait the fairness rule allows."""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from router_service.backends.base import Device
from router_service.dispatch.scheduler import SchedulerSettings, Work

__all__ = ["longest_waits_s", "lower_bound_s"]

_STEPS = 60


@dataclass(slots=True)
class _Model:
    load_s: float
    run_s: float = 0.0
    shortest_s: float = math.inf
    longest_s: float = 0.0
    gib: float = 0.0
    works_s: list[float] = field(default_factory=list)
    """Run times of the works, shortest first."""
    is_one_by_one: bool = True

    def copies(self, makespan_s: float) -> int:
        """Devices that must load it: on each it runs for at most what its load leaves of the makespan, and so at most
        one work that takes more than half of that."""
        left_s = makespan_s - self.load_s
        if left_s <= 0:
            return 1 << 30
        halves = len(self.works_s) - bisect_right(self.works_s, left_s / 2 + 1e-9) if self.is_one_by_one else 0
        return max(1, math.ceil(self.run_s / left_s - 1e-9), halves)

    def last_runs_s(self, copies: int, devices: int) -> list[float]:
        """What it adds, with so many copies needed, for each device whose last load it is (test 2)."""
        most = min(devices, len(self.works_s))
        if copies > 1:
            return [work_s + (self.load_s if n >= copies else 0.0) for n, work_s in enumerate(self.works_s[:most])]
        again_s = self.load_s / 2 + self.works_s[0]
        return [min(self.run_s, again_s), *[again_s] * (most - 1)]

    def first_loads_s(self, devices: int) -> list[float]:
        """Its load for each device whose first it is (test 3)."""
        return [self.load_s] * min(devices, len(self.works_s))


def lower_bound_s(devices: Sequence[Device], works: Sequence[Work]) -> float:
    """A makespan that no schedule goes below, for works that are all there at time 0 and equal, empty devices.

    What any schedule obeys: a device computes for one model at a time, at most `max_works` works of it; it loads one
    model at a time; a work runs after a load of its model on its device; models on a device fit its memory; works are
    not divided. Let T be its makespan on m devices, and for model f: load l, device time of all works R (run times
    over `max_works`), k the number of devices that run some of f. T is impossible, and the bound larger, where one of
    these fails; each only gets easier as T grows, so bisection finds the least T that passes.

    1. *One model.* f runs on a device only after its load, so at most T - l there: k >= R / (T - l); k >= the number of
       its works longer than (T - l) / 2, of which no two fit (`max_works` 1); and T >= l plus its longest work.
    2. *Loads.* A device loads one model after the other, and then runs what the last load was for: the loads in all
       plus, per device, that last run, are at most m T. A model loaded once in all runs wholly after that load, R; one
       that is loaded again adds a load, and each of its loads is followed by a work of its own. So a device whose last
       load is of a model with k = 1 adds at least min(R, l / 2 + shortest work) once, and l / 2 + shortest work for
       further devices (s such devices cost (s - 1) l + s works, for s > 1 at least s l / 2 + s works); with k > 1, one
       of its k shortest works each, and l more beyond k. The m least of these over all models, none above T (an idle
       device has that to spare), and sum(k l) are at most m T.
    3. *Runs.* No device runs before its first load is done, and a model is the first on no more devices than it has
       works: sum(R) and the m least loads, each as often as its model has works and none above T, are at most m T.
    4. *Memory.* A model takes its memory from the begin of its load to the end of its last run, at least l + R in all
       (all devices): sum(gib (k l + R)) <= m memory T. Of models larger than half the memory no two are on a device
       at once, so their times are disjoint: sum over them of (k l + R) <= m T; likewise for all models where no two
       fit together, which is then sum(load + run) / devices.
    5. *Pigeonholes, loads.* Among any models whose copies are n in all, some device has at least c = ceil(n / m)
       different ones and loads them one after the other: T >= the c shortest of their loads + the shortest work
       (where no two fit together: the c least sums of load and shortest work). Tried for the j longest, every j.
    6. *Pigeonholes, works.* With `max_works` 1: of the c m + 1 longest works some device runs c + 1:
       T >= shortest load + the c + 1 shortest of these.
    """
    models = list(_models(works).values())
    if not models:
        return 0.0
    bound = _Bound(devices, models)
    low = max(bound.longest_chain_s(), _packed_works_s(len(devices), works, min(m.load_s for m in models)))
    if bound.is_possible(low):
        return low
    high = low
    while not bound.is_possible(high):
        low, high = high, 2 * high + 1e-9
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if bound.is_possible(middle) else (middle, high)
    return low


def _models(works: Iterable[Work]) -> dict[str, _Model]:
    found: dict[str, _Model] = {}
    for work in works:
        footprint = work.footprint
        model = found.setdefault(footprint.model, _Model(footprint.load_s, gib=footprint.memory_gib or 0.0))
        model.run_s += work.run_s / max(1, footprint.max_works)
        model.shortest_s = min(model.shortest_s, work.run_s)
        model.longest_s = max(model.longest_s, work.run_s)
        model.works_s.append(work.run_s)
        model.is_one_by_one = model.is_one_by_one and footprint.max_works <= 1
    for model in found.values():
        model.works_s.sort()
    return found


class _Bound:
    """The tests of `lower_bound_s` for one wave."""

    def __init__(self, devices: Sequence[Device], models: Sequence[_Model]) -> None:
        self.devices = len(devices)
        self.models = sorted(models, key=lambda model: -model.load_s)
        memories = {device.memory_gib for device in devices}
        if len(memories) != 1 or None in memories:
            raise ValueError("the bound is for equal devices of known memory")
        self.memory_gib = float(next(iter(memories)) or 0.0)
        self.large = [model for model in models if model.gib > self.memory_gib / 2 + 1e-6]
        smallest = sorted(model.gib for model in models)[:2]
        limits = [device.max_models for device in devices]
        self.is_alone = sum(smallest) > self.memory_gib + 1e-6 or len(models) == 1 or limits == [1] * len(limits)
        self.shortest_s = min(model.shortest_s for model in models)

    def longest_chain_s(self) -> float:
        """A load and the longest work after it."""
        return max(model.load_s + model.longest_s for model in self.models)

    def is_possible(self, makespan_s: float) -> bool:
        """Whether no test shows that the makespan cannot be."""
        copies = [model.copies(makespan_s) for model in self.models]
        if max(copies) > self.devices:
            return False
        room_s = self.devices * makespan_s * (1 + 1e-12)
        counted = list(zip(copies, self.models, strict=True))
        loads_s = sum(c * m.load_s for c, m in counted)
        runs_s = sum(m.run_s for m in self.models)
        area = sum(m.gib * (c * m.load_s + m.run_s) for c, m in counted)
        alone = self.models if self.is_alone else self.large
        is_alone = {id(model) for model in alone}
        alone_s = sum(c * m.load_s + m.run_s for c, m in counted if id(m) in is_alone)
        return (
            loads_s + self._least_s(makespan_s, (m.last_runs_s(c, self.devices) for c, m in counted)) <= room_s
            and runs_s + self._least_s(makespan_s, (m.first_loads_s(self.devices) for m in self.models)) <= room_s
            and area <= self.memory_gib * room_s
            and alone_s <= room_s
            and self._pigeonholes_s(copies) <= makespan_s * (1 + 1e-12)
        )

    def _least_s(self, makespan_s: float, times_s: Iterable[list[float]]) -> float:
        """The sum of as many least times as there are devices, none above the makespan."""
        every = (min(time_s, makespan_s) for model_s in times_s for time_s in model_s)
        return sum(heapq.nsmallest(self.devices, every))

    def _pigeonholes_s(self, copies: Sequence[int]) -> float:
        times_s = [m.load_s + (m.shortest_s if self.is_alone else 0.0) for m in self.models]
        longest_first = sorted(zip(times_s, copies, strict=True), reverse=True)
        best_s, total = 0.0, 0
        for number, (_, count) in enumerate(longest_first, start=1):
            total += count
            each = min(number, math.ceil(total / self.devices))
            shortest = [time_s for time_s, _ in longest_first[number - each : number]]
            best_s = max(best_s, sum(shortest) + (0.0 if self.is_alone else self.shortest_s))
        return best_s


def _packed_works_s(devices: int, works: Sequence[Work], shortest_load_s: float) -> float:
    if any(work.footprint.max_works > 1 for work in works):
        return 0.0
    runs = sorted((work.run_s for work in works), reverse=True)
    best_s = 0.0
    for each in range(1, (len(runs) - 1) // devices + 1):
        last = each * devices + 1
        best_s = max(best_s, shortest_load_s + sum(runs[last - each - 1 : last]))
        if each > 64:
            break
    return best_s


def longest_waits_s(
    works: Sequence[Work], ends_s: Mapping[str, float], settings: SchedulerSettings
) -> dict[str, float]:
    """Per work, the longest wait that the fairness rule allows it (`Schedule`), given when the others ended.

    Senior are the works that had not ended when it came and arrived at most `turn_cap` loads of its model later.
    """
    by_arrival = sorted(works, key=lambda work: work.arrived_s)
    arrived = [work.arrived_s for work in by_arrival]
    arrived_run_s = [0.0, *itertools.accumulate(work.run_s for work in by_arrival)]
    by_end = sorted(works, key=lambda work: ends_s[work.id])
    ended = [ends_s[work.id] for work in by_end]
    ended_run_s = [0.0, *itertools.accumulate(work.run_s for work in by_end)]
    models = {work.footprint.model: work.footprint.load_s for work in works}
    longest_load_s, shortest_load_s = max(models.values()), min(models.values())
    longest_run_s = max(work.run_s for work in works)
    found = {}
    for work in works:
        until_s = work.arrived_s + settings.turn_cap * work.footprint.load_s
        came_s = arrived_run_s[bisect_right(arrived, until_s)]
        senior_s = came_s - ended_run_s[bisect_right(ended, work.arrived_s)]
        found[work.id] = (
            settings.window_s
            + (1 + longest_load_s / (settings.turn_cap * shortest_load_s)) * senior_s
            + (len(models) + 1) * ((1 + settings.turn_cap) * longest_load_s + longest_run_s)
        )
    return found
