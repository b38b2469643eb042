"""Resident engines of any kind: which model is on which device, who uses it, and what was learned of it."""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from router_service.backends._engine_process import EngineGone
from router_service.backends._vllm_options import Adapters

__all__ = [
    "EngineFailed",
    "Learned",
    "Process",
    "ResidentEngine",
    "ResidentEngines",
    "Start",
    "engine_failed",
    "failure_of",
]

_SPEED_FROM_S: Final = 1.0
"""Seconds at work before a model's speed is believed."""
_TOLD: Final = 800
_OUT_OF_MEMORY: Final = re.compile(
    r"out ?of ?memory|cannot allocate memory|MemoryError|std::bad_alloc|No available memory|"
    r"memory on node .* is less than|less than desired|larger than the available KV cache",
    re.IGNORECASE,
)
_SIGKILL: Final = -9


class EngineFailed(Exception):
    """An engine could not be brought up or ended by itself; the message says why, in the engine's last words."""

    def __init__(self, message: str, *, is_retryable: bool) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable


class Process(Protocol):
    """What runs an engine: it ends kindly or at once, and with all the memory it holds."""

    @property
    def is_alive(self) -> bool:
        """True until it has ended and nothing of it is left."""

    async def stop(self) -> object:
        """End it; returns when it is gone."""

    async def kill(self) -> object:
        """End it at once; returns when it is gone."""


@dataclass(slots=True, kw_only=True)
class Learned:
    """What was seen of one model: times of its last load and wake, tokens written and seconds at work."""

    load_s: float | None = None
    wake_s: float | None = None
    sleeps: bool | None = None
    tokens: int = 0
    work_s: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of all requests together per second at work; None before there is enough to say."""
        return self.tokens / self.work_s if self.work_s > _SPEED_FROM_S and self.tokens else None


@dataclass(slots=True, kw_only=True, eq=False)
class ResidentEngine:
    """One engine that is ready: its model and device, what it can do, and who is using it now."""

    model: str
    device: str
    process: Process
    sleeps: bool
    takes: Adapters
    learned: Learned
    is_asleep: bool = False
    users: int = 0
    work_began_s: float = 0.0

    def begin_use(self) -> None:
        """Somebody has work in it; it is not to be taken away."""
        if not self.users:
            self.work_began_s = time.monotonic()
        self.users += 1

    def end_use(self) -> None:
        """That work is over."""
        self.users -= 1
        if not self.users:
            self.learned.work_s += time.monotonic() - self.work_began_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What it takes to start the engine of a model on a device: a process of `command` that gets the order, or what
    else can be made of it; the adapters that it will have room for, and the folders of those that are known."""

    model: str
    device: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    order: Mapping[str, Any]
    adapters: Adapters
    folders: tuple[str, ...] = ()
    is_processor: bool = False


E = TypeVar("E", bound=ResidentEngine)


class ResidentEngines(ABC, Generic[E]):
    """All engines of one backend by model and device; models and devices are names here."""

    def __init__(self) -> None:
        self._engines: dict[tuple[str, str], E] = {}
        self._starting: set[Process] = set()
        self._learned: dict[str, Learned] = {}

    def learned(self, model: str) -> Learned:
        """What was seen of a model so far."""
        return self._learned.setdefault(model, Learned())

    def find(self, model: str, *, device: str | None = None) -> E | None:
        """The live engine of a model on that device, or on any (one that is awake first)."""
        found = [e for e in self.on(device) if e.model == model]
        return min(found, key=lambda engine: engine.is_asleep, default=None)

    def on(self, device: str | None) -> list[E]:
        """The live engines on a device (None: on all)."""
        for key, engine in list(self._engines.items()):
            if not engine.process.is_alive:
                del self._engines[key]
                self._dropped(engine)
        return [engine for engine in self._engines.values() if device in (None, engine.device)]

    @abstractmethod
    async def start(self, start: Start) -> E:
        """A new engine, ready for work; raises `EngineFailed`. Cancelled, it leaves no process behind."""

    async def wake(self, engine: E) -> None:
        """Bring a sleeping engine back; raises `EngineFailed`, and then it is gone."""
        began_s = time.monotonic()
        await self._wake_up(engine)
        engine.is_asleep = False
        engine.learned.wake_s = time.monotonic() - began_s

    async def release(self, engine: E, *, sleeps: bool) -> None:
        """Free an engine's memory on its device: asleep where it can, else gone. Never raises for a broken one."""
        if sleeps and engine.sleeps and not engine.is_asleep:
            try:
                await self._fall_asleep(engine)
                engine.is_asleep = True
                return
            except EngineFailed:
                pass  # it is gone, and its memory with it
        elif not (sleeps and engine.is_asleep):
            await self.stop(engine)

    async def stop(self, engine: E) -> None:
        """End an engine; returns when its process is gone."""
        self._engines.pop((engine.model, engine.device), None)
        await engine.process.stop()

    async def aclose(self) -> None:
        """End all engines, those that are being started too."""
        engines, self._engines = tuple(self._engines.values()), {}
        starting = (process.kill() for process in tuple(self._starting))
        await asyncio.gather(*starting, *(engine.process.stop() for engine in engines))

    def _admit(self, engine: E, *, load_s: float) -> E:
        """Take an engine in that took so long to start."""
        engine.learned.load_s, engine.learned.sleeps = load_s, engine.sleeps
        self._engines[engine.model, engine.device] = engine
        return engine

    def _dropped(self, engine: E) -> None:
        """An engine was found to have ended by itself."""

    @abstractmethod
    async def _fall_asleep(self, engine: E) -> None:
        """Free the engine's memory on its device and keep its process; raises `EngineFailed`, and then it is gone."""

    @abstractmethod
    async def _wake_up(self, engine: E) -> None:
        """Undo `_fall_asleep`; raises `EngineFailed`, and then it is gone."""


def failure_of(gone: EngineGone) -> EngineFailed:
    """What the end of an engine process means, with its last words."""
    reason = gone.reason
    if gone.status == _SIGKILL and reason.startswith("it was killed by signal"):
        reason += ", as the system does where memory runs out"
    last_words = gone.tail[-_TOLD:]
    return engine_failed(f"{reason}; its last words:\n{last_words}" if last_words else reason, is_retryable=True)


def engine_failed(message: str, *, is_retryable: bool) -> EngineFailed:
    """The failure, with advice where the engine ran out of memory."""
    if _OUT_OF_MEMORY.search(message):
        message += (
            "\nThere was too little memory: lower kv_cache_gib, gpu_memory_utilization, max_model_len or max_num_seqs, "
            "use a smaller or quantised model, or spread it over more GPUs (tensor_parallel_size)"
        )
    return EngineFailed(message, is_retryable=is_retryable)
