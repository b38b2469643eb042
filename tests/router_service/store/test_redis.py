"""The Redis store on a real Valkey: deaths of the server, refusals, full memory, and keys that stay apart."""

from __future__ import annotations

import asyncio
import logging

import pytest

from router_service.errors import ConfigError, StoreUnavailable
from router_service.store.base import JobLine
from router_service.store.redis import Redis
from tests.router_service.store.kits import completion, entry, job, lines
from tests.router_service.store.valkey import ValkeyServer

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path):
    server = ValkeyServer(tmp_path)
    yield server
    server.stop()


async def test_what_returned_survives_the_servers_kill_9(server):
    store = Redis(server.url)
    await store.create(job(), lines(*range(1, 101)))
    await store.claim("j", worker="w", limit=100, lease_s=60)
    await asyncio.gather(*(store.memo("j").keep(str(n), completion(n)) for n in range(50)))
    await asyncio.gather(*(store.finish("j", entry(n), worker="w") for n in range(1, 31)))
    server.kill()
    with pytest.raises(StoreUnavailable, match=r"cannot be reached.*is kept"):
        await store.finish("j", entry(31), worker="w")
    server.start()
    assert await store.finish("j", entry(31), worker="w"), "the same store goes on, its scripts loaded again"
    assert (await store.progress("j")).finished == 31
    assert await store.renew("j", worker="w", lease_s=60) == set(range(32, 101))
    assert len(await store.memo("j").recall([str(n) for n in range(60)])) == 50
    await store.aclose()


async def test_a_wrong_password_is_refused_and_not_shown(tmp_path):
    server = ValkeyServer(tmp_path, "--requirepass", "right")
    try:
        for url in (server.url, server.url.replace("//", "//:wrongpass@")):
            store = Redis(url)
            with pytest.raises(ConfigError, match=r"refuses us.*check user, password") as raised:
                await store.jobs()
            assert "wrongpass" not in raised.value.message
            await store.aclose()
        store = Redis(server.url.replace("//", "//:right@"))
        assert await store.create(job(), lines(1))
        await store.aclose()
    finally:
        server.stop()


async def test_a_full_server_is_named_and_a_job_is_whole_or_not_there(tmp_path):
    server = ValkeyServer(tmp_path, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    try:
        store = Redis(server.url)
        await store.create(job(), lines(1, 2))
        big = (JobLine(number=n, payload=b"x" * 100_000) for n in range(1, 200))
        with pytest.raises(StoreUnavailable, match=r"takes nothing now.*free memory"):
            await store.create(job("big"), big)
        assert [found.id for found in await store.jobs()] == ["j"]
        await store.aclose()
    finally:
        server.stop()


async def test_prefixes_keep_stores_apart(server):
    one, other = Redis(f"{server.url}?prefix=one"), Redis(f"{server.url}?prefix=other")
    await one.create(job(), lines(1))
    assert await other.jobs() == []
    assert await other.create(job(), lines(2))
    await one.remove("j")
    assert [found.id for found in await other.jobs()] == ["j"]
    await one.aclose()
    await other.aclose()


async def test_a_removed_job_leaves_no_key_behind(server):
    store = Redis(server.url)
    await store.create(job(), lines(1, 2), entries=[entry(1)])
    await store.memo("j").keep("k", completion())
    await store.claim("j", worker="w", limit=1, lease_s=9)
    assert not await store.create(job(), lines(1, 2, 3))
    await store.remove("j")
    (left,) = await store._calls.send([("KEYS", "*")])
    assert left == [b"{enlist}:format"]
    await store.aclose()


async def test_what_a_creation_that_was_cut_off_had_sent_passes(server):
    def cut():
        yield from lines(*range(1, 2000))
        raise KeyError("cut")

    store = Redis(server.url)
    with pytest.raises(KeyError):
        await store.create(job(), cut())
    (staged,) = await store._calls.send([("KEYS", "*staged*")])
    assert staged
    assert all(0 < left_s <= 24 * 3600 for left_s in await store._calls.send([("TTL", key) for key in staged]))
    await store.aclose()


async def test_a_newer_format_is_refused(server):
    store = Redis(server.url)
    await store.jobs()
    await store._calls.send([("SET", "{enlist}:format", 2)])
    newer = Redis(server.url)
    with pytest.raises(ConfigError, match="of format 2, and this version of enlist reads 1"):
        await newer.jobs()
    await store.aclose()
    await newer.aclose()


async def test_a_server_that_forgets_is_warned_of(tmp_path, caplog):
    server = ValkeyServer(tmp_path, "--appendonly", "no")
    try:
        store = Redis(server.url)
        with caplog.at_level(logging.WARNING):
            await store.jobs()
        assert "keeps no append-only file" in caplog.text
        await store.aclose()
    finally:
        server.stop()
