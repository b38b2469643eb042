"""Addresses of job stores: what they open, and what is said of those that open nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from router_service.errors import ConfigError, StoreUnavailable, UnknownNameError
from router_service.store.base import STORES
from router_service.store.memory import Memory
from router_service.store.opening import open_store
from router_service.store.redis import Redis
from router_service.store.sqlite import Sqlite


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///jobs/a.db", "jobs/a.db"),
        ("sqlite:////data/a%20b.db", "/data/a b.db"),
        ("jobs.sqlite", "jobs.sqlite"),
        ("/x/answers.jsonl.job", "/x/answers.jsonl.job"),
    ],
)
def test_files_open_as_sqlite(url, path):
    store = open_store(url)
    assert isinstance(store, Sqlite)
    assert store.path == Path(path)


def test_schemes_open_their_stores():
    assert isinstance(open_store("memory:"), Memory)
    for scheme in ("redis", "rediss", "valkey", "valkeys"):
        assert isinstance(open_store(f"{scheme}://localhost:1/0?prefix=x"), Redis)
    assert {"memory", "redis", "sqlite"} <= set(STORES.names())


def test_a_misspelt_scheme_gets_a_hint_and_shows_no_password():
    with pytest.raises(UnknownNameError, match="Did you mean 'redis'") as raised:
        open_store("reddis://me:topsecret@host/0")
    assert "topsecret" not in raised.value.message


@pytest.mark.parametrize("url", ["jobs.db", "just words", ""])
def test_what_is_no_address_is_told_how_one_looks(url):
    with pytest.raises(ConfigError, match="sqlite:///"):
        open_store(url)


@pytest.mark.parametrize("url", ["sqlite://host/a.db", "sqlite:", "sqlite:///", "sqlite:///a.db?mode=ro"])
def test_a_sqlite_address_has_a_path_and_nothing_else(url):
    with pytest.raises(ConfigError, match=r"sqlite:///relative/path|needs a scheme"):
        open_store(url)


async def test_a_server_that_is_not_there_is_named_without_the_password():
    store = open_store("redis://me:topsecret@127.0.0.1:1/3")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/3 cannot be reached") as raised:
        await store.jobs()
    assert "topsecret" not in raised.value.message
    assert "topsecret" not in repr(store)
    await store.aclose()


@pytest.mark.parametrize("url", ["redis://me:topsecret@host:port/0", "redis://h:1/0?max_connections=topsecret"])
def test_an_address_that_redis_does_not_take_is_refused_without_the_password(url):
    with pytest.raises(ConfigError, match="write redis://") as raised:
        open_store(url)
    assert "topsecret" not in raised.value.message


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:top/secret@host:6379/0",
        "redis://:123/secret@host:6379/0",
        "redis://:top#secret@host/0",
        "redis://:top?secret@host/0",
        "redis://[::1/secret",
        "redis://host/secret",
        "redis://host/-1",
        "redis://host:0/0",
        "redis:localhost",
        "redis://host/0?prefx=secret",
    ],
)
def test_an_address_of_another_form_opens_no_other_place_and_shows_no_half_of_a_password(url):
    with pytest.raises(ConfigError, match="write redis://") as raised:
        open_store(url)
    assert "secret" not in raised.value.message


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigError, match=r'pip install "enlist\[redis\]"'):
        open_store("redis://localhost/0")
