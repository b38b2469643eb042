"""A memo of completions: what it keeps is not asked again, and nobody hears of a success before it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest

from router_service.dispatch.memo import memo_keys
from router_service.dispatch.planner import keys_of
from router_service.dispatch.runner import Runner
from router_service.errors import StoreUnavailable
from router_service.types import (
    Assignment,
    Completion,
    CompletionError,
    Expert,
    ExpertBatch,
    Prices,
    Sampling,
    Secret,
    user_query,
)
from tests.router_service.dispatch.fakes import (
    BatchedBackend,
    ScriptedBackend,
    Sleeper,
    batch_of,
    collect,
    expert,
    panels,
    runner_of,
)

EXPERT = Expert(id="ada", model="m", backend="scripted")
BATCH = ExpertBatch(
    expert_id="ada",
    assignments=tuple(Assignment(query=user_query(f"q{n}", f"what is {n}?"), samples=2, seed=n) for n in range(3)),
)


class Kept:
    """A memo in memory that notes what it was asked and told, and can be full."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.completions: dict[str, Completion] = {}
        self.is_full = is_full

    async def recall(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        return {key: self.completions[key] for key in keys if key in self.completions}

    async def keep(self, key: str, completion: Completion) -> None:
        if self.is_full:
            raise StoreUnavailable("disk full")
        self.completions.setdefault(key, completion)


async def run(backend: ScriptedBackend, memo: Kept, batch: ExpertBatch = BATCH) -> list[Completion]:
    runner = Runner(experts={"ada": EXPERT}, backends={"scripted": backend}).remembering(memo)
    async with aclosing(runner.run([batch], {})) as events:
        return [event async for event in events if isinstance(event, Completion)]


@pytest.mark.parametrize("kind", [ScriptedBackend, BatchedBackend])
async def test_what_is_kept_is_not_asked_again(kind):
    memo, backend = Kept(), kind()
    first = await run(backend, memo)
    assert len(memo.completions) == len(first) == 6
    asked = len(backend.calls)
    again = await run(backend, memo)
    assert len(backend.calls) == asked
    assert sorted(again, key=lambda c: (c.query_id, c.sample)) == sorted(first, key=lambda c: (c.query_id, c.sample))


async def test_only_what_is_missing_is_asked():
    memo, backend = Kept(), BatchedBackend()
    await run(backend, memo)
    for key in list(memo.completions)[1:4]:
        del memo.completions[key]
    await run(backend, memo)
    assert len(list(keys_of(backend.calls[-1]))) == 3


async def test_failures_are_not_kept():
    def refuse(expert: Expert, batch: ExpertBatch, _: int) -> list[Completion]:
        error = CompletionError(code="expert_refused", message="no")
        return [Completion(query_id=q, expert_id=e, sample=s, error=error) for q, e, s in keys_of(batch)]

    memo = Kept()
    completions = await run(BatchedBackend(refuse), memo)
    assert not memo.completions and all(c.error is not None for c in completions)


async def test_a_memo_that_cannot_keep_ends_the_run():
    with pytest.raises(StoreUnavailable, match="disk full"):
        await run(BatchedBackend(), Kept(is_full=True))


async def test_what_cannot_be_kept_within_the_time_limit_is_asked_again():
    class Slow(Kept):
        async def keep(self, key: str, completion: Completion) -> None:
            if len(backend.calls) == 1:
                await asyncio.sleep(5)
            await super().keep(key, completion)

    memo, backend = Slow(), ScriptedBackend()
    runner = runner_of(backend, [expert("ada", timeout_s=0.05, max_attempts=2)], sleep=Sleeper()).remembering(memo)
    (panel,) = panels(await collect(runner, [batch_of("ada", user_query("q", "what?"))])).values()
    assert [c.succeeded for c in panel] == [True]
    assert len(backend.calls) == 2 and len(memo.completions) == 1


def test_what_changes_the_text_changes_the_key_and_nothing_else_does():
    keys = memo_keys(EXPERT, BATCH)
    assert len(set(keys.values())) == 6
    for same in (
        replace(EXPERT, api_key=Secret("k")),
        replace(EXPERT, prices=Prices(input_usd_per_mtok=1, output_usd_per_mtok=1)),
    ):
        assert memo_keys(same, BATCH) == keys
    for other in (replace(EXPERT, persona="be brief"), replace(EXPERT, sampling=Sampling(temperature=1.0))):
        assert set(memo_keys(other, BATCH).values()).isdisjoint(keys.values())
    moved = replace(BATCH, assignments=tuple(replace(a, position=5, streams=True) for a in reversed(BATCH.assignments)))
    assert memo_keys(EXPERT, moved) == keys
