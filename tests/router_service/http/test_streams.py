"""Streams: open at once, alive in silence, the real tokens, honest ends; and callers that leave."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import httpx
import pytest

from router_service.http.streams import heartbeaten
from router_service.types import TokenDelta, ToolCall
from tests.router_service.http.fakes import FakeEngine, Script, failure, running_server
from tests.router_service.http.test_chat import ASK
from tests.router_service.parts import FakeBackend, engine_of

STREAM = ASK | {"stream": True}


async def lines_of(client, body=STREAM):
    async with client, client.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        return [line async for line in reply.aiter_lines() if line]


def chunks_of(lines):
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def text_of(chunks):
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices"))


async def test_a_stream_is_a_role_the_tokens_the_end_and_done(connect):
    lines = await lines_of(connect(Script(answer="forty-two", deltas=("forty", "-", "two"))))
    chunks = chunks_of(lines)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["delta"].get("content") for c in chunks[1:-1]] == ["forty", "-", "two"]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, None, "stop"]
    assert len({c["id"] for c in chunks}) == 1
    assert {(c["object"], c["model"]) for c in chunks} == {("chat.completion.chunk", "auto")}
    assert chunks[-1]["enlist"]["experts"][0]["id"] == "ada"
    assert chunks[-1]["enlist"]["overhead_ms"] == 2.0
    assert not any("usage" in c for c in chunks)
    assert lines[-1] == "data: [DONE]"


async def test_the_engine_is_told_to_stream(connect):
    engine = FakeEngine()
    await lines_of(connect(engine))
    assert engine.queries[0].controls.streams


async def test_a_vote_comes_as_one_piece(connect):
    chunks = chunks_of(await lines_of(connect(Script(answer="B"))))
    assert [c["choices"][0]["delta"].get("content") for c in chunks] == ["", "B", None]


async def test_text_that_was_not_streamed_is_not_lost(connect):
    assert text_of(chunks_of(await lines_of(connect(Script(answer="forty-two", deltas=("forty",)))))) == "forty-two"


async def test_usage_comes_last_where_asked_for(connect):
    chunks = chunks_of(await lines_of(connect(), STREAM | {"stream_options": {"include_usage": True}}))
    assert [c["usage"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}


async def test_tool_calls_are_not_lost(connect):
    call = ToolCall(id="c1", name="look_up", arguments='{"a": 1}')
    chunks = chunks_of(await lines_of(connect(Script(answer="", tool_calls=(call,), notes=("mended",)))))
    assert chunks[-1]["enlist"]["notes"] == ["mended"]
    assert chunks[-1]["enlist"]["aggregator_usage"]["completions"] == 1
    assert [bool(c["choices"][0]["delta"].get("tool_calls")) for c in chunks] == [False, True, False]
    assert chunks[1]["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script(deltas=("fo",), failure=failure("expert_timeout", "ada took too long")), "expert_timeout"),
        (Script(failure=failure("budget_exceeded")), "budget_exceeded"),
        (Script(deltas=("fo",), error=ValueError("insides")), "internal_error"),
    ],
)
async def test_a_failure_ends_the_stream_with_an_error_and_no_clean_stop(connect, script, code):
    lines = await lines_of(connect(script))
    *chunks, last = chunks_of(lines)
    assert last["error"]["code"] == code
    assert set(last["error"]) == {"message", "type", "code", "param"}
    assert "insides" not in str(last)
    assert "data: [DONE]" not in lines
    assert all(c["choices"][0]["finish_reason"] is None for c in chunks)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "bob"}, {"x-enlist-experts": "bob"}),
        ({"model": "auto/symbolic"}, {"x-enlist-recruiter": "symbolic"}),
        ({"enlist": {"aggregator": "weighted"}, "store": True}, {"x-enlist-aggregator": "weighted"}),
    ],
)
async def test_what_is_known_at_the_start_stands_in_the_headers(connect, changes, expected):
    async with connect() as client, client.stream("POST", "/v1/chat/completions", json=STREAM | changes) as reply:
        assert {name: reply.headers.get(name) for name in expected} == expected
        assert ("x-enlist-warnings" in reply.headers) == ("store" in changes)
        assert reply.headers["cache-control"] == "no-cache"
        assert "content-length" not in reply.headers


async def test_what_only_the_end_knows_to_be_unused_stands_in_the_last_chunk(connect):
    asked = STREAM | {"enlist": {"skills": ["algebra"]}, "stream_options": {"include_obfuscation": True}}
    async with connect() as client:
        reply = await client.post("/v1/chat/completions", json=asked)
    assert reply.headers["x-enlist-warnings"].startswith("stream_options.include_obfuscation is ignored")
    last = json.loads(reply.text.split("\n\n")[-3].removeprefix("data: "))
    assert [warning.split()[0] for warning in last["enlist"]["warnings"]] == [
        "stream_options.include_obfuscation",
        "enlist.skills",
    ]


def test_the_stream_opens_at_once_and_stays_alive_while_experts_work():
    with (
        running_server(FakeEngine(Script(pause_s=0.5)), heartbeat_s=0.1) as running,
        httpx.stream("POST", f"{running.url}/v1/chat/completions", json=STREAM) as reply,
    ):
        started = time.monotonic()
        arrivals = [(time.monotonic() - started, line) for line in reply.iter_lines() if line]
    assert arrivals[0][0] < 0.3
    assert '"role":"assistant"' in arrivals[0][1]
    beats = [when for when, line in arrivals if line == ": keep-alive"]
    assert len(beats) >= 3
    assert arrivals[-1] == (pytest.approx(0.5, abs=0.4), "data: [DONE]")


def test_steps_the_caller_does_not_see_do_not_make_the_connection_silent():
    """Each hidden step resets the clock of the heartbeat, so it must itself be a sign of life."""
    with (
        running_server(FakeEngine(Script(pause_s=0.08, steps=6)), heartbeat_s=0.1) as running,
        httpx.stream("POST", f"{running.url}/v1/chat/completions", json=STREAM) as reply,
    ):
        arrivals = [time.monotonic() for chunk in reply.iter_raw() if chunk]
    assert max(b - a for a, b in itertools.pairwise(arrivals)) < 0.3
    assert len(arrivals) >= 6


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
def test_a_caller_that_leaves_ends_the_work_within_a_second(body):
    engine = FakeEngine(Script(pause_s=30))
    with running_server(engine) as running:
        with (
            pytest.raises(httpx.ReadTimeout),
            httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=0.3) as reply,
        ):
            reply.read()
        assert engine.opened.is_set()
        assert engine.cancelled.wait(timeout=1.0), "the engine went on working for nobody"
        metrics = _until(f"{running.url}/metrics", 'status="499"')
    assert 'enlist_queries_total{outcome="client_disconnected"} 1.0' in metrics
    assert not engine.finished.is_set()


def test_leaving_in_the_middle_of_the_tokens_ends_the_work_too():
    engine = FakeEngine(Script(deltas=tuple("abcdefgh") * 100, pause_s=0.1))
    with running_server(engine) as running:
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=STREAM) as reply:
            next(line for line in reply.iter_lines() if '"content":"c"' in line)
        assert engine.cancelled.wait(timeout=1.0)


@pytest.mark.parametrize("grace_s", [0, 0.3])
def test_a_server_that_stops_cancels_what_is_under_way(grace_s):
    engine = FakeEngine(Script(pause_s=30))
    with (
        running_server(engine, shutdown_grace_s=grace_s) as running,
        httpx.stream("POST", f"{running.url}/v1/chat/completions", json=STREAM) as reply,
    ):
        lines = reply.iter_lines()  # kept: let go, it would close the connection
        next(lines)
        running.server.should_exit = True
        asked = time.monotonic()
        assert engine.cancelled.wait(timeout=5.0)
        assert grace_s <= time.monotonic() - asked < 0.9  # of which uvicorn itself takes up to 0.2


async def test_closing_a_heartbeaten_stream_closes_the_events_in_their_own_task():
    tasks = []

    async def events():
        tasks.append(asyncio.current_task())
        try:
            async with asyncio.TaskGroup() as group:  # breaks where a step runs in another task
                group.create_task(asyncio.sleep(0))
                yield TokenDelta(query_id="q", text="a")
                await asyncio.sleep(30)
        finally:
            tasks.append(asyncio.current_task())

    beaten = heartbeaten(events(), 0.02)
    assert (await anext(beaten)).text == "a"
    assert await anext(beaten) is None
    await beaten.aclose()
    assert len(tasks) == 2
    assert tasks[0] is tasks[1] is not asyncio.current_task()


def _until(url: str, text: str) -> str:
    """The page once `text` stands in it."""
    deadline = time.monotonic() + 30
    while text not in (page := httpx.get(url).text):
        assert time.monotonic() < deadline, f"{text} never came:\n{page}"
        time.sleep(0.02)
    return page


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
def test_leaving_reaches_every_open_call_of_the_real_engine(body):
    backend = FakeBackend(pause_s=30)
    with running_server(engine_of(backend)) as running:
        with (
            pytest.raises(httpx.ReadTimeout),
            httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=0.5) as reply,
        ):
            reply.read()
        deadline = time.monotonic() + 10
        while backend.cancelled_calls < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert (backend.cancelled_calls, backend.open_calls) == (3, 0)
