"""The official `openai` package, as it comes, against the real server over the real engine."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace

import httpx
import openai
import pydantic
import pytest

from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.config import EngineConfig, PartConfig
from router_service.recruit.base import RECRUITERS
from router_service.types import ToolCall
from tests.router_service.http.echo_engine import echo, echo_engine
from tests.router_service.http.fakes import running_server
from tests.router_service.parts import FakeBackend, completion, engine_of

ASK = [{"role": "user", "content": "What is 6 * 7?"}]


@pytest.fixture(scope="module")
def url():
    with running_server(echo_engine(), heartbeat_s=0.1) as running:
        yield running.url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@contextlib.asynccontextmanager
async def async_client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_chat(client):
    reply = client.chat.completions.create(model="auto", messages=ASK)
    assert reply.choices[0].message.content == "What is 6 * 7?"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "auto"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    assert {expert["id"] for expert in reply.enlist["experts"]} == {"parrot", "cuckoo"}
    assert reply.enlist["agreement"] == 1.0


async def test_chat_async(url):
    async with async_client(url) as client:
        reply = await client.chat.completions.create(model="auto/everyone", messages=ASK)
    assert reply.choices[0].message.content == "What is 6 * 7?"


def test_one_expert_by_name(client):
    reply = client.chat.completions.create(model="cuckoo", messages=ASK)
    assert [expert["id"] for expert in reply.enlist["experts"]] == ["cuckoo"]


def test_our_own_options_go_in_the_extra_body(client):
    extra = {"enlist": {"k": 1, "aggregator": "first", "experts_denied": ["parrot"], "budget": {"max_completions": 3}}}
    reply = client.chat.completions.create(model="auto", messages=ASK, extra_body=extra)
    assert [expert["id"] for expert in reply.enlist["experts"]] == ["cuckoo"]
    assert reply.enlist["aggregator"] == "first"


def test_a_sampling_limit_reaches_the_experts(client):
    reply = client.chat.completions.create(model="parrot", messages=ASK, max_completion_tokens=2)
    assert reply.choices[0].message.content == "What is"


@pytest.mark.parametrize(
    ("model", "extra", "comes_in_pieces"),
    [
        ("auto", {}, False),
        ("parrot", {}, True),
        ("auto", {"enlist": {"aggregator": "writer"}}, True),
        ("auto", {"enlist": {"k": 1}}, True),
    ],
    ids=["vote", "expert by name", "written", "panel of one"],
)
def test_stream(client, model, extra, comes_in_pieces):
    with client.chat.completions.create(model=model, messages=ASK, stream=True, extra_body=extra) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "What is 6 * 7?"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert (len([c for c in chunks if c.choices[0].delta.content]) > 1) is comes_in_pieces


async def test_stream_async(url):
    async with async_client(url) as client:
        stream = await client.chat.completions.create(model="parrot", messages=ASK, stream=True)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == "What is 6 * 7?"


def test_stream_usage(client):
    options = {"include_usage": True}
    with client.chat.completions.create(model="auto", messages=ASK, stream=True, stream_options=options) as stream:
        *chunks, last = list(stream)
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.total_tokens > 0


def test_stream_helper_puts_the_pieces_together(client):
    with client.chat.completions.stream(model="parrot", messages=ASK) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "What is 6 * 7?"


def test_headers(client):
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=ASK, store=True, extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.headers["x-enlist-experts"] == "parrot,cuckoo"
    assert raw.headers["x-enlist-recruiter"] == "everyone"
    assert raw.headers["x-enlist-aggregator"] == "majority"
    assert float(raw.headers["x-enlist-cost-usd"]) > 0
    assert float(raw.headers["overhead-duration-ms"]) >= 0
    assert raw.headers["x-request-id"] == "mine-1"
    assert "store" in raw.headers["x-enlist-warnings"]
    assert raw.parse()._request_id == "mine-1"


SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}
AS_JSON = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": SCHEMA}}


class Reply(pydantic.BaseModel):
    """What the official client's `parse` makes a schema of."""

    model_config = pydantic.ConfigDict(extra="forbid")
    answer: int


@contextlib.contextmanager
def client_of(**replies):
    """A client of a service whose experts say these things."""
    experts = [echo(name, reply=text.replace("{", "{{").replace("}", "}}")) for name, text in replies.items()]
    pool = Pool(name="echoes", experts=tuple(experts))
    parts = {name: PartConfig(name=part) for name, part in (("annotator", "blank"), ("recruiter", "all"))}
    engine = build_engine(EngineConfig(**parts, aggregator=PartConfig(name="majority")), pool=pool)
    with (
        running_server(engine) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client


def test_json_is_what_the_schema_says_and_the_report_says_how():
    said = {"ada": 'It is\n```json\n{"answer": 42}\n```', "bob": '{"answer": 42}', "cyd": '{"answer": "forty-two"}'}
    with client_of(**said) as client:
        reply = client.chat.completions.create(model="auto", messages=ASK, response_format=AS_JSON)
        parsed = client.chat.completions.parse(model="auto", messages=ASK, response_format=Reply)
    assert json.loads(reply.choices[0].message.content) == {"answer": 42}
    assert parsed.choices[0].message.parsed == Reply(answer=42)
    assert reply.enlist["supporters"] == ["ada", "bob"]
    assert reply.enlist["agreement"] == pytest.approx(2 / 3)
    assert [expert["holds_answer"] for expert in reply.enlist["experts"]] == [True, True, False]
    assert "cyd: at $.answer" in reply.enlist["notes"][0]


def test_streamed_json_comes_in_one_piece_when_it_was_checked():
    with client_of(ada='Sure: {"answer": 42,}') as client:
        for model in ("auto", "ada"):
            with client.chat.completions.create(
                model=model, messages=ASK, response_format=AS_JSON, stream=True
            ) as stream:
                chunks = list(stream)
            pieces = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
            assert [json.loads(piece) for piece in pieces] == [{"answer": 42}]
            assert "mended" in chunks[-1].enlist["notes"][-1]


def test_json_that_cannot_be_had_is_an_error_streamed_or_not():
    with client_of(ada="I do not do JSON.") as client:
        with pytest.raises(openai.InternalServerError, match="holds no JSON value") as raised:
            client.chat.completions.create(model="auto", messages=ASK, response_format=AS_JSON)
        assert (raised.value.status_code, raised.value.code) == (502, "answer_invalid")
        assert raised.value.response.headers["x-should-retry"] == "false"
        stream = client.chat.completions.create(model="auto", messages=ASK, response_format=AS_JSON, stream=True)
        with stream, pytest.raises(openai.APIError) as raised:
            list(stream)
        assert raised.value.code == "answer_invalid"


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_held_to_is_a_bad_request(client, stream):
    bad = {"type": "json_schema", "json_schema": {"name": "reply", "schema": {"$ref": "https://example.org/s"}}}
    with pytest.raises(openai.BadRequestError, match="nothing is fetched") as raised:
        client.chat.completions.create(model="auto", messages=ASK, response_format=bad, stream=stream)
    assert raised.value.param == "response_format.json_schema.schema"


TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}


class Caller(FakeBackend):
    """Proposes the call of each expert, or says its text."""

    def __init__(self, **said):
        super().__init__(reply=self._reply)
        self.said = said

    def _reply(self, expert, assignment, sample):
        said = self.said[expert.id]
        whole = completion(expert, assignment, sample, "" if isinstance(said, ToolCall) else said)
        calls = (said,) if isinstance(said, ToolCall) else ()
        return replace(whole, tool_calls=calls, finish_reason="tool_calls" if calls else "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_that_fits_comes_out_whole(stream):
    proposals = [
        ToolCall(id=f"c{n}", name="add", arguments=text) for n, text in enumerate(['{"answer": 1}', '{"answer":1}'])
    ]
    backend = Caller(a=ToolCall(id="x", name="ad", arguments="{}"), b=proposals[0], c=proposals[1], d="Let me see.")
    with (
        running_server(engine_of(backend, ids=tuple(backend.said))) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        asked = {"model": "auto", "messages": ASK, "tools": [TOOL], "tool_choice": "required"}
        if stream:
            with client.chat.completions.stream(**asked) as events:
                deltas = [e.chunk.choices[0].delta for e in events if e.type == "chunk"]
                reply = events.get_final_completion()
            assert len([delta for delta in deltas if delta.tool_calls]) == 1
        else:
            reply = client.chat.completions.create(**asked)
    [call] = reply.choices[0].message.tool_calls
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("c0", "add", {"answer": 1})
    assert reply.choices[0].finish_reason == "tool_calls"
    if not stream:
        assert reply.enlist["supporters"] == ["b", "c"]
        assert reply.enlist["notes"][0].startswith("2 of 4 members did not vote: a: it calls 'ad'")


def test_models(client):
    assert {"auto", "auto/everyone", "parrot", "snail"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("auto/everyone").owned_by == "enlist"
    assert client.models.retrieve("parrot").owned_by == "echo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dodo")


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="Did you mean 'parrot'") as raised:
        client.chat.completions.create(model="parot", messages=ASK)
    assert (raised.value.code, raised.value.param, raised.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
    ],
)
def test_a_bad_request_is_one(client, bad, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**({"model": "auto", "messages": ASK} | bad))
    assert raised.value.param == param


async def test_a_bad_request_is_one_async(url):
    async with async_client(url) as client:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="auto", messages=[])


def test_an_expert_that_refuses_is_a_server_error_and_is_not_tried_again(url):
    sent = []
    http = httpx.Client(event_hooks={"request": [sent.append]})
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=5, http_client=http)
    with client, pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="crow", messages=ASK)
    assert (raised.value.status_code, raised.value.code) == (502, "expert_refused")
    assert len(sent) == 1


def test_a_failure_inside_a_stream_is_raised(client):
    stream = client.chat.completions.create(model="crow", messages=ASK, stream=True)
    with stream, pytest.raises(openai.APIError) as raised:
        list(stream)
    assert raised.value.code == "expert_refused"


def test_a_deadline_is_kept(client):
    started = time.monotonic()
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(
            model="snail", messages=ASK, extra_body={"enlist": {"budget": {"deadline_s": 0.2}}}
        )
    assert raised.value.status_code in (402, 504)
    assert time.monotonic() - started < 5


def test_keys():
    with running_server(echo_engine(), api_keys=["right"]) as running:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="right", max_retries=0) as client:
            assert client.chat.completions.create(model="auto", messages=ASK).choices
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as raised:
                client.chat.completions.create(model="auto", messages=ASK)
            assert raised.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                client.models.list()


def test_an_engine_built_from_a_configuration_serves_every_registered_recruiter():
    pool = Pool(name="echoes", experts=(echo("parrot"), echo("cuckoo")))
    parts = {name: PartConfig(name=part) for name, part in (("annotator", "blank"), ("recruiter", "all"))}
    engine = build_engine(EngineConfig(**parts, aggregator=PartConfig(name="majority")), pool=pool)
    with (
        running_server(engine) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        names = {model.id for model in client.models.list()}
        reply = client.chat.completions.create(model="auto/all", messages=ASK)
    assert {f"auto/{name}" for name in RECRUITERS.names() if name != "named"} <= names
    assert [expert["id"] for expert in reply.enlist["experts"]] == ["parrot", "cuckoo"]
