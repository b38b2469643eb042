"""kill -9 of engine processes under a durable batch: its output is that of an undisturbed run, and what was kept is
never written again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from router_service.backends.base import ResidentBackend
from router_service.batch import BatchJob, WorkOptions, run_batch
from router_service.config import DispatchConfig
from router_service.dispatch.planner import keys_of
from router_service.dispatch.runner import Runner
from router_service.engine import Engine
from router_service.types import Completion, ExpertLimits
from tests.router_service.backends import fake_engine
from tests.router_service.backends.straw import engine_pids, expert_on, straw
from tests.router_service.batch_parts import parser
from tests.router_service.parts import engine_of

SAMPLES = 3
STEP_S = 0.004
WORDS = 8
WINDOWS = 25


class Counting(ResidentBackend):
    """Passes everything on, and counts what was asked and what came of it."""

    def __init__(self, inner):
        self._inner = inner
        self.asked, self.written, self.repeated = Counter(), set(), []

    def devices(self):
        return self._inner.devices()

    def footprint(self, expert):
        return self._inner.footprint(expert)

    async def load(self, expert, *, device):
        await self._inner.load(expert, device=device)

    async def release(self, model, *, device, sleeps=False):
        await self._inner.release(model, device=device, sleeps=sleeps)

    async def complete(self, expert, batch):
        keys = list(keys_of(batch))
        self.asked.update(keys)
        self.repeated += [key for key in keys if key in self.written]
        async for piece in self._inner.complete(expert, batch):
            yield piece
            if isinstance(piece, Completion) and piece.succeeded:  # the runner came back: it has kept the piece
                self.written.add((piece.query_id, piece.expert_id, piece.sample))


def write_input(path: Path, n_lines: int) -> Path:
    path.write_text(
        "".join(json.dumps({"id": f"q{i}", "question": f"word {i % 7} of {i}"}) + "\n" for i in range(n_lines))
    )
    return path


def experts_in(folder: Path):
    base = fake_engine.save_base(folder / "base", step_s=STEP_S)
    adapters = [fake_engine.save_adapter(folder / name, base) for name in ("one", "two")]
    patient = ExpertLimits(max_attempts=1000)
    plain = [expert_on(base, "plain"), *(expert_on(base, Path(a).name, adapter=a) for a in adapters)]
    return [replace(expert, limits=patient) for expert in plain]


async def run_under_kills(folder: Path, source: Path, *, n_kills: int, n_lines: int) -> tuple[bytes, Counting, int]:
    """One batch under so many kills, spread over its course; its output, what was asked, and the kills that hit."""
    experts = experts_in(folder)
    async with straw() as vllm:
        for expert in experts:
            vllm.check(expert)
        backend = Counting(vllm)
        engine = engine_over(experts, backend)
        target, work = folder / "out.jsonl", WorkOptions(window=max(4, n_lines // WINDOWS))
        job = BatchJob(source=source, target=target, as_query=parser.as_query, as_chat=parser.as_chat, work=work)
        batch = asyncio.create_task(run_batch(engine, job))
        n_hit = await kill_now_and_then(backend, batch, n_kills=n_kills, n_all=n_lines * SAMPLES)
        summary = await batch
    assert (summary.n_lines, summary.n_failed) == (n_lines, 0)
    return job.target.read_bytes(), backend, n_hit


def engine_over(experts, backend) -> Engine:
    engine = engine_of(backend, ids=[expert.id for expert in experts])
    dispatch = DispatchConfig(backoff_initial_s=0, max_assignments=32)
    engine.runner = Runner(experts={e.id: e for e in experts}, backends={"vllm": backend}, settings=dispatch)
    return engine


async def kill_now_and_then(backend: Counting, batch: asyncio.Task, *, n_kills: int, n_all: int) -> int:
    rng, n_hit = random.Random(0), 0
    for number in range(n_kills):
        wanted = n_all * (number + rng.random()) / (n_kills + 1)
        while len(backend.written) < wanted and not batch.done():
            await asyncio.sleep(0.001)
        while not (pids := engine_pids()) and not batch.done():
            await asyncio.sleep(0.005)
        await asyncio.sleep(rng.uniform(0, STEP_S * WORDS))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            n_hit += 1
            while pid in engine_pids() and not batch.done():
                await asyncio.sleep(0.001)
    return n_hit


@pytest.mark.parametrize(("n_lines", "n_kills"), [pytest.param(40, 3), pytest.param(500, 50, marks=pytest.mark.slow)])
async def test_engines_that_are_killed_cost_time_and_nothing_else(tmp_path, n_lines, n_kills):
    source = write_input(tmp_path / "in.jsonl", n_lines)
    whole, quiet, _ = await run_under_kills(tmp_path / "quiet", source, n_kills=0, n_lines=n_lines)
    output, killed, n_hit = await run_under_kills(tmp_path / "killed", source, n_kills=n_kills, n_lines=n_lines)
    again = sum(killed.asked.values()) - len(killed.asked)
    print(f"{n_hit} engines killed, {n_lines} lines: {len(killed.written)} completions, {again} begun anew")
    assert n_hit >= n_kills * 0.9
    assert again > 0
    assert output == whole
    assert len(killed.written) == len(quiet.written) == n_lines * SAMPLES
    assert not killed.repeated
    assert not engine_pids()
