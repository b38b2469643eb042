"""What the backends that run vLLM share: devices, checks, footprints, who may use which engine, what its end means."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from router_service.backends._engine_process import EngineGone
from router_service.backends._transformers_files import find_base
from router_service.backends._vllm_bases import Bases
from router_service.backends._vllm_devices import EngineDevice, find_devices, given_devices, visible_gpus
from router_service.backends._vllm_options import (
    Adapters,
    VllmOptions,
    engine_environment,
    engine_order,
    memory_gib,
    model_key,
    vllm_options,
)
from router_service.backends._vllm_python import complaint_about, without_secrets
from router_service.backends._vllm_resident import EngineFailed, ResidentEngine, ResidentEngines, Start, failure_of
from router_service.backends.base import Device, DeviceLost, Footprint, ResidentBackend
from router_service.errors import ConfigError, ExpertUnavailable, RouterError
from router_service.types import Expert

__all__ = ["WORKER", "EngineBackend", "require_positive"]

WORKER: Final = str(Path(__file__).with_name("_vllm_worker.py"))
"""The script that says whether an interpreter has vLLM, and runs it for the backend `vllm`."""


def require_positive(backend: str, options: Mapping[str, float | None]) -> None:
    """Raise `ConfigError` for an option of a backend that is not above 0, unless it is not given at all."""
    for name, value in options.items():
        if value is not None and value <= 0:
            raise ConfigError(f"backend {backend!r}: {name} is {value}; give more than 0")


E = TypeVar("E", bound=ResidentEngine)


@dataclass(slots=True)
class _Turns:
    """What keeps calls of one event loop from loading the same model twice, or one over another that is in use."""

    whole: asyncio.Lock = field(default_factory=asyncio.Lock)
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    by_place: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)


class EngineBackend(ResidentBackend, Generic[E]):
    """Experts that share base and engine options share one engine, each with its own LoRA adapter.

    An expert's `model` (for an adapter expert its `lora_base`) is `builtin:smollm2-135m-instruct`, a folder, or a hub
    id in the local cache; its `adapter` is a folder in PEFT's format; its options are `VllmOptions`.
    """

    name: ClassVar[str]
    """As it is registered."""

    def __init__(
        self,
        engines: ResidentEngines[E],
        *,
        python: str,
        devices: list[dict[str, Any]] | None,
        threads: int | None,
        worker: str = WORKER,
    ) -> None:
        self._engines = engines
        self._python = python
        self._worker = worker
        self._threads = threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        self._given = None if devices is None else given_devices(devices, backend=self.name)
        self._found: tuple[EngineDevice, ...] | None = None
        self._bases = Bases()
        self._complaint: str | None = None
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()

    def check(self, expert: Expert) -> None:
        """Raise `ConfigError` where options, vLLM, weights or adapter cannot work; loads no weights."""
        options = vllm_options(expert)
        self._check_python(expert)
        widest = max((len(place.gpus) for place in self._places() if place.gpus), default=None)
        if widest is not None and options.tensor_parallel_size > widest:
            raise ConfigError(
                f"expert {expert.id!r} is spread over {options.tensor_parallel_size} GPUs (option "
                f"tensor_parallel_size), and no device of the backend {self.name!r} has more than {widest}; name "
                "a group of GPUs in its option devices, as {name: pair, gpus: '0,1'}"
            )
        self._bases.learn(expert, options, folder=find_base(expert, options=options, downloads=False))

    def devices(self) -> tuple[Device, ...]:
        """The devices of the option, else every visible GPU, else the processor."""
        return tuple(Device(name=place.name, memory_gib=place.memory_gib) for place in self._places())

    def footprint(self, expert: Expert) -> Footprint:
        """By the expert's entry and the size of its files, then by what was seen of its model."""
        options, place = vllm_options(expert), next(iter(self._places()), None)
        learned = self._engines.learned(model_key(expert, options))
        return self._bases.footprint(expert, options, place=place, learned=learned)

    async def load(self, expert: Expert, *, device: str) -> None:
        """See `ResidentBackend.load`: starts an engine and waits until it is ready, or wakes the one that sleeps."""
        place = self._place(expert, device)
        async with self._turn_of(model_key(expert, vllm_options(expert)), device):
            await self._bring_up(expert, place)

    async def release(self, model: str, *, device: str, sleeps: bool = False) -> None:
        """See `ResidentBackend.release`: returns when the engine sleeps, or when its process is gone."""
        async with self._turn_of(model, device):
            engine = self._engines.find(model, device=device)
            if engine is not None:
                await self._engines.release(engine, sleeps=sleeps)

    async def aclose(self) -> None:
        """End all engines; a call that was open raises `ExpertUnavailable`."""
        await self._engines.aclose()

    @asynccontextmanager
    async def _engine_for(self, expert: Expert, device: str | None) -> AsyncIterator[E]:
        """The expert's engine, awake and with room for its adapter, kept from being taken away meanwhile."""
        if device is not None:
            engine = self._engines.find(model_key(expert, vllm_options(expert)), device=device)
            if engine is None or engine.is_asleep:
                raise ExpertUnavailable(
                    f"the model of expert {expert.id!r} is not resident on {device!r} (any more); load it again",
                    expert_id=expert.id,
                )
            self._require_room(expert, engine)
            engine.begin_use()
        else:
            engine = await self._take_turn(expert)
        try:
            yield engine
        finally:
            engine.end_use()
            for turns in self._turns.values():
                turns.freed.set()

    async def _take_turn(self, expert: Expert) -> E:
        """The expert's engine wherever it is resident, else on the first device, in use from now on. Others leave that
        device first, when nobody uses them; whoever waits for that goes before those that come later."""
        model, turns = model_key(expert, vllm_options(expert)), self._turns_here()
        engine = self._engines.find(model)
        if engine is None or engine.is_asleep or turns.whole.locked():
            async with turns.whole:
                place = self._first_place(expert)
                while self._engines.find(model) is None and any(e.users for e in self._engines.on(place.name)):
                    turns.freed.clear()
                    await turns.freed.wait()
                if self._engines.find(model) is None:
                    for other in self._engines.on(place.name):
                        await self._engines.stop(other)
                engine = self._engines.find(model)
                if engine is None or engine.is_asleep:
                    place = self._place(expert, engine.device) if engine else place
                    async with self._turn_of(model, place.name):
                        engine = await self._bring_up(expert, place)
        self._require_room(expert, engine)
        engine.begin_use()
        return engine

    # --- bringing up -----------------------------------------------------------------------------------------------

    async def _bring_up(self, expert: Expert, place: EngineDevice) -> E:
        try:
            options = vllm_options(expert)
            engine = self._engines.find(model_key(expert, options), device=place.name)
            if engine is None:
                engine = await self._start(expert, options, place)
            elif engine.is_asleep:
                await self._engines.wake(engine)
        except EngineFailed as failed:
            await self._raise_if_lost(place)
            said = without_secrets(str(failed), expert)
            raise ExpertUnavailable(
                f"expert {expert.id!r} could not be brought up on {place.name!r}: {said}",
                expert_id=expert.id,
                retryable=failed.is_retryable,
            ) from failed
        except ConfigError as wrong:
            raise ExpertUnavailable(wrong.message, expert_id=expert.id, retryable=False) from wrong
        self._require_room(expert, engine)
        return engine

    async def _start(self, expert: Expert, options: VllmOptions, place: EngineDevice) -> E:
        folder = await asyncio.to_thread(find_base, expert, options=options)
        if folder is None:
            raise ConfigError(f"expert {expert.id!r}: its model was not found")
        self._bases.learn(expert, options, folder=folder)
        needed_gib = memory_gib(expert, options, folder=folder, device=place)
        if needed_gib is not None and place.memory_gib is not None and needed_gib > place.memory_gib:
            raise ConfigError(
                f"expert {expert.id!r} takes {needed_gib:.2f} GiB, and the device {place.name!r} has "
                f"{place.memory_gib:.2f}; correct its memory_gib, or use a larger device or a smaller model"
            )
        adapters = self._bases.all_adapters(expert, options)
        start = Start(
            model=model_key(expert, options),
            device=place.name,
            command=(self._python, self._worker),
            environment=engine_environment(
                place, threads=self._threads, python=self._python, own_python=sys.executable
            ),
            order=engine_order(expert, options, folder=folder, device=place, adapters=adapters),
            adapters=adapters,
            folders=self._bases.adapter_folders(expert, options),
            is_processor=place.is_processor,
        )
        return await self._engines.start(start)

    def _require_room(self, expert: Expert, engine: E) -> None:
        """Raise where an engine was started before it was known what adapters it must take."""
        try:
            adapter = self._bases.adapter(expert, vllm_options(expert))
        except ConfigError as wrong:
            raise ExpertUnavailable(wrong.message, expert_id=expert.id, retryable=False) from wrong
        if adapter.rank > engine.takes.max_rank or not adapter.targets <= engine.takes.targets:
            raise ExpertUnavailable(
                f"expert {expert.id!r} has an adapter of rank {adapter.rank} on {_listed(adapter)}, and its engine was "
                f"started for adapters up to rank {engine.takes.max_rank} on {_listed(engine.takes)}, before this one "
                "was known; check all experts of a base before it is loaded",
                expert_id=expert.id,
                retryable=False,
            )

    def _check_python(self, expert: Expert) -> None:
        """Ask the interpreter, once, whether it has what the engine process needs."""
        if self._complaint is None:
            self._complaint = complaint_about(self._python, self._worker)
        if self._complaint:
            raise ConfigError(f"expert {expert.id!r} (backend {self.name!r}): {self._complaint}")

    # --- devices and turns -----------------------------------------------------------------------------------------

    def _places(self) -> tuple[EngineDevice, ...]:
        if self._given is not None:
            return self._given
        if self._found is None:
            self._found = find_devices()
        return self._found

    def _first_place(self, expert: Expert) -> EngineDevice:
        if not self._places():
            raise ExpertUnavailable(
                f"no device is left for expert {expert.id!r}: every GPU that was there is gone", expert_id=expert.id
            )
        return self._places()[0]

    def _place(self, expert: Expert, device: str) -> EngineDevice:
        for place in self._places():
            if place.name == device:
                return place
        names = ", ".join(place.name for place in self._places())
        raise ExpertUnavailable(
            f"expert {expert.id!r} was to be loaded on {device!r}; the devices are {names}",
            expert_id=expert.id,
            retryable=False,
        )

    async def _lost(self, expert: Expert, engine: E, gone: EngineGone) -> RouterError:
        """The error that the end of an engine at work means; raises `DeviceLost` where its device went with it."""
        if gone.was_stopped:
            return ExpertUnavailable(
                f"expert {expert.id!r} was stopped before it had answered: its engine was released; ask again",
                expert_id=expert.id,
            )
        await self._raise_if_lost(self._place(expert, engine.device))
        return ExpertUnavailable(
            f"expert {expert.id!r} lost its engine on {engine.device!r} at work: "
            f"{without_secrets(str(failure_of(gone)), expert)}",
            expert_id=expert.id,
        )

    async def _raise_if_lost(self, place: EngineDevice) -> None:
        """Raise `DeviceLost` where GPUs that were found at first are not there any more."""
        if self._found is None or place.is_processor:
            return
        left = await asyncio.to_thread(visible_gpus)
        if missing := [gpu for gpu in place.gpus if gpu not in left]:
            self._found = tuple(found for found in self._found if found.name != place.name)
            raise DeviceLost(place.name, f"GPU {', '.join(missing)} of the device {place.name!r} is gone")

    def _turns_here(self) -> _Turns:
        return self._turns.setdefault(asyncio.get_running_loop(), _Turns())

    def _turn_of(self, model: str, device: str) -> asyncio.Lock:
        return self._turns_here().by_place.setdefault((model, device), asyncio.Lock())


def _listed(adapters: Adapters) -> str:
    return ", ".join(sorted(adapters.targets)) or "no layer"
