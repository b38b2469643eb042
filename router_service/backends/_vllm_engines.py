"""The engines of the backend `vllm`: processes that take orders in JSON lines, started, put to sleep and woken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router_service.backends._engine_process import EngineGone, EngineProcess, Line
from router_service.backends._vllm_resident import (
    EngineFailed,
    ResidentEngine,
    ResidentEngines,
    Start,
    engine_failed,
    failure_of,
)

__all__ = ["Engine", "Engines"]

Word = dict[str, Any]


@dataclass(slots=True, kw_only=True, eq=False)
class Engine(ResidentEngine):
    """One engine process that is ready, and the numbers of its adapters by their folders: at most `max_adapters`."""

    process: EngineProcess
    can_score: bool
    max_adapters: int | None
    adapters: dict[str, int] = field(default_factory=dict)

    def has_place_for(self, adapter: str | None) -> bool:
        """True where the adapter is known there, or can still be."""
        is_known = adapter is None or adapter in self.adapters
        return is_known or self.max_adapters is None or len(self.adapters) < self.max_adapters

    def adapter_word(self, adapter: str | None) -> Word | None:
        """How the process is told of an adapter: its folder, and its number in this engine."""
        if adapter is None:
            return None
        number = self.adapters.setdefault(adapter, len(self.adapters) + 1)
        return {"number": number, "path": adapter}


class Engines(ResidentEngines[Engine]):
    """All engine processes of one backend."""

    def __init__(self, *, load_timeout_s: float, silence_s: float) -> None:
        super().__init__()
        self._load_timeout_s = load_timeout_s
        self._silence_s = silence_s

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
        engine = Engine(
            model=start.model,
            device=start.device,
            process=process,
            sleeps=ready["sleeps"],
            takes=start.adapters,
            can_score=not start.adapters.count or not (ready["ignored"] or "lm_head" in start.adapters.targets),
            max_adapters=start.adapters.count if start.is_processor else None,
            learned=self.learned(start.model),
        )
        return self._admit(engine, load_s=time.monotonic() - began_s)

    async def _fall_asleep(self, engine: Engine) -> None:
        await self._tell(engine, "sleep")

    async def _wake_up(self, engine: Engine) -> None:
        await self._tell(engine, "wake")

    async def _tell(self, engine: Engine, op: str) -> None:
        try:
            async with asyncio.timeout(self._load_timeout_s):
                with engine.process.line() as line:
                    await _reply(line, {"op": op})
        except (EngineFailed, TimeoutError) as failed:
            await engine.process.kill()
            self._engines.pop((engine.model, engine.device), None)
            raise EngineFailed(f"it did not {op}: {failed or 'no answer'}", is_retryable=True) from failed


async def _reply(line: Line, order: Mapping[str, Any]) -> Word:
    """The one answer to an order; raises `EngineFailed` where it is a refusal, or none can come."""
    line.say(**order, id=0)
    try:
        word = await line.hear()
    except EngineGone as gone:
        raise failure_of(gone) from gone
    if word["op"] == "failed":
        raise engine_failed(str(word["message"]), is_retryable=False)
    return word
