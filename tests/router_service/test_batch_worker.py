"""The worker: finishes each line once, repeats no kept completion, gives up what kills it, and bears outages."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from router_service._batch_patience import GuardedMemo, Patience
from router_service._batch_presence import worker_name
from router_service.batch import (
    BatchWorker,
    JobEvents,
    JobGone,
    WorkOptions,
    cancel,
    collect,
    settle,
    work_job,
    work_jobs,
)
from router_service.errors import ConfigError, StoreUnavailable
from router_service.store.base import Job, JobState
from router_service.store.memory import Memory
from tests.router_service.batch_parts import FailingStore, MemoEngine, job_in, parser, response_of
from tests.router_service.store.kits import completion, entry

QUICK = WorkOptions(window=4, tick_s=0.01, lease_s=30)


def worker_of(engine, store, *, options=QUICK, patience=None):
    return BatchWorker(engine, store, parser=parser, options=options, patience=patience)


async def outputs(store, job_id="j"):
    return [(entry.output["id"], (entry.output["error"] or {}).get("code")) async for entry in collect(store, job_id)]


async def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_every_line_is_recorded_with_its_route_and_cost(tmp_path):
    store = await job_in(Memory(), tmp_path, 11)
    seen = []
    state = await worker_of(MemoEngine(), store).run("j", on_progress=lambda done, total: seen.append((done, total)))
    assert state is JobState.COMPLETED
    assert (seen[0], seen[-1]) == ((1, 11), (11, 11))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    first, *_, broken = [kept async for kept in store.entries("j")]
    assert first.route == {
        "recruiter": "fixed",
        "recruits": {"a": 1, "b": 1},
        "aggregator": "majority",
        "fallback": "nothing fitted",
    }
    assert (first.attempts, first.usage.completions, first.usage.cost_usd) == (1, 2, 1.0)
    assert (broken.has_failed, broken.is_retryable, broken.usage.completions) == (True, False, 0)
    assert await store.workers("j") == []


async def test_two_workers_share_a_job_and_ask_nothing_twice(tmp_path):
    store = await job_in(Memory(), tmp_path, 41)
    engines = [MemoEngine(on_ask=lambda key: asyncio.sleep(0.001)) for _ in range(2)]
    states = await asyncio.gather(*(worker_of(engine, store).run("j") for engine in engines))
    assert states == [JobState.COMPLETED] * 2
    asked = [key for engine in engines for key in engine.asked]
    assert len(asked) == len(set(asked)) == 80
    assert all(engine.asked for engine in engines)


async def test_what_an_interrupted_worker_kept_is_not_asked_again_though_its_lines_were_unfinished(tmp_path):
    store = await job_in(Memory(), tmp_path, 4)
    engine = MemoEngine(hold={"q2/b"})
    task = asyncio.create_task(worker_of(engine, store).run("j"))
    await until(lambda: "q2/b" in engine.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.cancelled == ["q2/b"]
    assert await store.workers("j") == [], "its leases were given back"
    again = MemoEngine()
    await worker_of(again, store).run("j")
    assert again.asked == ["q2/b", "q3/a", "q3/b"]
    assert [kept.attempts async for kept in store.entries("j")] == [1, 1, 1, 1]


async def test_lines_of_a_dead_worker_of_this_machine_are_free_at_once(tmp_path):
    store = await job_in(Memory(), tmp_path, 4)
    machine, boot, namespace, *_ = worker_name().split("/")
    dead = "/".join((machine, boot, namespace, "1", "12345", "abc"))
    await store.claim("j", worker=dead, limit=3, lease_s=3600)
    started = time.monotonic()
    await worker_of(MemoEngine(), store).run("j")
    assert time.monotonic() - started < 5
    assert [kept.attempts async for kept in store.entries("j")] == [2, 2, 2, 1]
    assert (await store.progress("j")).reclaimed == 3


async def test_lines_of_a_worker_elsewhere_are_waited_for_until_its_lease_ends(tmp_path):
    store = await job_in(Memory(), tmp_path, 4)
    await store.claim("j", worker="elsewhere/a/b/1/2/c", limit=1, lease_s=0.2)
    engine = MemoEngine()
    await worker_of(engine, store).run("j")
    assert engine.asked[-2:] == ["q1/a", "q1/b"]
    assert [kept.attempts async for kept in store.entries("j")] == [2, 1, 1, 1]


async def test_a_line_that_was_lost_to_another_worker_is_not_finished_twice(tmp_path):
    store = await job_in(Memory(), tmp_path, 3)

    async def lose(key):
        if key == "q1/a":
            for name in await store.workers("j"):
                await store.give_back("j", worker=name, is_lost=True)
            await store.claim("j", worker="other", limit=1, lease_s=60)
            await store.finish("j", entry(1, attempts=2), worker="other")

    engine = MemoEngine(on_ask=lose)
    await worker_of(engine, store).run("j")
    kept = [found async for found in store.entries("j")]
    assert kept[0] == entry(1, attempts=2)
    assert [found.number for found in kept] == [1, 2, 3]
    assert len(engine.asked) == len(set(engine.asked)) == 4


async def test_a_line_that_kills_its_workers_is_given_up_alone(tmp_path):
    n_lines, guilty = 40, "q17/a"
    store = await job_in(NothingGivenBack(), tmp_path, n_lines)
    options = WorkOptions(window=512, tick_s=0.01, max_claims=4)
    deaths = 0
    while not (await store.job("j")).state.is_end:
        engine = MemoEngine(hold={guilty})
        worker = worker_of(engine, store, options=options)
        task = asyncio.create_task(worker.run("j"))
        await until(lambda engine=engine, task=task: guilty in engine.asked or task.done())
        if not task.done():  # as a kill -9 leaves it: leases held, nothing said
            deaths += 1
            assert deaths <= options.max_claims
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.give_back("j", worker=worker.name, is_lost=True)
    ends = dict(await outputs(store))
    assert ends["q17"] == "workers_lost"
    assert [code for name, code in ends.items() if name != "q17"] == [None] * 38 + ["invalid_query"]
    assert deaths == 4
    (spoilt,) = [kept async for kept in store.entries("j") if kept.output["id"] == "q17"]
    assert "4 workers ended while they worked on this line" in spoilt.output["error"]["message"]
    assert spoilt.is_retryable
    assert await store.reopen("j") == 1
    await worker_of(MemoEngine(), store, options=options).run("j")
    assert dict(await outputs(store))["q17"] is None


class NothingGivenBack(Memory):
    """The store as a killed worker leaves it: it has no time to give its lines back."""

    async def give_back(self, job_id, *, worker, is_lost=False):
        return await super().give_back(job_id, worker=worker, is_lost=True) if is_lost else 0


# --- cancel -----------------------------------------------------------------------------------------------------------


async def test_cancelling_ends_open_calls_and_keeps_what_is_finished(tmp_path):
    store = await job_in(Memory(), tmp_path, 6)
    engine = MemoEngine(hold={"q3/a"})
    task = asyncio.create_task(worker_of(engine, store).run("j"))
    await until(lambda: "q3/a" in engine.asked)
    assert await cancel(store, "j") is JobState.CANCELLING
    assert await task is JobState.CANCELLED
    assert engine.cancelled == ["q3/a"]
    ends = await outputs(store)
    assert ends == [
        ("q1", None),
        ("q2", None),
        ("q3", "batch_cancelled"),
        ("q4", "batch_cancelled"),
        ("q5", "batch_cancelled"),
        (None, "invalid_query"),
    ]
    assert await cancel(store, "j") is JobState.CANCELLED
    await store.reopen("j")
    again = MemoEngine()
    await worker_of(again, store).run("j")
    assert again.asked == ["q3/a", "q3/b", "q4/a", "q4/b", "q5/a", "q5/b"]
    assert [code for _, code in await outputs(store)] == [None] * 5 + ["invalid_query"]


async def test_a_job_that_nobody_works_on_is_cancelled_at_once(tmp_path):
    store = await job_in(Memory(), tmp_path, 3)
    assert await cancel(store, "j") is JobState.CANCELLED
    assert await worker_of(MemoEngine(), store).run("j") is JobState.CANCELLED


async def test_a_job_whose_only_worker_was_killed_is_cancelled_at_once(tmp_path):
    machine, _, *rest = worker_name().split("/")
    store = await job_in(Memory(), tmp_path, 3)
    await store.claim("j", worker="/".join((machine, "earlier", *rest)), limit=9, lease_s=60)
    assert await cancel(store, "j") is JobState.CANCELLED


async def test_a_finished_job_is_not_cancelled_any_more(tmp_path):
    store = await job_in(Memory(), tmp_path, 3)
    await worker_of(MemoEngine(), store).run("j")
    assert await cancel(store, "j") is JobState.COMPLETED


async def test_a_line_that_is_taken_back_while_its_job_is_settled_is_still_asked(tmp_path):
    class TakenBack(Memory):
        async def progress(self, job_id):
            seen = await super().progress(job_id)
            await self.reopen(job_id)  # another process's --retry-failed, just then
            return seen

    store = await job_in(TakenBack(), tmp_path, 2)
    await store.finish("j", entry(1, has_failed=True, is_retryable=True))
    assert await settle(store, "j") is JobState.IN_PROGRESS
    assert len(await store.claim("j", worker="w", limit=1, lease_s=60)) == 1


async def test_a_job_that_is_removed_or_begun_anew_ends_its_worker(tmp_path):
    for anew in (False, True):
        store = await job_in(Memory(), tmp_path, 6)
        engine = MemoEngine(hold={"q3/a"})
        task = asyncio.create_task(worker_of(engine, store).run("j"))
        await until(lambda engine=engine: "q3/a" in engine.asked)
        await store.remove("j")
        if anew:
            await store.create(Job(id="j"), [])
        with pytest.raises(JobGone, match="begun anew" if anew else "removed"):
            await task


# --- outages ----------------------------------------------------------------------------------------------------------


async def test_no_line_depends_on_who_was_quick(tmp_path):
    asked = []

    class Noting(MemoEngine):
        def remembering(self, memo):
            self.memo = memo
            return self

        async def stream(self, queries, *, deadlines_from):
            asked.extend(queries)
            async with aclosing(super().stream(queries, deadlines_from=deadlines_from)) as events:
                async for event in events:
                    yield event

    await worker_of(Noting(), await job_in(Memory(), tmp_path, 5)).run("j")
    assert len(asked) == 4 and all(query.controls.waits_for_all for query in asked)


@pytest.mark.parametrize("answers_lost", [False, True])
@pytest.mark.parametrize("name", ["job", "claim", "finish", "progress", "workers", "set_state"])
async def test_short_outages_are_borne(tmp_path, name, answers_lost):
    store = await job_in(FailingStore(name, 3, answers_lost=answers_lost), tmp_path, 6)
    engine = MemoEngine()
    await worker_of(engine, store, patience=Patience(5.0, first_pause_s=0.001)).run("j")
    assert store.n_failed == (1 if answers_lost and name == "set_state" else 3)
    assert [code for _, code in await outputs(store)] == [None] * 5 + ["invalid_query"]
    assert len(engine.asked) == len(set(engine.asked)) == 10


@pytest.mark.parametrize("name", ["claim", "finish", "renew"])
async def test_a_long_outage_is_a_clear_stop_and_nothing_is_lost(tmp_path, name):
    store = await job_in(FailingStore(name, 10**6), tmp_path, 6)
    engine = MemoEngine(hold={"q3/a"} if name == "renew" else ())
    options = WorkOptions(window=4, tick_s=0.01, lease_s=0.1)
    with pytest.raises(StoreUnavailable, match="out of reach"):
        await worker_of(engine, store, options=options, patience=Patience(0.05, first_pause_s=0.01)).run("j")
    store.left = 0
    again = MemoEngine()
    await worker_of(again, store, options=options).run("j")
    assert [code for _, code in await outputs(store)] == [None] * 5 + ["invalid_query"]
    assert not {key for key in engine.asked if key not in engine.cancelled} & set(again.asked)


class SwallowingEngine(MemoEngine):
    """Answers in its own words where its memo fails, as an annotator with a fallback would."""

    def remembering(self, memo):
        engine = SwallowingEngine(self.asked, memo)
        return engine

    async def stream(self, queries, *, deadlines_from):
        for query in queries:
            try:
                completions = [await self._ask(query, "a")]
            except StoreUnavailable:
                completions = [completion()]
            from router_service.types import Answered

            yield Answered(query_id=query.id, response=response_of(query, completions))


class NoMemo:
    async def recall(self, keys):
        raise StoreUnavailable("the memo is out of reach")

    async def keep(self, key, kept):
        raise StoreUnavailable("the memo is out of reach")


async def test_an_answer_that_was_made_without_its_memo_is_no_result(tmp_path):
    class Store(Memory):
        def memo(self, job_id):
            return NoMemo()

    store = await job_in(Store(), tmp_path, 3)
    with pytest.raises(StoreUnavailable, match="the memo is out of reach"):
        await worker_of(SwallowingEngine(), store, patience=Patience(0.0)).run("j")
    assert [kept.number async for kept in store.entries("j")] == [3], "only the malformed line"


async def test_patience_grows_its_pauses_and_ends(tmp_path):
    now, pauses, calls = [0.0], [], []

    async def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds

    async def call():
        calls.append(now[0])
        raise StoreUnavailable("no")

    patience = Patience(10.0, first_pause_s=1.0, max_pause_s=4.0, clock=lambda: now[0], sleep=sleep)
    with pytest.raises(StoreUnavailable):
        await patience(call)
    assert pauses == [1.0, 2.0, 4.0, 3.0]
    assert len(calls) == 5
    patience.end()
    with pytest.raises(StoreUnavailable):
        await patience(call)
    assert len(calls) == 6


async def test_a_guarded_memo_remembers_what_it_could_not_bear():
    memo = GuardedMemo(NoMemo(), Patience(0.0))
    with pytest.raises(StoreUnavailable):
        await memo.keep("k", completion())
    assert isinstance(memo.lost, StoreUnavailable)


# --- jobs of others ---------------------------------------------------------------------------------------------------


class Heard(JobEvents):
    def __init__(self):
        self.told = []

    def refused(self, job, changed):
        self.told.append((job.id, changed))

    def left(self, job, state):
        self.told.append((job.id, state.value))


SETTINGS = {"config.k": "3", "config.pool": "here", "experts": "e"}


async def test_a_worker_of_another_engine_refuses_and_names_what_differs(tmp_path):
    store = await job_in(Memory(), tmp_path, 3, header={"input": "x", **SETTINGS, "config.pool": "there"})
    engine = MemoEngine()
    with pytest.raises(ConfigError, match=r"differs from this worker's in: config\.k, experts"):
        await work_job(worker_of(engine, store), "j", {**SETTINGS, "config.k": "4", "experts": "f"}, events=JobEvents())
    assert engine.asked == []
    assert await work_job(worker_of(engine, store), "j", SETTINGS, events=JobEvents()) is JobState.COMPLETED


async def test_a_worker_takes_whatever_comes_and_leaves_alone_what_is_not_for_it(tmp_path):
    store = Memory()
    for job_id, k in (("one", "3"), ("two", "5"), ("three", "3")):
        await job_in(store, tmp_path, 3, job_id=job_id, header={"input": job_id, **SETTINGS, "config.k": k})
    heard = Heard()
    await work_jobs(worker_of(MemoEngine(), store), SETTINGS, events=heard, until_idle=True)
    assert heard.told == [("one", "completed"), ("two", ["config.k"]), ("three", "completed")]
    assert (await store.job("two")).state is JobState.IN_PROGRESS
