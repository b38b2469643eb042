"""The server processes of one backend: started as often as is sensible, put to sleep, woken and stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from router_service.backends._engine_process import EngineGone
from router_service.backends._server_command import ServerTimes, adapter_names, server_order
from router_service.backends._server_process import ServerProcess, free_port, start_server
from router_service.backends._server_restarts import Restarts
from router_service.backends._vllm_resident import EngineFailed, ResidentEngine, ResidentEngines, Start, failure_of

__all__ = ["Server", "Servers"]

_NAP_S: Final = 300.0
"""How long it may take to fall asleep or to wake: the weights of a large model go through the machine's memory."""
_BAD_ARGUMENT: Final = 2
"""Exit status of Python's argument parsers."""

_WAKE_UP: Final = "/wake_up"
_WAKING: Final[Mapping[int, tuple[tuple[str, Mapping[str, Any] | None], ...]]] = {
    1: ((_WAKE_UP, None),),
    2: (
        (f"{_WAKE_UP}?tags=weights", None),
        ("/collective_rpc", {"method": "reload_weights"}),
        (f"{_WAKE_UP}?tags=kv_cache", None),
    ),
}
"""What a server is asked to wake from each level: after the second its weights have to be read again."""


@dataclass(slots=True, kw_only=True, eq=False)
class Server(ResidentEngine):
    """One server that is ready, how deep it sleeps, and the names of its adapters by their folders."""

    process: ServerProcess
    sleep_level: int
    names: Mapping[str, str]


class Servers(ResidentEngines[Server]):
    """All servers of one backend. One that died is started again when its model is next loaded, at most `max_restarts`
    times within `restart_span_s`, after growing pauses."""

    def __init__(
        self,
        *,
        times: ServerTimes,
        max_restarts: int,
        restart_span_s: float,
        find_port: Callable[[], int] = free_port,
    ) -> None:
        super().__init__()
        self._times = times
        self._max_restarts = max_restarts
        self._restart_span_s = restart_span_s
        self._find_port = find_port
        self._restarts: dict[tuple[str, str], Restarts] = {}

    async def start(self, start: Start) -> Server:
        """A new server, ready for work; raises `EngineFailed`. Cancelled, it leaves no process behind."""
        self.on(start.device)  # a death that nobody has seen yet counts
        restarts = self._restarts_of(start.model, start.device)
        if (refusal := restarts.refusal()) is not None:
            raise EngineFailed(refusal, is_retryable=False)
        await asyncio.sleep(restarts.pause_s())
        began_s, level = time.monotonic(), _sleep_level(start)
        try:
            process = await start_server(
                server_order(start, sleeps=level > 0, times=self._times),
                find_port=self._find_port,
                begun=self._starting.add,
            )
        except EngineGone as gone:
            self._note_death(start.model, start.device, gone)
            raise EngineFailed(str(failure_of(gone)), is_retryable=gone.status != _BAD_ARGUMENT) from gone
        finally:
            self._starting = {process for process in self._starting if process.is_alive}
        server = Server(
            model=start.model,
            device=start.device,
            process=process,
            sleeps=level > 0,
            sleep_level=level,
            takes=start.adapters,
            names=adapter_names(start.folders),
            learned=self.learned(start.model),
        )
        self._starting.discard(process)
        return self._admit(server, load_s=time.monotonic() - began_s)

    async def _fall_asleep(self, engine: Server) -> None:
        if not await engine.process.post(f"/sleep?level={engine.sleep_level}", limit_s=_NAP_S):
            await self._give_up(engine, "it did not fall asleep when it was asked to")

    async def _wake_up(self, engine: Server) -> None:
        for path, body in _WAKING[engine.sleep_level]:
            if not await engine.process.post(path, body, limit_s=_NAP_S):
                await self._give_up(engine, "it did not wake up when it was asked to")

    def _dropped(self, engine: Server) -> None:
        if engine.process.gone is not None:
            self._note_death(engine.model, engine.device, engine.process.gone)

    async def _give_up(self, engine: Server, why: str) -> None:
        await engine.process.kill(why)
        raise EngineFailed(why, is_retryable=True)

    def _note_death(self, model: str, device: str, gone: EngineGone) -> None:
        if not gone.was_stopped:
            self._restarts_of(model, device).died(str(failure_of(gone)))

    def _restarts_of(self, model: str, device: str) -> Restarts:
        fresh = Restarts(most=self._max_restarts, span_s=self._restart_span_s)
        return self._restarts.setdefault((model, device), fresh)


def _sleep_level(start: Start) -> int:
    """How deep the server can sleep: not at all on the processor, and at most 1 with adapters, which level 2 would
    leave behind with the weights."""
    level = 0 if start.is_processor else int(start.order["sleep_level"])
    return min(level, 1) if start.folders else level
