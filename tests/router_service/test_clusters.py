"""The service on a real Ray cluster as its users start it: batches from the command line, gateways before Ray Serve."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router_service.store.opening import open_store
from tests.meta.source import ROOT
from tests.router_service.commands import run_command
from tests.router_service.dispatch.ray_nursery import add_node, ray_cluster

LINES = 200

POOL = """
name: echoes
defaults: {backend: echo, model: m, prices: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}}
experts:
  - {id: a, model: one, options: {reply: "a says {text}", latency_s: 0.01}}
  - {id: b, model: two, options: {reply: "b says {text}", latency_s: 0.01}}
  - {id: c, model: three, options: {reply: "c says {text}", latency_s: 0.01}}
"""
CONFIG = """
pool: pool.yaml
annotator: blank
recruiter: all
aggregator: first
cluster: {backends: [echo]}
dispatch: {max_assignments: 10}
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def client_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def cluster(client_port: int) -> Iterator[Any]:
    with ray_cluster(3, ray_client_server_port=client_port) as cluster:
        yield cluster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pool.yaml").write_text(POOL)
    (tmp_path / "enlist.yaml").write_text(CONFIG)
    write_lines(tmp_path, LINES)
    return tmp_path


def write_lines(folder: Path, count: int) -> None:
    lines = (json.dumps({"id": f"q{i}", "question": f"What is {i}?"}) + "\n" for i in range(count))
    (folder / "in.jsonl").write_text("".join(lines))


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """`enlist` with these arguments, in a process of its own."""
    command = [sys.executable, "-m", "router_service.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a batch printed as JSON; it must have gone well, and printed nothing else there."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary: dict[str, Any] = json.loads(out)
    return summary


def batch(target: str, *arguments: object) -> tuple[object, ...]:
    return ("batch", "in.jsonl", target, "--config", "enlist.yaml", "--json", *arguments)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_unreachable_cluster_is_an_error_before_anything_is_run(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(folder)
    code, _, err = run_command(capsys, *batch("out.jsonl", "--engine", "ray", "--address", address))
    assert code == 2
    assert "no Ray cluster listens" in " ".join(err.split())
    assert sorted(path.name for path in folder.iterdir()) == ["enlist.yaml", "in.jsonl", "pool.yaml"]


@pytest.mark.slow
def test_a_batch_on_a_cluster_that_loses_a_node_is_the_batch_that_ran_here(cluster: Any, folder: Path) -> None:
    here = ended(start(folder, *batch("here.jsonl", "--engine", "local")))
    store = folder / "jobs.sqlite"
    process = start(folder, *batch("there.jsonl", "--engine", "ray", "--address", cluster.address, "--store", store))
    asyncio.run(half_way(store, process))
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    try:
        there = ended(process)
    finally:
        add_node(cluster)
    assert (folder / "there.jsonl").read_bytes() == (folder / "here.jsonl").read_bytes()
    assert there["completions"] == here["completions"] == 3 * LINES
    assert there["answered"] == LINES


async def half_way(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until some lines are finished, and not all."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(path.exists):
            assert process.poll() is None, process.communicate()
            await asyncio.sleep(0.05)
    store = open_store(str(path))
    try:
        async with asyncio.timeout(60):
            while True:
                assert process.poll() is None, process.communicate()
                jobs = await store.jobs()
                if jobs and (await store.progress(jobs[0].id)).finished >= LINES // 10:
                    break
                await asyncio.sleep(0.05)
        assert (await store.progress(jobs[0].id)).finished < LINES
    finally:
        await store.aclose()


@pytest.mark.slow
def test_a_batch_reaches_a_cluster_from_outside(cluster: Any, client_port: int, folder: Path) -> None:
    write_lines(folder, 12)
    here = ended(start(folder, *batch("here.jsonl", "--engine", "local")))
    there = ended(start(folder, *batch("there.jsonl", "--address", f"ray://127.0.0.1:{client_port}")))
    assert (folder / "there.jsonl").read_bytes() == (folder / "here.jsonl").read_bytes()
    assert there["completions"] == here["completions"] == 36


# --- online ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[None]:
    """End the process afterwards, as Ctrl-C would, and by force where that takes too long."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
        process.kill()
        process.communicate()


def until_ready(address: str, process: subprocess.Popen[str], *, within_s: float = 120.0) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/health/readiness", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(f"{address} was not ready within {within_s:g} s")


@pytest.fixture(scope="module")
def served(cluster: Any) -> Iterator[str]:
    """The example on the cluster: two replicas of the built-in model; the address without /v1."""
    port = free_port()
    settings = {"RAY_ADDRESS": cluster.address, "SERVE_PORT": str(port), "SERVE_CPUS": "0.5"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "ray_serve_expert.py")],
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with running(process):
        until_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def gateway(served: str) -> Iterator[str]:
    """A stateless gateway in front of it; its address."""
    port = free_port()
    command = [sys.executable, "-m", "router_service.cli", "serve", "--port", str(port), "--recruiter", "all"]
    process = subprocess.Popen(
        [*command, "--aggregator", "majority", "--pool", str(ROOT / "examples" / "ray_serve_pool.yaml")],
        env={**os.environ, "SERVE_URL": f"{served}/v1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with running(process):
        until_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"


async def ask_all(addresses: list[str], questions: list[str], *, at_once: int = 8) -> tuple[list[str], list[float]]:
    """Every question to one of the addresses in turn, so many at once; answers and latencies (s), in order."""
    places = asyncio.Semaphore(at_once)

    async def ask(client: httpx.AsyncClient, number: int, question: str) -> tuple[str, float]:
        body = {"model": "roman", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
        async with places:
            began = time.perf_counter()
            reply = await client.post(f"{addresses[number % len(addresses)]}/v1/chat/completions", json=body)
            reply.raise_for_status()
            return reply.json()["choices"][0]["message"]["content"], time.perf_counter() - began

    async with httpx.AsyncClient(timeout=120) as client:
        said = await asyncio.gather(*(ask(client, *numbered) for numbered in enumerate(questions)))
    return [text for text, _ in said], [seconds for _, seconds in said]


@pytest.mark.slow
def test_two_gateways_in_front_of_ray_serve_answer_as_the_experts_do(served: str) -> None:
    questions = [f"Write {number} as a Roman numeral." for number in range(1, 17)]
    with gateway(served) as first, gateway(served) as second:
        asyncio.run(ask_all([served], questions))  # both replicas have read the model now
        direct, direct_s = asyncio.run(ask_all([served], questions))
        one, one_s = asyncio.run(ask_all([first], questions))
        both, both_s = asyncio.run(ask_all([first, second], questions))
        body = {"model": "auto", "messages": [{"role": "user", "content": questions[13]}]}
        answers = [httpx.post(f"{each}/v1/chat/completions", json=body, timeout=60) for each in (first, second)]
    assert one == both == direct
    assert direct[13] == "XIV"
    panels = [sorted(row["id"] for row in answer.json()["enlist"]["experts"]) for answer in answers]
    assert panels == [["generalist", "roman", "sorting"]] * 2
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    for name, seconds in (("direct", direct_s), ("one gateway", one_s), ("two gateways", both_s)):
        print(f"\n{name}: median {statistics.median(seconds):.3f} s, slowest {max(seconds):.3f} s", end="")


@pytest.mark.slow
def test_a_gateway_that_is_killed_takes_nothing_with_it(served: str) -> None:
    question = ["Write 14 as a Roman numeral."]
    with gateway(served) as second:
        with gateway(served) as first:
            assert asyncio.run(ask_all([first], question))[0] == ["XIV"]
        with pytest.raises(httpx.HTTPError):
            asyncio.run(ask_all([first], question))
        assert asyncio.run(ask_all([second], question))[0] == ["XIV"]
