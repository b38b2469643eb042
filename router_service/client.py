"""The SDK: `RouterClient` and `AsyncRouterClient` ask a running service; both share all but the waiting."""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar, Unpack

import httpx

from router_service._client_calls import Exchange, connection_error
from router_service._client_errors import (
    ApiAggregationError,
    ApiAnswerInvalid,
    ApiAuthenticationError,
    ApiBudgetExceeded,
    ApiConfigError,
    ApiConnectionError,
    ApiError,
    ApiExpertError,
    ApiExpertRefused,
    ApiExpertTimeout,
    ApiExpertUnavailable,
    ApiInvalidQuery,
    ApiNoExpertAvailable,
    ApiNotFittedError,
    ApiRoutingError,
    ApiStoreUnavailable,
    ApiUnknownNameError,
)
from router_service._client_replies import (
    ChatResponse,
    ExpertReport,
    ModelInfo,
    RouteExplanation,
    StreamReader,
)
from router_service._client_requests import AskOptions, Question, RetryPolicy
from router_service.types import Message, Secret

__all__ = [
    "ApiAggregationError",
    "ApiAnswerInvalid",
    "ApiAuthenticationError",
    "ApiBudgetExceeded",
    "ApiConfigError",
    "ApiConnectionError",
    "ApiError",
    "ApiExpertError",
    "ApiExpertRefused",
    "ApiExpertTimeout",
    "ApiExpertUnavailable",
    "ApiInvalidQuery",
    "ApiNoExpertAvailable",
    "ApiNotFittedError",
    "ApiRoutingError",
    "ApiStoreUnavailable",
    "ApiUnknownNameError",
    "AskOptions",
    "AsyncRouterClient",
    "AsyncTextStream",
    "ChatResponse",
    "ClientSettings",
    "ExpertReport",
    "ModelInfo",
    "RetryPolicy",
    "RouteExplanation",
    "RouterClient",
    "TextStream",
]

DEFAULT_BASE_URL = "http://127.0.0.1:8000"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How the service is asked. `timeout_s` is the longest silence waited for; a stream's heartbeats count as sound.

    `defaults` are the options of every question that does not say otherwise.
    """

    base_url: str = DEFAULT_BASE_URL
    api_key: Secret | None = None
    timeout_s: float = 600.0
    retry: RetryPolicy = RetryPolicy()
    defaults: AskOptions = field(default_factory=AskOptions)


class _Client:
    """What the two clients share: the settings, and how a request is built from them."""

    def __init__(
        self, base_url: str | None = None, *, api_key: str | None = None, timeout_s: float = 600.0, max_retries: int = 2
    ) -> None:
        key = api_key or os.environ.get("ENLIST_API_KEY")
        self.settings = ClientSettings(
            base_url=(base_url or os.environ.get("ENLIST_BASE_URL") or DEFAULT_BASE_URL).rstrip("/"),
            api_key=Secret(key) if key else None,
            timeout_s=timeout_s,
            retry=RetryPolicy(max_retries=max_retries),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.settings.base_url!r})"

    def with_options(
        self, *, timeout_s: float | None = None, max_retries: int | None = None, **defaults: Unpack[AskOptions]
    ) -> Self:
        """A client like this one, on the same connections, with other settings and defaults for every question."""
        old = self.settings
        changed = copy.copy(self)
        changed.settings = replace(
            old,
            timeout_s=old.timeout_s if timeout_s is None else timeout_s,
            retry=old.retry if max_retries is None else replace(old.retry, max_retries=max_retries),
            defaults={**old.defaults, **defaults},
        )
        return changed

    def _options(self, options: AskOptions) -> AskOptions:
        return {**self.settings.defaults, **options}

    def _request(self, exchange: Exchange[Any]) -> httpx.Request:
        settings, call, content = self.settings, exchange.call, exchange.content()
        key = settings.api_key
        headers = {} if content is None else {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {key.reveal()}"
        timeout = httpx.Timeout(settings.timeout_s, connect=min(10.0, settings.timeout_s))
        return httpx.Request(
            call.method,
            settings.base_url + call.path,
            headers=headers,
            content=content,
            extensions={"timeout": timeout.as_dict()},
        )


class RouterClient(_Client):
    """Asks a running service; close it, or use it in a `with` block.

    `base_url` and `api_key` are read from `ENLIST_BASE_URL` and `ENLIST_API_KEY` where left out. Every method raises
    an `ApiError`; an option that does not exist is a `TypeError`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(base_url, api_key=api_key, timeout_s=timeout_s, max_retries=max_retries)
        self._http = httpx.Client(transport=transport)

    def ask(self, question: str, **options: Unpack[AskOptions]) -> ChatResponse:
        """The answer to one question."""
        return self._send(Exchange.asking(question, self._options(options)))

    def chat(self, messages: Sequence[Message], **options: Unpack[AskOptions]) -> ChatResponse:
        """The answer to a conversation."""
        return self._send(Exchange.asking(messages, self._options(options)))

    def route(self, question: Question, **options: Unpack[AskOptions]) -> RouteExplanation:
        """Who would be asked, and why; no expert is."""
        return self._send(Exchange.routing(question, self._options(options)))

    def models(self) -> tuple[ModelInfo, ...]:
        """The names that `model` may be."""
        return self._send(Exchange.listing())

    @contextmanager
    def stream(self, question: Question, **options: Unpack[AskOptions]) -> Iterator[TextStream]:
        """The answer piece by piece: `with client.stream(q) as s: for text in s: ...`, then `s.response`.

        Leaving the block early ends the work of the service.
        """
        response = self._open(Exchange.asking(question, self._options(options), stream=True), is_streamed=True)
        try:
            yield TextStream(response)
        finally:
            response.close()

    def close(self) -> None:
        """Give back the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, exchange: Exchange[T]) -> T:
        return exchange.result(self._open(exchange))

    def _open(self, exchange: Exchange[Any], *, is_streamed: bool = False) -> httpx.Response:
        """The first good response; the twin of `AsyncRouterClient._open`."""
        while True:
            try:
                response = self._http.send(self._request(exchange), stream=is_streamed)
                if not response.is_success:
                    response.read()
                wait_s = exchange.wait_after_s(response, self.settings.retry)
            except httpx.TransportError as error:
                wait_s = exchange.wait_after_error_s(error, self.settings.retry)
            if wait_s is None:
                return response
            time.sleep(wait_s)


class AsyncRouterClient(_Client):
    """`RouterClient` for asyncio: the same methods, awaited; use it in an `async with` block."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(base_url, api_key=api_key, timeout_s=timeout_s, max_retries=max_retries)
        self._http = httpx.AsyncClient(transport=transport)

    async def ask(self, question: str, **options: Unpack[AskOptions]) -> ChatResponse:
        """The answer to one question."""
        return await self._send(Exchange.asking(question, self._options(options)))

    async def chat(self, messages: Sequence[Message], **options: Unpack[AskOptions]) -> ChatResponse:
        """The answer to a conversation."""
        return await self._send(Exchange.asking(messages, self._options(options)))

    async def route(self, question: Question, **options: Unpack[AskOptions]) -> RouteExplanation:
        """Who would be asked, and why; no expert is."""
        return await self._send(Exchange.routing(question, self._options(options)))

    async def models(self) -> tuple[ModelInfo, ...]:
        """The names that `model` may be."""
        return await self._send(Exchange.listing())

    @asynccontextmanager
    async def stream(self, question: Question, **options: Unpack[AskOptions]) -> AsyncIterator[AsyncTextStream]:
        """The answer piece by piece: `async with client.stream(q) as s: async for text in s: ...`, then `s.response`.

        Leaving the block early ends the work of the service.
        """
        response = await self._open(Exchange.asking(question, self._options(options), stream=True), is_streamed=True)
        try:
            yield AsyncTextStream(response)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Give back the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _send(self, exchange: Exchange[T]) -> T:
        return exchange.result(await self._open(exchange))

    async def _open(self, exchange: Exchange[Any], *, is_streamed: bool = False) -> httpx.Response:
        """The first good response; the twin of `RouterClient._open`."""
        while True:
            try:
                response = await self._http.send(self._request(exchange), stream=is_streamed)
                if not response.is_success:
                    await response.aread()
                wait_s = exchange.wait_after_s(response, self.settings.retry)
            except httpx.TransportError as error:
                wait_s = exchange.wait_after_error_s(error, self.settings.retry)
            if wait_s is None:
                return response
            await asyncio.sleep(wait_s)


class _Stream:
    """What the two text streams share: reading lines, and the whole answer at the end."""

    def __init__(self, http_response: httpx.Response) -> None:
        self._http_response = http_response
        self._reader = StreamReader(http_response.headers)

    @property
    def response(self) -> ChatResponse:
        """The whole answer; raises `ApiConnectionError` before the stream has come to its end."""
        return self._reader.response


class TextStream(_Stream):
    """The pieces of an answer as they come; an error in the stream is raised where it comes."""

    def __iter__(self) -> Iterator[str]:
        try:
            for line in self._http_response.iter_lines():
                if text := self._reader.text_of(line):
                    yield text
        except httpx.TransportError as error:
            raise connection_error(error) from error
        self._reader.require_end()


class AsyncTextStream(_Stream):
    """`TextStream` for asyncio."""

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            async for line in self._http_response.aiter_lines():
                if text := self._reader.text_of(line):
                    yield text
        except httpx.TransportError as error:
            raise connection_error(error) from error
        self._reader.require_end()
