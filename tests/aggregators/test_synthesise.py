"""What the writer is sent, who writes, and what happens when the writing does not come off."""

from __future__ import annotations

import dataclasses

import pytest

from aggregators.base import CallingAggregator
from aggregators.majority import Majority
from aggregators.synthesise import Synthesise
from router_service.errors import BudgetExceeded, ConfigError, NoExpertAvailable, UnknownNameError
from router_service.prompt_tokens import estimate_tokens
from router_service.types import (
    CompletionError,
    Expert,
    Message,
    RouteControls,
    Sampling,
    TaskFormat,
    ToolCall,
    stable_seed,
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


async def test_thoughts_and_failed_members_are_not_shown():
    ask = FakeAsk("The answer is (B)")
    await synthesise(panel([said("ann", "A", text="<think>hm</think>It is A"), failed("x"), said("ben", "B")]), ask)
    shown = ask.calls[0][1].text
    assert "> It is A" in shown
    assert "> I weigh it. The answer is (B)." in shown
    assert "draft 2]" in shown
    assert "draft 3]" not in shown
    assert "hm" not in shown.split()
    assert "ann" not in shown.split()


async def test_undefended_the_drafts_stand_bare_in_the_order_of_the_panel():
    ask = FakeAsk("The answer is (B)")
    await synthesise(panel([said("ann", "A", text="It is A"), said("ben", "B")]), ask, is_guarded=False)
    instruction, *drafts, question = ask.calls[0][1].text.split("\n\n")
    assert instruction.startswith("Below are drafts of an answer to one question, each written by a different author")
    assert "begins with" not in instruction
    assert drafts == ["Draft 1:\nIt is A", "Draft 2:\nI weigh it. The answer is (B)."]
    assert question == (
        'Question:\nWhich one is it?\nEnd with a line that reads "The answer is (X)", X being the letter of the right '
        "option."
    )


async def test_the_call_is_visible_seeded_and_on_the_querys_budget():
    ask = FakeAsk("The answer is (B)")
    await synthesise(panel(MEMBERS, seed=99), ask)
    expert_id, query, is_visible = ask.calls[0]
    assert expert_id == "ann"
    assert is_visible
    assert (query.parent_id, query.seed, query.task_format) == ("q", stable_seed(99, "synthesise"), CHOICE)
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
    assert got.notes == ("the written answer is that of no draft",)


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
    assert got.notes[-1].startswith("the majority's answer stands, for ")


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


# --- plans, budgets, layers -------------------------------------------------------------------------------------------


def pool_of(*expert_ids, **fields):
    return {expert_id: Expert(id=expert_id, model="m", backend="echo", **fields) for expert_id in expert_ids}


def with_experts(one_panel, **fields):
    return dataclasses.replace(one_panel, experts=pool_of("ann", "ben", "cyd", **fields))


@pytest.mark.parametrize("layers", [1, 2, 3])
async def test_the_plan_is_what_is_asked_at_most(layers):
    one_panel = with_experts(panel(MEMBERS), sampling=Sampling(max_tokens=50))
    letters = iter("ABCABCABC")
    ask = FakeAsk(lambda query: f"The answer is ({next(letters)})")
    plan = Synthesise(layers=layers).plan(one_panel)
    got = await synthesise(one_panel, ask, layers=layers)
    assert [call.expert_id for call in plan] == [expert_id for expert_id, _, _ in ask.calls]
    assert len(plan) == 3 * (layers - 1) + 1 == got.usage.completions
    assert all(
        call.prompt_tokens >= estimate_tokens(query) for call, (_, query, _) in zip(plan, ask.calls, strict=True)
    )
    assert [is_visible for _, _, is_visible in ask.calls] == [False] * 3 * (layers - 1) + [True]
    assert len({query.id for _, query, _ in ask.calls}) == len(ask.calls)


@pytest.mark.parametrize(
    "members",
    [
        [said("ann", "A"), said("ben", "A")],
        [said("ann", None), failed("ben")],
        [said("ann", "A"), said("ben", None, calls=[ToolCall(id="1", name="weather", arguments="{}")])],
    ],
    ids=["unanimous", "nobody answers", "tool calls"],
)
def test_nothing_is_planned_where_nobody_is_asked(members):
    assert Synthesise(layers=3).plan(panel(members)) == ()


def test_it_degrades_layer_by_layer_to_the_majority():
    aggregator, steps = Synthesise(expert="editor", layers=3, is_guarded=False), []
    while isinstance(aggregator, CallingAggregator):
        steps.append((aggregator.layers, aggregator.expert, aggregator.is_guarded))
        aggregator = aggregator.degraded()
    assert steps == [(3, "editor", False), (2, "editor", False), (1, "editor", False)]
    assert isinstance(aggregator, Majority)


@pytest.mark.parametrize("layers", [0, 9])
def test_impossible_layers_are_refused(layers):
    with pytest.raises(ConfigError, match=f"layers is {layers}; allowed are 1 to 8"):
        Synthesise(layers=layers)


async def test_a_layer_reads_the_drafts_of_the_one_before():
    def reply(query):
        return f"refined {query.id.split('/')[-1]}" if "/1/" in query.id else "all in all"

    free = TaskFormat()
    members = [said("ann", "first", task_format=free), said("ben", "second", task_format=free)]
    ask = FakeAsk(reply)
    got = await synthesise(panel(members, task_format=free), ask, layers=2)
    assert all({"> first", "> second"} <= set(query.text.split("\n")) for _, query, _ in ask.calls[:2])
    assert {"> refined ann", "> refined ben"} <= set(ask.calls[2][1].text.split("\n"))
    assert "> first" not in ask.calls[2][1].text
    assert got.text == "all in all"


async def test_a_proposer_that_fails_is_missing_from_the_next_layer_and_leaves_no_gap():
    class OneFails(FakeAsk):
        async def __call__(self, expert_id, query, *, is_visible=False):
            self.error = CompletionError(code="expert_timeout", message="late") if expert_id == "ben" else None
            return await super().__call__(expert_id, query, is_visible=is_visible)

    letters = iter("ABCD")
    ask = OneFails(lambda query: f"I say so. The answer is ({next(letters)})")
    got = await synthesise(panel(MEMBERS), ask, layers=2)
    shown = ask.calls[-1][1].text
    assert "draft 2]" in shown
    assert "draft 3]" not in shown
    assert got.usage.completions == 4
    assert got.notes[0] == "in layer 1 ben failed (expert_timeout)"


async def test_where_a_whole_layer_fails_the_drafts_stay_as_they_were():
    class ProposersFail(FakeAsk):
        async def __call__(self, expert_id, query, *, is_visible=False):
            self.raises = None if is_visible else NoExpertAvailable("switched off")
            return await super().__call__(expert_id, query, is_visible=is_visible)

    ask = ProposersFail("The answer is (C)")
    got = await synthesise(panel(MEMBERS), ask, layers=2)
    assert ask.calls[-1][1].text.count("> I weigh it. The answer is (B).") == 2
    assert (got.extracted, got.usage.completions) == ("C", 1)
    assert sum("was not asked" in note for note in got.notes) == 3


async def test_proposers_that_come_to_agree_need_no_writer():
    ask = FakeAsk("We agree: the answer is (C)")
    got = await synthesise(panel(MEMBERS), ask, layers=3)
    assert len(ask.calls) == 3
    assert (got.extracted, got.aggregator, got.agreement, got.usage.completions) == ("C", "synthesise", 0.0, 3)


async def test_a_question_that_does_not_fit_is_voted_on_without_a_call():
    one_panel = with_experts(panel(MEMBERS), context_window=200, sampling=Sampling(max_tokens=50))
    ask = FakeAsk("The answer is (A)")
    got = await synthesise(one_panel, ask)
    assert (got.extracted, got.aggregator, ask.calls) == ("B", "majority", [])
    assert got.notes == ("the majority's answer stands, for question and drafts do not fit into the window of ann",)
    assert Synthesise().plan(one_panel) == ()


async def test_cut_drafts_are_told():
    members = [said("ann", "A", text="long " * 900 + "The answer is (A)"), said("ben", "B")]
    one_panel = with_experts(panel(members), context_window=700, sampling=Sampling(max_tokens=50))
    ask = FakeAsk("The answer is (A)")
    got = await synthesise(one_panel, ask)
    assert got.notes == ("1 of 2 drafts were cut to fit into the window of synthesise's expert",)
    assert estimate_tokens(ask.calls[0][1]) + 50 <= 700
    assert "I weigh it. The answer is (B)." in ask.calls[0][1].text
