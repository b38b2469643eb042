"""What every job store keeps to: no line lost or doubled, one holder per line, results kept once, jobs whole."""

from __future__ import annotations

import asyncio
import math

import pytest

from router_service.errors import UnknownNameError
from router_service.store.base import ClaimedLine, JobProgress, JobState, claim_limit
from router_service.types import CompletionMemo, Usage
from tests.router_service.store.kits import completion, entry, job, lines, opened_kit

STORES = ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.slow)]


@pytest.fixture(params=STORES)
async def kit(request, tmp_path):
    url = request.getfixturevalue("valkey").url if request.param == "redis" else None
    async with opened_kit(request.param, tmp_path, url) as kit:
        yield kit


async def claim(store, worker="w", limit=100, lease_s=60.0, job_id="j"):
    return await store.claim(job_id, worker=worker, limit=limit, lease_s=lease_s)


async def claimed_numbers(store, *args, **kwargs):
    return [line.number for line in await claim(store, *args, **kwargs)]


async def all_of(items):
    return [item async for item in items]


async def test_a_job_is_created_once_and_comes_back_as_it_was(kit):
    assert await kit.store.create(job(), lines(1, 3, 4))
    assert not await kit.again.create(job(), lines(1))
    found = await kit.again.job("j")
    assert (found.id, found.header, found.metadata) == ("j", job().header, job().metadata)
    assert (found.state, found.n_lines, found.ended_s) == (JobState.IN_PROGRESS, 3, None)
    assert found.created_s > 1e6
    assert await all_of(kit.again.lines("j")) == lines(1, 3, 4)


async def test_a_job_is_created_whole_or_not_at_all(kit):
    def broken():
        yield from lines(1, 2)
        raise ValueError("the input broke off")

    with pytest.raises(ValueError, match="broke off"):
        await kit.store.create(job(), broken())
    with pytest.raises(UnknownNameError):
        await kit.store.job("j")
    assert await kit.store.create(job(), lines(5))
    assert await all_of(kit.store.lines("j")) == lines(5)


async def test_entries_given_at_creation_are_finished_lines(kit):
    found = []

    def read():
        for line in lines(1, 2, 3):
            if line.number == 2:
                found.append(entry(2, has_failed=True))
            yield line

    await kit.store.create(job(), read(), entries=found)
    assert await claimed_numbers(kit.store) == [1, 3]
    assert await all_of(kit.store.entries("j")) == [entry(2, has_failed=True)]
    progress = await kit.store.progress("j")
    assert (progress.lines, progress.finished, progress.failed) == (3, 1, 1)
    assert progress.usage == entry(2).usage


async def test_jobs_are_listed_newest_first_and_removed_with_all_they_have(kit):
    for name in ("first", "second", "third"):
        await kit.store.create(job(name), lines(1))
    await kit.store.memo("second").keep("key", completion())
    await kit.again.remove("second")
    await kit.again.remove("second")
    assert [found.id for found in await kit.store.jobs()] == ["third", "first"]
    await kit.store.create(job("second"), lines(7))
    assert await kit.store.memo("second").recall(["key"]) == {}
    assert await claimed_numbers(kit.store, job_id="second") == [7]


async def test_a_job_that_is_not_there_is_named_with_its_nearest(kit):
    await kit.store.create(job("batch_1"), lines(1))
    calls = [
        lambda: kit.store.job("batch_2"),
        lambda: claim(kit.store, job_id="batch_2"),
        lambda: kit.store.progress("batch_2"),
        lambda: kit.store.finish("batch_2", entry(1)),
        lambda: kit.store.renew("batch_2", worker="w", lease_s=1),
        lambda: kit.store.give_back("batch_2", worker="w"),
        lambda: kit.store.workers("batch_2"),
        lambda: kit.store.reopen("batch_2"),
        lambda: kit.store.set_state("batch_2", JobState.FAILED),
        lambda: kit.store.memo("batch_2").keep("k", completion()),
        lambda: all_of(kit.store.entries("batch_2")),
    ]
    for call in calls:
        with pytest.raises(UnknownNameError, match="Did you mean 'batch_1'"):
            await call()


async def test_lines_are_claimed_in_order_by_one_worker_each(kit):
    await kit.store.create(job(), lines(*range(1, 8)))
    mine = await claim(kit.store, "a", 3)
    assert mine == [ClaimedLine(number=n, payload=lines(n)[0].payload, attempts=1) for n in (1, 2, 3)]
    assert await claimed_numbers(kit.again, "b", 2) == [4, 5]
    assert await claimed_numbers(kit.store, "a") == [6, 7]
    assert await claim(kit.again, "b") == []
    assert await kit.store.workers("j") == ["a", "b"]
    assert (await kit.store.progress("j")).claimed == 7


async def test_many_claims_at_once_hand_every_line_out_once(kit):
    await kit.store.create(job(), lines(*range(1, 101)))
    parts = await asyncio.gather(
        *(claim((kit.store, kit.again)[n % 2], f"w{n}", limit=7) for n in range(20)),
    )
    numbers = [line.number for part in parts for line in part]
    assert sorted(numbers) == list(range(1, 101))


async def test_a_line_is_finished_once_by_who_holds_it(kit):
    await kit.store.create(job(), lines(1, 2))
    await claim(kit.store, "a")
    assert not await kit.store.finish("j", entry(1), worker="b")
    assert await kit.store.finish("j", entry(1), worker="a")
    assert not await kit.store.finish("j", entry(1, attempts=9), worker="a")
    assert not await kit.store.finish("j", entry(3), worker="a")
    assert not await kit.store.finish("j", entry(3))
    assert await kit.store.renew("j", worker="a", lease_s=9) == {2}
    assert await kit.store.finish("j", entry(2))
    assert await all_of(kit.again.entries("j")) == [entry(1), entry(2)]
    assert await kit.again.workers("j") == []


async def test_a_lease_that_ended_is_anybodys_and_its_loser_finishes_nothing(kit):
    await kit.store.create(job(), lines(1, 2, 3))
    await claim(kit.store, "a", limit=2, lease_s=0.3)
    assert (await kit.store.progress("j")).claimed == 2
    await kit.pass_s(0.35)
    assert await kit.store.workers("j") == []
    assert (await kit.store.progress("j")).claimed == 0
    assert await kit.store.finish("j", entry(1), worker="a"), "nobody else took it"
    assert await claimed_numbers(kit.again, "b") == [3], "what was never claimed comes first"
    assert await claim(kit.again, "b") == [ClaimedLine(number=2, payload=lines(2)[0].payload, attempts=2)]
    assert not await kit.store.finish("j", entry(2), worker="a")
    assert await kit.store.renew("j", worker="a", lease_s=9) == set()
    assert (await kit.store.progress("j")).reclaimed == 1
    assert await kit.store.finish("j", entry(2), worker="b")


async def test_renewed_leases_hold_on(kit):
    await kit.store.create(job(), lines(1, 2))
    await claim(kit.store, "a", lease_s=0.3)
    for _ in range(3):
        await kit.pass_s(0.15)
        assert await kit.store.renew("j", worker="a", lease_s=0.3) == {1, 2}
    assert await claim(kit.again, "b") == []
    await kit.pass_s(0.35)
    assert await kit.store.renew("j", worker="a", lease_s=0.3) == {1, 2}, "ended, but nobody took them"
    assert await claim(kit.again, "b") == []


async def test_what_is_given_back_is_anybodys_at_once(kit):
    await kit.store.create(job(), lines(1, 2, 3))
    await claim(kit.store, "a", limit=2)
    assert await kit.again.give_back("j", worker="a") == 2
    assert await kit.store.give_back("j", worker="a") == 0
    assert not await kit.store.finish("j", entry(1), worker="a")
    assert [(line.number, line.attempts) for line in await claim(kit.store, "b")] == [(1, 1), (2, 1), (3, 1)]
    assert (await kit.store.progress("j")).reclaimed == 0


async def test_claims_that_died_count_and_shrink(kit):
    await kit.store.create(job(), lines(*range(1, 201)))
    seen = []
    for _ in range(5):
        found = await claim(kit.store, "a", limit=160)
        seen.append((found[0].number, len(found), found[0].attempts))
        await kit.again.give_back("j", worker="a", is_lost=True)
    assert seen == [(1, 160, 1), (161, 40, 1), (1, 20, 2), (21, 20, 2), (41, 20, 2)]
    assert (await kit.store.progress("j")).reclaimed == 260
    assert [claim_limit(512, tries) for tries in range(5)] == [512, 64, 8, 1, 1]
    assert claim_limit(512, 10_000) == 1


async def test_a_job_that_is_not_in_progress_hands_nothing_out(kit):
    await kit.store.create(job(), lines(1, 2))
    await claim(kit.store, "a", limit=1)
    assert await kit.again.set_state("j", JobState.CANCELLING, unless=(JobState.COMPLETED,))
    assert await claim(kit.store, "a") == []
    assert await kit.store.finish("j", entry(1), worker="a"), "what is under way may end"
    assert await kit.store.set_state("j", JobState.CANCELLED)
    assert (await kit.store.job("j")).ended_s is not None
    assert not await kit.store.set_state("j", JobState.CANCELLING, unless=(JobState.FAILED, JobState.CANCELLED))
    assert (await kit.store.job("j")).state is JobState.CANCELLED


async def test_a_job_with_unfinished_lines_is_not_completed(kit):
    await kit.store.create(job(), lines(1, 2))
    await claim(kit.store, limit=1)
    await kit.store.finish("j", entry(1, has_failed=True, is_retryable=True), worker="w")
    assert not await kit.again.set_state("j", JobState.COMPLETED)
    await claim(kit.store)
    assert not await kit.again.set_state("j", JobState.COMPLETED), "also where a worker has it"
    assert (await kit.store.job("j")).state is JobState.IN_PROGRESS
    await kit.store.finish("j", entry(2), worker="w")
    assert await kit.again.set_state("j", JobState.COMPLETED)
    await kit.store.reopen("j")
    assert not await kit.again.set_state("j", JobState.COMPLETED)


async def test_a_cost_that_is_no_number_is_unknown(kit):
    await kit.store.create(job(), lines(1, 2))
    for number, cost_usd in enumerate((math.nan, math.inf), start=1):
        assert await kit.store.finish("j", entry(number, usage=Usage(completions=1, cost_usd=cost_usd)))
    assert (await kit.store.progress("j")).usage.completions == 2


async def test_failed_lines_are_taken_back(kit):
    await kit.store.create(job(), lines(1, 2, 3, 4))
    await claim(kit.store)
    unpriced = Usage(completions=1, cost_usd=None)
    for kept in (
        entry(1),
        entry(2, has_failed=True, is_retryable=True, usage=unpriced),
        entry(3, has_failed=True),
        entry(4, has_failed=True, is_retryable=True),
    ):
        await kit.store.finish("j", kept, worker="w")
    await kit.store.set_state("j", JobState.COMPLETED)
    assert (await kit.store.progress("j")).usage.cost_usd is None
    assert await kit.again.reopen("j") == 2
    assert (await kit.store.job("j")).state is JobState.IN_PROGRESS
    assert (await kit.store.job("j")).ended_s is None
    progress = await kit.store.progress("j")
    assert (progress.finished, progress.failed, progress.retryable) == (2, 1, 0)
    assert progress.usage == Usage(completions=6, prompt_tokens=40, completion_tokens=20, cost_usd=pytest.approx(0.5))
    assert [(line.number, line.attempts) for line in await claim(kit.store)] == [(2, 1), (4, 1)]
    assert await kit.store.reopen("j", retryable_only=False) == 1
    assert await claimed_numbers(kit.store) == [3]


async def test_progress_adds_up(kit):
    await kit.store.create(job(), lines(*range(1, 7)))
    await claim(kit.store, limit=4)
    await kit.store.finish("j", entry(1), worker="w")
    await kit.store.finish("j", entry(2, has_failed=True, is_retryable=True), worker="w")
    await kit.store.finish("j", entry(3, has_failed=True), worker="w")
    assert await kit.again.progress("j") == JobProgress(
        lines=6,
        finished=3,
        failed=2,
        retryable=1,
        claimed=1,
        reclaimed=0,
        usage=Usage(completions=9, prompt_tokens=60, completion_tokens=30, cost_usd=pytest.approx(0.75)),
    )


async def test_entries_and_lines_come_in_input_order_however_many(kit):
    numbers = list(range(1, 700))
    await kit.store.create(job(), lines(*numbers))
    await claim(kit.store, limit=1000)
    await asyncio.gather(*(kit.store.finish("j", entry(n), worker="w") for n in reversed(numbers)))
    assert [found.number async for found in kit.again.entries("j")] == numbers
    assert [found.number async for found in kit.again.lines("j")] == numbers


async def test_a_job_without_lines_is_one(kit):
    assert await kit.store.create(job(), [])
    assert await claim(kit.store) == []
    assert (await kit.store.progress("j")).lines == 0
    assert await all_of(kit.store.entries("j")) == []


async def test_completions_are_kept_as_they_were_said_first(kit):
    await kit.store.create(job(), lines(1))
    memo = kit.store.memo("j")
    assert isinstance(memo, CompletionMemo)
    await memo.keep("a", completion(0))
    await memo.keep("a", completion(1))
    await memo.keep("b", completion(2))
    assert await kit.again.memo("j").recall(["b", "zero", "a"]) == {"a": completion(0), "b": completion(2)}
    assert await memo.recall([]) == {}
    await kit.again.drop_memo("j")
    assert await memo.recall(["a", "b"]) == {}
