"""Asking an endpoint: what is sent and tried again, which failures are a query's own and which are the set-up's."""

from __future__ import annotations

import json

import httpx
import pytest

from eval.harness.endpoint import Chat, Endpoint
from router_service.errors import ConfigError

CHAT = Chat(messages=({"role": "user", "content": "2 + 2?"},))


def answered(text: str = "4", extracted: str | None = "4") -> httpx.Response:
    body = {"choices": [{"message": {"content": text}}], "enlist": {"extracted": extracted}}
    return httpx.Response(200, json=body)


def failed(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": f"because of {code}"}}, headers=headers)


class Service:
    """Gives the scripted responses in turn, the last one for ever, and keeps what was sent."""

    def __init__(self, *responses: httpx.Response) -> None:
        self.responses = list(responses)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]

    def endpoint(self, url: str = "http://service", **options: object) -> Endpoint:
        return Endpoint(url, concurrency=1, transport=httpx.MockTransport(self), **options)  # type: ignore[arg-type]


def test_a_chat_is_sent_whole_and_its_answer_read():
    service = Service(answered("It is 4.", "4"))
    chat = Chat(messages=CHAT.messages, parameters={"temperature": 0.0, "stop": ["Q:"]}, enlist={"k": 3})
    (reply,) = service.endpoint(model="auto/knn").ask([chat])
    assert (reply.text, reply.extracted, reply.failure) == ("It is 4.", "4", None)
    assert json.loads(service.requests[0].content) == {
        "model": "auto/knn",
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "temperature": 0.0,
        "stop": ["Q:"],
        "enlist": {"k": 3},
    }


@pytest.mark.parametrize("url", ["http://s", "http://s/", "http://s/v1", "http://s/v1/chat/completions"])
def test_any_form_of_the_address_will_do(url):
    service = Service(answered())
    service.endpoint(url).ask([CHAT])
    assert str(service.requests[0].url) == "http://s/v1/chat/completions"


def test_the_key_is_sent_where_there_is_one_and_shown_nowhere(monkeypatch):
    monkeypatch.setenv("ENLIST_API_KEY", "sesame")
    service = Service(failed(401, "invalid_api_key"))
    with pytest.raises(ConfigError, match="ENLIST_API_KEY") as refused:
        service.endpoint().ask([CHAT])
    assert service.requests[0].headers["authorization"] == "Bearer sesame"
    assert "sesame" not in str(refused.value)


def test_replies_come_in_the_order_of_the_chats():
    def echo(request: httpx.Request) -> httpx.Response:
        return answered(json.loads(request.content)["messages"][0]["content"])

    endpoint = Endpoint("http://s", concurrency=4, transport=httpx.MockTransport(echo))
    chats = [Chat(messages=({"role": "user", "content": str(number)},)) for number in range(20)]
    assert [reply.text for reply in endpoint.ask(chats)] == [str(number) for number in range(20)]


def test_a_query_that_nobody_can_answer_fails_alone_and_is_asked_once():
    service = Service(failed(502, "aggregation_error", **{"x-should-retry": "false"}), answered())
    endpoint = service.endpoint()
    replies = endpoint.ask([CHAT, CHAT])
    assert [reply.failure for reply in replies] == ["aggregation_error", None]
    assert len(service.requests) == 2
    assert endpoint.failures == {"aggregation_error": 1}


def test_what_should_be_retried_is_retried_a_few_times():
    again = {"x-should-retry": "true", "retry-after": "0"}
    busy = Service(failed(503, "expert_unavailable", **again), answered())
    assert busy.endpoint().ask([CHAT])[0].text == "4"
    gone = Service(failed(503, "expert_unavailable", **again))
    assert gone.endpoint().ask([CHAT])[0].failure == "expert_unavailable"
    assert len(gone.requests) == 3


@pytest.mark.parametrize(("status", "code"), [(404, "model_not_found"), (500, "config_error"), (500, "not_fitted")])
def test_a_broken_set_up_ends_the_run(status, code):
    with pytest.raises(ConfigError, match=f"because of {code}"):
        Service(failed(status, code)).endpoint().ask([CHAT])


def test_queries_that_are_all_asked_wrongly_end_the_run_and_one_of_many_does_not():
    with pytest.raises(ConfigError, match="refused all of 2 queries: because of invalid_query"):
        Service(failed(400, "invalid_query")).endpoint().ask([CHAT, CHAT])
    mixed = Service(failed(400, "invalid_query"), answered())
    assert [reply.failure for reply in mixed.endpoint().ask([CHAT, CHAT])] == ["invalid_query", None]


def test_nobody_at_the_address_is_said_with_the_way_to_start_it():
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(ConfigError, match="start the service with `enlist serve`"):
        Endpoint("http://s", transport=httpx.MockTransport(refuse)).ask([CHAT])


def test_a_timeout_is_the_querys_own():
    def hang(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too long")

    assert Endpoint("http://s", transport=httpx.MockTransport(hang)).ask([CHAT])[0].failure == "timeout"


def test_a_page_that_is_no_service_at_all_is_a_failure_by_its_status():
    service = Service(httpx.Response(502, text="<html>bad gateway</html>"))
    assert service.endpoint().ask([CHAT])[0].failure == "http_502"


@pytest.mark.parametrize(
    "response", [httpx.Response(200, text="<html>"), httpx.Response(200, json={}), httpx.Response(200, json=[1])]
)
def test_an_answer_of_something_else_than_a_service_ends_the_run_and_says_so(response):
    with pytest.raises(ConfigError, match="no chat completion; give the address of an Enlist service"):
        Service(response).endpoint().ask([CHAT])


def test_a_date_to_try_again_at_does_not_end_the_run():
    date = {"x-should-retry": "true", "retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}
    (reply,) = Service(failed(503, "expert_unavailable", **date), answered()).endpoint().ask([CHAT])
    assert reply.extracted == "4"
