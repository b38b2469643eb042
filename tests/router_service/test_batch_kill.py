"""kill -9 at random points: the output is that of an undisturbed run, and no completion that was kept is asked for
again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tests.router_service.store.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
EXPERTS = 3
DEADLINE_S = 60


def write_input(folder, n_lines):
    folder.mkdir()
    lines = [json.dumps({"id": f"q{i}", "question": f"word {i % 7} of {i}"}) for i in range(n_lines)]
    lines.insert(n_lines // 2, "{malformed")
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    return folder


class Nursery:
    """Children that run batches, one at a time, see `batch_nursery`."""

    def __init__(self, url=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.router_service.batch_nursery", *([url] if url else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self.child = None

    def start(self, folder):
        self.process.stdin.write(f"{folder}\n".encode())
        self.process.stdin.flush()
        self.child = int(self.process.stdout.readline())

    def has_ended(self):
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def kill(self):
        """True where the child was still at work."""
        if not self.has_ended():
            os.kill(self.child, signal.SIGKILL)
        return self.exit_code() != 0

    def exit_code(self):
        return int(self.process.stdout.readline())

    def close(self):
        if self.child is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)


@dataclass
class Calls:
    """What the log of a folder says, read on from where it was read before."""

    path: Path
    asked: Counter = field(default_factory=Counter)
    kept: set = field(default_factory=set)
    repeated: list = field(default_factory=list)
    _read: int = 0

    def read(self):
        """Whole lines only: the last one may still be being written, and a kill leaves half lines, see `CallLog`."""
        content = self.path.read_bytes() if self.path.exists() else b""
        end = content.rfind(b"\n") + 1
        for line in content[self._read : end].decode().splitlines():
            what, key, whole = (*line.split(), "", "", "")[:3]
            if whole != ".":
                continue
            if what == "kept":
                self.kept.add(key)
                continue
            self.asked[key] += 1
            if key in self.kept:
                self.repeated.append(key)
        self._read = end

    @property
    def n_asked(self):
        return sum(self.asked.values())


def kept_in_file(folder):
    """What the memo of the batch's own store keeps: more than the log says, where a kill came in between."""
    path = folder / "out.jsonl.job"
    if not path.exists():
        return set()
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = [json.loads(text) for (text,) in db.execute("SELECT completion FROM completions")]
    return {f"{kept['query']}/{kept['expert']}/{kept['sample']}" for kept in rows}


def wait_for_calls(calls, n_more, nurseries):
    """Wait until so many calls went out: a kill by progress comes in the middle on any machine, fast or slow."""
    calls.read()
    wanted, deadline = calls.n_asked + n_more, time.monotonic() + DEADLINE_S
    while calls.n_asked < wanted and not any(nursery.has_ended() for nursery in nurseries):
        assert time.monotonic() < deadline, "the batch does not go on"
        time.sleep(0.001)
        calls.read()


def run_cut(folder, nurseries, rng, *, n_kills, n_lines, has_file):
    """One batch, killed again and again, then left to end; what was asked, and how many kills came in time."""
    calls, n_in_time = Calls(folder / "calls.log"), 0
    for nursery in nurseries:
        nursery.start(folder)
    for _ in range(n_kills):
        wait_for_calls(calls, rng.randint(1, EXPERTS * n_lines // (n_kills + 2)), nurseries)
        time.sleep(rng.uniform(0.0, 0.003))
        nursery = rng.choice(nurseries)
        n_in_time += nursery.kill()
        calls.read()
        if has_file:
            calls.kept |= kept_in_file(folder)
        nursery.start(folder)
    assert [nursery.exit_code() for nursery in nurseries] == [0] * len(nurseries)
    calls.read()
    return calls, n_in_time


def run_kills(tmp_path, *, n_batches, n_kills, n_lines, n_workers=1, url=None):
    """Several batches with kills, beside an undisturbed one; what all of them asked."""
    calm = write_input(tmp_path / "calm", n_lines)
    nurseries = [Nursery(url) for _ in range(n_workers)]
    rng, total = random.Random(20), Counter()
    try:
        nurseries[0].start(calm)
        assert nurseries[0].exit_code() == 0
        for number in range(n_batches):
            folder = write_input(tmp_path / f"cut{number}", n_lines)
            calls, n_in_time = run_cut(folder, nurseries, rng, n_kills=n_kills, n_lines=n_lines, has_file=url is None)
            assert (folder / "out.jsonl").read_bytes() == (calm / "out.jsonl").read_bytes()
            assert not calls.repeated
            assert len(calls.asked) == EXPERTS * n_lines
            assert not (folder / "out.jsonl.job").exists()
            again = calls.n_asked - len(calls.asked)
            total.update(kills=n_in_time, asked=calls.n_asked, kept=len(calls.kept), cut_and_asked_again=again)
            total.update(repeated=len(calls.repeated))
    finally:
        for nursery in nurseries:
            nursery.close()
    return total


def test_a_few_kills_change_nothing_and_repeat_nothing(tmp_path):
    total = run_kills(tmp_path, n_batches=1, n_kills=6, n_lines=200)
    assert total["kills"] >= 3, "the kills came too late to show anything"


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("store", ["sqlite", "valkey"])
def test_fifty_kills_change_nothing_and_repeat_nothing(tmp_path, capsys, store, n_workers):
    server = None
    if store == "valkey":
        (tmp_path / "server").mkdir()
        server = ValkeyServer(tmp_path / "server")
    try:
        url = None if server is None else f"{server.url}?prefix={uuid.uuid4().hex}"
        started = time.monotonic()
        total = run_kills(tmp_path, n_batches=5, n_kills=11, n_lines=500, n_workers=n_workers, url=url)
    finally:
        if server is not None:
            server.stop()
    with capsys.disabled():
        print(f"\n{store}, {n_workers} workers, {time.monotonic() - started:.0f} s: {dict(total)}")
    assert total["kills"] >= 50, "too many kills came too late"
    assert total["repeated"] == 0


# --- the same through the command line and a server ------------------------------------------------------------------

KILLS = 10
LINES = 300


class CountingServer:
    """An OpenAI-compatible server that is slow enough to be interrupted and remembers which model was asked what."""

    def __init__(self):
        self.asked = []
        self.app = web.Application()
        self.app.router.add_post("/v1/chat/completions", self.chat)

    async def chat(self, request):
        body = await request.json()
        text = body["messages"][-1]["content"]
        self.asked.append(f"q{text.rsplit(' ', 1)[1]}/{body['model']}/0")
        await asyncio.sleep(0.05)
        choice = {"index": 0, "message": {"role": "assistant", "content": text[::-1]}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return web.json_response(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
        )


def pool_file(path, port):
    path.write_text(
        "experts:\n"
        + "".join(
            f"  - {{id: {name}, model: {name}, backend: openai, address: 'http://127.0.0.1:{port}/v1',"
            " prices: {input_usd_per_mtok: 1.0, output_usd_per_mtok: 2.0}}\n"
            for name in ("a", "b")
        )
    )
    return path


@pytest.mark.slow
async def test_the_command_survives_ten_kills(tmp_path):
    server = CountingServer()
    runner = web.AppRunner(server.app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    pool = pool_file(tmp_path / "pool.yaml", port)
    config = tmp_path / "enlist.yaml"
    config.write_text("annotator: blank\nrecruiter: all\naggregator: majority\n")
    calm, cut = (write_input(tmp_path / name, LINES) for name in ("calm", "cut"))

    async def start(folder):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "router_service.cli", "batch", folder / "in.jsonl", folder / "out.jsonl"),
            *("--pool", pool, "--config", config),
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
        )

    async def wait_for(condition, process):
        while not condition() and process.returncode is None:
            await asyncio.sleep(0.005)

    try:
        undisturbed = await start(calm)
        assert await undisturbed.wait() == 0
        texts = {json.loads(line)["id"]: line for line in (calm / "out.jsonl").read_text().splitlines()}
        assert len(texts) == LINES + 1
        rng = random.Random(7)
        unfinished_at_kill = []
        for _ in range(KILLS):
            kept, n_asked = kept_in_file(cut), len(server.asked)
            process = await start(cut)
            await wait_for(lambda seen=n_asked: len(server.asked) > seen, process)
            await asyncio.sleep(rng.uniform(0.0, 0.15))
            unfinished_at_kill.append(process.returncode is None)
            if process.returncode is None:
                process.kill()
            await process.wait()
            assert not set(server.asked[n_asked:]) & kept
        kept, n_asked = kept_in_file(cut), len(server.asked)
        assert await (await start(cut)).wait() == 0
        assert not set(server.asked[n_asked:]) & kept
        assert (cut / "out.jsonl").read_bytes() == (calm / "out.jsonl").read_bytes()
        assert sum(unfinished_at_kill) >= KILLS // 2, "the kills came too late to show anything"
    finally:
        await runner.cleanup()
