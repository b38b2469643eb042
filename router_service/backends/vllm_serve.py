"""The backend `vllm_serve`: open models in vLLM servers of ours, asked over HTTP by many queries at once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from router_service.backends._engine_process import EngineGone
from router_service.backends._server_calls import ServerCalls
from router_service.backends._server_command import BASE_NAME, ServerTimes
from router_service.backends._server_engines import Server, Servers
from router_service.backends._vllm_backend import EngineBackend, require_positive
from router_service.backends._vllm_bases import adapter_folder
from router_service.backends._vllm_options import vllm_options
from router_service.backends.base import BACKENDS, Footprint
from router_service.errors import ConfigError, ExpertUnavailable
from router_service.types import Completion, Expert, ExpertBatch, Sampling, TokenDelta

__all__ = ["ServerReport", "VllmServe"]

Piece = Completion | TokenDelta

_GRACE_S: Final = 20.0
_RESTART_SPAN_S: Final = 600.0
_SERVER_GIB: Final = 1.3
"""What a server on the processor takes beside what an embedded engine does: two more Python processes with vLLM in them
(0.70 and 0.63 GiB resident, vLLM 0.32)."""
_DEATH_S: Final = 2.0
"""How long the end of a process may take to be known after its connections broke."""
_GREEDY: Final = Sampling(temperature=0.0)
"""As in the embedded engines: where neither query nor expert says a temperature, the likeliest token is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """One server of ours that is up: its model and device, where it listens, its process, whether it sleeps."""

    model: str
    device: str
    address: str
    pid: int | None
    is_asleep: bool


@BACKENDS.register("vllm_serve")
class VllmServe(EngineBackend[Server]):
    """Starts a vLLM server per base model and device, watches and stops it, and asks it as the backend `openai` does:
    each assignment for itself, at most the expert's `limits.max_concurrency` at once. See `EngineBackend` for what an
    expert's entry says.

    An expert with an `address` is behind a server that is there already: that one is asked and otherwise left alone.
    """

    name = "vllm_serve"

    def __init__(
        self,
        *,
        python: str = sys.executable,
        devices: list[dict[str, Any]] | None = None,
        threads: int | None = None,
        load_timeout_s: float = 1800.0,
        probe_s: float = 10.0,
        max_restarts: int = 3,
    ) -> None:
        """`python` is an interpreter that has vLLM (a virtual environment of its own may hold it); `devices` where
        servers can be, `{name, memory_gib, gpus}` each (None: every visible GPU, else the processor); `threads` of a
        server on the processor (None: the cores this process may use). A server has
        `load_timeout_s` to start, is asked for its health every `probe_s`, and is started again after at most
        `max_restarts` deaths within ten minutes."""
        require_positive(self.name, {"threads": threads, "load_timeout_s": load_timeout_s, "probe_s": probe_s})
        if max_restarts < 0:
            raise ConfigError(f"backend {self.name!r}: max_restarts is {max_restarts}; give 0 or more")
        times = ServerTimes(start_s=load_timeout_s, probe_s=probe_s, grace_s=_GRACE_S)
        servers = Servers(times=times, max_restarts=max_restarts, restart_span_s=_RESTART_SPAN_S)
        super().__init__(servers, python=python, devices=devices, threads=threads)
        self._calls = ServerCalls()

    @property
    def servers(self) -> tuple[ServerReport, ...]:
        """The servers of ours that are up now."""
        return tuple(
            ServerReport(
                model=server.model,
                device=server.device,
                address=server.process.address,
                pid=server.process.pid,
                is_asleep=server.is_asleep,
            )
            for server in self._engines.on(None)
        )

    def check(self, expert: Expert) -> None:
        """Raise `ConfigError` where options, address, vLLM, weights or adapter cannot work; loads no weights."""
        if expert.address is None:
            super().check(expert)
        else:
            vllm_options(expert)
            self._calls.check(_as_it_is(expert))

    def resides(self, expert: Expert) -> bool:
        """False for an expert whose server is somewhere else."""
        return expert.address is None

    def footprint(self, expert: Expert) -> Footprint:
        """By the expert's entry and the size of its files, then by what was seen of its model; a server that is
        somewhere else takes nothing here."""
        if expert.address is None:
            embedded = super().footprint(expert)
            if expert.memory_gib is not None or embedded.memory_gib is None or not self._is_on_processor:
                return embedded
            return replace(embedded, memory_gib=embedded.memory_gib + _SERVER_GIB)
        where = f"a server at {expert.address}"
        return Footprint(model=where, turn=where, memory_gib=0.0, load_s=0.0, max_works=1000)

    async def load(self, expert: Expert, *, device: str) -> None:
        """See `ResidentBackend.load`: starts a server and waits until it is ready, or wakes the one that sleeps."""
        if expert.address is None:
            await super().load(expert, device=device)

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Piece]:
        """See `Backend.complete`; without `batch.device` the model is brought to the first device, in place of any
        other there once that is idle. What fails one assignment leaves the others alone, unless the server ended."""
        if expert.address is not None:
            async with aclosing(self._calls.answers(_as_it_is(expert), batch, examine=_nothing)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        async with self._engine_for(expert, batch.device) as server:

            async def examine() -> None:
                await self._examine(expert, server)

            asked = self._calls.answers(_served(expert, server), batch, examine=examine)
            async with aclosing(asked) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Completion):
                        server.learned.tokens += piece.usage.completion_tokens
                    yield piece

    async def aclose(self) -> None:
        """End all servers of ours; a call that was open raises `ExpertUnavailable`."""
        await super().aclose()
        await self._calls.aclose()

    @property
    def _is_on_processor(self) -> bool:
        return any(place.is_processor for place in self._places())

    def _require_room(self, expert: Expert, engine: Server) -> None:
        super()._require_room(expert, engine)
        if (adapter := adapter_folder(expert)) is not None and adapter not in engine.names:
            raise ExpertUnavailable(
                f"the server of expert {expert.id!r} was started before its adapter {adapter} was known; check all "
                "experts of a base before it is loaded",
                expert_id=expert.id,
                retryable=False,
            )

    async def _examine(self, expert: Expert, server: Server) -> None:
        """Raise what it means where the server has ended, or says itself that it can do no more; end it then."""
        process = server.process
        if process.is_alive:
            health = await process.health()
            is_over = health == "broken" or (health == "unreachable" and not await process.ended(_DEATH_S))
            if is_over:
                await process.kill(f"it was {health} when it was asked for its health after a failure, and was ended")
        if not process.is_alive:
            raise await self._lost(expert, server, process.gone or EngineGone("it ended"))


def _served(expert: Expert, server: Server) -> Expert:
    """The expert as the server of ours knows it: by the name of its adapter, at its address, with its key."""
    window = server.process.window
    adapter = adapter_folder(expert)
    limits = [limit for limit in (expert.max_output_tokens, window) if limit is not None]
    return replace(
        expert,
        model=BASE_NAME if adapter is None else server.names[adapter],
        address=server.process.address,
        api_key=server.process.key,
        max_output_tokens=min(limits, default=None),
        sampling=expert.sampling.over(_GREEDY),
        options={"logprobs": True},
    )


def _as_it_is(expert: Expert) -> Expert:
    """The expert for a server that somebody else started: engine options say nothing there."""
    return replace(expert, options={})


async def _nothing() -> None:
    """What becomes of a server that is not ours is for its owner to see."""
