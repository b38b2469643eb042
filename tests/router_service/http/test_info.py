"""Models, routes explained, health and metrics."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from router_service.http.app import create_app
from router_service.http.metrics import DoorMetrics
from router_service.types import NOT_NEEDED, Completion, CompletionError, RouteFailure
from tests.router_service.http.fakes import FakeEngine, FakePool, Script, expert, failure, running_server
from tests.router_service.http.test_chat import ASK


async def test_models_are_the_names_that_route_and_the_enabled_experts(connect):
    async with connect() as client:
        models = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/auto/symbolic")).json()
        ada = (await client.get("/v1/models/ada")).json()
        lost = await client.get("/v1/models/adda")
    assert models["object"] == "list"
    assert [m["id"] for m in models["data"]] == ["auto", "auto/best_single", "auto/symbolic", "ada", "bob"]
    assert (one["object"], one["owned_by"], one["enlist"]) == ("model", "enlist", {"kind": "route"})
    assert ada["owned_by"] == "echo"
    assert ada["enlist"]["input_usd_per_mtok"] == 1.0
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "model_not_found")
    assert "'ada'" in lost.json()["error"]["message"]


@pytest.mark.parametrize("body", [ASK, {"question": "What is 6 * 7?"}, {"question": "What is 6 * 7?", "model": "auto"}])
async def test_a_route_is_explained_without_asking_anybody(connect, body):
    engine = FakeEngine()
    async with connect(engine) as client:
        reply = await client.post("/v1/route", json=body)
    made = reply.json()
    assert reply.status_code == 200
    assert made["skills"] == {"algebra": 1.0}
    assert made["scores"] == {"ada": 2.0, "bob": 1.0}
    assert made["recruits"] == [{"id": "ada", "score": 2.0, "p_correct": 0.75, "samples": 2}]
    assert made["eliminated"] == [{"id": "off", "reason": "disabled"}]
    assert made["nearest"] == [{"question_id": "q1", "similarity": 0.9}]
    assert (made["is_fallback"], made["fallback_reason"], made["seed"]) == (False, None, 7)
    assert made["estimate"] == {"completions": 2, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": None}
    assert reply.headers["x-enlist-experts"] == "ada"
    assert engine.queries[0].text == "What is 6 * 7?"
    assert not engine.opened.is_set()


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ({}, "send a question"),
        ({"question": "x", **ASK}, "not both"),
        ({"question": 5}, "string"),
        ({"questoin": "x"}, "'question'"),
        ({"question": "x", "stream": True}, "stream"),
    ],
)
async def test_a_bad_route_request_is_explained(connect, body, hint):
    async with connect() as client:
        reply = await client.post("/v1/route", json=body)
    assert reply.status_code == 400
    assert hint in reply.json()["error"]["message"]


async def test_a_route_that_fails_says_why(connect):
    async with connect(Script(failure=failure("no_expert_available", "all are disabled"))) as client:
        reply = await client.post("/v1/route", json={"question": "x"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "all are disabled")


@pytest.mark.parametrize("path", ["/health/liveness", "/health/liveliness"])
async def test_alive(connect, path):
    async with connect() as client:
        assert (await client.get(path)).json() == {"status": "alive"}


async def test_readiness_follows_start_stop_and_pool():
    engine = FakeEngine()
    app = create_app(engine)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://door") as client:
        early = await client.get("/health/readiness")
        async with app.router.lifespan_context(app):
            ready = await client.get("/health/readiness")
            engine.pool = FakePool(experts=(expert("ada", is_enabled=False),))
            empty = await client.get("/health/readiness")
        late = await client.get("/health/readiness")
    assert (early.status_code, early.json()["reasons"]) == (503, ["starting"])
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert (empty.status_code, empty.json()["reasons"]) == (503, ["no_expert_enabled"])
    assert "shutting_down" in late.json()["reasons"]
    assert engine.is_closed


async def test_told_to_stop_the_server_drains_before_it_closes():
    with running_server(FakeEngine(), drain_s=30.0) as running:
        running.server.config.app.state.door.health.is_stopping = True
        async with httpx.AsyncClient(base_url=running.url) as client:
            assert (await client.get("/health/readiness")).json()["reasons"] == ["shutting_down"]
            assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200


async def test_the_first_signal_drains_and_the_second_stops():
    with running_server(FakeEngine(), drain_s=0.2) as running:
        server = running.server
        server.handle_exit(signal.SIGTERM, None)
        assert not server.should_exit
        server.handle_exit(signal.SIGTERM, None)
        assert server.should_exit
    with running_server(FakeEngine(), drain_s=0.05) as running:
        running.server.handle_exit(signal.SIGTERM, None)
        await asyncio.sleep(0.15)
        assert running.server.should_exit


async def test_metrics_count_requests_experts_tokens_and_costs_but_no_content(connect):
    engine = FakeEngine()
    async with connect(engine) as client:
        await client.post("/v1/chat/completions", json=ASK)
        await client.post("/v1/chat/completions", json=ASK | {"stream": True})
        await client.post("/v1/chat/completions", json=ASK | {"model": "nobody"})
        engine.script = Script(failure=failure("expert_timeout"))
        await client.post("/v1/chat/completions", json=ASK)
        await client.get("/v1/models/ada")
        await client.get("/nowhere/else")
        reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    chat = 'route="/v1/chat/completions",status='
    assert lines[f'enlist_requests_total{{{chat}"200"}}'] == "2.0"
    assert lines[f'enlist_requests_total{{{chat}"404"}}'] == "1.0"
    assert lines[f'enlist_requests_total{{{chat}"504"}}'] == "1.0"
    assert lines['enlist_requests_total{route="/v1/models/{model_id:path}",status="200"}'] == "1.0"
    assert lines['enlist_requests_total{route="unmatched",status="404"}'] == "1.0"
    assert lines['enlist_decisions_total{expert="ada",recruiter="symbolic"}'] == "2.0"
    assert lines['enlist_completions_total{expert="ada",outcome="ok"}'] == "4.0"
    assert lines['enlist_completions_total{expert="ada",outcome="expert_timeout"}'] == "1.0"
    assert lines['enlist_tokens_total{expert="ada",kind="prompt"}'] == "40.0"
    assert lines['enlist_completion_cost_usd_total{expert="ada"}'] == "2.0"
    assert lines["enlist_query_cost_usd_total"] == "0.025"
    assert lines['enlist_queries_total{outcome="expert_timeout"}'] == "1.0"
    assert lines["enlist_overhead_seconds_count"] == "2.0"
    assert lines["enlist_time_to_first_token_seconds_count"] == "1.0"
    assert lines["enlist_requests_inflight"] == "1.0"
    assert "6 * 7" not in reply.text


def test_a_call_that_was_not_needed_counts_as_such_and_not_with_the_times():
    stopped = CompletionError(code=NOT_NEEDED, message="not needed")
    kept = Completion(query_id="q", expert_id="ada", text="x", latency_s=1.0)
    cut = Completion(query_id="q", expert_id="ada", sample=1, error=stopped)
    metrics = DoorMetrics()
    metrics.query_ended(RouteFailure(query_id="q", code="internal_error", message="", completions=(kept, cut)))
    text = metrics.render().decode()
    assert 'enlist_completions_total{expert="ada",outcome="not_needed"} 1.0' in text
    assert 'enlist_completion_duration_seconds_count{expert="ada"} 1.0' in text


async def test_two_apps_never_mix_their_counts(connect):
    async with connect() as one, connect() as two:
        await one.post("/v1/chat/completions", json=ASK)
        assert 'enlist_queries_total{outcome="ok"}' not in (await two.get("/metrics")).text


async def test_the_api_describes_itself(connect):
    async with connect() as client:
        described = (await client.get("/openapi.json")).json()
    assert {"/v1/chat/completions", "/v1/models", "/v1/route", "/metrics"} <= set(described["paths"])
    assert "EnlistOptions" in described["components"]["schemas"]
