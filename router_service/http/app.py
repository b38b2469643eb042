"""The REST app: an engine behind OpenAI-compatible endpoints."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from router_service.http import chat, info
from router_service.http.base import EngineLike
from router_service.http.catalogue import Catalogue
from router_service.http.chat import Door
from router_service.http.errors import handle_errors
from router_service.http.guard import BodyLimit, KeyGuard
from router_service.http.health import Health
from router_service.http.metrics import DoorMetrics
from router_service.http.observer import Observer
from router_service.http.settings import ServerSettings

__all__ = ["create_app"]


def create_app(engine: EngineLike, settings: ServerSettings | None = None) -> FastAPI:
    """The ASGI app; it owns the engine from here on and closes it when it is shut down."""
    settings = settings or ServerSettings()
    door = Door(
        engine=engine,
        settings=settings,
        catalogue=Catalogue(engine),
        metrics=DoorMetrics(),
        health=Health(engine),
        created=int(time.time()),
    )
    # No interactive page: it would load scripts from elsewhere.
    app = FastAPI(title="enlist", version="1", lifespan=_lifespan, docs_url=None, redoc_url=None)
    app.state.door = door
    app.include_router(chat.router)
    app.include_router(info.router)
    handle_errors(app)
    # The last one added is the outermost: observe, then the key, then the size.
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(KeyGuard, api_keys=settings.api_keys)
    app.add_middleware(Observer, metrics=door.metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    door: Door = app.state.door
    door.health.is_started = True
    try:
        yield
    finally:
        door.health.is_stopping = True
        await door.engine.aclose()
