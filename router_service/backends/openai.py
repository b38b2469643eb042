"""The backend `openai`: experts behind any server that speaks OpenAI's chat API, such as `vllm serve`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from router_service.backends._chat_backend import ChatBackend, Piece
from router_service.backends._chat_reply import StreamedReply, read_replies
from router_service.backends._chat_request import chat_request, request_seed
from router_service.backends._options import read_options
from router_service.backends._sse import SseParser
from router_service.backends._upstream_errors import complaint_of, error_for_status, retry_after_s
from router_service.backends.base import BACKENDS
from router_service.errors import ConfigError, ExpertRefused, ExpertTimeout, ExpertUnavailable
from router_service.types import Assignment, Completion, Expert, TokenDelta

__all__ = ["Openai", "OpenaiOptions"]

JsonObject = dict[str, Any]

_DEFAULT_ADDRESS = "https://api.openai.com/v1"
_MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")
_MAX_BODY = 64 * 1024 * 1024
_DONE = "[DONE]"
_DRAIN_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenaiOptions:
    """What a pool entry may say in `options` for this backend."""

    supports_n: bool = True
    """Ask for several samples in one request; where a server refuses or ignores that, each gets one of its own."""
    max_tokens_field: str = "max_tokens"
    """`max_completion_tokens` for OpenAI's reasoning models."""
    reports_stream_usage: bool = True
    """Ask for token counts at the end of a stream."""
    logprobs: bool = False
    """Ask for log-probabilities."""


@BACKENDS.register("openai")
class Openai(ChatBackend):
    """Calls `<address>/chat/completions` over one pool of connections; without address, OpenAI itself.

    `connect_timeout_s` is for the connection, `idle_timeout_s` for the silence between two pieces of a stream; a call
    as a whole has its expert's `limits.timeout_s`. Options of an expert: `OpenaiOptions`.
    """

    def __init__(
        self, *, connect_timeout_s: float = 10.0, idle_timeout_s: float = 60.0, max_connections: int = 1000
    ) -> None:
        super().__init__()
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_connections = max_connections
        self._client: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self, expert: Expert) -> None:
        """Raise `ConfigError` for an unusable address, a missing key for OpenAI itself, or an unknown option."""
        if read_options(expert, OpenaiOptions).max_tokens_field not in _MAX_TOKENS_FIELDS:
            allowed = " or ".join(_MAX_TOKENS_FIELDS)
            raise ConfigError(f"expert {expert.id!r}: option 'max_tokens_field' must be {allowed}")
        if expert.address is None:
            if expert.api_key is None:
                raise ConfigError(f"expert {expert.id!r} needs an address, or an api_key for {_DEFAULT_ADDRESS}")
            return
        try:
            parts = urlsplit(expert.address)
            is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ConfigError(
                f"expert {expert.id!r} has no usable address; it must look like http://host:8000/v1 or https://host/v1"
            )

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    def takes_n(self, expert: Expert) -> bool:
        """As the expert's option `supports_n` says."""
        return read_options(expert, OpenaiOptions).supports_n

    async def request(self, expert: Expert, assignment: Assignment, *, first: int, samples: int) -> list[Completion]:
        """One POST, read whole."""
        started = time.perf_counter()
        body = self._body(expert, assignment) | {"seed": request_seed(assignment, first)}
        if samples > 1:
            body["n"] = samples
        async with self._response(expert, body, idle_s=expert.limits.timeout_s) as response:
            raw = await _read(response)
        completions = _parse(raw, expert=expert, assignment=assignment, first=first)[:samples]
        latency_s = time.perf_counter() - started
        return [replace(completion, latency_s=latency_s) for completion in completions]

    async def stream(self, expert: Expert, assignment: Assignment) -> AsyncGenerator[Piece, None]:
        """One POST, read as it comes; from a server that cannot stream, in one piece."""
        started = time.perf_counter()
        body = self._body(expert, assignment) | {
            "seed": request_seed(assignment, assignment.first_sample),
            "stream": True,
        }
        if read_options(expert, OpenaiOptions).reports_stream_usage:
            body["stream_options"] = {"include_usage": True}
        query_id = assignment.query.id
        async with self._response(expert, body, idle_s=self._idle_timeout_s) as response:
            if response.content_type != "text/event-stream":
                completion = _parse(
                    await _read(response), expert=expert, assignment=assignment, first=assignment.first_sample
                )[0]
                yield TokenDelta(query_id=query_id, text=completion.text)
            else:
                reply = StreamedReply(expert=expert, assignment=assignment)
                async with aclosing(_texts(response, reply, expert)) as texts:
                    async for text in texts:
                        yield TokenDelta(query_id=query_id, text=text)
                completion = reply.completion()
        yield replace(completion, latency_s=time.perf_counter() - started)

    def _body(self, expert: Expert, assignment: Assignment) -> JsonObject:
        options = read_options(expert, OpenaiOptions)
        request = chat_request(expert, assignment.query, max_tokens_field=options.max_tokens_field)
        return {"model": expert.model, **request, **({"logprobs": True} if options.logprobs else {})}

    @asynccontextmanager
    async def _response(
        self, expert: Expert, body: JsonObject, *, idle_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response of a POST with status 200; what goes wrong, also while it is read, is an `ExpertError`."""
        address = (expert.address or _DEFAULT_ADDRESS).rstrip("/")
        url = address if address.endswith("/chat/completions") else f"{address}/chat/completions"
        headers = {"Content-Type": "application/json"}
        if expert.api_key is not None:
            headers["Authorization"] = f"Bearer {expert.api_key.reveal()}"
        timeout = aiohttp.ClientTimeout(
            total=expert.limits.timeout_s,
            sock_connect=self._connect_timeout_s,
            sock_read=min(idle_s, expert.limits.timeout_s),
        )
        with _told_as_expert_errors(expert):
            async with self._session().post(
                url, data=orjson.dumps(body), headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise error_for_status(
                        expert,
                        response.status,
                        complaint_of(await _read(response), expert),
                        wait_s=retry_after_s(response.headers.get("Retry-After")),
                    )
                yield response

    def _session(self) -> aiohttp.ClientSession:
        """One session, made anew where it was closed or belongs to an event loop that is gone."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client.closed or self._loop is not loop:
            connector = aiohttp.TCPConnector(limit=self._max_connections, ttl_dns_cache=300)
            self._client = aiohttp.ClientSession(connector=connector)
            self._loop = loop
        return self._client


async def _texts(response: aiohttp.ClientResponse, reply: StreamedReply, expert: Expert) -> AsyncGenerator[str, None]:
    """The texts of a stream as they come, collected in `reply` too; a stream that ends too early is an error."""
    parser = SseParser()
    async for piece in response.content.iter_any():
        for data in parser.feed(piece):
            if data.strip() == _DONE:
                await _drain(response)
                return
            text = reply.add(_chunk(data, expert))
            if text:
                yield text
    if not reply.is_finished:
        raise ExpertUnavailable(
            f"{expert.id}'s stream was cut: it ended without finish_reason and {_DONE}", expert_id=expert.id
        )


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the end of the body, so that the connection can be used again; not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            await response.content.read(1)


def _chunk(data: str, expert: Expert) -> JsonObject:
    chunk = orjson.loads(data)
    if not isinstance(chunk, dict):
        raise ValueError(f"a chunk of the stream is no object: {data[:80]!r}")
    if chunk.get("error"):
        error = chunk["error"]
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise error_for_status(expert, status, complaint_of(data, expert))
    return chunk


def _parse(raw: bytes, *, expert: Expert, assignment: Assignment, first: int) -> list[Completion]:
    try:
        body = orjson.loads(raw)
        if not isinstance(body, dict):
            raise ValueError("the reply is no JSON object")
        return read_replies(body, expert=expert, assignment=assignment, first=first)
    except ValueError as malformed:
        raise ExpertUnavailable(
            f"{expert.id} answered HTTP 200 with no chat reply ({malformed}): {complaint_of(raw, expert)}",
            expert_id=expert.id,
        ) from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_BODY:
            raise ValueError(f"the reply is longer than {_MAX_BODY} bytes")
    return b"".join(pieces)


@contextmanager
def _told_as_expert_errors(expert: Expert) -> Iterator[None]:
    """Network trouble as `ExpertError`. The address is named by host and port alone: it may hold a password."""
    where = _host(expert)
    try:
        yield
    except TimeoutError as late:
        what = "no connection" if isinstance(late, aiohttp.ConnectionTimeoutError) else "no (further) answer"
        raise ExpertTimeout(f"{expert.id}: {what} from {where} in time", expert_id=expert.id) from None
    except aiohttp.InvalidURL:
        raise ExpertRefused(f"{expert.id}: its address is no usable URL", expert_id=expert.id) from None
    except aiohttp.ClientConnectorError as refused:
        reason = refused.os_error.strerror or type(refused.os_error).__name__
        raise ExpertUnavailable(
            f"{expert.id}: cannot connect to {where} ({reason}); is the server running?", expert_id=expert.id
        ) from None
    except (aiohttp.ClientError, OSError) as broken:
        raise ExpertUnavailable(
            f"{expert.id}: the connection to {where} broke ({type(broken).__name__})", expert_id=expert.id
        ) from None
    except ValueError as malformed:
        raise ExpertUnavailable(f"{expert.id}: {where} answered nonsense: {malformed}", expert_id=expert.id) from None


def _host(expert: Expert) -> str:
    parts = urlsplit(expert.address or _DEFAULT_ADDRESS)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
