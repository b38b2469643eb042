"""Two processes for the bench of streaming: a made-up upstream that says when it said what, and the app over it.

Every delta that the upstream streams is its own clock (`time.monotonic`, one clock for all processes of a machine) as
text, so whoever reads it last knows how long it was under way.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from aiohttp import web

from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.config import DispatchConfig, EngineConfig, PartConfig
from router_service.http.base import EngineLike
from router_service.http.server import DoorServer
from router_service.http.settings import ServerSettings
from router_service.types import Expert, ExpertLimits, Prices

__all__ = ["Scene", "SceneExpert", "app_process", "config_of", "pool_of", "upstream_process"]

_START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneExpert:
    """What one made-up expert says, and after how many seconds."""

    id: str
    says: str
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The panel. Where an LLM aggregator writes, its first expert does: `deltas` pieces, one each `pause_s` seconds."""

    experts: tuple[SceneExpert, ...]
    aggregator: str = "majority"
    deltas: int = 20
    pause_s: float = 0.01
    stops_early: bool = True


def pool_of(scene: Scene, address: str) -> Pool:
    """The scene's experts, behind the upstream; free, so that nobody counts money."""
    ids = [expert.id for expert in scene.experts]
    free = Prices(input_usd_per_mtok=0.0, output_usd_per_mtok=0.0)
    limits = ExpertLimits(max_concurrency=256)
    return Pool(
        name="bench of streaming",
        experts=tuple(
            Expert(id=i, model=i, backend="openai", address=address, prices=free, limits=limits) for i in ids
        ),
    )


def config_of(scene: Scene) -> EngineConfig:
    """Everybody is asked; nothing is annotated."""
    writes = scene.aggregator != "majority"
    return EngineConfig(
        annotator=PartConfig(name="blank"),
        recruiter=PartConfig(name="all"),
        aggregator=PartConfig(name=scene.aggregator, options={"expert": scene.experts[0].id} if writes else {}),
        dispatch=DispatchConfig(stops_early=scene.stops_early),
    )


@contextmanager
def upstream_process(scene: Scene) -> Iterator[str]:
    """The upstream in a process of its own; its address, `/stats` beside it says what became of the calls."""
    with _process(_run_upstream, scene) as port:
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def app_process(scene: Scene, address: str) -> Iterator[str]:
    """The app under uvicorn in a process of its own; its address."""
    with _process(_run_app, scene, address) as port:
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def _process(target: Any, *arguments: object) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments), daemon=True)
    process.start()
    try:
        if not here.poll(_START_S):
            raise TimeoutError(f"a process of the bench did not start within {_START_S:g} s")
        yield here.recv()
    finally:
        process.terminate()
        process.join()


# --- the app -------------------------------------------------------------------------------------------------------


class _Announced(DoorServer):
    """Says its port once it listens."""

    def __init__(self, engine: EngineLike, connection: Connection) -> None:
        super().__init__(engine, ServerSettings(port=0, log_level="critical", shutdown_grace_s=0.5))
        self._connection = connection

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._connection.send(self.port)


def _run_app(connection: Connection, scene: Scene, address: str) -> None:
    engine = build_engine(config_of(scene), pool=pool_of(scene, address))
    _Announced(engine, connection).run()


# --- the upstream --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Upstream:
    """Answers chat completions as the scene says, and counts what was asked, finished and dropped, by model."""

    scene: Scene
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = str(body["model"])
        self._count(model, "asked")
        try:
            response = await (self._stream(request, model) if body.get("stream") else self._whole(model))
        except (asyncio.CancelledError, ConnectionError):
            self._count(model, "dropped")
            raise
        self._count(model, "finished")
        return response

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.counts)

    async def _whole(self, model: str) -> web.Response:
        expert = next(expert for expert in self.scene.experts if expert.id == model)
        await asyncio.sleep(expert.delay_s)
        return web.json_response(_reply(model, expert.says))

    async def _stream(self, request: web.Request, model: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(self.scene.deltas):
            await asyncio.sleep(self.scene.pause_s)
            await _say(response, _chunk(model, {"content": f"{time.monotonic():.6f} "}))
        await _say(response, _chunk(model, {}, "stop"))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _count(self, model: str, what: str) -> None:
        counts = self.counts.setdefault(model, {"asked": 0, "finished": 0, "dropped": 0})
        counts[what] += 1


def _run_upstream(connection: Connection, scene: Scene) -> None:
    upstream = _Upstream(scene)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.chat)
    app.router.add_get("/v1/stats", upstream.stats)

    async def serve() -> None:
        runner = web.AppRunner(app, handler_cancellation=True)  # a caller that leaves ends the work, as in real servers
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        connection.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(serve())


async def _say(response: web.StreamResponse, data: Mapping[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(data).encode() + b"\n\n")


def _reply(model: str, text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}


def _chunk(model: str, delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
