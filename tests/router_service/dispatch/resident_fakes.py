"""A fake engine with devices: it loads, answers, crashes and loses devices as told, and notes whatever must not be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from router_service.backends.base import Device, DeviceLost, Footprint, ResidentBackend
from router_service.dispatch.planner import keys_of
from router_service.errors import ExpertUnavailable
from router_service.types import Completion, Expert, ExpertBatch, TokenDelta
from tests.router_service.dispatch.fakes import said

GIB = 8.0
"""What a device of the fake holds, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Chances of each thing that can go wrong, drawn from `seed`; `steps` is how many turns of the event loop anything
    takes at most."""

    seed: int = 0
    load_fails: float = 0.0
    load_loses: float = 0.0
    crashes: float = 0.0
    loses: float = 0.0
    comes_back: float = 0.0
    refuses: float = 0.0
    steps: int = 3


@dataclass
class Place:
    """One model on one device: loading or loaded, and the calls that run on it."""

    footprint: Footprint
    is_ready: bool = False
    running: list[str] = field(default_factory=list)
    gone: Exception | None = None


class ResidentFake(ResidentBackend):
    """Experts are named by one letter; `footprints` says what each takes. `violations` must stay empty.

    `gate`, where given, is waited for by every load; `hold` by every call before its first completion.
    """

    def __init__(
        self,
        footprints: Mapping[str, Footprint],
        devices: Sequence[Device] = (Device(name="gpu0", memory_gib=GIB),),
        faults: Faults | None = None,
    ) -> None:
        self.footprints = dict(footprints)
        self.all_devices = {device.name: device for device in devices}
        self.there = dict(self.all_devices)
        self.faults = faults or Faults()
        self.places: dict[tuple[str, str], Place] = {}
        self.dead: dict[tuple[str, str], Exception] = {}
        self.loads: list[tuple[str, str]] = []
        self.calls: list[ExpertBatch] = []
        self.delivered: list[tuple[str, str, int]] = []
        self.most_at_once: dict[str, int] = {}
        self.violations: list[str] = []
        self.gate: asyncio.Event | None = None
        self.hold: asyncio.Event | None = None
        self.on_load: Callable[[Expert, str], None] = lambda expert, device: None
        self.on_call: Callable[[Expert, ExpertBatch], None] = lambda expert, batch: None
        self.open = 0
        self.is_closed = False
        self._random = random.Random(self.faults.seed)

    def devices(self) -> tuple[Device, ...]:
        for name in self.all_devices:
            if name not in self.there and self._happens(self.faults.comes_back):
                self.there[name] = self.all_devices[name]
        return tuple(self.there.values())

    def footprint(self, expert: Expert) -> Footprint:
        return self.footprints[expert.id]

    async def load(self, expert: Expert, *, device: str) -> None:
        footprint = self.footprint(expert)
        at = (device, footprint.model)
        if device not in self.there:
            raise DeviceLost(device, "not there")
        if at in self.places:
            self._note(f"{footprint.model} is loaded on {device}, where it is already")
        place = self.places[at] = Place(footprint)
        self.dead.pop(at, None)
        self.loads.append(at)
        self._check_memory(device)
        try:
            await self._steps()
            if self.gate is not None:
                await self.gate.wait()
            self.on_load(expert, device)
            if self._happens(self.faults.load_loses):
                self.lose(device)
            if place.gone is not None:
                raise place.gone
            if self._happens(self.faults.load_fails):
                raise ExpertUnavailable("out of memory", expert_id=expert.id, retryable=self._happens(0.5))
        except BaseException:
            if self.places.get(at) is place:
                del self.places[at]
            raise
        place.is_ready = True

    async def release(self, model: str, *, device: str, sleeps: bool = False) -> None:
        place = self.places.get((device, model))
        if place is not None and place.running:
            self._note(f"{model} is taken from {device} under {place.running}")
        await self._steps()
        if self.places.get((device, model)) is place:
            self.places.pop((device, model), None)

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        self.calls.append(batch)
        footprint = self.footprint(expert)
        at = (str(batch.device), footprint.model)
        place = self.places.get(at)
        if batch.device not in self.there:
            raise DeviceLost(str(batch.device), "not there")
        if at in self.dead:
            raise self.dead[at]
        if place is None or not place.is_ready:
            self._note(f"{expert.id} runs on {batch.device} without its model")
            return
        self._enter(place, footprint, str(batch.device))
        self.open += 1
        try:
            self.on_call(expert, batch)
            if self.hold is not None:
                await self.hold.wait()
            for key in keys_of(batch):
                await self._steps()
                self._break(place, at)
                if place.gone is not None:
                    raise place.gone
                self.delivered.append(key)
                yield said(key, f"{key[1]} on {key[0]} #{key[2]} seed {self._seed(batch, key[0])}")
        finally:
            self.open -= 1
            place.running.remove(footprint.turn)

    async def aclose(self) -> None:
        self.is_closed = True
        self.places.clear()

    def lose(self, device: str) -> None:
        """Take the device away with all on it."""
        self.there.pop(device, None)
        for name, model in [at for at in self.places if at[0] == device]:
            self.places.pop((name, model)).gone = self.dead[name, model] = DeviceLost(device, "its node died")

    def crash(self, device: str, model: str) -> None:
        """Let the model's engine die."""
        place = self.places.pop((device, model), None)
        if place is not None:
            place.gone = self.dead[device, model] = ExpertUnavailable("it died", expert_id="?", retryable=True)

    def _seed(self, batch: ExpertBatch, query_id: str) -> int:
        return next(a.seed for a in batch.assignments if a.query.id == query_id)

    def _break(self, place: Place, at: tuple[str, str]) -> None:
        if place.gone is None and self._happens(self.faults.loses):
            self.lose(at[0])
        elif place.gone is None and self._happens(self.faults.crashes):
            self.crash(*at)
        elif self._happens(self.faults.refuses):
            raise ExpertUnavailable("not today", expert_id="?", retryable=False)

    def _enter(self, place: Place, footprint: Footprint, device: str) -> None:
        place.running.append(footprint.turn)
        self.most_at_once[footprint.model] = max(self.most_at_once.get(footprint.model, 0), len(place.running))
        if len(set(place.running)) > 1:
            self._note(f"turns {set(place.running)} at once on {footprint.model}")
        if len(place.running) > footprint.max_works:
            self._note(f"{len(place.running)} works at once on {footprint.model}")
        computing = [model for (name, model), other in self.places.items() if name == device and other.running]
        if len(computing) > 1:
            self._note(f"{computing} compute at once on {device}")

    def _check_memory(self, device: str) -> None:
        there = [place.footprint for (name, _), place in self.places.items() if name == device]
        about = self.all_devices[device]
        if about.max_models is not None and len(there) > about.max_models:
            self._note(f"{len(there)} models on {device}")
        used = sum(footprint.memory_gib or 0.0 for footprint in there)
        if about.memory_gib is not None and used > about.memory_gib:
            self._note(f"{used} GiB on {device}")

    def _note(self, violation: str) -> None:
        self.violations.append(violation)

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._random.random() < chance

    async def _steps(self) -> None:
        for _ in range(self._random.randint(0, self.faults.steps)):
            await asyncio.sleep(0)


def footprint(
    model: str, *, turn: str | None = None, gib: float | None = 4.0, max_works: int = 1, **fields: float | None
) -> Footprint:
    """A footprint for the fake; its turn is its model's only one unless told otherwise."""
    return Footprint(model=model, turn=turn or model, memory_gib=gib, max_works=max_works, **fields)


def gpus(count: int, gib: float | None = GIB, **fields: int) -> tuple[Device, ...]:
    """So many devices, gpu0 first."""
    return tuple(Device(name=f"gpu{number}", memory_gib=gib, **fields) for number in range(count))
