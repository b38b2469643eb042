"""A batch answers every line once, in input order, whatever happens to the process in between."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.batch import BatchJob, WorkOptions, run_batch
from router_service.config import DispatchConfig, EngineConfig, PartConfig
from router_service.errors import ConfigError, InvalidQuery
from router_service.store.sqlite import Sqlite
from router_service.types import (
    Answer,
    Answered,
    Completion,
    CompletionError,
    CompletionFinished,
    Expert,
    ExpertLimits,
    Failed,
    Recruit,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    SkillAnnotation,
    TaskFormat,
    Usage,
    user_query,
)

REFUSED = "refuse me"
DOWN = "its server is down"


class FakeEngine:
    """Answers with the question's text backwards, last query first; stops dead after `lives` answers."""

    def __init__(self, lives=None):
        self.lives = lives
        self.windows = []

    @property
    def asked(self):
        return [query_id for window in self.windows for query_id in window]

    def remembering(self, memo):
        return self

    async def stream(self, queries, *, deadlines_from):
        assert deadlines_from == "first_call"
        self.windows.append([query.id for query in queries])
        for query in reversed(queries):
            await asyncio.sleep(0)
            if self.lives == 0:
                raise RuntimeError("power cut")
            if self.lives is not None:
                self.lives -= 1
            completion = Completion(query_id=query.id, expert_id="echo", text=query.text[::-1], latency_s=0.5)
            yield CompletionFinished(query_id=query.id, completion=completion)
            yield end_of(query, completion)


def end_of(query, completion):
    if query.text == DOWN:
        reason = CompletionError(code="expert_unavailable", message="down", is_retryable=True)
        lost = (Completion(query_id=query.id, expert_id="echo", error=reason),)
        usage = Usage(completions=1, cost_usd=0.5)
        failure = RouteFailure(
            query_id=query.id, code="aggregation_error", message="all down", completions=lost, usage=usage
        )
        return Failed(query_id=query.id, failure=failure)
    if query.text == REFUSED:
        failure = RouteFailure(query_id=query.id, code="no_expert_available", message="nobody", usage=Usage())
        return Failed(query_id=query.id, failure=failure)
    recruits = (Recruit(expert_id="echo", samples=2), Recruit(expert_id="other"))
    response = RouteResponse(
        query_id=query.id,
        annotation=SkillAnnotation(query_id=query.id),
        decision=RouteDecision(query_id=query.id, recruits=recruits, recruiter="fixed"),
        completions=(completion,),
        answer=Answer(text=query.text[::-1], extracted=query.text[:1], aggregator="majority", agreement=0.5),
        usage=Usage(completions=3, prompt_tokens=2, completion_tokens=1, cost_usd=0.001),
        overhead_s=0.123,
    )
    return Answered(query_id=query.id, response=response)


def as_query(question):
    return user_query(question.id, question.text, task_format=TaskFormat(kind=question.answer_kind))


def as_chat(query_id, body):
    return user_query(query_id, body["messages"][-1]["content"])


def job_of(folder, lines, *, window=512, **changes):
    changes.setdefault("work", WorkOptions(window=window))
    source = folder / "in.jsonl"
    source.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return BatchJob(source=source, target=folder / "out.jsonl", as_query=as_query, as_chat=as_chat, **changes)


def questions(n):
    return [{"id": f"q{i}", "question": f"question {i}"} for i in range(n)]


async def finished_ids(job):
    """Ids of the lines that the batch's store holds, malformed ones left out; nothing where it has none."""
    if not job.store_path.exists():
        return []
    store = Sqlite(str(job.store_path))
    ids = [entry.output["id"] for (found,) in [await store.jobs()] async for entry in store.entries(found.id)]
    await store.aclose()
    return [found for found in ids if found is not None]


def output(job):
    return [json.loads(line) for line in job.target.read_text().splitlines()]


async def test_a_plain_line_says_what_was_answered_and_how(tmp_path):
    job = job_of(tmp_path, [{"id": 5, "question": "abc"}])
    summary = await run_batch(FakeEngine(), job)
    assert output(job) == [
        {
            "id": 5,
            "answer": "cba",
            "extracted": "a",
            "experts": ["echo", "echo", "other"],
            "aggregator": "majority",
            "agreement": 0.5,
            "confidence": None,
            "usage": {"completions": 3, "prompt_tokens": 2, "completion_tokens": 1},
            "cost_usd": 0.001,
            "error": None,
        }
    ]
    assert (summary.n_lines, summary.n_answered, summary.n_failed, summary.n_resumed) == (1, 1, 0, 0)
    assert summary.usage.cost_usd == 0.001


async def test_failed_and_malformed_lines_keep_their_place_and_the_rest_goes_on(tmp_path):
    lines = [{"id": "a", "question": REFUSED}, "{oops", {"id": "a", "question": "again"}, {"id": "b", "question": "xy"}]
    job = job_of(tmp_path, lines)
    summary = await run_batch(FakeEngine(), job)
    failed, broken, doubled, good = output(job)
    assert failed["error"] == {"code": "no_expert_available", "message": "nobody"}
    assert broken["error"]["line"] == 2
    assert "not valid JSON" in broken["error"]["message"]
    assert "already that of line 1" in doubled["error"]["message"]
    assert (good["answer"], good["error"]) == ("yx", None)
    assert failed.keys() == broken.keys() == good.keys()
    assert (summary.n_answered, summary.n_failed) == (1, 3)


async def test_a_strict_batch_names_every_problem_before_anything_is_run(tmp_path):
    job = job_of(tmp_path, ["{oops", *questions(2), {"id": 1}], is_strict=True)
    engine = FakeEngine()
    with pytest.raises(InvalidQuery, match=r"nothing was run:\n  line 1: .*\n  line 4: question is missing"):
        await run_batch(engine, job)
    assert engine.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


async def test_openai_lines_are_answered_as_the_rest_door_would(tmp_path):
    body = {"model": "auto", "messages": [{"role": "user", "content": "abc"}]}
    refused = {"model": "auto", "messages": [{"role": "user", "content": REFUSED}]}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": content}
        for name, content in [("good", body), ("bad", refused), ("good", body)]
    ]
    job = job_of(tmp_path, lines)
    await run_batch(FakeEngine(), job)
    good, bad, doubled = output(job)
    assert (good["custom_id"], good["error"], good["response"]["status_code"]) == ("good", None, 200)
    chat = good["response"]["body"]
    assert (chat["object"], chat["model"], chat["choices"][0]["message"]["content"]) == (
        "chat.completion",
        "auto",
        "cba",
    )
    assert "latency_s" not in json.dumps(chat)
    assert "overhead_ms" not in json.dumps(chat)
    assert bad["response"]["status_code"] == 503
    assert bad["response"]["body"]["error"]["code"] == "no_expert_available"
    assert (doubled["response"], doubled["error"]["code"]) == (None, "invalid_query")
    assert len({line["id"] for line in (good, bad, doubled)}) == 3


async def test_windows_bound_what_the_engine_is_given_at_once(tmp_path):
    engine = FakeEngine()
    await run_batch(engine, job_of(tmp_path, questions(7), window=3))
    assert [len(window) for window in engine.windows] == [3, 3, 1]


async def test_no_line_is_late_because_it_stood_in_line(tmp_path):
    slow = Expert(
        id="slow", model="m", backend="echo", options={"latency_s": 0.05}, limits=ExpertLimits(max_concurrency=1)
    )
    config = EngineConfig(
        annotator=PartConfig(name="blank"),
        recruiter=PartConfig(name="all"),
        aggregator=PartConfig(name="majority"),
        dispatch=DispatchConfig(default_deadline_s=0.3),
    )
    engine = build_engine(config, pool=Pool(name="slow", experts=(slow,)))
    summary = await run_batch(engine, job_of(tmp_path, questions(12)))
    assert (summary.n_answered, summary.n_failed) == (12, 0)


@settings(max_examples=25, deadline=None)
@given(lives=st.lists(st.integers(0, 6), max_size=6), window=st.integers(1, 7))
async def test_cut_anywhere_the_output_is_that_of_an_undisturbed_run(tmp_path_factory, lives, window):
    calm = job_of(tmp_path_factory.mktemp("calm"), [*questions(9), "{oops"], window=window)
    await run_batch(FakeEngine(), calm)
    job = job_of(tmp_path_factory.mktemp("cut"), [*questions(9), "{oops"], window=window)
    done = []
    for allowed in lives:
        engine = FakeEngine(lives=allowed)
        with pytest.raises(RuntimeError, match="power cut"):
            if not job.store_path.exists() and job.target.exists():
                raise RuntimeError("power cut after the end")
            await run_batch(engine, job)
            raise RuntimeError("power cut after the end")
        assert not set(done) & set(engine.asked)
        if not job.store_path.exists():
            break
        done = await finished_ids(job)
    last = FakeEngine()
    await run_batch(last, job)
    assert not set(done) & set(last.asked)
    assert job.target.read_bytes() == calm.target.read_bytes()
    assert not job.store_path.exists()


async def test_running_a_finished_batch_again_does_nothing(tmp_path):
    job = job_of(tmp_path, questions(3))
    first = await run_batch(FakeEngine(), job)
    engine = FakeEngine()
    second = await run_batch(engine, job)
    assert engine.asked == []
    assert second == replace(first, n_resumed=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.receipt"]


async def test_an_output_of_something_else_is_not_overwritten_unasked(tmp_path):
    job = job_of(tmp_path, questions(2))
    job.target.write_text("precious\n")
    with pytest.raises(ConfigError, match=r"out\.jsonl exists.*--restart.*another output"):
        await run_batch(FakeEngine(), job)
    assert job.target.read_text() == "precious\n"
    assert not job.store_path.exists()
    await run_batch(FakeEngine(), replace(job, restarts=True))
    assert len(output(job)) == 2


async def test_an_output_that_came_after_the_batch_had_begun_is_not_overwritten_unasked(tmp_path):
    job = job_of(tmp_path, questions(2))
    with pytest.raises(RuntimeError):
        await run_batch(FakeEngine(lives=1), job)
    job.target.write_text("precious\n")
    engine = FakeEngine()
    with pytest.raises(ConfigError, match=r"out\.jsonl exists, and came there after this batch had begun; move it"):
        await run_batch(engine, job)
    assert engine.asked == []
    assert job.target.read_text() == "precious\n"
    job.target.unlink()
    assert (await run_batch(engine, job)).n_resumed == 1


async def test_a_restart_that_was_cut_goes_on_over_the_old_output(tmp_path):
    job = job_of(tmp_path, questions(3))
    job.target.write_text("to be replaced\n")
    with pytest.raises(RuntimeError):
        await run_batch(FakeEngine(lives=1), replace(job, restarts=True))
    engine = FakeEngine()
    assert (await run_batch(engine, job)).n_resumed == 1
    assert len(engine.asked) == 2
    assert len(output(job)) == 3


async def test_an_unfinished_batch_of_an_older_version_is_not_asked_again_unasked(tmp_path):
    job = job_of(tmp_path, questions(2))
    journal = tmp_path / "out.jsonl.journal"
    journal.write_text('{"kind": "enlist-batch-journal", "format": 1, "input": "abc"}\n{"line": 1}\n')
    engine = FakeEngine()
    with pytest.raises(ConfigError, match=r"journal is an unfinished batch of an earlier version.*--restart"):
        await run_batch(engine, job)
    assert engine.asked == []
    assert journal.exists()
    await run_batch(engine, replace(job, restarts=True))
    assert not journal.exists()
    assert len(output(job)) == 2


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("suffix", [".part", ".job", ".job-wal", ".receipt"])
async def test_the_input_is_none_of_the_files_beside_the_output(tmp_path, suffix, restarts):
    job = job_of(tmp_path, questions(2), restarts=restarts)
    source = job.source.rename(job.target.with_name(job.target.name + suffix))
    with pytest.raises(ConfigError, match=r"is the input itself, which a batch to .*out\.jsonl writes"):
        await run_batch(FakeEngine(), replace(job, source=source))
    assert len(source.read_text().splitlines()) == 2
    assert list(tmp_path.iterdir()) == [source]


async def test_an_input_that_can_be_read_only_once_is_refused(tmp_path):
    job = job_of(tmp_path, questions(2))
    job.source.unlink()
    os.mkfifo(job.source)
    with pytest.raises(ConfigError, match=r"is not a regular file.*write it to a file first"):
        await run_batch(FakeEngine(), job)
    assert not job.target.exists()


@pytest.mark.parametrize("restarts", [False, True])
async def test_an_output_that_is_no_file_is_refused_before_anything_is_asked(tmp_path, restarts):
    job = job_of(tmp_path, questions(2), restarts=restarts)
    job.target.mkdir()
    engine = FakeEngine()
    with pytest.raises(ConfigError, match=r"out\.jsonl exists and is not a regular file"):
        await run_batch(engine, job)
    assert engine.asked == []
    assert not job.store_path.exists()


async def test_the_input_is_never_its_own_output(tmp_path):
    job = job_of(tmp_path, questions(2))
    (tmp_path / "alias.jsonl").symlink_to(job.source)
    with pytest.raises(ConfigError, match="is the input itself"):
        await run_batch(FakeEngine(), replace(job, target=tmp_path / "alias.jsonl", restarts=True))
    assert len(job.source.read_text().splitlines()) == 2


@pytest.mark.parametrize("changed", ["input", "settings", "output"])
async def test_a_receipt_vouches_for_this_input_these_settings_and_this_output_only(tmp_path, changed):
    job = job_of(tmp_path, questions(2), settings={"config.k": "1"})
    await run_batch(FakeEngine(), job)
    if changed == "input":
        job.source.write_text(json.dumps({"id": "new", "question": "new"}) + "\n")
    elif changed == "settings":
        job = replace(job, settings={"config.k": "2"})
    else:
        job.target.write_text("cut off")
    with pytest.raises(ConfigError, match="is not the finished output of this input with these settings"):
        await run_batch(FakeEngine(), job)


@pytest.mark.parametrize(("changed", "named"), [("input", "input"), ("settings", r"config\.k")])
async def test_an_unfinished_batch_is_only_continued_as_it_was(tmp_path, changed, named):
    job = job_of(tmp_path, questions(4), settings={"config.k": "1"})
    with pytest.raises(RuntimeError):
        await run_batch(FakeEngine(lives=2), job)
    if changed == "input":
        job.source.write_text(json.dumps({"id": "new", "question": "new"}) + "\n")
    else:
        job = replace(job, settings={"config.k": "2"})
    with pytest.raises(ConfigError, match=f"differs in: {named}"):
        await run_batch(FakeEngine(), job)
    engine = FakeEngine()
    await run_batch(engine, replace(job, restarts=True))
    assert len(engine.asked) == len(output(job))


async def test_progress_starts_at_what_is_finished_and_ends_at_all(tmp_path):
    job = job_of(tmp_path, [*questions(5), "{oops"], window=2)
    with pytest.raises(RuntimeError):
        await run_batch(FakeEngine(lives=3), job)
    seen = []
    await run_batch(FakeEngine(), job, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (4, 6), "three that were answered, and the malformed one"
    assert seen[-1] == (6, 6)


async def test_an_empty_input_gives_an_empty_output(tmp_path):
    job = job_of(tmp_path, [])
    summary = await run_batch(FakeEngine(), job)
    assert (summary.n_lines, job.target.read_bytes()) == (0, b"")


async def test_a_text_that_utf8_cannot_hold_stops_nothing(tmp_path):
    body = {"model": "auto", "messages": [{"role": "user", "content": "abc"}]}
    chat = {"custom_id": "\ud800", "method": "POST", "url": "/v1/chat/completions", "body": body}
    lines = [r'{"id": "a", "question": "\ud800"}', chat, {**chat, "body": None}, *questions(1)]
    job = job_of(tmp_path, lines)
    await run_batch(FakeEngine(), job)
    plain, good, bad, last = output(job)
    assert [line["error"] for line in (plain, good, last)] == [None, None, None]
    assert good["custom_id"] == bad["custom_id"] == "\ud800"


async def test_an_unknown_cost_stays_unknown_in_the_sum(tmp_path):
    class Unpriced(FakeEngine):
        async def stream(self, queries, *, deadlines_from):
            async for event in super().stream(queries, deadlines_from=deadlines_from):
                if isinstance(event, Answered):
                    usage = replace(event.response.usage, cost_usd=None)
                    yield replace(event, response=replace(event.response, usage=usage))

    summary = await run_batch(Unpriced(), job_of(tmp_path, questions(2)))
    assert summary.usage.cost_usd is None
    assert summary.usage.completions == 6


# --- what failed, once more -----------------------------------------------------------------------------------------


class Recovered(FakeEngine):
    """The engine once the server is up again: nothing is `DOWN` any more."""

    async def stream(self, queries, *, deadlines_from):
        async for event in super().stream([up(query) for query in queries], deadlines_from=deadlines_from):
            yield event


def up(query):
    return user_query(query.id, "up again") if query.text == DOWN else query


def chat_lines(*texts):
    return [
        {
            "custom_id": f"c{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "auto", "messages": [{"role": "user", "content": text}]},
        }
        for n, text in enumerate(texts)
    ]


MIXED = [
    {"id": "good", "question": "abc"},
    {"id": "down", "question": DOWN},
    "{oops",
    {"id": "refused", "question": REFUSED},
    *chat_lines("abc", DOWN, REFUSED),
    {"id": "half", "question": "\ud800"},
]


async def test_a_finished_batch_asks_again_where_a_failure_may_have_passed_and_keeps_the_rest(tmp_path):
    job = job_of(tmp_path, MIXED)
    first = await run_batch(FakeEngine(), job)
    assert (first.n_lines, first.n_failed, first.n_retryable) == (8, 5, 2)
    before = job.target.read_bytes().splitlines()
    engine = Recovered()
    again = await run_batch(engine, replace(job, retries_failed=True))
    assert sorted(engine.asked) == ["c1", "down"]
    after = job.target.read_bytes().splitlines()
    assert [n for n in range(8) if before[n] != after[n]] == [1, 5]
    assert output(job)[1]["answer"] == "niaga pu"
    assert output(job)[5]["response"]["status_code"] == 200
    assert (again.n_failed, again.n_retryable, again.n_resumed) == (3, 0, 6)
    assert again.usage == Usage(completions=15, prompt_tokens=10, completion_tokens=5, cost_usd=pytest.approx(0.005))
    idle = FakeEngine()
    assert (await run_batch(idle, job)).n_failed == 3
    assert (await run_batch(idle, replace(job, retries_failed=True))).n_failed == 3
    assert idle.asked == []


async def test_an_unfinished_batch_asks_its_passing_failures_again_too(tmp_path):
    job = job_of(tmp_path, [*questions(1), {"id": "down", "question": DOWN}, *questions(4)[1:]], window=2)
    with pytest.raises(RuntimeError):
        await run_batch(FakeEngine(lives=3), job)
    engine = Recovered()
    await run_batch(engine, replace(job, retries_failed=True))
    assert sorted(engine.asked) == ["down", "q1", "q3"]
    assert [line["error"] for line in output(job)] == [None] * 5


@pytest.mark.parametrize("retries_failed", [False, True])
async def test_a_second_try_that_is_cut_goes_on_with_either_command(tmp_path, retries_failed):
    lines = [*questions(2), *({"id": f"d{n}", "question": DOWN} for n in range(3))]
    job = job_of(tmp_path, lines, window=1)
    await run_batch(FakeEngine(), job)
    cut = Recovered(lives=1)
    with pytest.raises(RuntimeError):
        await run_batch(cut, replace(job, retries_failed=True))
    assert cut.asked == ["d0", "d1"]
    last = Recovered()
    summary = await run_batch(last, replace(job, retries_failed=retries_failed))
    assert output(job)[2]["error"] is None
    assert last.asked == ["d1", "d2"]
    assert (summary.n_retryable, summary.n_resumed) == (0, 3)


async def test_a_batch_cannot_both_begin_anew_and_keep_what_was_finished(tmp_path):
    with pytest.raises(ConfigError, match="leave one out"):
        await run_batch(FakeEngine(), job_of(tmp_path, questions(1), restarts=True, retries_failed=True))
