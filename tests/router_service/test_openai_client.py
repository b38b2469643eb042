"""The official `openai` package, as it comes, against the real server over the real engine."""

from __future__ import annotations

import contextlib
import time

import httpx
import openai
import pytest

from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.config import EngineConfig, PartConfig
from router_service.recruit.base import RECRUITERS
from tests.router_service.http.echo_engine import echo, echo_engine
from tests.router_service.http.fakes import running_server

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
