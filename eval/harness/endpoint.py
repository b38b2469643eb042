"""Asks an Enlist endpoint for many chats at once; a query that fails is told and counted, a broken set-up raises."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from router_service.errors import ConfigError
from router_service.types import Secret

__all__ = ["DEFAULT_URL", "Chat", "Endpoint", "Reply"]

DEFAULT_URL = "http://127.0.0.1:8000"

_KEY_VARIABLE = "ENLIST_API_KEY"
_BROKEN = {
    401: f"it wants a key: set {_KEY_VARIABLE}",
    403: f"the key in {_KEY_VARIABLE} may not call it",
    404: "it knows no such model, recruiter or path",
    405: "it is no Enlist endpoint",
}
"""Statuses that say something of the set-up and not of one query."""

_BROKEN_CODES = frozenset({"config_error", "not_fitted"})
_ASKED_WRONGLY = frozenset({"invalid_query", "unknown_name"})
"""Codes that speak of one query where others are answered, and of how all are asked where none is."""

_MAX_TRIES = 3
_MAX_WAIT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One request: messages in OpenAI's form, what goes beside them, and the `enlist` object."""

    messages: tuple[Mapping[str, str], ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    enlist: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: the text, the answer as the service read it, or the code of the failure."""

    text: str = ""
    extracted: str | None = None
    failure: str | None = None
    said: str = ""
    """What the service said of the failure."""


class Endpoint:
    """An Enlist service at `url` (with or without /v1). `transport` replaces the network in tests."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str = "auto",
        concurrency: int = 8,
        timeout_s: float = 600.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.model = model
        self.concurrency = concurrency
        self.failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        key = Secret(os.environ.get(_KEY_VARIABLE, ""))
        headers = {"authorization": f"Bearer {key.reveal()}"} if key.reveal() else {}
        base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self._client = httpx.Client(base_url=base, headers=headers, timeout=timeout_s, transport=transport)

    def ask(self, chats: Sequence[Chat]) -> list[Reply]:
        """A reply for each chat, in order, `concurrency` at a time.

        Raises `ConfigError` where nobody answers at the address, and where the service refuses whatever is asked.
        """
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            replies = list(pool.map(self._ask, chats))
        if replies and all(reply.failure in _ASKED_WRONGLY for reply in replies):
            raise ConfigError(f"{self._client.base_url} refused all of {len(replies)} queries: {replies[0].said}")
        return replies

    def _ask(self, chat: Chat) -> Reply:
        body = {"model": self.model, "messages": list(chat.messages), **chat.parameters}
        if chat.enlist:
            body["enlist"] = dict(chat.enlist)
        reply = self._sent(body)
        if reply.failure is not None:
            with self._lock:
                self.failures[reply.failure] += 1
        return reply

    def _sent(self, body: Mapping[str, Any]) -> Reply:
        for tried in range(1, _MAX_TRIES + 1):
            try:
                response = self._client.post("/v1/chat/completions", json=body)
            except httpx.TimeoutException:
                return Reply(failure="timeout")
            except httpx.TransportError as unreachable:
                raise ConfigError(
                    f"no answer at {self._client.base_url}: {unreachable}; start the service with `enlist serve`, "
                    "or give its address"
                ) from unreachable
            if response.status_code in _BROKEN or _code(response) in _BROKEN_CODES:
                hint = _BROKEN.get(response.status_code, "its set-up is broken")
                raise ConfigError(f"{self._client.base_url} refused: {_said(response)} ({hint})")
            if response.headers.get("x-should-retry") != "true" or tried == _MAX_TRIES:
                break
            time.sleep(_wait_s(response, tried))
        return self._reply(response)

    def _reply(self, response: httpx.Response) -> Reply:
        if response.status_code != httpx.codes.OK:
            return Reply(failure=_code(response), said=_said(response))
        try:
            document = response.json()
            text = document["choices"][0]["message"]["content"]
            return Reply(text=text or "", extracted=(document.get("enlist") or {}).get("extracted"))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ConfigError(
                f"{self._client.base_url} answered {response.text!r:.60}, which is no chat completion; give the "
                "address of an Enlist service"
            ) from None


def _wait_s(response: httpx.Response, tried: int) -> float:
    """As long as it says in seconds; a date, which a proxy may give, counts as nothing said."""
    try:
        seconds = float(response.headers.get("retry-after", tried))
    except ValueError:
        seconds = tried
    return min(_MAX_WAIT_S, max(0.0, seconds))


def _error(response: httpx.Response) -> Mapping[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def _code(response: httpx.Response) -> str:
    return str(_error(response).get("code") or f"http_{response.status_code}")


def _said(response: httpx.Response) -> str:
    return str(_error(response).get("message") or f"status {response.status_code}")
