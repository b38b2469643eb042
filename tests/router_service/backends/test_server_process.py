"""Server processes of ours: started on a free port, awaited, watched, and ended with every descendant."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from router_service.backends._engine_process import EngineGone
from router_service.backends._server_process import ServerOrder, ServerProcess, free_port, start_server
from tests.meta.source import ROOT
from tests.router_service.backends.straw import is_running, until

FAKE = Path(__file__).with_name("fake_vllm.py")


def order_for(folder: Path, *more: str, **behaviour: object) -> ServerOrder:
    (folder / "fake.json").write_text(json.dumps(behaviour))
    return ServerOrder(
        command=(sys.executable, "-I", "-S", str(FAKE), "-m", "server", "--model", str(folder), *more),
        environment=dict(os.environ),
        names=frozenset({"base"}),
        start_s=20.0,
        probe_s=0.5,
        grace_s=2.0,
    )


def journal_of(folder: Path) -> list[dict[str, object]]:
    file = folder / "journal.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def command_lines() -> list[str]:
    """Of every process of the machine that has one and does not end just now."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_bytes().decode(errors="replace"))
    return found


@asynccontextmanager
async def served(order: ServerOrder) -> AsyncIterator[ServerProcess]:
    server = await start_server(order)
    try:
        yield server
    finally:
        await server.stop()


async def test_it_is_ready_when_it_serves_the_names_and_gone_when_it_was_stopped(tmp_path: Path) -> None:
    async with served(order_for(tmp_path)) as server:
        [entry] = journal_of(tmp_path)
        assert server.pid == entry["pid"] and server.is_alive and server.gone is None
        assert server.address == f"http://127.0.0.1:{entry['port']}/v1" and server.window == 64
        assert await server.health() == "well"
    assert not server.is_alive and server.gone is not None and server.gone.was_stopped
    assert not is_running(int(entry["pid"])) and not is_running(int(entry["engine"]))
    assert await server.health() == "unreachable"


async def test_its_key_is_its_own_and_on_no_command_line(tmp_path: Path) -> None:
    async with served(order_for(tmp_path)) as one, served(order_for(tmp_path)) as two:
        assert one.key.reveal() != two.key.reveal() and len(one.key.reveal()) >= 32
        assert not [line for line in command_lines() if one.key.reveal() in line]
        assert one.key.reveal() not in repr(one.key) + repr(one)


async def test_a_port_that_was_taken_meanwhile_is_exchanged_for_another(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = iter([other.getsockname()[1], free_port()])
        server = await start_server(order_for(tmp_path), find_port=lambda: next(ports))
    assert [entry["port"] for entry in journal_of(tmp_path)][1] == int(server.address.rsplit(":", 1)[1][:-3])
    await server.stop()


async def test_a_stranger_on_its_port_is_not_taken_for_it(tmp_path: Path) -> None:
    stranger_folder = tmp_path / "stranger"
    stranger_folder.mkdir()
    async with served(order_for(stranger_folder)) as stranger:
        port = int(stranger.address.rsplit(":", 1)[1][:-3])
        with pytest.raises(EngineGone, match="status"):
            await start_server(order_for(tmp_path), find_port=lambda: port)
        assert await stranger.health() == "well"


async def test_one_that_dies_at_its_start_says_its_last_words_without_its_key(tmp_path: Path) -> None:
    with pytest.raises(EngineGone) as caught:
        await start_server(order_for(tmp_path, at_start="die"))
    assert caught.value.reason == "it ended with status 3" and caught.value.status == 3
    assert "ValueError: this model cannot be served" in caught.value.tail
    assert "with key ***" in caught.value.tail
    assert not is_running(int(journal_of(tmp_path)[0]["engine"]))


async def test_one_that_does_not_end_when_told_to_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with served(replace(order_for(tmp_path, is_stubborn=True), grace_s=0.2)) as server:
        [entry] = journal_of(tmp_path)
    assert server.gone is not None and server.gone.status == -signal.SIGKILL and server.gone.was_stopped
    assert not is_running(int(entry["pid"])) and not is_running(int(entry["engine"]))


async def test_an_argument_it_does_not_know_is_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(EngineGone, match="status 2") as caught:
        await start_server(order_for(tmp_path, "--no-such-thing", "1"))
    assert "unrecognized arguments: --no-such-thing" in caught.value.tail


async def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineGone, match="127") as caught:
        await start_server(replace(order_for(tmp_path), command=(str(tmp_path / "python"), "-m", "x")))
    assert f"cannot run {tmp_path / 'python'}: No such file" in caught.value.tail


async def test_one_that_hangs_at_its_start_is_killed_at_the_limit(tmp_path: Path) -> None:
    order = replace(order_for(tmp_path, at_start="hang"), start_s=1.0)
    with pytest.raises(EngineGone, match=r"not ready within 1 s \(option load_timeout_s\)"):
        await start_server(order)
    assert not [line for line in command_lines() if str(tmp_path) in line]


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    start = asyncio.create_task(start_server(order_for(tmp_path, at_start="hang")))
    await until(lambda: journal_of(tmp_path))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    [entry] = journal_of(tmp_path)
    assert not is_running(int(entry["pid"])) and not is_running(int(entry["engine"]))


async def test_one_that_is_killed_is_noticed_and_its_engine_ended(tmp_path: Path) -> None:
    async with served(order_for(tmp_path)) as server:
        os.kill(server.pid or 0, signal.SIGKILL)
        await until(lambda: not server.is_alive)
        assert server.gone is not None and server.gone.reason == "it was killed by signal 9 (SIGKILL)"
        assert not is_running(int(journal_of(tmp_path)[0]["engine"]))


async def test_one_that_answers_no_probe_is_killed(tmp_path: Path) -> None:
    async with served(replace(order_for(tmp_path), probe_s=0.1)) as server:
        os.kill(server.pid or 0, signal.SIGSTOP)
        await until(lambda: not server.is_alive)
        assert server.gone is not None and "asked for its health it left 3 of them unanswered" in server.gone.reason


async def test_one_whose_minder_is_killed_is_ended_all_the_same(tmp_path: Path) -> None:
    async with served(order_for(tmp_path)) as server:
        [entry] = journal_of(tmp_path)
        os.kill(parent_of(int(entry["pid"])), signal.SIGKILL)
        await until(lambda: not (is_running(int(entry["pid"])) or is_running(int(entry["engine"]))))
        await until(lambda: not server.is_alive)


GATEWAY = """
import asyncio, sys
from pathlib import Path
from tests.router_service.backends.test_server_process import order_for
from router_service.backends._server_process import start_server

async def main():
    server = await start_server(order_for(Path(sys.argv[1])))
    print(server.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_none_outlives_its_parent_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY, str(tmp_path)), stdout=subprocess.PIPE, cwd=ROOT
    )
    assert gateway.stdout is not None
    pid = int(await gateway.stdout.readline())
    [entry] = journal_of(tmp_path)
    assert pid == entry["pid"] and is_running(pid)
    gateway.send_signal(number)
    await gateway.wait()
    await until(lambda: not (is_running(pid) or is_running(int(entry["engine"]))))


async def test_what_it_logs_never_stops_it(tmp_path: Path) -> None:
    code = "import sys\nfor i in range(20000): print('x' * 100, i)\nsys.exit(4)"
    order = replace(order_for(tmp_path), command=(sys.executable, "-I", "-S", "-c", code))
    began = time.monotonic()
    with pytest.raises(EngineGone, match="status 4") as caught:
        await start_server(order)
    assert caught.value.tail.endswith("19999") and len(caught.value.tail) <= 2000
    assert time.monotonic() - began < 10
