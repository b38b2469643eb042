"""`/v1/chat/completions` without streaming: what goes in, what comes out, what is refused."""

from __future__ import annotations

import json
import math

import pytest

from router_service.errors import ConfigError
from router_service.http.parameters import IGNORED, REFUSED
from router_service.http.schemas import ChatRequest
from router_service.types import ANY_OBJECT, AnswerKind, AudioPart, Budget, ImagePart, TextPart, ToolCall
from tests.router_service.http.fakes import FakeEngine, Script, failure

ASK = {"model": "auto", "messages": [{"role": "user", "content": "What is 6 * 7?"}]}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


async def ask(client, **changes):
    async with client:
        return await client.post("/v1/chat/completions", json=ASK | changes)


async def asked(connect, **changes):
    """The query that the engine got."""
    engine = FakeEngine()
    reply = await ask(connect(engine), **changes)
    assert reply.status_code == 200, reply.text
    return engine.queries[0]


async def test_answer_is_an_openai_chat_completion_with_a_report(connect):
    reply = await ask(connect(), model="auto/symbolic")
    body = reply.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "auto/symbolic"
    assert body["id"].startswith("chatcmpl-")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "42", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
    report = body["enlist"]
    assert report["recruiter"] == "symbolic"
    assert report["aggregator"] == "majority"
    assert report["skills"] == {"algebra": 1.0}
    assert (report["confidence"], report["agreement"], report["supporters"]) == (0.875, 1.0, ["ada"])
    assert report["cost_usd"] == 0.0125
    assert (report["aggregator_asked"], report["notes"], report["calls_saved"]) == (None, [], 0)
    assert report["aggregator_usage"] == {
        "completions": 1,
        "prompt_tokens": 7,
        "completion_tokens": 1,
        "cost_usd": 0.0025,
    }
    assert (report["is_fallback"], report["fallback_reason"]) == (False, None)
    [ada] = report["experts"]
    assert (ada["id"], ada["samples"], ada["p_correct"]) == ("ada", 2, 0.75)
    assert (ada["holds_answer"], ada["usage"]["cost_usd"], ada["latency_s"]) == (True, 1.0, 0.125)
    assert [(c["sample"], c["extracted"], c["usage"]["cost_usd"], c["error"]) for c in ada["completions"]] == [
        (0, "42", 0.5, None),
        (1, "42", 0.5, None),
    ]


async def test_headers_name_who_answered_how_sure_and_at_what_price(connect):
    headers = (await ask(connect())).headers
    assert headers["x-enlist-experts"] == "ada"
    assert headers["x-enlist-recruiter"] == "symbolic"
    assert headers["x-enlist-aggregator"] == "majority"
    assert headers["x-enlist-confidence"] == "0.8750"
    assert headers["x-enlist-cost-usd"] == "0.0125"
    assert headers["x-request-id"].startswith("req-")
    assert headers["overhead-duration-ms"] == headers["x-enlist-overhead-duration-ms"]
    assert 2.0 <= float(headers["overhead-duration-ms"]) < 2000


async def test_notes_are_in_the_body_and_counted_in_a_header(connect):
    reply = await ask(
        connect(Script(notes=("two drafts were cut", "the vote stands"))), enlist={"aggregator": "weighted"}
    )
    assert reply.json()["enlist"]["notes"] == ["two drafts were cut", "the vote stands"]
    assert reply.headers["x-enlist-notes"] == "2"
    assert (reply.json()["enlist"]["aggregator_asked"], reply.headers["x-enlist-aggregator"]) == (
        "weighted",
        "majority",
    )
    assert "x-enlist-notes" not in (await ask(connect())).headers


async def test_overhead_leaves_out_what_the_experts_took(connect):
    reply = await ask(connect(Script(pause_s=0.3)))
    assert float(reply.headers["overhead-duration-ms"]) < 250


async def test_unknown_cost_and_confidence_are_said_to_be_unknown(connect):
    reply = await ask(connect(Script(cost_usd=None, confidence=None)))
    assert reply.headers["x-enlist-cost-usd"] == "unknown"
    assert reply.headers["x-enlist-confidence"] == "unknown"
    assert reply.json()["enlist"]["cost_usd"] is None


@pytest.mark.parametrize(("sent", "kept"), [("trace-7:a", True), ("a b", False), ("x" * 129, False)])
async def test_a_plain_request_id_is_kept_and_another_replaced(connect, sent, kept):
    async with connect() as client:
        reply = await client.get("/v1/models", headers={"x-request-id": sent})
    assert (reply.headers["x-request-id"] == sent) is kept


async def test_sampling_budget_and_controls_reach_the_query(connect):
    query = await asked(
        connect,
        temperature=0,
        top_p=0.5,
        max_completion_tokens=99,
        stop="END",
        seed=-5,
        presence_penalty=1,
        frequency_penalty=-1.5,
        user="u1",
        enlist={
            "recruiter": "symbolic",
            "aggregator": "weighted",
            "k": 4,
            "budget": {"max_completions": 5, "max_cost_usd": 0.5, "max_output_tokens": 700, "deadline_s": 9},
            "experts_allowed": ["ada", "bob"],
            "experts_denied": ["bob"],
            "skills": ["algebra", "geometry"],
            "options": ["yes", "no"],
            "waits_for_all": True,
        },
    )
    sampling, controls = query.sampling, query.controls
    assert controls.waits_for_all and not (await asked(connect)).controls.waits_for_all
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop) == (0, 0.5, 99, ("END",))
    assert (sampling.presence_penalty, sampling.frequency_penalty, query.seed) == (1, -1.5, -5)
    assert (controls.recruiter, controls.aggregator, controls.k, controls.streams) == ("symbolic", "weighted", 4, False)
    assert (controls.experts_allowed, controls.experts_denied) == (("ada", "bob"), ("bob",))
    assert query.budget == Budget(max_completions=5, max_cost_usd=0.5, max_output_tokens=700, deadline_s=9)
    assert json.loads(query.metadata["skills"]) == ["algebra", "geometry"]
    assert set(query.metadata) == {"skills"}
    assert (query.task_format.kind, query.task_format.options) == (AnswerKind.CHOICE, ("yes", "no"))


async def test_content_parts_reach_the_query(connect):
    content = [
        {"type": "text", "text": "Look and listen"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    query = await asked(connect, messages=[{"role": "user", "content": content}])
    assert query.messages[0].content == (
        TextPart(text="Look and listen"),
        ImagePart(url="data:image/png;base64,AA==", detail="low"),
        AudioPart(data="AA==", format="wav"),
    )
    assert query.modalities == {"text", "image", "audio"}


async def test_a_whole_conversation_with_tools_reaches_the_query(connect):
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    query = await asked(
        connect,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look it up"}], "name": "eve"},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "audio": None},
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "look_up"}},
    )
    assert [m.role for m in query.messages] == ["system", "user", "assistant", "tool"]
    assert [m.content for m in query.messages] == ["Be brief.", "Look it up", "", "found"]
    assert query.messages[1].name == "eve"
    assert query.messages[2].tool_calls == (ToolCall(id="c1", name="look_up", arguments="{}"),)
    assert query.messages[3].tool_call_id == "c1"
    assert [json.loads(tool) for tool in query.tools] == [TOOL]
    assert json.loads(query.tool_choice) == {"type": "function", "function": {"name": "look_up"}}


async def test_our_own_reply_can_be_sent_back(connect):
    message = (await ask(connect())).json()["choices"][0]["message"]
    query = await asked(connect, messages=[*ASK["messages"], message, {"role": "user", "content": "Sure?"}])
    assert [m.text for m in query.messages] == ["What is 6 * 7?", "42", "Sure?"]


async def test_response_formats_become_task_formats(connect):
    schema = {"type": "object", "properties": {"a": {"type": ["integer", "null"], "default": None}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
    query = await asked(connect, response_format=wanted)
    assert query.task_format.kind is AnswerKind.JSON
    assert json.loads(query.task_format.json_schema) == wanted["json_schema"]
    for any_object in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "reply"}}):
        task_format = (await asked(connect, response_format=any_object)).task_format
        assert (task_format.kind, task_format.json_schema) == (AnswerKind.JSON, ANY_OBJECT)
    assert (await asked(connect, enlist={"answer_kind": "json"})).task_format.json_schema is None
    assert (await asked(connect, response_format={"type": "text"})).task_format.kind is AnswerKind.FREE


def schema_of(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}}


def tool_of(parameters, name="look_up"):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


SCHEMA_PLACE = "response_format.json_schema.schema"
BAD_SCHEMAS = {
    "no type": (schema_of({"properties": {"age": {"type": "integr"}}}), SCHEMA_PLACE, "$.properties.age.type"),
    "remote": (schema_of({"$ref": "https://example.org/s"}), SCHEMA_PLACE, "nothing is fetched"),
    "pattern": (schema_of({"pattern": "("}), SCHEMA_PLACE, "cannot be read"),
    "tool": ({"tools": [TOOL, tool_of({"type": "objct"}, "b")]}, "tools.1.function.parameters", "$.type"),
    "two tools of one name": ({"tools": [TOOL, TOOL]}, None, "two tools have one name"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
@pytest.mark.parametrize("case", BAD_SCHEMAS)
async def test_a_schema_that_cannot_be_held_to_is_refused_at_the_door(connect, case, path, stream):
    changes, param, hint = BAD_SCHEMAS[case]
    engine = FakeEngine()
    async with connect(engine) as client:
        reply = await client.post(path, json=ASK | changes | ({"stream": True} if stream and "chat" in path else {}))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_query", param)
    assert hint in error["message"]
    assert not engine.queries


@pytest.mark.parametrize("kind", list(AnswerKind))
async def test_every_answer_kind_can_be_asked_for(connect, kind):
    assert (await asked(connect, enlist={"answer_kind": kind.value})).task_format.kind is kind


async def test_an_experts_name_bypasses_routing(connect):
    assert (await asked(connect, model="bob")).controls.expert == "bob"
    assert (await asked(connect, model="auto/best_single")).controls.recruiter == "best_single"
    assert (await asked(connect)).controls.recruiter is None


async def test_tool_calls_come_back_as_openai_writes_them(connect):
    reply = await ask(connect(Script(answer="", tool_calls=(ToolCall(id="c1", name="look_up", arguments="{}"),))))
    choice = reply.json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    ]


async def test_null_means_left_out_and_harmless_values_pass_without_a_warning(connect):
    quiet = (
        {name: values[0] for name, (values, _) in REFUSED.items() if values} | dict.fromkeys(IGNORED) | {"store": False}
    )
    reply = await ask(connect(), temperature=None, enlist=None, **quiet)
    assert reply.status_code == 200
    assert "x-enlist-warnings" not in reply.headers


@pytest.mark.parametrize("name", sorted(IGNORED))
async def test_an_ignored_parameter_is_named_with_the_reason(connect, name):
    reply = await ask(connect(), **{name: {"any": "thing"}})
    assert reply.status_code == 200
    assert reply.headers["x-enlist-warnings"] == f"{name} is ignored: {IGNORED[name]}"


UNUSED = {
    "k": ({"model": "auto/best_single", "enlist": {"k": 3}}, "enlist.k is ignored: recruiter 'best_single'"),
    "skills": ({"enlist": {"skills": ["algebra"]}}, "enlist.skills is ignored: annotator 'fake'"),
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
@pytest.mark.parametrize("case", UNUSED)
async def test_what_the_route_did_not_use_is_named(connect, case, path):
    changes, said = UNUSED[case]
    async with connect() as client:
        reply = await client.post(path, json=ASK | changes)
    assert reply.headers["x-enlist-warnings"].startswith(said)
    if path != "/v1/route":
        assert [warning.startswith(said) for warning in reply.json()["enlist"]["warnings"]] == [True]


async def test_what_the_route_used_is_not_warned_of(connect):
    reply = await ask(connect(), model="auto/symbolic", enlist={"k": 3})
    assert "x-enlist-warnings" not in reply.headers
    assert "warnings" not in reply.json()["enlist"]


def test_every_ignored_parameter_is_in_the_schema_and_no_refused_one():
    assert set(IGNORED) <= set(ChatRequest.model_fields)
    assert not set(REFUSED) & set(ChatRequest.model_fields)


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_a_refused_parameter_is_named_with_the_reason_and_the_next_step(connect, name):
    error = (await ask(connect(), **{name: {"x": 1}})).json()["error"]
    assert error["param"] == name
    assert REFUSED[name][1] in error["message"]
    assert "leave it out" in error["message"]


async def test_true_is_not_taken_for_one(connect):
    assert (await ask(connect(), n=True)).status_code == 400
    assert (await ask(connect(), n=2)).json()["error"]["param"] == "n"


BAD = {
    "unknown parameter": ({"temprature": 1}, "temprature", "'temperature'"),
    "unknown key of ours": ({"enlist": {"recuiter": "x"}}, "enlist.recuiter", "'recruiter'"),
    "unknown budget key": ({"enlist": {"budget": {"max_cost": 1}}}, "enlist.budget.max_cost", "'max_cost_usd'"),
    "temperature too high": ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
    "temperature as text": ({"temperature": "warm"}, "temperature", "number"),
    "top_p of zero": ({"top_p": 0}, "top_p", "greater than 0"),
    "no messages": ({"messages": []}, "messages", "at least 1"),
    "unknown role": ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'user'"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0", "needs content"),
    "part without its field": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
        "messages.0.content.0",
        "'image_url'",
    ),
    "tool message without id": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "tool_call_id"),
    "too many stops": ({"stop": list("abcde")}, "stop", "at most 4"),
    "two token limits": ({"max_tokens": 5, "max_completion_tokens": 6}, None, "differ"),
    "tool choice without tools": ({"tool_choice": "required"}, None, "at least one tool"),
    "tool choice unknown": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        None,
        "'look_up'",
    ),
    "stream options alone": ({"stream_options": {"include_usage": True}}, None, "stream true"),
    "schema missing": ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
    "two formats": (
        {"response_format": {"type": "json_object"}, "enlist": {"answer_kind": "number"}},
        None,
        "send one of them",
    ),
    "options of a number": ({"enlist": {"answer_kind": "number", "options": ["1"]}}, "enlist", "'choice'"),
    "negative budget": ({"enlist": {"budget": {"deadline_s": -1}}}, "enlist.budget.deadline_s", "or equal to 0"),
    "k of a thousand": ({"enlist": {"k": 1000}}, "enlist.k", "or equal to 64"),
    "nobody allowed": ({"enlist": {"experts_allowed": []}}, "enlist.experts_allowed", "at least 1"),
    "k of zero": ({"enlist": {"k": 0}}, "enlist.k", "or equal to 1"),
    "lone surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content", "surrogate"),
    "surrogate name": ({"\ud800": 1}, "\\ud800", "unknown parameter"),
    "bypass with recruiter": ({"model": "ada", "enlist": {"recruiter": "symbolic"}}, None, "enlist.recruiter"),
    "two recruiters": ({"model": "auto/symbolic", "enlist": {"recruiter": "best_single"}}, None, "send one of them"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_request_names_the_field_and_the_way_out(connect, case):
    changes, param, hint = BAD[case]
    engine = FakeEngine()
    async with connect(engine) as client:
        reply = await client.post(
            "/v1/chat/completions", content=json.dumps(ASK | changes), headers={"content-type": "application/json"}
        )
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert set(error) == {"message", "type", "code", "param"}
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_query", param)
    assert hint in error["message"]
    assert not engine.queries


NAMES = {
    "model": ({"model": "auto/symbolc"}, "model_not_found", "model", "'auto/symbolic'"),
    "expert as model": ({"model": "adda"}, "model_not_found", "model", "'ada'"),
    "disabled expert": ({"model": "off"}, "model_not_found", "model", "'off'"),
    "recruiter": ({"enlist": {"recruiter": "symbolc"}}, "unknown_name", "enlist.recruiter", "'symbolic'"),
    "aggregator": ({"enlist": {"aggregator": "majorty"}}, "unknown_name", "enlist.aggregator", "'majority'"),
    "expert allowed": ({"enlist": {"experts_allowed": ["bobb"]}}, "unknown_name", None, "'bob'"),
    "expert denied": ({"enlist": {"experts_denied": ["bobb"]}}, "unknown_name", None, "'bob'"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", NAMES)
async def test_an_unknown_name_is_404_with_the_nearest_one(connect, case, stream):
    changes, code, param, hint = NAMES[case]
    reply = await ask(connect(), stream=stream, **changes)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (404, code, param)
    assert hint in error["message"]


async def test_a_failed_query_is_its_code_with_what_was_finished(connect):
    reply = await ask(connect(Script(failure=failure("expert_unavailable", "ada is down", retry_after_s=2.2))))
    assert reply.status_code == 503
    assert reply.json()["error"] == {
        "message": "ada is down",
        "type": "server_error",
        "code": "expert_unavailable",
        "param": None,
    }
    assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("3", "true")
    [ada] = reply.json()["enlist"]["experts"]
    assert ada["completions"][0]["error"]["code"] == "expert_unavailable"


async def test_a_failure_that_no_retry_mends_says_so(connect):
    reply = await ask(connect(Script(failure=failure("aggregation_error"))))
    assert (reply.status_code, reply.headers["x-should-retry"]) == (502, "false")


async def test_an_error_raised_by_the_engine_is_its_code(connect):
    reply = await ask(connect(Script(error=ConfigError("no weights for 'ada'; run setup"))))
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "config_error")
    assert "run setup" in reply.json()["error"]["message"]


async def test_a_defect_is_an_error_body_without_its_insides(connect, caplog):
    reply = await ask(connect(Script(error=ValueError("secret insides"))))
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal_error"
    assert "secret insides" not in reply.text
    assert reply.headers["x-request-id"] in reply.json()["error"]["message"]
    assert "secret insides" in caplog.text


async def test_numbers_that_json_has_no_word_for_become_null(connect):
    reply = await ask(connect(Script(score=-math.inf)))
    assert reply.json()["enlist"]["experts"][0]["score"] is None


async def test_a_text_with_a_lone_surrogate_still_arrives(connect):
    reply = await ask(connect(Script(answer="odd \ud83d end")))
    assert reply.json()["choices"][0]["message"]["content"].startswith("odd ")
