"""Pairs are judged in both orders, a place is worth nothing, and what is chosen is a member's own text."""

from __future__ import annotations

import asyncio
import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.majority import Majority
from aggregators.pairwise_rank import PairwiseRank
from router_service.errors import BudgetExceeded, ExpertRefused
from router_service.types import CompletionError, Expert, Sampling, ToolCall
from tests.aggregators.panels import FakeAsk, FakeScoringAsk, panel, said

WORTHS = {"A": 3, "B": 2, "C": 1, "D": 0}
MEMBERS = [said("ann", "C"), said("ben", "A"), said("cyd", "B"), said("dan", "B")]
MODES = pytest.mark.parametrize(
    "options", [{}, {"policy": "max_wins"}, {"mode": "bubble"}], ids=["full", "wins", "bubble"]
)


def shown(query):
    """The two answers, left and right."""
    return re.findall(r"> .*The answer is \(([A-D])\)", query.text)


def by_worth(query):
    left, right = (WORTHS[letter] for letter in shown(query))
    return "Better: tie" if left == right else f"Better: {1 if left > right else 2}"


async def rank(members, ask, **options):
    return await PairwiseRank(**options).aggregate(panel(members), ask=ask)


@MODES
async def test_the_best_member_is_the_answer_unchanged(options):
    got = await rank(MEMBERS, FakeAsk(by_worth), **options)
    assert (got.extracted, got.text, got.aggregator) == ("A", MEMBERS[1].text, "pairwise_rank")
    assert (got.supporters, got.agreement, got.notes) == (("ben",), 0.25, ())


@pytest.mark.parametrize(("mode", "calls"), [("full", 6), ("bubble", 4)])
async def test_every_pair_is_seen_from_both_sides(mode, calls):
    ask = FakeAsk(by_worth)
    got = await rank(MEMBERS, ask, mode=mode)
    pairs = [tuple(shown(query)) for _, query, _ in ask.calls]
    assert len(pairs) == len(set(pairs)) == calls == got.usage.completions
    assert {(right, left) for left, right in pairs} == set(pairs)
    assert not any(is_visible for _, _, is_visible in ask.calls)
    assert {query.sampling.temperature for _, query, _ in ask.calls} == {0.0}


@MODES
@pytest.mark.parametrize("place", [1, 2])
async def test_a_judge_that_favours_a_place_favours_nobody(options, place):
    got = await rank(MEMBERS, FakeAsk(f"Better: {place}"), **options)
    assert (got.extracted, got.aggregator) == ("B", "majority")
    assert got.notes == ("the majority's answer stands, for ann found none of 3 drafts better",)


@MODES
async def test_answers_that_come_out_level_go_by_the_vote(options):
    def only_c_is_bad(query):
        left, right = shown(query)
        return "Better: tie" if "C" not in (left, right) else f"Better: {2 if left == 'C' else 1}"

    got = await rank(MEMBERS, FakeAsk(only_c_is_bad), **options)
    assert (got.extracted, got.aggregator) == ("B", "pairwise_rank")


async def test_half_read_comparisons_still_rank_and_are_told():
    def half(query):
        return by_worth(query) if shown(query)[0] == "A" else "Hm."

    got = await rank(MEMBERS, FakeAsk(half))
    assert got.extracted == "A"
    assert got.notes == ("4 of 6 comparisons came to nothing: ann does not say which of two drafts is better",)


@pytest.mark.parametrize(
    ("ask", "because"),
    [
        (FakeAsk("Who knows?"), "ann does not say which of two drafts is better"),
        (FakeAsk(error=CompletionError(code="expert_timeout", message="late")), "ann failed (expert_timeout)"),
        (FakeAsk(raises=BudgetExceeded("nothing left")), "ann was not asked (budget_exceeded: nothing left)"),
    ],
    ids=["unreadable", "failed", "over budget"],
)
@MODES
async def test_a_judge_that_tells_nothing_leaves_the_majority_standing(ask, because, options):
    got = await rank(MEMBERS, ask, **options)
    assert (got.extracted, got.aggregator) == ("B", "majority")
    assert got.notes[-1] == f"the majority's answer stands, for {because}"


async def test_drafts_that_do_not_fit_are_voted_on_without_a_call():
    small = Expert(id="eve", model="m", backend="echo", context_window=100, sampling=Sampling(max_tokens=20))
    one_panel = dataclasses.replace(panel(MEMBERS), experts={"eve": small})
    ask = FakeAsk("Better: 1")
    got = await PairwiseRank().aggregate(one_panel, ask=ask)
    assert (got.extracted, got.aggregator, ask.calls) == ("B", "majority", [])
    assert PairwiseRank().plan(one_panel) == ()


@MODES
@settings(deadline=None, max_examples=40)
@given(answers=st.lists(st.sampled_from("ABCD"), min_size=1, max_size=6))
async def test_no_more_is_asked_than_planned(options, answers):
    members = [said(f"e{place}", answer) for place, answer in enumerate(answers)]
    ask = FakeAsk(by_worth)
    plan = PairwiseRank(**options).plan(panel(members))
    await rank(members, ask, **options)
    assert len(ask.calls) == len(plan)
    n = len(set(answers))
    assert len(plan) == (2 * (n - 1) if options.get("mode") else n * (n - 1))


@pytest.mark.parametrize(
    "members",
    [
        [said("ann", "A"), said("ben", "A")],
        [said("ann", "A"), said("ben", None)],
        [said("ann", "A"), said("ben", None, calls=[ToolCall(id="1", name="weather", arguments="{}")])],
    ],
    ids=["unanimous", "one answer", "tool calls"],
)
async def test_a_panel_with_nothing_to_compare_is_not_judged(members):
    ask = FakeAsk(by_worth)
    got = await rank(members, ask)
    assert (got.extracted, ask.calls, PairwiseRank().plan(panel(members))) == ("A", [], ())


def test_it_degrades_to_one_pass_and_then_to_the_majority():
    one = PairwiseRank(expert="ann", is_guarded=False).degraded()
    assert (one.mode, one.expert, one.is_guarded) == ("bubble", "ann", False)
    assert isinstance(one.degraded(), Majority)


# --- by likelihood ----------------------------------------------------------------------------------------------------


def feels(favour=0.0):
    """Nats a token: the worthier draft's verdict is likelier; `favour` is what the first place is worth besides."""

    def score_of(query, text):
        left, right = (WORTHS[letter] for letter in shown(query))
        return -5.0 + (left - right + favour) / 4 * (1 if text == "Better: 1" else -1)

    return score_of


@MODES
async def test_a_judge_that_reads_ranks_by_likelihood(options):
    ask = FakeScoringAsk(score_of=feels())
    got = await rank(MEMBERS, ask, by="likelihood", **options)
    assert (got.extracted, got.aggregator, ask.calls) == ("A", "pairwise_rank", [])
    assert all([text for _, text in texts] == ["Better: 1", "Better: 2"] for _, texts in ask.scored)


@pytest.mark.parametrize("mode", ["full", "bubble"])
@pytest.mark.parametrize("favour", [9.0, -9.0])
async def test_however_much_it_favours_a_place_the_margin_tells(mode, favour):
    """Wins count who is ahead, not by how much, and cannot tell then; logits can."""
    got = await rank(MEMBERS, FakeScoringAsk(score_of=feels(favour)), by="likelihood", mode=mode)
    assert got.extracted == "A"


@MODES
async def test_readings_are_planned_and_paid_a_completion_each(options):
    ask = FakeScoringAsk(score_of=feels())
    plan = PairwiseRank(by="likelihood", **options).plan(panel(MEMBERS))
    got = await rank(MEMBERS, ask, by="likelihood", **options)
    assert len(plan) == sum(len(texts) for _, texts in ask.scored) == got.usage.completions
    assert sum(call.prompt_tokens for call in plan) >= got.usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("ask", "because"),
    [
        (FakeAsk(by_worth), "ann reads no texts, so compare by reply, or name another judge"),
        (FakeScoringAsk(cannot=["ann"]), "ann reads no texts, so compare by reply, or name another judge"),
        (
            FakeScoringAsk(score_raises=ExpertRefused("cannot", expert_id="ann")),
            "ann could not read (expert_refused: cannot)",
        ),
        (FakeScoringAsk(score_raises=BudgetExceeded("gone")), "ann could not read (budget_exceeded: gone)"),
    ],
    ids=["no reader", "cannot", "refused", "over budget"],
)
async def test_a_judge_that_cannot_read_leaves_the_majority_standing(ask, because):
    got = await rank(MEMBERS, ask, by="likelihood")
    assert (got.extracted, got.aggregator, got.usage.completions) == ("B", "majority", 0)
    assert got.notes[-1] == f"the majority's answer stands, for {because}"


@pytest.mark.parametrize("slow", ["2", "1"])
async def test_the_reason_is_the_same_whichever_comparison_fails_first(slow):
    class Uneven(FakeAsk):
        async def __call__(self, expert_id, query, *, is_visible=False):
            if query.id.endswith(f"-{slow}"):
                await asyncio.sleep(0.01)
            self.text = "" if query.id.endswith("-2") else "I cannot say."
            return await super().__call__(expert_id, query, is_visible=is_visible)

    got = await rank([said("ann", "A"), said("ben", "B")], Uneven())
    assert got.notes[-1] == "the majority's answer stands, for ann does not say which of two drafts is better"
