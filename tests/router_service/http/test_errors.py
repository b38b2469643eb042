"""The table of codes, and the error bodies of everything outside a query."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router_service import errors
from router_service.http.errors import ERRORS, failure_error
from router_service.types import Usage
from tests.router_service.http.fakes import failure

TREE = [node for node in vars(errors).values() if isinstance(node, type) and issubclass(node, errors.RouterError)]


@pytest.mark.parametrize("node", TREE, ids=lambda node: node.__name__)
def test_every_node_of_the_tree_is_in_the_table(node):
    kind = ERRORS[node.code]
    assert kind.status == node.http_status
    assert kind.type == {402: "insufficient_quota"}.get(
        node.http_status, "invalid_request_error" if node.http_status < 500 else "server_error"
    )


def test_only_what_was_not_worked_on_and_may_succeed_later_is_sent_again():
    assert {code for code, kind in ERRORS.items() if kind.is_retryable} == {"expert_unavailable"}


@pytest.mark.parametrize(
    ("usage", "again"),
    [
        (Usage(), "true"),
        (Usage(completions=2), "true"),
        (Usage(completions=1, prompt_tokens=9), "false"),
        (Usage(completions=1, completion_tokens=1), "false"),
        (Usage(completions=1, cost_usd=0.1), "false"),
        (Usage(completions=1, cost_usd=None), "false"),
    ],
)
def test_what_has_cost_something_is_not_sent_again_unasked(usage, again):
    lost = replace(failure("expert_unavailable"), usage=usage)
    assert failure_error(lost).headers["x-should-retry"] == again
    assert failure_error(failure("expert_timeout")).headers["x-should-retry"] == "false"


@pytest.mark.parametrize("node", TREE, ids=lambda node: node.__name__)
def test_a_failure_with_the_nodes_code_gets_its_status(node):
    assert failure_error(failure(node.code)).kind.status == node.http_status


def test_a_foreign_code_is_kept_and_counts_as_internal():
    error = failure_error(failure("brand_new"))
    assert (error.code, error.kind.status) == ("brand_new", 500)


async def test_unknown_path_and_wrong_method(connect):
    async with connect() as client:
        lost = await client.get("/v1/nowhere")
        wrong = await client.get("/v1/chat/completions")
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "not_found")
    assert "/v1/chat/completions" in lost.json()["error"]["message"]
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert "use POST" in wrong.json()["error"]["message"]
    assert lost.headers["x-request-id"]


@pytest.mark.parametrize("content", [b"{not json", b"[1]", b'"x"', b"", b"null", b"\xff\xfe"])
async def test_a_body_that_is_no_json_object_is_400(connect, content):
    async with connect() as client:
        reply = await client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_not_declared_as_json_is_415(connect, content_type):
    async with connect() as client:
        reply = await client.post(
            "/v1/chat/completions", content=b'{"model": "auto"}', headers={"content-type": content_type}
        )
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "application/json" in reply.json()["error"]["message"]
