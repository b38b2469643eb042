"""What the writer is sent, who writes, and what happens when the writing does not come off."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregators.drafts import fair_shares, number_drafts, synthesis_query
from aggregators.synthesise import Synthesise
from router_service.errors import BudgetExceeded, ConfigError, NoExpertAvailable, UnknownNameError
from router_service.types import (
    AnswerKind,
    CompletionError,
    ImagePart,
    Message,
    Query,
    RouteControls,
    TaskFormat,
    TextPart,
    ToolCall,
)
from tests.aggregators.panels import CHOICE, FakeAsk, failed, panel, said

MEMBERS = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]


async def synthesise(one_panel, ask, **options):
    return await Synthesise(**options).aggregate(one_panel, ask=ask)


async def test_the_prompt_is_sent_once_and_filled_once():
    question = "Which of $drafts or {drafts} is $question?"
    members = [said("ann", "A", text="It is $question, says A"), said("ben", "B", text="No: $drafts")]
    query = dataclasses.replace(panel(members).query, messages=(Message(role="user", content=question),))
    ask = FakeAsk("The answer is (B)")
    await synthesise(panel(members, query=query), ask)
    assert len(ask.calls) == 1
    [message] = ask.calls[0][1].messages
    assert message.text.count("drafts of an answer to one question") == 1
    assert message.text.count(question) == 1
    assert message.text.count("It is $question, says A") == 1
    assert message.text.count("No: $drafts") == 1


async def test_the_prompt_in_full():
    ask = FakeAsk("The answer is (B)")
    await synthesise(panel([said("ann", "A", text="<think>hm</think>It is A"), failed("x"), said("ben", "B")]), ask)
    instruction, first, second, question, ending = ask.calls[0][1].text.split("\n\n")
    assert instruction.startswith("Below are drafts of an answer to one question")
    assert first == "Draft 1:\nIt is A"
    assert second == "Draft 2:\nI weigh it. The answer is (B)."
    assert question.startswith("Question:\nWhich one is it?")
    assert ending == 'End with a line that reads "The answer is (X)", X being the letter of the right option.'


async def test_the_call_is_visible_seeded_and_on_the_querys_budget():
    ask = FakeAsk("The answer is (B)")
    await synthesise(panel(MEMBERS, seed=99), ask)
    expert_id, query, is_visible = ask.calls[0]
    assert expert_id == "ann"
    assert is_visible
    assert (query.parent_id, query.seed, query.task_format) == ("q", 99, CHOICE)
    assert query.id != "q"


async def test_the_answer_tells_who_held_it_and_what_it_cost():
    got = await synthesise(panel(MEMBERS), FakeAsk("After all: the answer is (B)."))
    assert (got.text, got.extracted, got.aggregator) == ("After all: the answer is (B).", "B", "synthesise")
    assert got.supporters == ("ben", "cyd")
    assert got.agreement == pytest.approx(2 / 3)
    assert (got.usage.completions, got.usage.cost_usd) == (1, 0.25)


async def test_an_answer_nobody_held_rests_on_all():
    got = await synthesise(panel(MEMBERS), FakeAsk("The answer is (D)."))
    assert (got.extracted, got.agreement, got.supporters) == ("D", 0.0, ("ann", "ben", "cyd"))


async def test_the_best_recruit_that_finished_writes():
    members = [said("ann", "A"), said("ben", "B"), failed("top")]
    ask = FakeAsk("The answer is (B)")
    await synthesise(panel(members, p={"ann": 0.4, "ben": 0.6, "top": 0.9}), ask)
    assert ask.calls[0][0] == "ben"


async def test_the_writer_can_be_named():
    ask = FakeAsk("The answer is (B)")
    await synthesise(panel(MEMBERS), ask, expert="editor")
    assert ask.calls[0][0] == "editor"


@pytest.mark.parametrize(
    ("ask", "completions"),
    [
        (FakeAsk(error=CompletionError(code="expert_timeout", message="late")), 1),
        (FakeAsk("I cannot say."), 1),
        (FakeAsk("   "), 1),
        (FakeAsk(raises=BudgetExceeded("nothing left")), 0),
        (FakeAsk(raises=NoExpertAvailable("ann is switched off")), 0),
    ],
    ids=["failed", "unreadable", "empty", "over budget", "ruled out"],
)
async def test_a_writer_that_fails_leaves_the_majority_standing(ask, completions):
    got = await synthesise(panel(MEMBERS), ask)
    assert (got.extracted, got.aggregator, got.supporters) == ("B", "majority", ("ben", "cyd"))
    assert got.usage.completions == completions


async def test_a_text_that_was_streamed_is_kept():
    query = dataclasses.replace(panel(MEMBERS).query, controls=RouteControls(streams=True))
    got = await synthesise(panel(MEMBERS, query=query), FakeAsk("I cannot say."))
    assert (got.text, got.extracted, got.aggregator) == ("I cannot say.", None, "synthesise")


async def test_a_writer_nobody_registered_is_a_broken_set_up():
    with pytest.raises(UnknownNameError):
        await synthesise(panel(MEMBERS), FakeAsk(raises=UnknownNameError("expert", "editor", ["ann"])), expert="editor")


async def test_a_panel_with_tool_calls_is_voted_on():
    call = ToolCall(id="1", name="weather", arguments="{}")
    members = [said("ann", None, calls=[call]), said("ben", None, calls=[call]), said("cyd", "A")]
    ask = FakeAsk()
    got = await synthesise(panel(members), ask)
    assert (got.tool_calls, got.aggregator, ask.calls) == ((call,), "majority", [])


async def test_agreeing_members_are_not_asked_again_but_a_silent_one_is_reason_to():
    ask = FakeAsk("The answer is (A)")
    await synthesise(panel([said("ann", "A"), failed("ben"), said("cyd", "A")]), ask)
    assert ask.calls == []
    await synthesise(panel([said("ann", "A"), said("cyd", None)]), ask)
    assert len(ask.calls) == 1


async def test_free_texts_are_put_together():
    free = TaskFormat()
    members = [said("ann", "Rome is old.", task_format=free), said("ben", "Rome is large.", task_format=free)]
    ask = FakeAsk("Rome is old and large.")
    got = await synthesise(panel(members, task_format=free), ask)
    assert got.text == got.extracted == "Rome is old and large."
    assert ask.calls[0][1].text.endswith("Question:\nWhich one is it?")


def test_earlier_turns_and_images_stay():
    question = Message(role="user", content=(TextPart(text="What is it?"), ImagePart(url="data:x")))
    query = Query(id="q", messages=(Message(role="system", content="Be kind."), question))
    made = synthesis_query(query, [said("ann", "A")], seed=1, max_draft_chars=1000)
    assert made.messages[0] == query.messages[0]
    assert made.messages[1].content[1] == ImagePart(url="data:x")
    assert len(made.messages) == 2
    assert "What is it?" in made.messages[1].text


def test_a_conversation_that_ends_on_a_tool_gets_one_more_message():
    call = ToolCall(id="1", name="weather", arguments="{}")
    turns = (
        Message(role="user", content="Is it wet?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="rain", tool_call_id="1"),
    )
    query = Query(id="q", messages=turns, tools=("{}",))
    made = synthesis_query(query, [said("ann", "A")], seed=1, max_draft_chars=1000)
    assert made.messages[:3] == turns
    assert "Is it wet?" in made.messages[3].text
    assert made.tool_choice == "none"


@pytest.mark.parametrize(
    "given", ['{"type": "array"}', '{"name": "rows", "strict": true, "schema": {"type": "array"}}']
)
def test_a_schema_is_told(given):
    query = dataclasses.replace(panel(MEMBERS).query, task_format=TaskFormat(kind=AnswerKind.JSON, json_schema=given))
    made = synthesis_query(query, MEMBERS, seed=1, max_draft_chars=1000)
    assert made.text.endswith('It must match this JSON schema: {"type": "array"}')


def test_numbering_closes_the_gaps():
    members = [said("a", "A", text="<think>only thoughts"), said("b", "B", text="beta"), said("c", None, text="gamma")]
    members[0] = dataclasses.replace(members[0], extracted=None)
    assert number_drafts(members, max_draft_chars=1000) == "Draft 1:\nbeta\n\nDraft 2:\ngamma"


def test_a_recorded_answer_without_its_text_is_a_draft():
    assert number_drafts([said("a", "A", text="")], max_draft_chars=1000) == "Draft 1:\nA"


def test_long_drafts_are_cut_and_short_ones_are_not():
    texts = ["short", "x" * 50 + "m" * 900 + "The end is 12", "y" * 2000]
    numbered = number_drafts([said("a", "A", text=text) for text in texts], max_draft_chars=205)
    short, long, longer = numbered.split("\n\n")
    assert short == "Draft 1:\nshort"
    assert long.startswith("Draft 2:\nxxx")
    assert long.endswith("The end is 12")
    assert "[...]" in long
    assert "[...]" in longer


@given(lengths=st.lists(st.integers(0, 500), max_size=8), budget=st.integers(0, 1500))
def test_shares_are_fair_and_within_the_budget(lengths, budget):
    shares = fair_shares(lengths, budget)
    assert sum(shares) <= budget
    assert all(share <= length for share, length in zip(shares, lengths, strict=True))
    if sum(lengths) <= budget:
        assert shares == lengths
    cut = [share for share, length in zip(shares, lengths, strict=True) if share < length]
    if cut:
        assert max(cut) - min(cut) <= 1
        assert max(shares) <= max(cut) + 1


def test_a_silly_budget_is_refused():
    with pytest.raises(ConfigError, match="max_draft_chars is 5"):
        Synthesise(max_draft_chars=5)
