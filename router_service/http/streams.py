"""An answer as server-sent events: open at once, alive while experts work, then the answer's own tokens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router_service.errors import RouterError
from router_service.http.encoding import to_json
from router_service.http.errors import WireError, defect_error, failure_error, router_error
from router_service.http.metrics import DoorMetrics
from router_service.http.presence import ClientLeft, while_present
from router_service.http.reports import finish_reason, tool_calls_of, usage_of
from router_service.types import Answered, Event, Failed, RouteFailure, RouteResponse, TokenDelta, Usage

__all__ = ["AnswerStream", "ChunkWriter", "EventStream", "heartbeaten"]

_log = logging.getLogger(__name__)

ReportOf = Callable[[RouteResponse | RouteFailure, float | None], dict[str, Any]]
"""The `enlist` field of a request, once it is known how it ended; the seconds are the service's own time."""

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


async def heartbeaten(events: AsyncGenerator[Event, None], heartbeat_s: float) -> AsyncGenerator[Event | None, None]:
    """The events, and None after each `heartbeat_s` seconds of silence; closing it closes `events`.

    `events` is run by one task from its first step to its last, as what it opens (task groups, timeouts) demands.
    """
    async with _pumped(events) as queue:
        while True:
            try:
                async with asyncio.timeout(heartbeat_s):
                    item = await queue.get()
            except TimeoutError:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item


@asynccontextmanager
async def _pumped(events: AsyncGenerator[Event, None]) -> AsyncIterator[asyncio.Queue[Event | Exception | None]]:
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    async def pump() -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    queue.put_nowait(event)
        except Exception as error:  # raised again where the events are read
            queue.put_nowait(error)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(pump())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkWriter:
    """Writes OpenAI chat completion chunks of one stream, each as one server-sent event."""

    id: str
    model: str
    created: int
    includes_usage: bool = False

    def opening(self) -> bytes:
        """The first chunk: it says who speaks, before anything is known."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """A piece of the answer."""
        return self._chunk({"content": text})

    def tool_calls(self, calls: list[dict[str, Any]]) -> bytes:
        """All proposed tool calls."""
        return self._chunk({"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]})

    def finish(self, reason: str, report: Mapping[str, Any]) -> bytes:
        """The last chunk of the answer, with the `enlist` field."""
        return self._chunk({}, reason, {"enlist": report})

    def usage(self, usage: Usage) -> bytes:
        """The chunk after the last, which `stream_options.include_usage` asks for."""
        return _event({**self._head(), "choices": [], "usage": usage_of(usage)})

    def error(self, error: WireError, report: Mapping[str, Any] | None = None) -> bytes:
        """The end of a stream that failed: no finish reason and no `[DONE]` follow."""
        return _event({**error.body, **({"enlist": report} if report is not None else {})})

    def _chunk(
        self, delta: Mapping[str, Any], reason: str | None = None, extra: Mapping[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self.includes_usage else {}
        return _event({**self._head(), "choices": [choice], **usage, **(extra or {})})

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"


class AnswerStream:
    """Turns one query's events into the bytes of a stream, and counts them."""

    def __init__(
        self, writer: ChunkWriter, *, metrics: DoorMetrics, scope: Scope, heartbeat_s: float, report_of: ReportOf
    ) -> None:
        self._writer = writer
        self._metrics = metrics
        self._scope = scope
        self._heartbeat_s = heartbeat_s
        self._report_of = report_of
        self._sent = ""

    async def chunks(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
        """The whole stream; a failure, foreseen or not, is its last event."""
        yield self._writer.opening()
        try:
            async with aclosing(heartbeaten(events, self._heartbeat_s)) as beaten:
                async for event in beaten:
                    for chunk in self._written(event):
                        yield chunk
        except RouterError as error:
            yield self._writer.error(router_error(error))
        except Exception as defect:  # the status is sent already: the stream itself must say it
            yield self._writer.error(defect_error(defect, self._scope))

    def _written(self, event: Event | None) -> list[bytes]:
        match event:
            case TokenDelta(text=text):
                return self._text(text)
            case Answered(response=response):
                return self._end(response)
            case Failed(failure=failure):
                self._metrics.query_ended(failure)
                return [self._writer.error(failure_error(failure), self._report_of(failure, None))]
            case _:  # silence, or a step the caller does not see: both must keep the connection alive
                return [KEEP_ALIVE]

    def _text(self, text: str) -> list[bytes]:
        if not text:
            return []
        if not self._sent:
            self._metrics.first_token(time.perf_counter() - self._scope["state"]["started"])
        self._sent += text
        return [self._writer.text(text)]

    def _end(self, response: RouteResponse) -> list[bytes]:
        self._metrics.query_ended(response)
        self._metrics.overhead(response.overhead_s)
        answer = response.answer
        rest = answer.text.removeprefix(self._sent) if answer.text.startswith(self._sent) else ""
        chunks = self._text(rest)
        if answer.tool_calls:
            chunks.append(self._writer.tool_calls(tool_calls_of(answer.tool_calls)))
        chunks.append(self._writer.finish(finish_reason(answer), self._report_of(response, response.overhead_s)))
        if self._writer.includes_usage:
            chunks.append(self._writer.usage(response.usage))
        return [*chunks, DONE]


class EventStream(Response):
    """A response that sends its headers before any work, and ends the work when the caller leaves."""

    media_type = "text/event-stream"

    def __init__(
        self, chunks: AsyncGenerator[bytes, None], *, headers: Mapping[str, str], on_left: Callable[[], None]
    ) -> None:
        self.status_code = 200
        self.background = None
        self._chunks = chunks
        self._on_left = on_left
        # A proxy that buffers or caches would undo the heartbeats.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers at once, then each chunk as it comes."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await while_present(receive, self._send_chunks(send))
        except (ClientLeft, OSError):
            scope["state"]["client_left"] = True
            self._on_left()

    async def _send_chunks(self, send: Send) -> None:
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
