"""An HTTP client straight into an app, without a network."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from router_service.http.app import create_app
from router_service.http.settings import ServerSettings
from tests.router_service.http.fakes import FakeEngine, Script

Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
def connect() -> Connect:
    """`connect(engine, **settings)` opens the door over `engine`."""

    def open_door(engine: FakeEngine | Script | None = None, **settings: object) -> httpx.AsyncClient:
        engine = engine if isinstance(engine, FakeEngine) else FakeEngine(engine)
        app = create_app(engine, ServerSettings.model_validate(settings))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        return httpx.AsyncClient(transport=transport, base_url="http://door")

    return open_door
