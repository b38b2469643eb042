"""Who may come in, and with how much: bearer keys and the size of a body, checked before anything is read or parsed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router_service.http.errors import WireError, error_response
from router_service.types import Secret

__all__ = ["BodyLimit", "KeyGuard"]

_OPEN_PREFIX = "/health/"
_SCHEME = "bearer "


class KeyGuard:
    """ASGI middleware: with keys set, everything but the health checks needs one of them. All are compared, each in
    constant time, so that the time taken says nothing."""

    def __init__(self, app: ASGIApp, *, api_keys: Sequence[Secret]) -> None:
        self._app = app
        self._digests = [_digest(key.reveal()) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer 401."""
        is_guarded = scope["type"] == "http" and self._digests and not scope["path"].startswith(_OPEN_PREFIX)
        problem = self._problem(Headers(scope=scope).get("authorization", "")) if is_guarded else None
        if problem is None:
            await self._app(scope, receive, send)
            return
        response = error_response(WireError(code="invalid_api_key", message=problem))
        response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _problem(self, authorization: str) -> str | None:
        """What is wrong with the header; None where it holds a valid key. The key itself is never named."""
        if not authorization.lower().startswith(_SCHEME):
            return "no API key was sent; send the header 'Authorization: Bearer <key>' with a key of this service"
        sent = _digest(authorization[len(_SCHEME) :].strip())
        matches = [hmac.compare_digest(sent, digest) for digest in self._digests]
        return None if any(matches) else "the API key is not valid here; send a key of this service"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class BodyLimit:
    """ASGI middleware: a body over the limit is answered 413, declared or not, before the rest of it is read."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body up to the limit and hand it on, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            await self._refuse(scope, receive, send)
            return
        messages, size = [], 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._max_body_bytes:
                await self._refuse(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        await self._app(scope, _Replay(messages, receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the body is larger than {self._max_body_bytes} bytes; send less, or raise max_body_bytes"
        response = error_response(WireError(code="request_too_large", message=message))
        response.headers["connection"] = "close"
        await response(scope, receive, send)


class _Replay:
    """`receive` that gives what was read already, then what comes."""

    def __init__(self, messages: Sequence[Message], receive: Receive) -> None:
        self._messages = list(reversed(messages))
        self._receive = receive

    async def __call__(self) -> Message:
        return self._messages.pop() if self._messages else await self._receive()
