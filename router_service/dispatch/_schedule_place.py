"""What is on one device: models coming, there, going and asleep, the memory they take, and what runs."""

from __future__ import annotations

from enum import Enum, auto

from router_service.backends.base import Device, Footprint
from router_service.dispatch._schedule_types import Work

__all__ = ["Place", "Residency", "Stage"]

_ROUNDING_GIB = 1e-9


class Stage(Enum):
    """Where a model that takes memory stands; asleep it takes none."""

    LOADING = auto()
    READY = auto()
    LEAVING = auto()


class Residency:
    """A model that takes memory on a device."""

    __slots__ = ("footprint", "running", "sleeps", "stage", "turn")

    def __init__(self, footprint: Footprint) -> None:
        self.footprint = footprint
        self.stage = Stage.LOADING
        self.running: dict[str, Work] = {}
        self.turn: str | None = None
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

    def holds(self, footprint: Footprint) -> bool:
        """Whether the model fits when it is alone here."""
        if self.device.max_models is not None and self.device.max_models < 1:
            return False
        limit_gib = self.device.memory_gib
        return limit_gib is None or footprint.memory_gib is None or footprint.memory_gib <= limit_gib + _ROUNDING_GIB

    def has_room(self, footprint: Footprint, *, without: frozenset[str] = frozenset()) -> bool:
        """Whether the model fits beside what is here, coming and going, but for those in `without`."""
        others = [r.footprint for model, r in self.there.items() if model not in without]
        if not others:
            return self.holds(footprint)
        return fits_together(self.device, [*others, footprint])

    def cost_s(self, footprint: Footprint) -> float:
        """Seconds until the model could compute here, were there room."""
        residency = self.there.get(footprint.model)
        if residency is not None and residency.stage is not Stage.LEAVING:
            return 0.0
        if footprint.model in self.asleep and footprint.wake_s is not None:
            return footprint.wake_s
        return footprint.load_s

    def is_ready(self, model: str) -> bool:
        """Whether a work of the model could run here."""
        residency = self.there.get(model)
        return residency is not None and residency.stage is Stage.READY

    @property
    def computing(self) -> str | None:
        """The model that has running works."""
        return next((model for model, residency in self.there.items() if residency.running), None)

    @property
    def loading(self) -> str | None:
        """The model on its way in."""
        return next((model for model, r in self.there.items() if r.stage is Stage.LOADING), None)


def fits_together(device: Device, footprints: list[Footprint]) -> bool:
    """Whether several models may be on a device at once. A device of unknown size without `max_models` holds one; a
    model of unknown size is alone."""
    count = len(footprints)
    if device.max_models is not None and count > device.max_models:
        return False
    if device.memory_gib is None and device.max_models is None:
        return count <= 1
    sizes = [footprint.memory_gib for footprint in footprints]
    known = [size for size in sizes if size is not None]
    if len(known) < count:
        return count <= 1
    return device.memory_gib is None or sum(known) <= device.memory_gib + _ROUNDING_GIB
