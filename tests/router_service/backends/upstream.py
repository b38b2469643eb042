"""A fake OpenAI-compatible server on loopback that behaves, or misbehaves, as a test wants it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Body = dict[str, Any]
Behaviour = Callable[["Upstream", web.Request, Body], Awaitable[web.StreamResponse]]


class Upstream:
    """Answers `/v1/chat/completions` by its `behaviour`; keeps every request, and counts those the client dropped."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or normal
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.dropped = 0
        self.open = 0
        self.most_open = 0
        self.connections: set[object] = set()
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Upstream]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        server = TestServer(app)
        await server.start_server()
        self.address = str(server.make_url("/v1"))
        try:
            yield self
        finally:
            await server.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.connections.add(request.transport)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self.behaviour(self, request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.dropped += 1
            raise
        finally:
            self.open -= 1


def words_of(body: Body) -> list[str]:
    """What the fake says: words with spaces, so that pieces and whole can be compared."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "parts"
    return ["You ", "said: ", *(f"{word} " for word in text.split()), "(end)"]


async def normal(upstream: Upstream, request: web.Request, body: Body) -> web.StreamResponse:
    if body.get("stream"):
        return await stream(request, body)
    return web.json_response(reply(body, body.get("n", 1)))


def reply(body: Body, n: int) -> Body:
    text = "".join(words_of(body))
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": f"{text} #{i}" if n > 1 else text},
            "finish_reason": "stop",
        }
        for i in range(n)
    ]
    usage = {"prompt_tokens": 11, "completion_tokens": 7 * n, "total_tokens": 11 + 7 * n}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": choices,
        "usage": usage,
    }


def chunk(body: Body, delta: Body, finish_reason: str | None = None) -> Body:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"], "choices": [choice]}


async def opened(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


async def send(response: web.StreamResponse, data: Body | str) -> None:
    text = data if isinstance(data, str) else json.dumps(data)
    await response.write(f"data: {text}\n\n".encode())


async def stream(request: web.Request, body: Body, *, finish: bool = True, done: bool = True) -> web.StreamResponse:
    response = await opened(request)
    await response.write(b": ping\n\n")
    await send(response, chunk(body, {"role": "assistant", "content": ""}))
    for word in words_of(body):
        await send(response, chunk(body, {"content": word}))
        await asyncio.sleep(0)
    if finish:
        await send(response, chunk(body, {}, "stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
            await send(response, {**chunk(body, {}), "choices": [], "usage": usage})
    if done:
        await send(response, "[DONE]")
    await response.write_eof()
    return response


def status(code: int, body: Body | str | None = None, *, times: int | None = None, **headers: str) -> Behaviour:
    """Answers with this status, the first `times` times; then normally."""

    async def behave(upstream: Upstream, request: web.Request, asked: Body) -> web.StreamResponse:
        if times is not None and len(upstream.bodies) > times:
            return await normal(upstream, request, asked)
        text = body if isinstance(body, str) else json.dumps(body or {"error": {"message": f"status {code}"}})
        return web.Response(status=code, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return behave


def cut_after(tokens: int, *, is_abrupt: bool = False) -> Behaviour:
    """A stream that ends after some tokens, as if it were finished or with a broken connection."""

    async def behave(upstream: Upstream, request: web.Request, body: Body) -> web.StreamResponse:
        response = await opened(request)
        for word in words_of(body)[:tokens]:
            await send(response, chunk(body, {"content": word}))
        if is_abrupt and request.transport is not None:
            await asyncio.sleep(0.01)
            request.transport.abort()
        else:
            await response.write_eof()
        return response

    return behave


def stall_after(tokens: int) -> Behaviour:
    """A stream that goes silent and stays open."""

    async def behave(upstream: Upstream, request: web.Request, body: Body) -> web.StreamResponse:
        response = await opened(request)
        for word in words_of(body)[:tokens]:
            await send(response, chunk(body, {"content": word}))
        await asyncio.sleep(30)
        return response

    return behave


def raw_lines(*lines: str) -> Behaviour:
    """A stream of exactly these lines."""

    async def behave(upstream: Upstream, request: web.Request, body: Body) -> web.StreamResponse:
        response = await opened(request)
        with suppress(ConnectionResetError):
            await send(response, chunk(body, {"content": "fine so far"}))
            for line in lines:
                await response.write(f"{line}\n".encode())
            await response.write_eof()
        return response

    return behave


async def hang(upstream: Upstream, request: web.Request, body: Body) -> web.StreamResponse:
    """Never answers."""
    await asyncio.sleep(30)
    return web.Response()


async def refuse_n(upstream: Upstream, request: web.Request, body: Body) -> web.StreamResponse:
    """A server that does not know `n`."""
    if body.get("n", 1) > 1:
        return web.json_response({"error": {"message": "'n' must be 1 for this model", "param": "n"}}, status=400)
    return await normal(upstream, request, body)


async def ignore_n(upstream: Upstream, request: web.Request, body: Body) -> web.StreamResponse:
    """A server that gives one choice whatever is asked for."""
    return await normal(upstream, request, {**body, "n": 1})
