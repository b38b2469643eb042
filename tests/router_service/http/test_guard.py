"""Keys and sizes: who may come in, with how much, and where the door may be opened."""

from __future__ import annotations

import pytest

from router_service.errors import ConfigError
from router_service.http.app import create_app
from router_service.http.server import DoorServer
from router_service.http.settings import ServerSettings
from router_service.types import Secret
from tests.router_service.http.fakes import FakeEngine, running_server
from tests.router_service.http.test_chat import ASK

KEYS = ["key-one", "key-two"]


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/v1/nowhere"])
async def test_with_keys_set_everything_but_health_needs_one(connect, path):
    async with connect(api_keys=KEYS) as client:
        reply = await client.get(path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.headers["x-request-id"]
        assert (await client.get("/health/liveness")).status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer key-one", 200),
        ("bearer key-two", 200),
        ("Bearer key-on", 401),
        ("Bearer key-one2", 401),
        ("Bearer ", 401),
        ("Basic key-one", 401),
        ("key-one", 401),
    ],
)
async def test_only_a_whole_bearer_key_opens(connect, header, status):
    async with connect(api_keys=KEYS) as client:
        assert (await client.get("/v1/models", headers={"authorization": header})).status_code == status


async def test_a_wrong_key_is_never_repeated(connect):
    async with connect(api_keys=KEYS) as client:
        reply = await client.get("/v1/models", headers={"authorization": "Bearer sk-mistaken"})
    assert "sk-mistaken" not in reply.text


async def test_a_body_over_the_limit_is_413_declared_or_not(connect):
    async def pieces():
        for _ in range(20):
            yield b" " * 100

    engine = FakeEngine()
    async with connect(engine, max_body_bytes=1000) as client:
        declared = await client.post("/v1/chat/completions", content=b" " * 1001)
        streamed = await client.post("/v1/chat/completions", content=pieces())
        small = await client.post("/v1/chat/completions", json=ASK)
    for reply in (declared, streamed):
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
        assert "1000 bytes" in reply.json()["error"]["message"]
    assert small.status_code == 200
    assert len(engine.queries) == 1


def test_settings_come_from_the_environment_and_hide_keys():
    settings = ServerSettings.from_env({"ENLIST_API_KEYS": "a, b", "ENLIST_PORT": "9000"}, host="localhost")
    assert settings.api_keys == (Secret("a"), Secret("b"))
    assert (settings.port, settings.host, settings.heartbeat_s) == (9000, "localhost", 10.0)
    assert "a, b" not in repr(settings) and "Secret('***')" in repr(settings)


@pytest.mark.parametrize(("variable", "near"), [("ENLIST_API_KEYZ", "ENLIST_API_KEYS"), ("ENLIST_PROT", "ENLIST_PORT")])
def test_a_variable_that_looks_like_a_setting_is_refused(variable, near):
    with pytest.raises(ConfigError, match=f"{variable} is no setting .* did you mean {near}"):
        ServerSettings.from_env({variable: "x"})


def test_variables_of_others_are_left_alone(caplog):
    others = {"ENLIST_CACHE": "x", "ENLIST_BASE_URL": "x", "ENLIST_SERVICE_HOST": "10.0.0.1", "HOME": "/"}
    assert ServerSettings.from_env(others) == ServerSettings()
    assert [record.args for record in caplog.records] == [("ENLIST_SERVICE_HOST",)]


def test_a_callers_key_does_not_pass_for_the_servers():
    with pytest.raises(ConfigError, match=r"ENLIST_API_KEY is the key that a caller sends.*set ENLIST_API_KEYS"):
        ServerSettings.from_env({"ENLIST_API_KEY": "sk"})
    assert ServerSettings.from_env({"ENLIST_API_KEY": "a", "ENLIST_API_KEYS": "a"}).api_keys == (Secret("a"),)
    assert not ServerSettings.from_env({"ENLIST_API_KEY": "a", "ENLIST_IS_INSECURE_ALLOWED": "true"}).api_keys


def test_a_setting_that_is_not_usable_is_named():
    with pytest.raises(ConfigError, match="port"):
        ServerSettings.from_env({"ENLIST_PORT": "many"})
    with pytest.raises(ConfigError, match="Did you mean 'host'"):
        ServerSettings.from_env({}, hots="x")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_beyond_loopback_needs_keys(host):
    with pytest.raises(ConfigError, match="ENLIST_API_KEYS"):
        DoorServer(FakeEngine(), ServerSettings(host=host))
    DoorServer(FakeEngine(), ServerSettings.model_validate({"host": host, "api_keys": KEYS}))
    DoorServer(FakeEngine(), ServerSettings(host=host, is_insecure_allowed=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_open_without_keys(host):
    DoorServer(FakeEngine(), ServerSettings(host=host))


def test_the_server_starts_says_ready_stops_and_closes_the_engine():
    import httpx

    engine = FakeEngine()
    with running_server(engine) as running:
        assert httpx.get(f"{running.url}/health/readiness").json() == {"status": "ready"}
    assert engine.is_closed


def test_an_app_without_settings_is_the_default():
    assert create_app(FakeEngine()).state.door.settings == ServerSettings()
