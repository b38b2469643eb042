"""The outermost layer: gives each request its id and clock, counts it, and answers what nobody foresaw."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router_service.http.errors import defect_error, error_response
from router_service.http.metrics import DoorMetrics

__all__ = ["Observer"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_CLIENT_LEFT = 499


class Observer:
    """ASGI middleware. `scope["state"]` gets `request_id` and `started` (perf_counter seconds)."""

    def __init__(self, app: ASGIApp, *, metrics: DoorMetrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; other scopes (lifespan) pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["started"] = started = self._clock()
        state["request_id"] = _request_id(Headers(scope=scope).get("x-request-id"))
        watched = _WatchedSend(send, state["request_id"])
        self._metrics.request_started()
        try:
            await self._answer(scope, receive, watched)
        finally:
            status = _CLIENT_LEFT if state.get("client_left") else watched.status
            self._metrics.request_ended(_route(scope), status, self._clock() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: _WatchedSend) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as defect:  # the last place where it can become a proper body
            error = defect_error(defect, scope)
            if not send.is_started:
                await error_response(error)(scope, receive, send)


class _WatchedSend:
    """`send` that notes the status and puts the request id on the response; nothing sent counts as 499."""

    def __init__(self, send: Callable[[Message], Awaitable[None]], request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = _CLIENT_LEFT
        self.is_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_started = True
            self.status = message["status"]
            MutableHeaders(raw=message["headers"])["x-request-id"] = self._request_id
        await self._send(message)


def _request_id(sent: str | None) -> str:
    """The caller's id where it is short and plain, else a new one: what goes into logs is never free text."""
    return sent if sent is not None and _REQUEST_ID.fullmatch(sent) else f"req-{uuid.uuid4().hex}"


def _route(scope: Scope) -> str:
    """The route's path template, so that names in paths do not become labels without end."""
    return getattr(scope.get("route"), "path", "unmatched")
