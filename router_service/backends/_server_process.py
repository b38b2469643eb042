"""A server process of ours on a loopback port: started under a minder, awaited, watched, ended with all it holds."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

from router_service.backends._engine_process import EngineGone, end_of
from router_service.types import Secret

__all__ = ["ServerOrder", "ServerProcess", "free_port", "start_server"]

Health = Literal["well", "broken", "silent", "unreachable"]

_HOST: Final = "127.0.0.1"
_MINDER: Final = str(Path(__file__).with_name("_server_minder.py"))
_TAIL_LINES: Final = 60
_TAIL_CHARACTERS: Final = 2_000
_LINE_BYTES: Final = 1 << 16
_LOOK_S: Final = 0.1
_PORT_TRIES: Final = 3
_PORT_IS_TAKEN: Final = ("address already in use", "errno 98")
_MISSES: Final = 3
"""So many health probes in a row may stay without answer: a server that reads long prompts is slow to answer."""
_LAST_S: Final = 15.0
"""How long the minder may take beyond the server's own grace."""
_STOPPED: Final = "it was stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOrder:
    """What to start: `command` gets `--host` and `--port` added, `environment` the server's key as VLLM_API_KEY.

    It is ready when it is healthy and tells, asked with that key, that it serves all `names`. It has `start_s` for
    that, is probed every `probe_s` from then on, and has `grace_s` to end by itself when it is not wanted any more.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    names: frozenset[str]
    start_s: float = 600.0
    probe_s: float = 10.0
    grace_s: float = 20.0


def free_port() -> int:
    """A port of the loopback address that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


async def start_server(
    order: ServerOrder,
    *,
    find_port: Callable[[], int] = free_port,
    begun: Callable[[ServerProcess], None] = lambda _: None,
) -> ServerProcess:
    """A server that is ready. Another port is tried where somebody took the first one meanwhile; each process is told
    to `begun` as soon as it runs.

    Raises `EngineGone` where it ended, or was not ready in time and was ended. Cancelling it leaves nothing behind.
    """
    until = time.monotonic() + order.start_s
    for tries_left in reversed(range(_PORT_TRIES)):
        server = ServerProcess(order, port=find_port())
        begun(server)
        try:
            await server.ready(until)
            return server
        except EngineGone as gone:
            if not tries_left or not any(sign in gone.tail.lower() for sign in _PORT_IS_TAKEN):
                raise
        except BaseException:
            await asyncio.shield(server.kill())
            raise
    raise AssertionError("the last try returns or raises")


class ServerProcess:
    """One process, running from the moment this is made. Threads follow it, so it belongs to no event loop.

    It ends with this process, however that ends; the minder (`_server_minder`) sees to it.
    """

    def __init__(self, order: ServerOrder, *, port: int) -> None:
        self.key = Secret(secrets.token_urlsafe(32))
        self.address = f"http://{_HOST}:{port}/v1"
        self.window: int | None = None
        """Tokens of prompt and answer that the model reads at most, as the server says once it is ready."""
        self._order = order
        self._port = port
        self._server_pid: int | None = None
        self._fault: str | None = None
        self._gone: EngineGone | None = None
        self._has_ended = threading.Event()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._minder = subprocess.Popen(
            (sys.executable, "-I", "-S", _MINDER, str(order.grace_s), *order.command, *self._where()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**order.environment, "VLLM_API_KEY": self.key.reveal()},
            start_new_session=True,
        )
        self._log = threading.Thread(target=self._note, name="server log", daemon=True)
        self._log.start()
        threading.Thread(target=self._follow, name="server minder", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The number of the server's process, once it is known."""
        return self._server_pid

    @property
    def gone(self) -> EngineGone | None:
        """Why it ended; None while it runs."""
        return self._gone

    @property
    def is_alive(self) -> bool:
        """True until it has ended and nothing of it is left."""
        return not self._has_ended.is_set()

    async def ready(self, until: float) -> None:
        """Wait until it serves, then have it probed; raises `EngineGone`, also after ending it at `until`."""
        while not await asyncio.to_thread(self._serves):
            if self._gone is not None:
                raise self._gone
            if time.monotonic() >= until:
                limit = f"{self._order.start_s:g} s (option load_timeout_s)"
                await self.kill(f"it was not ready within {limit} and was stopped")
                raise self._gone or EngineGone("it was stopped")
            await self.ended(_LOOK_S)
        threading.Thread(target=self._probe, name="server probe", daemon=True).start()

    async def health(self) -> Health:
        """How it does just now, as `/health` says it."""
        return await asyncio.to_thread(self._health)

    async def ended(self, limit_s: float) -> bool:
        """Wait so long for its end; whether it came."""
        return await asyncio.to_thread(self._has_ended.wait, limit_s)

    async def post(self, path: str, body: Mapping[str, Any] | None = None, *, limit_s: float) -> bool:
        """Ask for a thing that takes its time (to sleep, to wake); False where it was not done."""
        try:
            status, _ = await asyncio.to_thread(self._ask, "POST", path, limit_s=limit_s, body=body)
        except (OSError, http.client.HTTPException):
            return False
        return status == http.HTTPStatus.OK

    async def stop(self, fault: str = _STOPPED) -> None:
        """End it, kindly at first; returns when nothing of it is left, and its memory is free."""
        self._fault = self._fault or fault
        self._dismiss()
        if not await self.ended(self._order.grace_s + _LAST_S):
            self._kill(with_minder=True)
            await self.ended(_LAST_S)

    async def kill(self, fault: str = _STOPPED) -> None:
        """End it at once; returns when nothing of it is left, and its memory is free."""
        self._fault = self._fault or fault
        self._kill()
        await self.stop()

    def _where(self) -> tuple[str, ...]:
        return ("--host", _HOST, "--port", str(self._port))

    def _dismiss(self) -> None:
        """Tell the minder that the server is not wanted any more."""
        with suppress(OSError):
            _pipe(self._minder.stdin).close()

    def _kill(self, *, with_minder: bool = False) -> None:
        for group in (self._server_pid, self._minder.pid if with_minder else None):
            if group is not None and self.is_alive:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)

    # --- asked of the server, in threads ----------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, *, limit_s: float, body: Mapping[str, Any] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=limit_s)
        try:
            headers = {"Authorization": f"Bearer {self.key.reveal()}", "Content-Type": "application/json"}
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _health(self) -> Health:
        try:
            status, _ = self._ask("GET", "/health", limit_s=self._order.probe_s)
        except TimeoutError:
            return "silent"
        except (OSError, http.client.HTTPException):
            return "unreachable"
        return "well" if status == http.HTTPStatus.OK else "broken"

    def _serves(self) -> bool:
        """Whether it is healthy and has all names; a stranger on its port has not."""
        if not self.is_alive or self._health() != "well":
            return False
        with suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            status, body = self._ask("GET", "/v1/models", limit_s=self._order.probe_s)
            models = json.loads(body)["data"] if status == http.HTTPStatus.OK else []
            windows = [model.get("max_model_len") for model in models]
            self.window = next((window for window in windows if isinstance(window, int)), None)
            return self._order.names <= {model["id"] for model in models}
        return False

    def _probe(self) -> None:
        misses = 0
        while not self._has_ended.wait(self._order.probe_s):
            health = self._health()
            misses = 0 if health == "well" else misses + 1
            if health == "broken" or misses >= _MISSES:
                how = "said that it is broken" if health == "broken" else f"left {misses} of them unanswered"
                self._fault = self._fault or f"asked for its health it {how}, and it was killed"
                self._kill()

    # --- told by the minder, in threads ------------------------------------------------------------------------------

    def _note(self) -> None:
        """Keep the last lines of the log; they are read all the time, or the server would come to a halt."""
        with suppress(OSError, ValueError):
            for line in iter(lambda: _pipe(self._minder.stderr).readline(_LINE_BYTES), b""):
                if text := line.decode(errors="replace").strip():
                    self._tail.append(text[:_TAIL_CHARACTERS].replace(self.key.reveal(), "***"))

    def _follow(self) -> None:
        status: int | None = None
        with suppress(OSError, ValueError):
            for line in iter(_pipe(self._minder.stdout).readline, b""):
                word, _, number = line.decode().partition(" ")
                if word == "pid":
                    self._server_pid = int(number)
                elif word == "gone" and number.strip() != "None":
                    status = int(number)
        if status is None:  # its minder did not live to see the end
            self._kill()
        self._minder.wait()
        self._log.join(_LAST_S)
        tail = "\n".join(self._tail)[-_TAIL_CHARACTERS:]
        self._gone = EngineGone(self._fault or end_of(status), status=status, tail=tail)
        self._dismiss()
        self._has_ended.set()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
