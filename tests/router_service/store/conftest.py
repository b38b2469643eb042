"""One Valkey server for all tests of a session that want one."""

from __future__ import annotations

import pytest

from tests.router_service.store.valkey import ValkeyServer


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()
