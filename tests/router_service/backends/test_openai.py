"""The backend `openai` against a fake server: what is sent, and what is made of every way to answer badly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from time import time

import pytest

from router_service.backends.openai import Openai
from router_service.config import DispatchConfig
from router_service.dispatch.runner import PanelReady, Runner
from router_service.errors import ConfigError, ExpertError, ExpertRefused, ExpertTimeout, ExpertUnavailable
from router_service.types import (
    AnswerKind,
    Assignment,
    AudioPart,
    Completion,
    Expert,
    ExpertBatch,
    ExpertLimits,
    ImagePart,
    Message,
    Query,
    Sampling,
    Secret,
    TaskFormat,
    TextPart,
    TokenDelta,
    ToolCall,
    Usage,
    user_query,
)
from tests.router_service.backends import upstream as fake
from tests.router_service.backends.cases import pieces
from tests.router_service.backends.upstream import Behaviour, Upstream

KEY = "sk-very-secret"


@asynccontextmanager
async def calling(behaviour: Behaviour = fake.normal, **fields) -> AsyncIterator[tuple[Openai, Expert, Upstream]]:
    async with Upstream(behaviour).running() as upstream:
        backend = Openai(idle_timeout_s=0.2)
        limits = ExpertLimits(timeout_s=fields.pop("timeout_s", 5.0))
        expert = Expert(
            id="E", model="m", backend="openai", address=upstream.address, api_key=Secret(KEY), limits=limits
        )
        try:
            yield backend, replace(expert, **fields), upstream
        finally:
            await backend.aclose()


async def asked(behaviour: Behaviour = fake.normal, *, query: Query | None = None, **fields) -> list:
    """What comes back for one assignment; fields of the assignment and of the expert, told apart by name."""
    assignment = {name: fields.pop(name) for name in ("samples", "streams", "seed", "first_sample") if name in fields}
    async with calling(behaviour, **fields) as (backend, expert, _):
        return await pieces(backend, expert, Assignment(query=query or user_query("q", "hello world"), **assignment))


async def sent(query: Query, **fields) -> dict:
    async with calling(**fields) as (backend, expert, upstream):
        await pieces(backend, expert, Assignment(query=query, seed=2**40 + 5))
        return upstream.bodies[0]


# --- what is sent --------------------------------------------------------------------------------------------------


async def test_the_request_says_all_that_is_asked() -> None:
    sampling = Sampling(
        temperature=0.5, top_p=0.9, max_tokens=9, stop=("END",), presence_penalty=1, frequency_penalty=-1
    )
    body = await sent(replace(user_query("q", "hi"), sampling=sampling))
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 9,
        "stop": ["END"],
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "seed": 5,
    }


async def test_the_experts_sampling_fills_in_and_its_limit_holds() -> None:
    query = replace(user_query("q", "hi"), sampling=Sampling(max_tokens=5000))
    body = await sent(query, sampling=Sampling(temperature=0.1), max_output_tokens=100)
    assert (body["temperature"], body["max_tokens"]) == (0.1, 100)
    reasoning = await sent(query, options={"max_tokens_field": "max_completion_tokens", "logprobs": True})
    assert (reasoning["max_completion_tokens"], "max_tokens" in reasoning, reasoning["logprobs"]) == (5000, False, True)


async def test_the_key_travels_in_the_header_alone() -> None:
    async with calling() as (backend, expert, upstream):
        await pieces(backend, expert, Assignment(query=user_query("q", "hi")))
        assert upstream.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert KEY not in json.dumps(upstream.bodies)
        await pieces(backend, replace(expert, api_key=None), Assignment(query=user_query("q", "hi")))
        assert "Authorization" not in upstream.headers[1]


async def test_the_persona_comes_first_in_one_system_message() -> None:
    query = user_query("q", "hi")
    assert (await sent(query, persona="Be brief."))["messages"][0] == {"role": "system", "content": "Be brief."}
    system = Message(role="system", content="Use metres.")
    both = await sent(replace(query, messages=(system, *query.messages)), persona="Be brief.")
    assert [m["role"] for m in both["messages"]] == ["system", "user"]
    assert both["messages"][0]["content"] == "Be brief.\n\nUse metres."


async def test_parts_and_tool_turns_are_carried_over() -> None:
    parts = (
        TextPart(text="What is this?"),
        ImagePart(url="data:image/png;base64,AA", detail="low"),
        AudioPart(data="BB", format="wav"),
    )
    call = ToolCall(id="c1", name="look", arguments='{"x": 1}')
    messages = (
        Message(role="user", content=parts, name="ann"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="a cat", tool_call_id="c1"),
    )
    body = await sent(replace(user_query("q", ""), messages=messages))
    assert body["messages"] == [
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "BB", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}],
        },
        {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    ]


async def test_tools_and_formats_are_carried_over() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    query = replace(user_query("q", "hi"), tools=(json.dumps(tool),), tool_choice="required")
    body = await sent(query)
    assert (body["tools"], body["tool_choice"]) == ([tool], "required")
    named = {"type": "function", "function": {"name": "look"}}
    assert (await sent(replace(query, tool_choice=json.dumps(named))))["tool_choice"] == named
    schema = {"type": "object"}
    for json_schema, wanted in (
        (None, {"type": "json_object"}),
        (schema, {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}),
        ({"name": "x", "schema": schema}, {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
    ):
        text = None if json_schema is None else json.dumps(json_schema)
        body = await sent(user_query("q", "hi", task_format=TaskFormat(kind=AnswerKind.JSON, json_schema=text)))
        assert body["response_format"] == wanted


async def test_a_tool_that_is_not_json_is_refused_before_the_call() -> None:
    with pytest.raises(ExpertRefused, match="tool is not JSON"):
        await asked(query=replace(user_query("q", "hi"), tools=("{oops",)))


# --- several samples -----------------------------------------------------------------------------------------------


async def test_samples_travel_in_one_request_and_share_its_usage() -> None:
    async with calling() as (backend, expert, upstream):
        completions = await pieces(backend, expert, Assignment(query=user_query("q", "hi"), samples=3, seed=4))
        assert [(b["n"], b["seed"]) for b in upstream.bodies] == [(3, 4)]
    assert [c.sample for c in completions] == [0, 1, 2]
    assert len({c.text for c in completions}) == 3
    total = sum((c.usage for c in completions), Usage())
    assert (total.completions, total.prompt_tokens, total.completion_tokens) == (3, 11, 21)


@pytest.mark.parametrize(("behaviour", "first_call"), [(fake.refuse_n, 0), (fake.ignore_n, 1)])
async def test_a_server_without_n_is_asked_one_by_one_from_then_on(behaviour: Behaviour, first_call: int) -> None:
    async with calling(behaviour) as (backend, expert, upstream):
        for _ in range(2):
            completions = await pieces(
                backend, expert, Assignment(query=user_query("q", "hi"), samples=3, first_sample=1, seed=4)
            )
            assert [c.sample for c in completions] == [1, 2, 3]
        counts = [body.get("n", 1) for body in upstream.bodies]
        assert counts == [3, *[1] * (3 - first_call), 1, 1, 1]
        alone = upstream.bodies[-3:]
        assert len({body["seed"] for body in alone}) == 3


async def test_another_400_is_not_taken_for_a_complaint_about_n() -> None:
    async with calling(fake.status(400, {"error": {"message": "context length exceeded"}})) as (backend, expert, up):
        with pytest.raises(ExpertRefused, match="context length exceeded"):
            await pieces(backend, expert, Assignment(query=user_query("q", "hi"), samples=3))
        assert len(up.bodies) == 1


async def test_supports_n_can_be_switched_off() -> None:
    async with calling(options={"supports_n": False}) as (backend, expert, upstream):
        await pieces(backend, expert, Assignment(query=user_query("q", "hi"), samples=2))
        assert ["n" in body for body in upstream.bodies] == [False, False]


# --- what comes back -----------------------------------------------------------------------------------------------


async def test_a_stream_brings_its_usage_and_keeps_the_connection() -> None:
    async with calling() as (backend, expert, upstream):
        for _ in range(3):
            items = await pieces(backend, expert, Assignment(query=user_query("q", "hello world"), streams=True))
        assert items[-1].usage == Usage(completions=1, prompt_tokens=11, completion_tokens=7, cost_usd=None)
        assert items[-1].finish_reason == "stop"
        assert len(items) == 6
        assert upstream.bodies[0]["stream_options"] == {"include_usage": True}
        assert len(upstream.connections) == 1


async def test_usage_in_a_stream_can_be_left_out() -> None:
    items = await asked(streams=True, options={"reports_stream_usage": False})
    assert items[-1].usage == Usage(completions=1, cost_usd=None)


def answering(choice: dict, **body) -> Behaviour:
    async def behave(upstream, request, asked):
        return fake.web.json_response({"choices": [choice], **body})

    return behave


async def test_tool_calls_and_logprobs_are_read() -> None:
    function = {"name": "look", "arguments": '{"x": 1}'}
    choice = {
        "message": {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        "finish_reason": "tool_calls",
        "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.5}]},
    }
    [completion] = await asked(answering(choice))
    assert completion.tool_calls == (ToolCall(id="c1", name="look", arguments='{"x": 1}'),)
    assert (completion.text, completion.finish_reason, completion.logprob) == ("", "tool_calls", -1.0)


async def test_tool_calls_of_a_stream_are_put_together() -> None:
    async def behave(upstream, request, body):
        response = await fake.opened(request)
        pieces = ({"id": "c1", "function": {"name": "look", "arguments": '{"x"'}}, {"function": {"arguments": ": 1}"}})
        for piece in pieces:
            await fake.send(response, fake.chunk(body, {"tool_calls": [{"index": 0, **piece}]}))
        await fake.send(response, fake.chunk(body, {}, "tool_calls"))
        return response

    [completion] = await asked(behave, streams=True)
    assert completion.tool_calls == (ToolCall(id="c1", name="look", arguments='{"x": 1}'),)


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None, "refusal": "I will not"}, "finish_reason": "stop"},
        {"message": {"content": ""}, "finish_reason": "content_filter"},
    ],
)
async def test_a_refusal_is_a_failed_completion(choice: dict) -> None:
    [completion] = await asked(answering(choice, usage={"prompt_tokens": 3, "completion_tokens": 2}))
    assert completion.error.code == "expert_refused"
    assert completion.usage.completion_tokens == 2


async def test_content_in_parts_is_joined() -> None:
    choice = {"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}
    assert (await asked(answering(choice)))[0].text == "ab"


async def test_a_server_that_cannot_stream_comes_in_one_piece() -> None:
    choice = {"message": {"content": "whole"}, "finish_reason": "stop"}
    items = await asked(answering(choice), streams=True)
    assert items[0] == TokenDelta(query_id="q", text="whole")
    assert items[1].text == "whole"


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "is_retryable"),
    [
        (400, ExpertRefused, False),
        (401, ExpertRefused, False),
        (403, ExpertRefused, False),
        (404, ExpertRefused, False),
        (422, ExpertRefused, False),
        (307, ExpertRefused, False),
        (408, ExpertTimeout, True),
        (429, ExpertUnavailable, True),
        (500, ExpertUnavailable, True),
        (502, ExpertUnavailable, True),
        (503, ExpertUnavailable, True),
        (504, ExpertTimeout, True),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_every_status_has_its_error(
    code: int, kind: type[ExpertError], is_retryable: bool, streams: bool
) -> None:
    with pytest.raises(kind, match=f"E answered HTTP {code}: status {code}") as caught:
        await asked(fake.status(code), streams=streams)
    assert type(caught.value) is kind
    assert caught.value.retryable is is_retryable
    assert caught.value.expert_id == "E"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("0.5", 0.5), ("in 30 s", 30), ("soon", None), ("-3", 0)])
async def test_retry_after_is_read(header: str, seconds: float | None) -> None:
    with pytest.raises(ExpertUnavailable) as caught:
        date = formatdate(time() + 30, usegmt=True)
        await asked(fake.status(429, Retry_After=date if header == "in 30 s" else header))
    wait_s = caught.value.retry_after_s
    assert wait_s is None if seconds is None else wait_s == pytest.approx(seconds, abs=3)


async def test_an_account_without_credit_is_not_worth_a_retry() -> None:
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    with pytest.raises(ExpertRefused, match="top up"):
        await asked(fake.status(429, body))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"message": f"bad key {KEY}", "code": "x"}}, r"bad key \*\*\* \[x\]"),
        ({"error": "plain"}, "plain"),
        ({"message": "vllm says"}, "vllm says"),
        ({"detail": "fastapi says"}, "HTTP 500: .*fastapi says"),
        ("<html>\n <b>nginx</b>", "<html> <b>nginx</b>"),
        ("", r"\(no message\)"),
        ("x" * 5000, "x{300} \\.\\.\\.$"),
    ],
)
async def test_the_upstreams_words_are_passed_on_without_the_key(body: object, told: str) -> None:
    with pytest.raises(ExpertUnavailable, match=told) as caught:
        await asked(fake.status(500, body if body else " "))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("behaviour", "kind", "told", "deltas"),
    [
        (fake.cut_after(3), ExpertUnavailable, "stream was cut", 3),
        (fake.cut_after(3, is_abrupt=True), ExpertUnavailable, "connection to 127.0.0.1:[0-9]+ broke", 3),
        (fake.cut_after(0), ExpertUnavailable, "stream was cut", 0),
        (fake.stall_after(2), ExpertTimeout, r"no \(further\) answer", 2),
        (fake.raw_lines("data: {broken", ""), ExpertUnavailable, "answered nonsense", None),
        (fake.raw_lines("Internal Server Error"), ExpertUnavailable, "no server-sent event", None),
        (fake.raw_lines("data: [1]", ""), ExpertUnavailable, "no object", None),
        (
            fake.raw_lines('data: {"error": {"message": "GPU lost", "code": 503}}', ""),
            ExpertUnavailable,
            "GPU lost",
            None,
        ),
        (fake.raw_lines('data: {"error": {"message": "too long", "code": 400}}', ""), ExpertRefused, "too long", None),
    ],
)
async def test_a_broken_stream_is_an_error_and_never_a_clean_stop(
    behaviour: Behaviour, kind: type[ExpertError], told: str, deltas: int | None
) -> None:
    shown = []
    async with calling(behaviour) as (backend, expert, _):
        batch = ExpertBatch(
            expert_id="E", assignments=(Assignment(query=user_query("q", "hello world"), streams=True),)
        )
        with pytest.raises(kind, match=told):
            async for item in backend.complete(expert, batch):
                assert isinstance(item, TokenDelta)
                shown.append(item.text)
    assert deltas is None or len(shown) == deltas


@pytest.mark.parametrize(("finish", "done"), [(True, False), (False, True)])
async def test_either_mark_of_the_end_will_do(finish: bool, done: bool) -> None:
    async def behave(upstream, request, body):
        return await fake.stream(request, body, finish=finish, done=done)

    assert (await asked(behave, streams=True))[-1].finish_reason == "stop"


@pytest.mark.parametrize("body", ["not json", "[]", "{}", '{"choices": []}', '{"choices": [7]}'])
async def test_a_200_that_is_no_reply_may_be_tried_again(body: str) -> None:
    with pytest.raises(ExpertUnavailable, match="no chat reply"):
        await asked(fake.status(200, body))


async def test_nobody_listening_is_unavailable() -> None:
    async with calling() as (backend, expert, _):
        nowhere = replace(expert, address="http://127.0.0.1:9/v1")
        with pytest.raises(ExpertUnavailable, match=r"cannot connect to 127\.0\.0\.1:9 .*is the server running\?"):
            await pieces(backend, nowhere, Assignment(query=user_query("q", "hi")))


async def test_a_server_that_never_answers_is_a_timeout() -> None:
    with pytest.raises(ExpertTimeout):
        await asked(fake.hang, timeout_s=0.1)


async def test_the_address_may_hold_a_password_and_never_shows() -> None:
    async with calling(fake.hang, timeout_s=0.1) as (backend, expert, _):
        address = expert.address.replace("http://", "http://user:pa55@")
        with pytest.raises(ExpertTimeout) as caught:
            await pieces(
                backend, replace(expert, address=address, api_key=None), Assignment(query=user_query("q", "x"))
            )
        assert "pa55" not in str(caught.value)


# --- cancelling, through the runner --------------------------------------------------------------------------------


@pytest.mark.parametrize(("behaviour", "streams"), [(fake.hang, False), (fake.stall_after(1), True)])
async def test_closing_the_run_closes_the_upstream_connection(behaviour: Behaviour, streams: bool) -> None:
    async with calling(behaviour) as (backend, expert, upstream):
        backend._idle_timeout_s = 30
        runner = Runner(experts={"E": expert}, backends={"openai": backend})
        batch = ExpertBatch(expert_id="E", assignments=(Assignment(query=user_query("q", "hi"), streams=streams),))

        async def read() -> None:
            async for _ in runner.run([batch], {}):
                pass

        reader = asyncio.create_task(read())
        async with asyncio.timeout(20):
            while not upstream.open:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            reader.cancel()
            await asyncio.wait([reader])
            while not upstream.dropped:
                await asyncio.sleep(0.005)
        assert upstream.open == 0


async def test_the_runner_retries_what_passes() -> None:
    async with calling(fake.status(503, times=2, Retry_After="0")) as (backend, expert, upstream):
        runner = Runner(
            experts={"E": expert}, backends={"openai": backend}, settings=DispatchConfig(backoff_initial_s=0.001)
        )
        batch = ExpertBatch(expert_id="E", assignments=(Assignment(query=user_query("q", "hi")),))
        panels = [event async for event in runner.run([batch], {}) if isinstance(event, PanelReady)]
        assert panels[0].completions[0].succeeded
        assert len(upstream.bodies) == 3


async def test_many_calls_at_once_share_the_experts_limit() -> None:
    async with calling() as (backend, expert, upstream):
        limited = replace(expert, limits=ExpertLimits(max_concurrency=4))
        runner = Runner(experts={"E": limited}, backends={"openai": backend})
        asked = tuple(Assignment(query=user_query(f"q{i}", "hi")) for i in range(40))
        events = [e async for e in runner.run([ExpertBatch(expert_id="E", assignments=asked)], {})]
        assert sum(isinstance(e, Completion) and e.succeeded for e in events) == 40
        assert upstream.most_open <= 4
        assert len(upstream.connections) <= 4


def test_one_backend_serves_several_event_loops() -> None:
    backend = Openai()

    async def once() -> None:
        async with Upstream().running() as upstream:
            expert = Expert(id="E", model="m", backend="openai", address=upstream.address)
            [completion] = await pieces(backend, expert, Assignment(query=user_query("q", "hi")))
            assert completion.succeeded
            await backend.aclose()

    asyncio.run(once())
    asyncio.run(once())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"address": None, "api_key": None}, "needs an address, or an api_key"),
        ({"address": "localhost:8000"}, "no usable address"),
        ({"address": "ftp://host/v1"}, "no usable address"),
        ({"address": "http://host:port/v1"}, "no usable address"),
        ({"options": {"max_tokens_field": "tokens"}}, "max_tokens or max_completion_tokens"),
        ({"options": {"supports_n": 1}}, "must be of type bool"),
    ],
)
def test_a_bad_entry_is_named(fields: dict, problem: str) -> None:
    expert = Expert(id="E", model="m", backend="openai", address="http://host:8000/v1", api_key=Secret(KEY))
    Openai().check(expert)
    with pytest.raises(ConfigError, match=problem) as caught:
        Openai().check(replace(expert, **fields))
    assert KEY not in str(caught.value)


def test_openai_itself_needs_no_address() -> None:
    Openai().check(Expert(id="E", model="gpt-5-mini", backend="openai", api_key=Secret(KEY)))
