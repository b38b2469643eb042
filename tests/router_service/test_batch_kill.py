"""kill -9 at ten random points: the output is that of an undisturbed run, and no finished line is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web

ROOT = Path(__file__).parents[2]
KILLS = 10
LINES = 300


def write_input(folder, n_lines):
    folder.mkdir()
    lines = [json.dumps({"id": f"q{i}", "question": f"word {i % 7} of {i}"}) for i in range(n_lines)]
    lines.insert(n_lines // 2, "{malformed")
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def finished_ids(folder):
    """Ids of the lines that the journal, or else the output, holds whole."""
    journal, target = folder / "out.jsonl.journal", folder / "out.jsonl"
    if journal.exists():
        whole = [line for line in journal.read_bytes().split(b"\n")[1:-1]]
        return {json.loads(line)["output"]["id"] for line in whole}
    return {json.loads(line)["id"] for line in target.read_text().splitlines()} if target.exists() else set()


def wait_for_lines(folder, wanted):
    """Wait until so many lines are finished: a kill by progress comes in the middle on any machine, fast or slow."""
    deadline = time.monotonic() + 20
    while not (folder / "out.jsonl").exists() and time.monotonic() < deadline:
        journal = folder / "out.jsonl.journal"
        if journal.exists() and journal.read_bytes().count(b"\n") - 1 >= wanted:
            return
        time.sleep(0.001)


class Nursery:
    """Children that run the batch of one folder, see `batch_nursery`."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.router_service.batch_nursery", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def start(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def exit_code(self):
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


def test_ten_kills_change_nothing_and_repeat_nothing(tmp_path):
    calm, cut = (write_input(tmp_path / name, LINES) for name in ("calm", "cut"))
    undisturbed = Nursery(calm)
    undisturbed.start()
    assert undisturbed.exit_code() == 0
    undisturbed.close()

    rng, log, nursery = random.Random(20), cut / "asked.log", Nursery(cut)
    unfinished_at_kill = []
    for _ in range(KILLS):
        done, asked_before = finished_ids(cut), log.stat().st_size if log.exists() else 0
        child = nursery.start()
        wait_for_lines(cut, len(done) + rng.randint(0, LINES // (2 * KILLS)))
        time.sleep(rng.uniform(0.0, 0.003))
        with contextlib.suppress(ProcessLookupError):  # it was done already: counted below, and too many of it fail
            os.kill(child, signal.SIGKILL)
        unfinished_at_kill.append(nursery.exit_code() != 0)
        asked = {line.split()[0] for line in log.read_text()[asked_before:].splitlines()} if log.exists() else set()
        assert not asked & done
    done, asked_before = finished_ids(cut), log.stat().st_size
    nursery.start()
    assert nursery.exit_code() == 0
    nursery.close()
    assert not {line.split()[0] for line in log.read_text()[asked_before:].splitlines()} & done
    assert (cut / "out.jsonl").read_bytes() == (calm / "out.jsonl").read_bytes()
    assert not (cut / "out.jsonl.journal").exists()
    assert sum(unfinished_at_kill) >= KILLS // 2, "the kills came too late to show anything"


# --- the same through the command line and a server ------------------------------------------------------------------


class CountingServer:
    """An OpenAI-compatible server of one model that is slow enough to be interrupted and remembers who asked what."""

    def __init__(self):
        self.asked = []
        self.app = web.Application()
        self.app.router.add_post("/v1/chat/completions", self.chat)

    async def chat(self, request):
        body = await request.json()
        text = body["messages"][-1]["content"]
        self.asked.append(text)
        await asyncio.sleep(0.05)
        choice = {"index": 0, "message": {"role": "assistant", "content": text[::-1]}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return web.json_response(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        )


def pool_file(path, port):
    path.write_text(
        "experts:\n"
        + "".join(
            f"  - {{id: {name}, model: m, backend: openai, address: 'http://127.0.0.1:{port}/v1',"
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
            done, n_asked = finished_ids(cut), len(server.asked)
            process = await start(cut)
            await wait_for(lambda seen=n_asked: len(server.asked) > seen, process)
            await asyncio.sleep(rng.uniform(0.0, 0.15))
            unfinished_at_kill.append(process.returncode is None)
            if process.returncode is None:
                process.kill()
            await process.wait()
            assert not {f"q{text.rsplit(' ', 1)[1]}" for text in server.asked[n_asked:]} & done
        done, n_asked = finished_ids(cut), len(server.asked)
        assert await (await start(cut)).wait() == 0
        assert not {f"q{text.rsplit(' ', 1)[1]}" for text in server.asked[n_asked:]} & done
        assert (cut / "out.jsonl").read_bytes() == (calm / "out.jsonl").read_bytes()
        assert sum(unfinished_at_kill) >= KILLS // 2, "the kills came too late to show anything"
    finally:
        await runner.cleanup()
