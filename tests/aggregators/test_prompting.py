"""Prompts are filled once, sent on the query's budget, and leave room for the reply."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregators.prompting import Stage, answer_format, child_query, fill_prompt, prompt_parts, prompt_room
from router_service.errors import ConfigError
from router_service.prompt_tokens import estimate_tokens
from router_service.types import (
    AnswerKind,
    Expert,
    ImagePart,
    Message,
    Query,
    RouteControls,
    Sampling,
    TaskFormat,
    TextPart,
    ToolCall,
)
from tests.aggregators.panels import panel, said

STAGE = Stage(name="judge", temperature=0.0, max_tokens=40)


def panel_of(query, **more):
    return panel([said("ann", "A"), said("ben", "B")], query=query, **more)


@given(st.lists(st.sampled_from(["$drafts", "${question}", "$$", "{x}", "$", "%s", "drafts"]), max_size=5).map("".join))
def test_what_is_filled_in_is_never_read_as_template(text):
    filled = fill_prompt(
        "synthesise_v2", data_rule="RULE", drafts="DRAFTS", question=f"<{text}>", answer_format="FORMAT"
    )
    assert filled.count(f"<{text}>") == 1
    assert filled.count("DRAFTS") == filled.count("RULE") == filled.count("FORMAT") == 1


@pytest.mark.parametrize("parts", [{"drafts": "x"}, {name: "x" for name in ("drafts", "mark", "more")}])
def test_parts_that_do_not_match_are_refused(parts):
    with pytest.raises(ConfigError, match=r"has the parts \[.*\], given are \["):
        fill_prompt("synthesise_v2", **parts)


def test_a_prompt_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="there is no prompt 'sing_v1'"):
        prompt_parts("sing_v1")


def test_earlier_turns_and_images_stay():
    question = Message(role="user", content=(TextPart(text="What is it?"), ImagePart(url="data:x")))
    query = Query(id="q", messages=(Message(role="system", content="Be kind."), question))
    made = child_query(panel_of(query), "Judge them.", stage=STAGE)
    assert made.messages[0] == query.messages[0]
    assert made.messages[1].content == (TextPart(text="Judge them."), ImagePart(url="data:x"))
    assert len(made.messages) == 2


def test_a_conversation_that_ends_on_a_tool_gets_one_more_message():
    call = ToolCall(id="1", name="weather", arguments="{}")
    turns = (
        Message(role="user", content="Is it wet?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="rain", tool_call_id="1"),
    )
    made = child_query(panel_of(Query(id="q", messages=turns, tools=("{}",))), "Judge them.", stage=STAGE)
    assert made.messages == (*turns, Message(role="user", content="Judge them."))
    assert made.tool_choice == "none"


def test_a_verdict_is_plain_text_and_an_answer_keeps_the_querys_format():
    schema = TaskFormat(kind=AnswerKind.JSON, json_schema="{}")
    query = Query(
        id="q",
        messages=(Message(role="user", content="?"),),
        task_format=schema,
        sampling=Sampling(temperature=0.9, top_p=0.5, max_tokens=9, stop=("END",)),
        controls=RouteControls(streams=True, k=3, aggregator="verdict"),
        metadata={"category": "law"},
    )
    judged = child_query(panel_of(query), "Judge.", stage=STAGE)
    assert judged.task_format == TaskFormat()
    assert judged.sampling == Sampling(temperature=0.0, top_p=0.5, max_tokens=40)
    drawn = child_query(panel_of(query), "Draw.", stage=Stage(name="draw", temperature=0.1, top_p=0.95))
    assert drawn.sampling == Sampling(temperature=0.1, top_p=0.95)
    written = child_query(panel_of(query), "Write.", stage=Stage(name="write", max_tokens=40, keeps_format=True))
    assert written.task_format == schema
    assert written.sampling == query.sampling
    for made in (judged, written):
        assert (made.parent_id, made.controls, made.metadata) == ("q", RouteControls(streams=True), {})
    assert (judged.id, written.id) == ("q/judge", "q/write")
    assert judged.seed != written.seed


def test_seeds_hang_on_the_panels_seed_and_the_stage_alone():
    query = Query(id="q", messages=(Message(role="user", content="?"),))
    one = child_query(panel_of(query, seed=1), "x", stage=STAGE).seed
    assert one == child_query(panel_of(query, seed=1), "y", stage=STAGE).seed
    assert one != child_query(panel_of(query, seed=2), "x", stage=STAGE).seed


@pytest.mark.parametrize(
    "given", ['{"type": "array"}', '{"name": "rows", "strict": true, "schema": {"type": "array"}}']
)
def test_a_schema_is_told(given):
    told = answer_format(TaskFormat(kind=AnswerKind.JSON, json_schema=given))
    assert told.endswith('It must match this JSON schema: {"type": "array"}')


@pytest.mark.parametrize("kind", list(AnswerKind))
def test_every_kind_of_answer_has_its_ending(kind):
    assert bool(answer_format(TaskFormat(kind=kind))) == (kind is not AnswerKind.FREE)


@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({}, 1024),
        ({"sampling": Sampling(max_tokens=100)}, 100),
        ({"max_output_tokens": 60}, 60),
        ({"sampling": Sampling(max_tokens=100), "max_output_tokens": 60}, 60),
    ],
)
def test_the_room_is_the_window_less_prompt_and_reply(fields, reply):
    one_panel = panel([said("ann", "A")])
    expert = Expert(id="ann", model="m", backend="echo", context_window=4000, **fields)
    one_panel = dataclasses.replace(one_panel, experts={"ann": expert})
    stage = Stage(name="s")
    room = prompt_room(one_panel, "ann", stage=stage, fixed="Twelve words or so. " * 10)
    sent = estimate_tokens(child_query(one_panel, "Twelve words or so. " * 10, stage=stage))
    assert room == 4000 - sent - reply - 32
    persona = dataclasses.replace(expert, persona="You are a careful reader of long documents.")
    assert prompt_room(dataclasses.replace(one_panel, experts={"ann": persona}), "ann", stage=stage, fixed="") < (
        prompt_room(one_panel, "ann", stage=stage, fixed="")
    )


def test_a_window_that_is_full_has_no_room():
    one_panel = panel([said("ann", "A")])
    expert = Expert(id="ann", model="m", backend="echo", context_window=50)
    one_panel = dataclasses.replace(one_panel, experts={"ann": expert})
    assert prompt_room(one_panel, "ann", stage=STAGE, fixed="word " * 100) == 0
