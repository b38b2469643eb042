"""The judge picks a member by number, and gets that member's text unchanged; or the vote stands."""

from __future__ import annotations

import dataclasses
import re

import pytest

from aggregators.best_of import BestOf
from aggregators.majority import Majority
from router_service.errors import BudgetExceeded, ConfigError, NoExpertAvailable
from router_service.types import CompletionError, Expert, Sampling, TaskFormat, ToolCall
from tests.aggregators.panels import FakeAsk, panel, said

MEMBERS = [said("ann", "A", text="First it is A."), said("ben", "B", text="I say B."), said("cyd", "B", text="B too.")]


def number_of(query, text):
    """The number under which `text` is shown."""
    lines = query.text.splitlines()
    above = lines[: lines.index(f"> {text}")]
    return next(found[1] for line in reversed(above) if (found := re.match(r"\[\w+ draft (\d+)\]", line)))


def picks(text):
    return FakeAsk(lambda query: f"Best: {number_of(query, text)}")


async def best_of(one_panel, ask, **options):
    return await BestOf(**options).aggregate(one_panel, ask=ask)


@pytest.mark.parametrize("seed", range(6))
async def test_the_member_picked_is_the_answer_unchanged(seed):
    ask = picks("First it is A.")
    got = await best_of(panel(MEMBERS, seed=seed), ask)
    assert (got.text, got.extracted, got.aggregator) == ("First it is A.", "A", "best_of")
    assert (got.supporters, got.usage.completions) == (("ann",), 1)
    assert got.agreement == pytest.approx(1 / 3)


async def test_every_answer_is_shown_once_by_its_earliest_draft():
    ask = picks("I say B.")
    await best_of(panel(MEMBERS), ask)
    [(_, query, is_visible)] = ask.calls
    assert "> B too." not in query.text
    assert "Which of the 2 drafts is the best?" in query.text
    assert not is_visible
    assert (query.sampling.temperature, query.task_format) == (0.0, TaskFormat())


async def test_the_judge_is_whom_one_names_or_an_outsider():
    ask = picks("I say B.")
    outsider = {name: Expert(id=name, model="m", backend="echo") for name in ("ann", "ben", "cyd", "dan")}
    one_panel = dataclasses.replace(panel(MEMBERS), experts=outsider)
    await best_of(one_panel, ask)
    await best_of(one_panel, ask, expert="ben")
    assert [expert_id for expert_id, _, _ in ask.calls] == ["dan", "ben"]


async def test_several_votes_are_asked_in_several_orders_and_the_most_picked_wins():
    ask = FakeAsk("Best: 1")  # a judge that always takes the first
    got = await best_of(panel(MEMBERS), ask, votes=9)
    firsts = [re.search(r"> (.*)", query.text)[1] for _, query, _ in ask.calls]
    assert set(firsts) == {"First it is A.", "I say B."}
    assert got.text == max(set(firsts), key=firsts.count)
    assert len({query.id for _, query, _ in ask.calls}) == 9 == got.usage.completions


async def test_picks_that_are_level_go_to_the_answer_that_more_members_hold():
    shown = iter(["First it is A.", "I say B."])
    got = await best_of(panel(MEMBERS), FakeAsk(lambda query: f"Best: {number_of(query, next(shown))}"), votes=2)
    assert got.extracted == "B"


async def test_a_pick_that_cannot_be_read_is_told_where_others_can():
    replies = iter(["Best: 1", "Who knows?", "Best: 1"])
    got = await best_of(panel(MEMBERS), FakeAsk(lambda query: next(replies)), votes=3)
    assert got.notes == ("1 of 3 picks came to nothing",)


@pytest.mark.parametrize(
    ("ask", "because"),
    [
        (FakeAsk("Who knows?"), "ann picked none of 2 drafts"),
        (FakeAsk("Best: 9"), "ann picked none of 2 drafts"),
        (FakeAsk(" "), "ann wrote nothing"),
        (FakeAsk(error=CompletionError(code="expert_timeout", message="late")), "ann failed (expert_timeout)"),
        (FakeAsk(raises=BudgetExceeded("nothing left")), "ann was not asked (budget_exceeded: nothing left)"),
        (FakeAsk(raises=NoExpertAvailable("off")), "ann was not asked (no_expert_available: off)"),
    ],
    ids=["unreadable", "out of range", "empty", "failed", "over budget", "ruled out"],
)
async def test_a_judge_that_picks_none_leaves_the_majority_standing(ask, because):
    got = await best_of(panel(MEMBERS), ask)
    assert (got.extracted, got.aggregator) == ("B", "majority")
    assert got.notes == (f"the majority's answer stands, for {because}",)


async def test_a_question_that_does_not_fit_is_voted_on_without_a_call():
    small = Expert(id="ann", model="m", backend="echo", context_window=150, sampling=Sampling(max_tokens=20))
    ask = FakeAsk("Best: 1")
    one_panel = dataclasses.replace(panel(MEMBERS), experts={"ann": small})
    got = await best_of(one_panel, ask, expert="ann")
    assert (got.aggregator, ask.calls) == ("majority", [])
    assert BestOf(expert="ann").plan(one_panel) == ()


@pytest.mark.parametrize("votes", [1, 3])
async def test_the_plan_is_what_is_asked(votes):
    ask = picks("I say B.")
    plan = BestOf(votes=votes).plan(panel(MEMBERS))
    await best_of(panel(MEMBERS), ask, votes=votes)
    assert [call.expert_id for call in plan] == [expert_id for expert_id, _, _ in ask.calls] == ["ann"] * votes


@pytest.mark.parametrize(
    "members",
    [
        [said("ann", "A"), said("ben", "A")],
        [said("ann", "A"), said("ben", None)],
        [said("ann", "A"), said("ben", None, calls=[ToolCall(id="1", name="weather", arguments="{}")])],
    ],
    ids=["unanimous", "one answer", "tool calls"],
)
async def test_a_panel_with_nothing_to_pick_is_not_judged(members):
    ask = FakeAsk("Best: 2")
    got = await best_of(panel(members), ask)
    assert (got.extracted, ask.calls, BestOf().plan(panel(members))) == ("A", [], ())


def test_it_degrades_to_one_vote_and_then_to_the_majority():
    one = BestOf(votes=5, expert="ann", is_guarded=False).degraded()
    assert (one.votes, one.expert, one.is_guarded) == (1, "ann", False)
    assert isinstance(one.degraded(), Majority)


@pytest.mark.parametrize("votes", [0, 17])
def test_impossible_votes_are_refused(votes):
    with pytest.raises(ConfigError, match=f"votes is {votes}; allowed are 1 to 16"):
        BestOf(votes=votes)
