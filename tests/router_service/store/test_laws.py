"""Any sequence of calls leads every store to the same places as the plain one in memory."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from router_service.store.base import JobState
from router_service.store.memory import Memory
from tests.router_service.store.kits import FakeClock, entry, job, lines, opened_kit

WORKERS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(1, 13)


class SameAsMemory(RuleBasedStateMachine):
    """The store under test and the model get the same calls; `is_timed` where both run by one clock."""

    name = "sqlite"
    url = None
    is_timed = True

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = contextlib.AsyncExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.kit = self.loop.run_until_complete(self.stack.enter_async_context(opened_kit(self.name, folder, self.url)))
        self.model = Memory(clock=self.kit.clock or FakeClock())
        self.lease_s = 10.0 if self.is_timed else 1e6
        self.both(lambda store: store.create(job(), lines(*range(1, 13)), entries=[entry(5)]))

    def both(self, call):
        results = [self.loop.run_until_complete(call(store)) for store in (self.kit.store, self.model)]
        assert results[0] == results[1]
        return results[0]

    @rule(worker=WORKERS, limit=st.integers(1, 9))
    def claim(self, worker, limit):
        self.both(lambda store: store.claim("j", worker=worker, limit=limit, lease_s=self.lease_s))

    @rule(number=NUMBERS, worker=st.none() | WORKERS, failed=st.booleans(), retryable=st.booleans())
    def finish(self, number, worker, failed, retryable):
        end = entry(number, has_failed=failed, is_retryable=failed and retryable)
        self.both(lambda store: store.finish("j", end, worker=worker))

    @rule(worker=WORKERS, is_lost=st.booleans())
    def give_back(self, worker, is_lost):
        self.both(lambda store: store.give_back("j", worker=worker, is_lost=is_lost))

    @rule(worker=WORKERS)
    def renew(self, worker):
        self.both(lambda store: store.renew("j", worker=worker, lease_s=self.lease_s))

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def pass_time(self, seconds):
        if self.is_timed:
            self.kit.clock.now += seconds

    @rule(retryable_only=st.booleans())
    def reopen(self, retryable_only):
        self.both(lambda store: store.reopen("j", retryable_only=retryable_only))

    @rule(state=st.sampled_from(list(JobState)), unless=st.lists(st.sampled_from(list(JobState))))
    def set_state(self, state, unless):
        self.both(lambda store: store.set_state("j", state, unless=unless))

    @invariant()
    def they_agree(self):
        self.both(lambda store: store.workers("j"))
        progress = [self.loop.run_until_complete(store.progress("j")) for store in (self.kit.store, self.model)]
        costs = [found.usage.cost_usd for found in progress]
        assert costs[0] == pytest.approx(costs[1])
        plain = [replace(found, usage=replace(found.usage, cost_usd=0.0)) for found in progress]
        assert plain[0] == plain[1]
        numbers = self.both(finished_numbers)
        assert numbers == sorted(set(numbers))
        assert len(numbers) == progress[0].finished

    def teardown(self):
        self.loop.run_until_complete(self.stack.aclose())
        self.loop.close()


async def finished_numbers(store):
    return [item.number async for item in store.entries("j")]


def test_sqlite_agrees_with_memory():
    run_state_machine_as_test(SameAsMemory, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))


@pytest.mark.slow
def test_redis_agrees_with_memory(valkey):
    class RedisSameAsMemory(SameAsMemory):
        name = "redis"
        url = valkey.url
        is_timed = False

    run_state_machine_as_test(
        RedisSameAsMemory, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )
