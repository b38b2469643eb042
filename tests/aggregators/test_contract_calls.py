"""The laws of aggregators that ask experts: they keep to their plan, and whatever is said to them, an answer comes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregators.base import CallingAggregator
from router_service.errors import BudgetExceeded, NoExpertAvailable
from router_service.types import Answer, CompletionError
from tests.aggregators.laws import EXPERTS, NAMES, accounts_for, aggregate, aggregator_of, completions, law, shown_panel
from tests.aggregators.panels import FakeAsk, FakeFullAsk, panel, said

CALLING = [name for name in NAMES if isinstance(aggregator_of(name), CallingAggregator)]
every_caller = pytest.mark.parametrize("name", CALLING)
MOST_STEPS = 6

REPLIES = st.sampled_from(
    [
        "The answer is (B)",
        "",
        "   \n",
        "\x00\ufffd",
        "[[1]]",
        "1 > 2 > 3",
        "Draft 99 is the best. Draft 0. Draft -1.",
        '{"choice": 3, "answer": null}',
        "```json\n{\n```",
        "<think>for ever and",
        "I cannot say." * 400,
    ]
)


@every_caller
@law
@given(members=completions(with_failures=False), reply=REPLIES)
def test_nobody_is_asked_more_often_than_planned(name, members, reply):
    if all(m.extracted is None for m in members):
        return
    one = shown_panel(members, spare=["zoe"])
    plan = aggregator_of(name).plan(one)
    assert plan == aggregator_of(name).plan(one)
    assert all(call.prompt_tokens >= 0 and (call.completion_tokens or 1) > 0 for call in plan)
    ask = FakeFullAsk(reply)
    aggregate(name, one, ask)
    asked = Counter(expert_id for expert_id, _, _ in ask.calls)
    for expert_id, texts in ask.scored:
        asked[expert_id] += len(texts)
    planned = Counter(call.expert_id for call in plan)
    assert asked <= planned


@every_caller
@law
@given(answer=st.sampled_from("ABCD"), experts=st.lists(EXPERTS, min_size=1, max_size=7))
def test_a_unanimous_panel_plans_nothing_and_asks_nobody(name, answer, experts):
    one = shown_panel([said(expert, answer, sample=i) for i, expert in enumerate(experts)], spare=["zoe"])
    ask = FakeFullAsk("The answer is (A), or (B)")
    assert aggregator_of(name).plan(one) == ()
    assert aggregate(name, one, ask).extracted == answer
    assert (ask.calls, ask.scored, ask.executed) == ([], [], [])


@every_caller
def test_the_stated_order_ends_in_one_that_asks_nobody(name):
    aggregator = aggregator_of(name)
    for _ in range(MOST_STEPS):
        if not isinstance(aggregator, CallingAggregator):
            return
        aggregator = aggregator.degraded()
    assert not isinstance(aggregator, CallingAggregator)


BREAKAGES = {
    "over budget": {"raises": BudgetExceeded("no more")},
    "ruled out": {"raises": NoExpertAvailable("switched off")},
    "failed": {"error": CompletionError(code="expert_timeout", message="too late")},
}


@every_caller
@pytest.mark.parametrize("breakage", BREAKAGES)
@law
@given(members=completions(), until=st.integers(0, 4), reply=REPLIES)
def test_an_answer_comes_wherever_the_calls_break_off(name, breakage, members, until, reply):
    if all(m.extracted is None for m in members if m.succeeded):
        return
    ask = FakeFullAsk(reply, until=until, **BREAKAGES[breakage])
    got = aggregate(name, shown_panel(members, spare=["zoe"]), ask)
    assert isinstance(got, Answer)
    assert accounts_for(got, ask)
    if until == 0 and ask.calls:
        assert got.extracted in {m.extracted for m in members if m.succeeded}
        assert got.notes, "nothing tells the caller that the calls came to nothing"


@every_caller
@law
@given(members=completions(with_failures=False), reply=REPLIES)
def test_nobody_minds_what_an_expert_says(name, members, reply):
    if any(m.extracted is not None for m in members):
        assert isinstance(aggregate(name, shown_panel(members), FakeFullAsk(reply)), Answer)


@every_caller
def test_reading_and_running_that_break_leave_the_vote(name):
    members = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]
    ask = FakeFullAsk("Hm.", score_raises=BudgetExceeded("no more"))
    ask.execute_raises = BudgetExceeded("no more")
    got = aggregate(name, shown_panel(members), ask)
    assert got.extracted == "B"


@every_caller
def test_nobody_who_may_be_asked_is_known(name):
    """Without a pool (`Panel.experts` is empty) the members can be asked all the same."""
    members = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]
    assert isinstance(aggregate(name, panel(members), FakeAsk("The answer is (B)")), Answer)
