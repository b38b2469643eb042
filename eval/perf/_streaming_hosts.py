"""Two processes for the bench of streaming: a made-up upstream that says when it said what, and the app over it.

Every delta that the upstream streams is its own clock (`time.monotonic`, one clock for all processes of a machine) as
text, so whoever reads it last knows how long it was under way.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import web

__all__ = ["Scene", "SceneExpert", "app_process", "scene_config", "upstream_process"]

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


@contextmanager
def scene_config(scene: Scene, address: str) -> Iterator[Path]:
    """The configuration of an engine over the upstream, as a file: everybody is asked, nothing is annotated, and
    nobody costs anything, so that no money is counted."""
    writes = scene.aggregator != "majority"
    aggregator = {"name": scene.aggregator, "options": {"expert": scene.experts[0].id} if writes else {}}
    config = {
        "pool": "pool.yaml",
        "annotator": "blank",
        "recruiter": "all",
        "aggregator": aggregator,
        "dispatch": {"stops_early": scene.stops_early},
    }
    free = {"input_usd_per_mtok": 0.0, "output_usd_per_mtok": 0.0}
    entry = {"backend": "openai", "address": address, "prices": free, "limits": {"max_concurrency": 256}}
    experts = [{"id": expert.id, "model": expert.id, **entry} for expert in scene.experts]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pool.yaml").write_text(json.dumps({"experts": experts}), encoding="utf-8")
        path = Path(folder, "config.yaml")
        path.write_text(json.dumps(config), encoding="utf-8")
        yield path


@contextmanager
def upstream_process(scene: Scene) -> Iterator[str]:
    """The upstream in a process of its own; its address, `/stats` beside it says what became of the calls."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run_upstream, args=(there, scene), daemon=True)
    process.start()
    try:
        if not here.poll(_START_S):
            raise TimeoutError(f"the upstream of the bench did not start within {_START_S:g} s")
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()
        process.join()


@contextmanager
def app_process(scene: Scene, address: str) -> Iterator[str]:
    """The app in a process of its own, as `enlist serve` runs it; its address."""
    port = _free_port()
    others = {name: value for name, value in os.environ.items() if not name.startswith("ENLIST_")}
    door = {"ENLIST_LOG_LEVEL": "critical", "ENLIST_SHUTDOWN_GRACE_S": "0.5"}
    command = [sys.executable, "-m", "router_service.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with scene_config(scene, address) as config:
        process = subprocess.Popen([*command, "--config", str(config)], env=others | door)
        try:
            _await_ready(process, f"http://127.0.0.1:{port}/health/readiness")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=1) as response:
            if response.status == 200:
                return
        time.sleep(0.02)
    raise TimeoutError(f"the app of the bench did not start within {_START_S:g} s (exit code {process.poll()})")


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
