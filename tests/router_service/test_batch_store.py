"""Batches on a store that they share: joined, cancelled, resumed, with full disks, and one output whoever writes it."""

from __future__ import annotations

import asyncio
import json
import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest

from router_service.batch import BatchJob, WorkOptions, cancel, run_batch
from router_service.errors import ConfigError, StoreUnavailable
from router_service.store.base import Job, JobState
from router_service.store.memory import Memory
from router_service.store.sqlite import Sqlite
from tests.router_service.batch_parts import MemoEngine, parser
from tests.router_service.test_batch_worker import until


def job_of(folder, n_lines, **changes):
    source = folder / "in.jsonl"
    rows = [json.dumps({"id": f"q{n}", "question": f"question {n}" + " and more" * 50}) for n in range(1, n_lines + 1)]
    source.write_text("\n".join(rows))
    changes.setdefault("work", WorkOptions(window=4, tick_s=0.01))
    return BatchJob(
        source=source, target=folder / "out.jsonl", as_query=parser.as_query, as_chat=parser.as_chat, **changes
    )


def errors(job):
    return [(json.loads(line)["error"] or {}).get("code") for line in job.target.read_text().splitlines()]


async def test_a_shared_store_keeps_the_finished_job_and_forgets_its_completions(tmp_path):
    store, job = Memory(), job_of(tmp_path, 5)
    summary = await run_batch(MemoEngine(), job, store=store)
    assert (summary.n_lines, summary.n_failed, summary.n_resumed) == (5, 0, 0)
    (kept,) = await store.jobs()
    assert (kept.id, kept.state) == (job.job_id, JobState.COMPLETED)
    assert kept.metadata["target"] == str(job.target)
    assert store.completions(kept.id) == {}
    assert not job.store_path.exists()
    engine = MemoEngine()
    assert (await run_batch(engine, job, store=store)).n_resumed == 5
    job.target.unlink()
    assert (await run_batch(engine, job, store=store)).n_resumed == 5
    assert errors(job) == [None] * 5
    assert engine.asked == []


async def test_one_output_of_a_host_is_one_job_whose_changes_are_named(tmp_path):
    store = Memory()
    await run_batch(MemoEngine(), job_of(tmp_path, 2, settings={"config.k": "1"}), store=store)
    changed = job_of(tmp_path, 2, settings={"config.k": "2"})
    changed.target.unlink()
    with pytest.raises(ConfigError, match=r"differs in: config\.k"):
        await run_batch(MemoEngine(), changed, store=store)
    engine = MemoEngine()
    await run_batch(engine, replace(changed, restarts=True), store=store)
    assert len(engine.asked) == 4
    assert len(await store.jobs()) == 1


@pytest.mark.parametrize("is_shared", [False, True])
async def test_two_runs_of_one_batch_share_it_and_both_end_well(tmp_path, is_shared):
    job, store = job_of(tmp_path, 40), Memory() if is_shared else None
    engines = [MemoEngine(on_ask=lambda key: asyncio.sleep(0.001)) for _ in range(2)]
    summaries = await asyncio.gather(*(run_batch(engine, job, store=store) for engine in engines))
    assert summaries[0].n_lines == summaries[1].n_lines == 40
    asked = [key for engine in engines for key in engine.asked]
    assert len(asked) == len(set(asked)) == 80
    assert all(engine.asked for engine in engines)
    assert errors(job) == [None] * 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.receipt"]


async def test_a_cancelled_batch_is_written_with_what_was_finished_and_can_be_taken_up_again(tmp_path):
    job = job_of(tmp_path, 8)
    engine = MemoEngine(hold={"q6/b"})
    task = asyncio.create_task(run_batch(engine, job))
    await until(lambda: "q6/b" in engine.asked)
    store = Sqlite(str(job.store_path))
    assert await cancel(store, job.job_id) is JobState.CANCELLING
    summary = await task
    await store.discard()
    assert (summary.n_lines, summary.n_cancelled, summary.n_retryable, summary.n_answered) == (8, 3, 3, 5)
    assert errors(job) == [None] * 5 + ["batch_cancelled"] * 3
    cancelled = json.loads(job.target.read_text().splitlines()[5])
    assert cancelled["id"] == "q6"
    assert "--retry-failed" in cancelled["error"]["message"]
    idle = MemoEngine()
    assert (await run_batch(idle, job)).n_cancelled == 3
    assert idle.asked == []
    again = MemoEngine()
    summary = await run_batch(again, replace(job, retries_failed=True))
    assert (summary.n_cancelled, summary.n_answered, summary.n_resumed) == (0, 8, 5)
    assert sorted(set(again.asked)) == [f"q{n}/{expert}" for n in (6, 7, 8) for expert in "ab"]


async def test_a_batch_that_was_cancelled_while_nobody_ran_it_is_written_by_its_next_run(tmp_path):
    job = job_of(tmp_path, 6)
    engine = MemoEngine(hold={"q3/a"})
    task = asyncio.create_task(run_batch(engine, job))
    await until(lambda: "q3/a" in engine.asked)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store = Sqlite(str(job.store_path))
    assert await cancel(store, job.job_id) is JobState.CANCELLED
    await store.aclose()
    idle = MemoEngine()
    summary = await run_batch(idle, job)
    assert (idle.asked, summary.n_cancelled) == ([], 4)
    assert errors(job) == [None, None] + ["batch_cancelled"] * 4


@contextmanager
def files_at_most(n_bytes):
    """A disk that is full for files beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_under_the_output_loses_nothing(tmp_path):
    store, job, engine = Memory(), job_of(tmp_path, 100), MemoEngine()
    with files_at_most(20_000), pytest.raises(StoreUnavailable, match=r"cannot write .*out\.jsonl.*what was finished"):
        await run_batch(engine, job, store=store)
    assert len(engine.asked) == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"], "the half-written part gave its room back"
    idle = MemoEngine()
    assert (await run_batch(idle, job, store=store)).n_resumed == 100
    assert idle.asked == []
    assert errors(job) == [None] * 100


async def test_a_full_disk_under_the_store_loses_nothing(tmp_path):
    job, engine = job_of(tmp_path, 100, work=WorkOptions(window=4, patience_s=0.2)), MemoEngine()
    with files_at_most(250_000), pytest.raises(StoreUnavailable, match=r"out\.jsonl\.job.*what was finished is kept"):
        await run_batch(engine, job)
    assert 0 < len(engine.asked) < 200
    again = MemoEngine()
    summary = await run_batch(again, job)
    assert summary.n_resumed > 0
    assert len(set(again.asked) & set(engine.asked)) <= 2, "what was kept is not asked again"
    assert errors(job) == [None] * 100


async def test_a_store_that_is_no_store_is_named_and_left_alone(tmp_path):
    job = job_of(tmp_path, 2)
    job.store_path.write_text("my own notes\n" * 100)
    with pytest.raises(ConfigError, match=r"out\.jsonl\.job is damaged, or not a job store"):
        await run_batch(MemoEngine(), job)
    assert job.store_path.read_text() == "my own notes\n" * 100


async def test_a_folder_that_is_not_there_is_named(tmp_path):
    job = replace(job_of(tmp_path, 2), target=tmp_path / "nowhere" / "out.jsonl")
    with pytest.raises(ConfigError, match="choose an output in a folder that exists"):
        await run_batch(MemoEngine(), job)


async def test_an_unfinished_batch_may_be_moved_with_its_folder(tmp_path):
    before = tmp_path / "before"
    before.mkdir()
    job = job_of(before, 6)
    engine = MemoEngine(hold={"q3/a"})
    task = asyncio.create_task(run_batch(engine, job))
    await until(lambda: "q3/a" in engine.asked)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    after = before.rename(tmp_path / "after")
    again = MemoEngine()
    summary = await run_batch(again, replace(job, source=after / "in.jsonl", target=after / "out.jsonl"))
    assert summary.n_resumed == 2
    assert again.asked[0] == "q3/a"


async def test_a_job_that_a_kill_left_behind_its_receipt_is_put_away(tmp_path):
    job = job_of(tmp_path, 3)
    await run_batch(MemoEngine(), job)
    store = Sqlite(str(job.store_path))
    await store.create(Job(id=job.job_id), [])
    await store.aclose()
    assert (await run_batch(MemoEngine(), job)).n_resumed == 3
    assert not job.store_path.exists()
