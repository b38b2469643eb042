"""One call of the SDK and its tries, without any waiting: both clients drive it, each in its own way."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import httpx

from router_service._client_errors import ApiConnectionError, ApiInvalidQuery, ErrorFacts, error_of
from router_service._client_replies import (
    FOREIGN,
    ChatResponse,
    ModelInfo,
    RouteExplanation,
    chat_response,
    models_of,
    route_of,
)
from router_service._client_requests import AskOptions, Call, Question, RetryPolicy, chat_call, route_call

__all__ = ["Exchange", "connection_error"]

T = TypeVar("T")

Parse = Callable[[Mapping[str, Any], Mapping[str, str]], T]


class Exchange(Generic[T]):
    """A call, what its response means, and what to do after each try."""

    def __init__(self, call: Call, parse: Parse[T]) -> None:
        self.call = call
        self._parse = parse
        self._attempt = 0

    @classmethod
    def asking(cls, question: Question, options: AskOptions, *, stream: bool = False) -> Exchange[ChatResponse]:
        """The exchange that gets an answer."""
        return Exchange(chat_call(question, options, stream=stream), chat_response)

    @classmethod
    def routing(cls, question: Question, options: AskOptions) -> Exchange[RouteExplanation]:
        """The exchange that gets an explanation."""
        return Exchange(route_call(question, options), lambda body, _: route_of(body))

    @classmethod
    def listing(cls) -> Exchange[tuple[ModelInfo, ...]]:
        """The exchange that gets the models."""
        return Exchange(Call(method="GET", path="/v1/models"), lambda body, _: models_of(body))

    def content(self) -> bytes | None:
        """The body as it is sent; raises `ApiInvalidQuery` where JSON cannot hold it."""
        if self.call.body is None:
            return None
        try:
            return json.dumps(self.call.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError) as unsayable:
            message = f"the request cannot be written as JSON ({unsayable}); send plain texts, numbers and lists"
            raise ApiInvalidQuery(ErrorFacts(message=message)) from unsayable

    def wait_after_error_s(self, error: httpx.TransportError, retry: RetryPolicy) -> float:
        """Seconds before the next try after no response came; raises `ApiConnectionError` where there is none.

        Only what never reached the service is sent again: a question that broke off may be paid for already.
        """
        is_unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        wait_s = self._next_wait_s(retry) if is_unsent else None
        if wait_s is None:
            raise connection_error(error) from error
        return wait_s

    def wait_after_s(self, response: httpx.Response, retry: RetryPolicy) -> float | None:
        """None where the response is good; else seconds before the next try, or the service's error raised."""
        if response.is_success:
            return None
        wait_s = None
        if retry.allows(response.status_code, response.headers.get("x-should-retry")):
            wait_s = self._next_wait_s(retry, _retry_after_s(response.headers))
        if wait_s is None:
            request_id = response.headers.get("x-request-id")
            raise error_of(_json_or_none(response), status=response.status_code, request_id=request_id)
        return wait_s

    def result(self, response: httpx.Response) -> T:
        """What a good response says; `ApiConnectionError` where something else than the service answered."""
        try:
            return self._parse(response.json(), response.headers)
        except FOREIGN as foreign:
            facts = ErrorFacts(
                message=f"{response.url} answered something that is not this service's; is the base URL right?",
                status=response.status_code,
            )
            raise ApiConnectionError(facts) from foreign

    def _next_wait_s(self, retry: RetryPolicy, retry_after_s: float | None = None) -> float | None:
        wait_s = retry.wait_s(self._attempt, jitter=random.random(), retry_after_s=retry_after_s)
        self._attempt += 1
        return wait_s


def connection_error(error: httpx.TransportError) -> ApiConnectionError:
    """The SDK's error for a connection that failed or broke off."""
    told = str(error) or type(error).__name__
    return ApiConnectionError(ErrorFacts(message=f"no answer from {error.request.url}: {told}"))


def _retry_after_s(headers: httpx.Headers) -> float | None:
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _json_or_none(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
