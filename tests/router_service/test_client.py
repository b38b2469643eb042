"""The SDK: the real server over the real engine, and every way a call can go wrong."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import subprocess
import sys
import threading

import httpx
import pytest

from router_service import _client_errors as client_errors
from router_service import client as sdk
from router_service import errors
from router_service._client_requests import AskOptions, RetryPolicy, chat_call
from router_service.client import (
    ApiAuthenticationError,
    ApiConnectionError,
    ApiError,
    ApiExpertRefused,
    ApiExpertUnavailable,
    ApiInvalidQuery,
    ApiUnknownNameError,
    AsyncRouterClient,
    RouterClient,
)
from router_service.http.app import create_app
from router_service.http.schemas import ChatRequest, EnlistOptions, RouteRequest
from router_service.types import AudioPart, Budget, ImagePart, Message, TextPart, ToolCall, Usage
from tests.router_service.http.echo_engine import echo_engine
from tests.router_service.http.fakes import FakeEngine, Script, failure, running_server

QUESTION = "What is 6 * 7?"
TREE = [n for n in vars(errors).values() if isinstance(n, type) and issubclass(n, errors.RouterError)]


@pytest.fixture(scope="module")
def url():
    with running_server(echo_engine(), heartbeat_s=0.05) as running:
        yield running.url


@pytest.fixture
def client(url):
    with RouterClient(url, max_retries=0) as client:
        yield client


def replying(*replies: httpx.Response | Exception):
    """A transport that gives these replies in turn and records the requests."""
    requests = []
    left = list(replies)

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return httpx.MockTransport(handle), requests


def refusal(status: int, code: str | None = None, **headers: str) -> httpx.Response:
    body = {"error": {"message": "no", "type": "t", "code": code, "param": None}} if code else None
    return httpx.Response(status, json=body, headers={"x-request-id": "r1", **headers})


MODELS = {"object": "list", "data": [{"id": "auto", "object": "model", "created": 1, "owned_by": "enlist"}]}


# --- against the real thing -----------------------------------------------------------------------------------------


def test_ask_gives_the_answer_and_how_it_came_about(client):
    response = client.ask(QUESTION)
    assert response.text == QUESTION
    assert response.model == "auto"
    assert response.experts == ("parrot", "cuckoo")
    assert (response.recruiter, response.aggregator) == ("everyone", "majority")
    assert response.annotation.skills == {"What": 1.0}
    assert response.agreement == 1.0
    assert {c.expert_id for c in response.completions} == {"parrot", "cuckoo"}
    assert response.usage.completions == 2
    assert response.cost_usd > 0
    assert response.recruits[0].p_correct == 0.6
    assert response.request_id.startswith("req-")
    assert response.overhead_ms > 0
    assert (response.aggregator_asked, response.aggregator_usage, response.notes) == ("majority", Usage(), ())
    assert response.calls_saved == 0
    parrot, cuckoo = response.expert_reports
    assert (parrot.expert_id, parrot.samples, parrot.p_correct, parrot.holds_answer) == ("parrot", 1, 0.6, True)
    assert parrot.usage + cuckoo.usage == response.usage
    assert parrot.latency_s >= 0


async def test_ask_async(url):
    async with AsyncRouterClient(url) as client:
        assert (await client.ask(QUESTION, model="parrot")).experts == ("parrot",)


def test_options_reach_the_service(client):
    response = client.ask(
        QUESTION,
        k=1,
        aggregator="first",
        experts_denied=["parrot"],
        budget=Budget(max_completions=2, deadline_s=20),
        max_tokens=2,
        skills=["algebra"],
    )
    assert (response.text, response.experts, response.aggregator) == ("What is", ("cuckoo",), "first")
    assert response.finish_reason is not None


def test_chat_takes_a_conversation(client):
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Look"),
        Message(role="assistant", content="", tool_calls=(ToolCall(id="c", name="f", arguments="{}"),)),
        Message(role="tool", content="found", tool_call_id="c"),
        Message(role="user", content=(TextPart(text="Second"), TextPart(text="line"))),
    ]
    assert client.chat(messages, model="parrot").text == "Second\nline"


def test_route_explains(client):
    route = client.route(QUESTION)
    assert [r.expert_id for r in route.recruits] == ["parrot", "cuckoo"]
    assert route.annotation.skills == {"What": 1.0}
    assert route.recruiter == "everyone"


async def test_route_and_models_async(url):
    async with AsyncRouterClient(url) as client:
        assert (await client.route(QUESTION, k=1)).recruits[0].samples == 1
        assert "parrot" in {model.id for model in await client.models()}


def test_models(client):
    models = {model.id: model for model in client.models()}
    assert models["auto/everyone"].routes and not models["parrot"].routes
    assert models["parrot"].details["model"] == "echo/parrot"


@pytest.mark.parametrize(("model", "options"), [("parrot", {}), ("auto", {}), ("auto", {"aggregator": "writer"})])
def test_stream_gives_the_text_in_pieces_and_the_response_at_the_end(client, model, options):
    with client.stream(QUESTION, model=model, **options) as stream:
        texts = []
        for text in stream:
            with contextlib.suppress(ApiConnectionError):
                pytest.fail(f"a response before the end: {stream.response}")
            texts.append(text)
    assert "".join(texts) == QUESTION
    assert stream.response.text == QUESTION
    assert stream.response.usage.completion_tokens > 0
    assert (len(texts) > 1) is (model == "parrot" or bool(options))


async def test_stream_async(url):
    async with AsyncRouterClient(url) as client, client.stream(QUESTION, model="parrot") as stream:
        assert "".join([text async for text in stream]) == QUESTION
    assert stream.response.experts == ("parrot",)


def test_an_error_in_the_stream_is_raised_where_it_comes(client):
    with client.stream(QUESTION, model="crow") as stream, pytest.raises(ApiExpertRefused) as raised:
        list(stream)
    assert raised.value.status is None
    assert raised.value.request_id


def test_leaving_the_block_ends_the_work():
    engine = FakeEngine(Script(deltas=("a",) * 100, pause_s=0.2))
    with running_server(engine) as running, RouterClient(running.url) as client:
        with client.stream(QUESTION) as stream:
            assert next(iter(stream)) == "a"
        assert engine.cancelled.wait(timeout=1.0)


def test_heartbeats_keep_a_silent_stream_within_the_timeout():
    engine = FakeEngine(Script(pause_s=1.0))
    with running_server(engine, heartbeat_s=0.1) as running, RouterClient(running.url, timeout_s=0.5) as client:
        with client.stream(QUESTION) as stream:
            assert "".join(stream) == "42"
        with pytest.raises(ApiConnectionError):
            client.ask(QUESTION)


def test_tool_calls_are_the_same_streamed_and_whole():
    calls = (ToolCall(id="c1", name="f", arguments="{}"), ToolCall(id="c2", name="g", arguments='{"a": 1}'))
    with (
        running_server(FakeEngine(Script(answer="", tool_calls=calls))) as running,
        RouterClient(running.url) as client,
    ):
        whole = client.ask(QUESTION)
        with client.stream(QUESTION) as stream:
            list(stream)
    assert whole.tool_calls == stream.response.tool_calls == calls
    assert whole.finish_reason == stream.response.finish_reason == "tool_calls"


def test_the_same_answer_streamed_and_whole():
    with running_server(FakeEngine(Script(notes=("cut",)))) as running, RouterClient(running.url) as client:
        whole = client.ask(QUESTION, user="u")
        with client.stream(QUESTION, user="u") as stream:
            list(stream)
    assert whole.notes == ("cut",)
    per_call = ("query_id", "request_id", "overhead_ms", "annotation", "completions")
    kept = [name for name in whole.__dataclass_fields__ if name not in per_call]
    assert [getattr(whole, name) for name in kept] == [getattr(stream.response, name) for name in kept]


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "param"),
    [
        ({"model": "parot"}, ApiUnknownNameError, "model"),
        ({"recruiter": "evryone"}, ApiUnknownNameError, "enlist.recruiter"),
        ({"temperature": 9.0}, ApiInvalidQuery, "temperature"),
        ({"model": "crow"}, ApiExpertRefused, None),
    ],
)
def test_the_services_error_is_the_sdks(client, options, kind, param):
    with pytest.raises(kind) as raised:
        client.ask(QUESTION, **options)
    assert raised.value.param == param
    assert raised.value.request_id in str(raised.value)


def test_a_wrong_key_is_an_authentication_error_and_never_shown(monkeypatch):
    monkeypatch.delenv("ENLIST_API_KEY", raising=False)
    with running_server(FakeEngine(), api_keys=["right"]) as running:
        with RouterClient(running.url, api_key="right") as client:
            assert client.ask(QUESTION).text == "42"
            assert "right" not in repr(client) + repr(client.settings)
        with RouterClient(running.url, api_key="wrong") as client, pytest.raises(ApiAuthenticationError) as raised:
            client.models()
        assert (raised.value.status, raised.value.code) == (401, "invalid_api_key")
        assert "wrong" not in str(raised.value)
        monkeypatch.setenv("ENLIST_API_KEY", "right")
        with RouterClient(running.url) as client:
            assert client.models()


def test_an_unknown_option_is_a_type_error_that_names_the_nearest(client):
    with pytest.raises(TypeError, match="Did you mean 'recruiter'"):
        client.ask(QUESTION, recuiter="everyone")


def test_no_service_is_a_connection_error():
    with RouterClient("http://127.0.0.1:9", max_retries=0) as client, pytest.raises(ApiConnectionError, match=":9"):
        client.ask(QUESTION)


@pytest.mark.parametrize("base_url", ["localhost:8000", "ftp://x"])
def test_a_bad_base_url_is_a_connection_error(base_url):
    with RouterClient(base_url, max_retries=0) as client, pytest.raises(ApiConnectionError):
        client.models()


def test_something_else_at_the_url_is_a_connection_error():
    transport, _ = replying(httpx.Response(200, text="<html>"), httpx.Response(200, json={"hello": 1}))
    with RouterClient(transport=transport) as client:
        for _ in range(2):
            with pytest.raises(ApiConnectionError, match="base URL"):
                client.models()


@pytest.mark.parametrize("body", [{"choices": [{"message": "x"}]}, {"choices": {}}, [], 5, "x", None])
def test_a_foreign_good_reply_is_a_connection_error(body):
    transport, _ = replying(*[httpx.Response(200, json=body)] * 3)
    with RouterClient(transport=transport) as client:
        for call in (client.ask, client.route):
            with pytest.raises(ApiConnectionError, match="base URL"):
                call(QUESTION)
        with pytest.raises(ApiConnectionError, match="base URL"):
            client.models()


def test_a_foreign_end_of_a_stream_is_a_connection_error():
    end = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    transport, _ = replying(httpx.Response(200, content=end))
    with RouterClient(transport=transport) as client, client.stream(QUESTION) as stream:
        assert list(stream) == []
        with pytest.raises(ApiConnectionError, match="base URL"):
            _ = stream.response


@pytest.mark.parametrize(
    ("question", "options"),
    [("half \ud800", {}), (QUESTION, {"temperature": math.nan}), (QUESTION, {"tools": [{"function": object()}]})],
)
def test_what_json_cannot_hold_is_an_invalid_query_and_is_not_sent(question, options):
    transport, requests = replying()
    with RouterClient(transport=transport) as client:
        with pytest.raises(ApiInvalidQuery, match="cannot be written as JSON"):
            client.ask(question, **options)
        with pytest.raises(ApiInvalidQuery, match="cannot be written as JSON"), client.stream(question, **options):
            pass
    assert requests == []


def test_a_deadline_that_passed_is_not_paid_for_again():
    engine = FakeEngine(Script(failure=failure("expert_timeout", "too slow")))
    with (
        running_server(engine) as running,
        RouterClient(running.url) as client,
        pytest.raises(sdk.ApiExpertTimeout),
    ):
        client.ask(QUESTION, budget=Budget(deadline_s=1, max_completions=1))
    assert len(engine.queries) == 1


@pytest.mark.parametrize(
    ("tail", "hint"),
    [
        (b"", "broke off"),
        (b"data: [DONE]\n\n", "broke off"),
        (b"data: {oops\n\n", "not this service's"),
        (b"data: 5\n\n", "not this service's"),
    ],
)
def test_a_stream_that_is_cut_or_garbled_never_ends_cleanly(tail, hint):
    first = b'data: {"choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": null}]}\n\n'
    transport, _ = replying(httpx.Response(200, content=first + tail))
    with RouterClient(transport=transport) as client, client.stream(QUESTION) as stream:
        texts = iter(stream)
        assert next(texts) == "half"
        with pytest.raises(ApiConnectionError, match=hint):
            list(texts)


@pytest.mark.parametrize(
    "replies",
    [
        [refusal(503, "expert_unavailable", **{"x-should-retry": "true", "retry-after": "0"})],
        [refusal(429, **{"retry-after": "0"}), refusal(502, **{"retry-after": "0"})],
        [httpx.ConnectError("refused")],
    ],
)
def test_what_was_not_done_is_sent_again(replies):
    transport, requests = replying(*replies, httpx.Response(200, json=MODELS))
    with quick(RouterClient(transport=transport)) as client:
        assert client.models()[0].id == "auto"
    assert len(requests) == len(replies) + 1


async def test_what_was_not_done_is_sent_again_async():
    transport, requests = replying(refusal(503, **{"retry-after": "0"}), httpx.Response(200, json=MODELS))
    async with AsyncRouterClient(transport=transport) as client:
        assert await client.models()
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (refusal(503, "no_expert_available", **{"x-should-retry": "false"}), sdk.ApiNoExpertAvailable),
        (refusal(503, "expert_unavailable", **{"retry-after": "3600"}), ApiExpertUnavailable),
        (refusal(402, "budget_exceeded"), sdk.ApiBudgetExceeded),
        (refusal(500), ApiError),
        (refusal(404), ApiInvalidQuery),
        (refusal(403), ApiAuthenticationError),
        (httpx.ReadTimeout("slow"), ApiConnectionError),
        (httpx.RemoteProtocolError("cut"), ApiConnectionError),
    ],
)
def test_what_may_be_paid_for_already_or_cannot_be_mended_is_not(reply, kind):
    transport, requests = replying(reply)
    with quick(RouterClient(transport=transport)) as client, pytest.raises(kind):
        client.ask(QUESTION)
    assert len(requests) == 1


def test_retries_end():
    transport, requests = replying(*[refusal(503, "expert_timeout", **{"retry-after": "0"}) for _ in range(3)])
    with RouterClient(transport=transport, max_retries=2) as client, pytest.raises(sdk.ApiExpertTimeout) as raised:
        client.ask(QUESTION)
    assert (len(requests), raised.value.status, raised.value.request_id) == (3, 503, "r1")


def test_the_pause_doubles_up_to_its_limit_and_honours_the_service():
    policy = RetryPolicy(max_retries=4, wait_initial_s=1, wait_max_s=3)
    assert [policy.wait_s(n, jitter=0) for n in range(5)] == [1, 2, 3, 3, None]
    assert policy.wait_s(0, jitter=1) == 0.75
    assert policy.wait_s(0, jitter=0, retry_after_s=2.5) == 2.5
    assert policy.wait_s(0, jitter=0, retry_after_s=3.5) is None


def quick(client):
    """The client with pauses too short to wait for."""
    from dataclasses import replace

    client.settings = replace(client.settings, retry=replace(client.settings.retry, wait_initial_s=0.001))
    return client


# --- settings -------------------------------------------------------------------------------------------------------


def test_with_options_is_another_client_on_the_same_connections():
    transport, requests = replying(httpx.Response(200, json=MODELS), refusal(400), refusal(400))
    with RouterClient("http://a/", transport=transport, timeout_s=5, max_retries=2) as client:
        other = client.with_options(timeout_s=7, max_retries=0, model="parrot", k=2)
        assert (client.settings.timeout_s, client.settings.retry.max_retries) == (5, 2)
        assert (other.settings.timeout_s, other.settings.retry.max_retries) == (7, 0)
        other.models()
        for k in (None, 3):
            with contextlib.suppress(ApiError):
                other.ask(QUESTION, **({} if k is None else {"k": k}))
    assert str(requests[0].url) == "http://a/v1/models"
    assert requests[0].extensions["timeout"]["read"] == 7
    bodies = [json.loads(request.content) for request in requests[1:]]
    assert [(b["model"], b["enlist"]["k"]) for b in bodies] == [("parrot", 2), ("parrot", 3)]


def test_the_base_url_comes_from_the_environment_where_left_out(monkeypatch):
    monkeypatch.setenv("ENLIST_BASE_URL", "http://from.env:1")
    assert RouterClient().settings.base_url == "http://from.env:1"
    assert RouterClient("http://given").settings.base_url == "http://given"
    monkeypatch.delenv("ENLIST_BASE_URL")
    assert RouterClient().settings.base_url == "http://127.0.0.1:8000"


def test_one_client_serves_many_threads(client):
    texts = []
    threads = [threading.Thread(target=lambda n=n: texts.append(client.ask(f"q {n}").text)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == [f"q {n}" for n in range(8)]


# --- the two sides agree --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", TREE, ids=lambda node: node.__name__)
def test_every_node_of_the_error_tree_has_a_counterpart(node):
    def mirror(error):
        return ApiError if error is errors.RouterError else getattr(client_errors, f"Api{error.__name__}")

    counterpart = mirror(node)
    assert counterpart.default_code == node.code
    assert counterpart.__name__ in sdk.__all__
    parent = Exception if node is errors.RouterError else mirror(node.__base__)
    assert counterpart.__base__ is parent
    raised = client_errors.error_of({"error": {"message": "m", "code": node.code}}, status=node.http_status)
    assert type(raised) is counterpart
    assert raised.code == node.code


@pytest.mark.parametrize("node", TREE, ids=lambda node: node.__name__)
async def test_a_failure_of_each_code_travels_from_the_engine_to_the_caller(node):
    app = create_app(FakeEngine(Script(failure=failure(node.code, "why it failed"))))
    async with AsyncRouterClient(transport=httpx.ASGITransport(app=app), max_retries=0) as client:
        with pytest.raises(ApiError, match="why it failed") as raised:
            await client.ask(QUESTION)
    assert (raised.value.code, raised.value.status) == (node.code, node.http_status)


def test_every_option_of_the_sdk_is_a_field_of_the_wire_and_back():
    wire = set(ChatRequest.model_fields) | set(EnlistOptions.model_fields)
    assert set(AskOptions.__annotations__) <= wire
    assert set(EnlistOptions.model_fields) <= set(AskOptions.__annotations__)


def test_all_that_the_sdk_can_send_is_understood():
    message = Message(
        role="user",
        content=(
            TextPart(text="a"),
            ImagePart(url="http://x/y.png", detail="low"),
            ImagePart(url="http://x/z.png"),
            AudioPart(data="AA==", format="wav"),
        ),
        name="eve",
    )
    options: AskOptions = {
        "model": "auto",
        "temperature": 0.5,
        "stop": ("a", "b"),
        "tools": ({"type": "function", "function": {"name": "f"}},),
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "budget": Budget(max_cost_usd=1.0),
        "experts_allowed": ("a",),
        "options": ("x", "y"),
        "answer_kind": "choice",
        "waits_for_all": True,
        "seed": None,
    }
    body = json.loads(json.dumps(chat_call([message], options, stream=True).body))
    request = ChatRequest.model_validate(body)
    assert [part.type for part in request.messages[0].content] == ["text", "image_url", "image_url", "input_audio"]
    assert request.enlist.budget.max_cost_usd == 1.0 and request.enlist.waits_for_all
    assert RouteRequest.model_validate(json.loads(json.dumps(chat_call("q", {}).body))).messages


def test_both_clients_have_the_same_methods():
    def public(kind, renamed=()):
        members = inspect.getmembers(kind, inspect.isfunction)
        return {
            dict(renamed).get(name, name): [
                p.replace(annotation=None) for p in inspect.signature(f).parameters.values()
            ]
            for name, f in members
            if not name.startswith("_")
        }

    assert public(RouterClient) == public(AsyncRouterClient, [("aclose", "close")])


def test_the_package_stays_light_and_finds_the_client_when_asked():
    code = (
        "import router_service, sys; assert 'httpx' not in sys.modules; "
        "router_service.RouterClient; assert 'httpx' in sys.modules and 'fastapi' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
