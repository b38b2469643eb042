"""Tool calls: experts propose, identical ones merge, and one that fits the offer comes out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from aggregators.contract import check_contract, contract_members, hold_to_contract
from aggregators.majority import Majority
from aggregators.tool_answers import offer_of, with_own_ids
from router_service.errors import AnswerInvalid, InvalidQuery
from router_service.types import Answer, Message, TaskFormat, ToolCall, user_query
from tests.aggregators.panels import FakeAsk, panel, said

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def call(arguments='{"at": "Rome"}', *, name="weather", id="c1"):
    return ToolCall(id=id, name=name, arguments=arguments)


def member(expert_id, *calls, text=""):
    return said(expert_id, None, text=text, calls=calls, task_format=TaskFormat())


def query_of(*, tools=(WEATHER, CLOCK), choice=None, messages=()):
    query = user_query("q", "How is it in Rome?")
    tool_choice = (
        json.dumps({"type": "function", "function": {"name": choice[1:]}}) if (choice or "")[:1] == "@" else choice
    )
    return replace(
        query, messages=(*messages, *query.messages), tools=tuple(map(json.dumps, tools)), tool_choice=tool_choice
    )


async def outcome(*members, ask=None, **asked):
    one = panel(members, task_format=TaskFormat(), query=query_of(**asked))
    admitted = await contract_members(one)
    answer = await Majority().aggregate(admitted, ask=ask)
    return await hold_to_contract(answer, admitted, ask=ask or FakeAsk(""))


async def test_identical_calls_merge_and_one_comes_out():
    answer = await outcome(member("a", call()), member("b", call('{"at":"Rome"}', id="c9")), member("c", text="Warm."))
    assert answer.tool_calls == (call(),)
    assert (answer.finish_reason, answer.supporters) == ("tool_calls", ("a", "b"))
    assert answer.agreement == pytest.approx(2 / 3)


async def test_text_beside_a_call_is_kept():
    answer = await outcome(member("a", call(), text="I look."), member("b", call(), text="Let me see."))
    assert (answer.text, answer.tool_calls) == ("I look.", (call(),))


INVALID = {
    "unknown tool": (call(name="wether"), "'wether', which is not among the tools offered (clock, weather)"),
    "no JSON": (call("at Rome"), "not JSON"),
    "no object": (call('["Rome"]'), "no JSON object"),
    "missing argument": (call("{}"), "'at' is a required property"),
    "wrong type": (call('{"at": 5}'), "$.at"),
}


@pytest.mark.parametrize("case", INVALID)
async def test_a_proposal_that_does_not_fit_does_not_vote(case):
    wrong, reason = INVALID[case]
    answer = await outcome(member("a", wrong), member("b", wrong, text="words"), member("c", call()))
    assert answer.tool_calls == (call(),)
    assert answer.supporters == ("c",)
    assert answer.agreement == pytest.approx(1 / 3)
    assert answer.notes[0].startswith("2 of 3 members did not vote") and reason in answer.notes[0]


@pytest.mark.parametrize("case", INVALID)
async def test_where_no_proposal_fits_it_is_a_clear_failure(case):
    wrong, reason = INVALID[case]
    ask = FakeAsk("")
    with pytest.raises(AnswerInvalid) as raised:
        await outcome(member("a", wrong), member("b", wrong), ask=ask)
    assert reason in raised.value.message
    assert ask.calls == []


@pytest.mark.parametrize("arguments", ["{'at': 'Rome'}", '{"at": "Rome",}', '{"at": "Rome"'])
async def test_arguments_that_are_nearly_json_are_mended_where_nobody_did_better(arguments):
    answer = await outcome(member("a", call(arguments)))
    assert json.loads(answer.tool_calls[0].arguments) == {"at": "Rome"}
    assert answer.notes == ("the arguments of a tool call were mended",)
    assert (await outcome(member("a", call(arguments)), member("b", call()))).supporters == ("b",)


async def test_no_arguments_are_an_empty_object():
    answer = await outcome(member("a", call("", name="clock")))
    assert answer.tool_calls[0].arguments == "{}"


@pytest.mark.parametrize("choice", ["required", "@weather"])
async def test_who_does_not_call_does_not_vote_where_a_call_is_demanded(choice):
    answer = await outcome(member("a", text="Warm."), member("b", text="Warm."), member("c", call()), choice=choice)
    assert answer.tool_calls == (call(),)
    with pytest.raises(AnswerInvalid, match="tool_choice demands"):
        await outcome(member("a", text="Warm."), choice=choice)


async def test_only_the_named_tool_counts():
    clock = call("{}", name="clock")
    answer = await outcome(member("a", clock), member("b", clock), member("c", call()), choice="@weather")
    assert answer.tool_calls == (call(),)
    with pytest.raises(AnswerInvalid, match="'clock', and tool_choice demands 'weather'"):
        await outcome(member("a", clock), choice="@weather")


async def test_with_none_only_text_comes_out():
    answer = await outcome(member("a", call()), member("b", call()), member("c", text="Warm."), choice="none")
    assert (answer.text, answer.tool_calls) == ("Warm.", ())
    with pytest.raises(AnswerInvalid, match="tool_choice is 'none'"):
        await outcome(member("a", call()), choice="none")


async def test_with_auto_either_may_come_out():
    for choice in (None, "auto"):
        assert (await outcome(member("a", text="Warm."), member("b", call()), choice=choice)).text == "Warm."


async def test_a_call_that_nobody_offered_does_not_come_out():
    with pytest.raises(AnswerInvalid, match=r"not among the tools offered \(none\)"):
        await outcome(member("a", call()), tools=())


async def test_text_that_an_aggregator_wrote_gives_way_where_a_call_is_demanded():
    one = panel([member("a", call()), member("b", call())], task_format=TaskFormat(), query=query_of(choice="required"))
    admitted = await contract_members(one)
    answer = await hold_to_contract(Answer(text="Warm.", aggregator="synthesise"), admitted, ask=FakeAsk(""))
    assert (answer.tool_calls, answer.aggregator) == ((call(),), "majority")


async def test_a_call_is_an_answer_where_json_is_demanded_and_text_is_not_json():
    demanded = TaskFormat(kind="json", json_schema='{"type": "object"}')
    query = replace(query_of(), task_format=demanded)
    one = panel([member("a", text="Warm."), member("b", call(), text="I look.")], task_format=demanded, query=query)
    admitted = await contract_members(one)
    answer = await hold_to_contract(await Majority().aggregate(admitted, ask=None), admitted, ask=FakeAsk(""))
    assert (answer.tool_calls, answer.text) == ((call(),), "I look.")


async def test_ids_are_unique_in_the_answer_and_in_the_conversation():
    before = Message(role="assistant", content="", tool_calls=(call(id="c1"),))
    result = Message(role="tool", content="12", tool_call_id="c1")
    proposed = (call(id="c1"), call('{"at": "Oslo"}', id=""), call('{"at": "Bari"}', id="c2"), call(id="c2"))
    answer = await outcome(member("a", *proposed), messages=(before, result))
    ids = [c.id for c in answer.tool_calls]
    assert ids[2] == "c2"
    assert len({*ids, "c1", ""}) == 6
    assert [c.arguments for c in answer.tool_calls] == [c.arguments for c in proposed]
    assert (await outcome(member("a", *proposed), messages=(before, result))).tool_calls == answer.tool_calls


def test_fresh_ids_do_not_collide_with_each_other():
    twice = (call(id=""), call(id=""))
    assert len({c.id for c in with_own_ids(twice, taken=(), query_id="q")}) == 2


BAD = {
    "no JSON": ("{", "not JSON"),
    "no function": ('{"type": "function"}', "names no function"),
    "no name": ('{"type": "function", "function": {"name": ""}}', "names no function"),
    "bad parameters": (json.dumps({"function": {"name": "f", "parameters": {"type": "objct"}}}), "tool 'f'.*objct"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_tool_that_cannot_be_held_to_is_refused_by_name(case):
    definition, hint = BAD[case]
    with pytest.raises(InvalidQuery, match=hint):
        check_contract(replace(user_query("q", "Hi"), tools=(definition,)))


def test_a_choice_and_names_that_make_no_sense_are_refused():
    with pytest.raises(InvalidQuery, match="two tools have the name 'clock'"):
        check_contract(query_of(tools=(CLOCK, CLOCK)))
    with pytest.raises(InvalidQuery, match="names 'wether'; the tools are clock, weather"):
        check_contract(query_of(choice="@wether"))
    with pytest.raises(InvalidQuery, match="names no function"):
        check_contract(replace(query_of(), tool_choice='{"type": "function"}'))
    clock = query_of(choice="@clock")
    assert offer_of(clock.tools, clock.tool_choice).named == "clock"
