"""The REST app on a port: uvicorn, which says that it is going before it goes."""

from __future__ import annotations

import asyncio
from types import FrameType

import uvicorn

from router_service.http.app import create_app
from router_service.http.base import EngineLike
from router_service.http.chat import Door
from router_service.http.settings import ServerSettings

__all__ = ["DoorServer", "serve"]


class DoorServer(uvicorn.Server):
    """Uvicorn that, told to stop, first answers 'not ready' for `drain_s`, so that nobody is sent to a closed port."""

    def __init__(self, engine: EngineLike, settings: ServerSettings) -> None:
        """Raises `ConfigError` where the settings would let strangers in."""
        settings.require_safe()
        app = create_app(engine, settings)
        self._door: Door = app.state.door
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_level=settings.log_level,
                server_header=False,
                timeout_graceful_shutdown=settings.shutdown_grace_s,  # type: ignore[arg-type]  # fractions work too
            )
        )

    @property
    def port(self) -> int:
        """The port listened on, once started."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal starts the draining, where there is any; the next one stops at once."""
        is_first = not self._door.health.is_stopping
        self._door.health.is_stopping = True
        drain_s = self._door.settings.drain_s
        if is_first and drain_s > 0:
            asyncio.get_running_loop().call_later(drain_s, super().handle_exit, sig, frame)
        else:
            super().handle_exit(sig, frame)


def serve(engine: EngineLike, settings: ServerSettings | None = None) -> None:
    """Listen until told to stop (SIGINT, SIGTERM); the engine is closed at the end.

    Raises `ConfigError` where the settings would let strangers in.
    """
    DoorServer(engine, settings or ServerSettings.from_env()).run()
