"""Every store with a way to let time pass, and the values that its tests are made of."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass

from router_service.store.base import FinishedEntry, Job, JobLine, JobStore
from router_service.store.memory import Memory
from router_service.store.redis import Redis
from router_service.store.sqlite import Sqlite
from router_service.types import Completion, ToolCall, Usage

__all__ = ["Kit", "completion", "entry", "job", "lines", "opened_kit"]


class FakeClock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        self.now += 1e-6  # no two moments are the same
        return self.now


@dataclass
class Kit:
    """A store, another one onto the same data where there can be one, and time."""

    store: JobStore
    again: JobStore
    clock: FakeClock | None

    async def pass_s(self, seconds):
        if self.clock is not None:
            self.clock.now += seconds
        else:
            await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def opened_kit(name, folder, url=None):
    clock = FakeClock()
    if name == "memory":
        store = again = Memory(clock=clock)
    elif name == "sqlite":
        store, again = (Sqlite(str(folder / "jobs.sqlite"), clock=clock) for _ in range(2))
    else:
        address = f"{url}?prefix={uuid.uuid4().hex}"
        store, again, clock = Redis(address), Redis(address), None
    try:
        yield Kit(store, again, clock)
    finally:
        await store.aclose()
        await again.aclose()


def job(job_id="j", **fields):
    return Job(id=job_id, header={"input": "abc", "config.k": "3"}, metadata={"target": "out\n.jsonl"}, **fields)


def lines(*numbers):
    return [JobLine(number=number, payload=b"line \xff %d\n" % number) for number in numbers]


def entry(number, **fields):
    fields.setdefault("usage", Usage(completions=3, prompt_tokens=20, completion_tokens=10, cost_usd=0.25))
    fields.setdefault("route", {"recruits": {"a": 2, "b": 1}, "aggregator": "majority"})
    return FinishedEntry(number=number, output={"id": f"é\ud800{number}", "n": 2**70, "answer": None}, **fields)


def completion(sample=0, **fields):
    return Completion(
        query_id="q",
        expert_id="a",
        sample=sample,
        text="half \ud800 a pair\x00",
        extracted="4",
        finish_reason="stop",
        tool_calls=(ToolCall(id="1", name="look", arguments='{"x": 1}'),),
        usage=Usage(completions=1, prompt_tokens=5, completion_tokens=7, cost_usd=None),
        latency_s=0.125,
        logprob=-0.1,
        **fields,
    )
