"""The engines that are resident: started, put to sleep, woken and stopped, each with what was learned of its model."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from router_service.backends._engine_process import EngineGone, EngineProcess, Line
from router_service.backends._vllm_options import Adapters

__all__ = ["Engine", "EngineFailed", "Engines", "Learned", "Start", "failure_of"]

_SPEED_FROM_S: Final = 1.0
"""Seconds at work before a model's speed is believed."""
_TOLD: Final = 800
_OUT_OF_MEMORY: Final = re.compile(
    r"out ?of ?memory|cannot allocate memory|MemoryError|std::bad_alloc|No available memory|"
    r"memory on node .* is less than|less than desired|larger than the available KV cache",
    re.IGNORECASE,
)
_SIGKILL: Final = -9

Word = dict[str, Any]


class EngineFailed(Exception):
    """An engine could not be brought up or ended by itself; the message says why, in the engine's last words."""

    def __init__(self, message: str, *, is_retryable: bool) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What it takes to start the engine of a model on a device, and the adapters that it will have room for."""

    model: str
    device: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    order: Word
    adapters: Adapters


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
class Engine:
    """One engine process that is ready: its model and device, what it can do, and who is using it now."""

    model: str
    device: str
    process: EngineProcess
    sleeps: bool
    takes: Adapters
    can_score: bool
    learned: Learned
    is_asleep: bool = False
    users: int = 0
    adapters: dict[str, int] = field(default_factory=dict)
    work_began_s: float = 0.0

    def adapter_word(self, adapter: str | None) -> Word | None:
        """How the process is told of an adapter: its folder, and its number in this engine."""
        if adapter is None:
            return None
        number = self.adapters.setdefault(adapter, len(self.adapters) + 1)
        return {"number": number, "path": adapter}

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


class Engines:
    """All engines of one backend by model and device; models and devices are names here."""

    def __init__(self, *, load_timeout_s: float, silence_s: float) -> None:
        self._load_timeout_s = load_timeout_s
        self._silence_s = silence_s
        self._engines: dict[tuple[str, str], Engine] = {}
        self._starting: set[EngineProcess] = set()
        self._learned: dict[str, Learned] = {}

    def learned(self, model: str) -> Learned:
        """What was seen of a model so far."""
        return self._learned.setdefault(model, Learned())

    def find(self, model: str, *, device: str | None = None) -> Engine | None:
        """The live engine of a model on that device, or on any (one that is awake first)."""
        found = [e for e in self.on(device) if e.model == model]
        return min(found, key=lambda engine: engine.is_asleep, default=None)

    def on(self, device: str | None) -> list[Engine]:
        """The live engines on a device (None: on all)."""
        self._engines = {key: engine for key, engine in self._engines.items() if engine.process.is_alive}
        return [engine for engine in self._engines.values() if device in (None, engine.device)]

    async def start(self, start: Start) -> Engine:
        """A new engine, ready for work; raises `EngineFailed`. Cancelled, it leaves no process behind."""
        began_s = time.monotonic()
        process = EngineProcess(start.command, environment=start.environment, silence_s=self._silence_s)
        self._starting.add(process)
        try:
            async with asyncio.timeout(self._load_timeout_s):
                with process.line() as line:
                    ready = await _reply(line, start.order)
        except TimeoutError:
            fault = f"it was not ready after {self._load_timeout_s:g} s (option load_timeout_s)"
            raise failure_of(await process.kill(fault)) from None
        except BaseException:
            await process.kill()
            raise
        finally:
            self._starting.discard(process)
        process.is_patient = False
        learned = self.learned(start.model)
        learned.load_s, learned.sleeps = time.monotonic() - began_s, ready["sleeps"]
        engine = Engine(
            model=start.model,
            device=start.device,
            process=process,
            sleeps=ready["sleeps"],
            takes=start.adapters,
            can_score=not start.adapters.count or not (ready["ignored"] or "lm_head" in start.adapters.targets),
            learned=learned,
        )
        self._engines[start.model, start.device] = engine
        return engine

    async def wake(self, engine: Engine) -> None:
        """Bring a sleeping engine back; raises `EngineFailed`, and then it is gone."""
        began_s = time.monotonic()
        await self._tell(engine, "wake")
        engine.is_asleep = False
        engine.learned.wake_s = time.monotonic() - began_s

    async def release(self, engine: Engine, *, sleeps: bool) -> None:
        """Free an engine's memory on its device: asleep where it can, else gone. Never raises for a broken one."""
        if sleeps and engine.sleeps and not engine.is_asleep:
            try:
                await self._tell(engine, "sleep")
                engine.is_asleep = True
                return
            except EngineFailed:
                pass  # it is gone, and its memory with it
        elif not (sleeps and engine.is_asleep):
            await self.stop(engine)

    async def stop(self, engine: Engine) -> None:
        """End an engine; returns when its process is gone."""
        self._engines.pop((engine.model, engine.device), None)
        await engine.process.stop()

    async def aclose(self) -> None:
        """End all engines, those that are being started too."""
        engines, self._engines = tuple(self._engines.values()), {}
        starting = (process.kill() for process in tuple(self._starting))
        await asyncio.gather(*starting, *(engine.process.stop() for engine in engines))

    async def _tell(self, engine: Engine, op: str) -> None:
        try:
            async with asyncio.timeout(self._load_timeout_s):
                with engine.process.line() as line:
                    await _reply(line, {"op": op})
        except (EngineFailed, TimeoutError) as failed:
            await engine.process.kill()
            self._engines.pop((engine.model, engine.device), None)
            raise EngineFailed(f"it did not {op}: {failed or 'no answer'}", is_retryable=True) from failed


async def _reply(line: Line, order: Word) -> Word:
    """The one answer to an order; raises `EngineFailed` where it is a refusal, or none can come."""
    line.say(**order, id=0)
    try:
        word = await line.hear()
    except EngineGone as gone:
        raise failure_of(gone) from gone
    if word["op"] == "failed":
        raise _failed(str(word["message"]), is_retryable=False)
    return word


def failure_of(gone: EngineGone) -> EngineFailed:
    """What the end of an engine process means, with its last words."""
    reason = gone.reason
    if gone.status == _SIGKILL and reason.startswith("it was killed by signal"):
        reason += ", as the system does where memory runs out"
    last_words = gone.tail[-_TOLD:]
    return _failed(f"{reason}; its last words:\n{last_words}" if last_words else reason, is_retryable=True)


def _failed(message: str, *, is_retryable: bool) -> EngineFailed:
    if _OUT_OF_MEMORY.search(message):
        message += (
            "\nThere was too little memory: lower kv_cache_gib, gpu_memory_utilization, max_model_len or max_num_seqs, "
            "use a smaller or quantised model, or spread it over more GPUs (tensor_parallel_size)"
        )
    return EngineFailed(message, is_retryable=is_retryable)
