"""What is on one device (models coming, there, going and asleep, the memory they take, what runs) and its agenda."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterator, Sequence
from enum import Enum, auto

from router_service.backends.base import Device, Footprint
from router_service.dispatch._schedule_queue import Ticket
from router_service.dispatch._schedule_types import Work

__all__ = ["Place", "Residency", "Stage", "fits_together"]

_ROUNDING_GIB = 1e-9


class Stage(Enum):
    """Where a model that takes memory stands; asleep it takes none."""

    LOADING = auto()
    READY = auto()
    LEAVING = auto()


class Residency:
    """A model that takes memory on a device."""

    __slots__ = ("due_s", "footprint", "running", "sleeps", "stage", "turn", "turn_began_s", "used_s")

    def __init__(self, footprint: Footprint, *, due_s: float) -> None:
        self.footprint = footprint
        self.stage = Stage.LOADING
        self.running: dict[str, Work] = {}
        self.turn = ""
        self.turn_began_s = 0.0
        self.due_s = due_s
        """When the load, later the running works, should be done."""
        self.used_s = due_s
        """When it was last asked for."""
        self.sleeps = False
        """While it leaves: whether it stays asleep."""


class Place:
    """One device's state. At most one model computes at a time, and at most one is being loaded."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.there: dict[str, Residency] = {}
        self.asleep: dict[str, Footprint] = {}
        self.barred: set[str] = set()
        """Models that could not be loaded here, for as long as works wait for them."""
        self.visiting: str | None = None
        """The model whose turn it is, or was last."""
        self.visit_began_s = 0.0
        self.ranks: dict[str, int] = {}
        """The agenda: models whose works are to run here and whose visit has not begun, by rank."""
        self.order: list[tuple[int, str]] = []
        """The agenda in order; ranks are never equal, so names decide nothing."""
        self.quotas: dict[str, float] = {}
        """Device time after which a model that several devices serve is left to the others."""
        self.ahead_s = 0.0
        """Device time of everything on the agenda and left of the visit, loads included."""
        self.checked = -1
        """The board's version at which nothing was found to take over."""
        self._eldest: list[Ticket] = []

    def plan(self, model: str, rank: int, first: Ticket) -> None:
        """Put a model on the agenda."""
        self.unplan(model)
        self.ranks[model] = rank
        insort(self.order, (rank, model))
        heapq.heappush(self._eldest, first)

    def unplan(self, model: str) -> None:
        """Take a model off the agenda, where it is on it."""
        rank = self.ranks.pop(model, None)
        if rank is not None:
            self.order.remove((rank, model))

    def noted(self, first: Ticket) -> None:
        """An agenda model has a new first ticket."""
        heapq.heappush(self._eldest, first)

    def eldest(self) -> Ticket | None:
        """The oldest ticket known on the agenda; one that waits no more where the model's next is to be `noted`."""
        while self._eldest and self._eldest[0].work.footprint.model not in self.ranks:
            heapq.heappop(self._eldest)
        return self._eldest[0] if self._eldest else None

    def forget_eldest(self) -> None:
        """Drop what `eldest` said."""
        heapq.heappop(self._eldest)

    def holds(self, footprint: Footprint) -> bool:
        """Whether the model fits when it is alone here."""
        return fits_together(self.device, [footprint])

    def has_room(self, footprint: Footprint, *, without: Sequence[str] = ()) -> bool:
        """Whether the model fits beside what is here, coming and going, but for those in `without`."""
        others = [residency.footprint for model, residency in self.there.items() if model not in without]
        return fits_together(self.device, [*others, footprint])

    def cost_s(self, footprint: Footprint) -> float:
        """Seconds until the model could compute here, were there room."""
        residency = self.there.get(footprint.model)
        if residency is not None and residency.stage is not Stage.LEAVING:
            return 0.0
        if footprint.wake_s is not None and (footprint.model in self.asleep or (residency and residency.sleeps)):
            return footprint.wake_s
        return footprint.load_s

    def is_ready(self, model: str) -> bool:
        """Whether a work of the model could run here."""
        residency = self.there.get(model)
        return residency is not None and residency.stage is Stage.READY

    @property
    def computing(self) -> Residency | None:
        """The model that has running works."""
        return next((residency for residency in self.there.values() if residency.running), None)

    def staged(self, stage: Stage) -> Iterator[str]:
        """The models at a stage."""
        return (model for model, residency in self.there.items() if residency.stage is stage)

    def busy_s(self, now: float) -> float:
        """Seconds until what runs, or is being loaded while nothing runs, should be done."""
        computing = self.computing
        dues = [r.due_s for r in self.there.values() if r.stage is Stage.LOADING] if computing is None else []
        return max(0.0, (computing.due_s if computing else max(dues, default=now)) - now)


def fits_together(device: Device, footprints: Sequence[Footprint]) -> bool:
    """Whether several models may be on a device at once. A device of unknown size goes by `max_models` alone, and holds
    one without it; on any other a model of unknown size is alone."""
    count = len(footprints)
    if device.max_models is not None and count > device.max_models:
        return False
    if device.memory_gib is None:
        return count <= 1 or device.max_models is not None
    sizes = [footprint.memory_gib for footprint in footprints]
    known_gib = sum(size for size in sizes if size is not None)
    if count > 1 and None in sizes:
        return False
    return known_gib <= device.memory_gib + _ROUNDING_GIB
