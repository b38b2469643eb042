"""Votes of several kinds joined: Medprompt+'s weights, the vote of the longest chains, and the plain vote's old bug."""

from __future__ import annotations

import pytest

from aggregators.base import AGGREGATORS
from aggregators.portfolio import (
    DIRECT_WEIGHT,
    DIRECT_WEIGHT_REASONING,
    Chain,
    complexity_vote,
    leading_answer,
    portfolio_scores,
    step_count,
)
from router_service.errors import AggregationError
from tests.aggregators.panels import FakeAsk, panel, said
from tests.experts_registry.golden import golden


def chains() -> list[Chain]:
    return [Chain(steps=steps, answer=answer) for steps, answer in golden("complexity_vote")["chains"]]


@pytest.mark.parametrize(("weight", "key"), [(DIRECT_WEIGHT_REASONING, "w=0.5"), (DIRECT_WEIGHT, "w=2")])
def test_the_portfolio_weighs_direct_votes_as_in_the_worked_example(weight, key) -> None:
    case = golden("medprompt_plus")
    scores = portfolio_scores(case["cot"], case["direct"], direct_weight=weight)
    assert scores == pytest.approx(case[key])
    assert leading_answer(scores) == "B"


def test_without_weight_direct_votes_decide_nothing() -> None:
    scores = portfolio_scores({"A": 0.6, "B": 0.4}, {"B": 1.0, "C": 1.0}, direct_weight=0.0)
    assert (leading_answer(scores), list(scores)) == ("A", ["A", "B", "C"])
    with pytest.raises(AggregationError, match=r"direct_weight is -0\.5"):
        portfolio_scores({}, {}, direct_weight=-0.5)


@pytest.mark.parametrize(("top", "key"), [(None, "all"), (3, "top3"), (5, "top5"), (99, "all")])
def test_the_longest_chains_vote_as_in_the_worked_example(top, key) -> None:
    assert complexity_vote(chains(), top=top) == golden("complexity_vote")[key]


def test_ties_go_to_the_earlier_chain() -> None:
    level = [Chain(steps=2, answer="C"), Chain(steps=2, answer="B"), Chain(steps=1, answer="B")]
    assert complexity_vote(level, top=1) == "C"
    assert complexity_vote(level, top=2) == "C"
    assert complexity_vote([level[2], level[0]], top=2) == "B"


def test_the_shortest_chains_may_vote_instead() -> None:
    assert complexity_vote([Chain(steps=9, answer="A"), Chain(steps=1, answer="B")], top=1, prefers_long=False) == "B"


@pytest.mark.parametrize(("members", "top", "said_so"), [([], None, "nobody voted"), ([("A", 1)], 0, "top is 0")])
def test_a_vote_needs_a_chain(members, top, said_so) -> None:
    with pytest.raises(AggregationError, match=said_so):
        complexity_vote([Chain(answer=answer, steps=steps) for answer, steps in members], top=top)


def test_a_step_is_a_line_with_something_on_it() -> None:
    assert step_count("First, 2 + 2 = 4.\n\n  \nSo the answer is 4.\n") == 2


async def test_a_clear_majority_in_first_position_wins_every_vote() -> None:
    """A released vote never updates its running maximum, and returns the last answer instead."""
    case = golden("promptbase_vote_bug")
    answers = [answer for answer, count in case["votes_in_order"] for _ in range(count)]
    members = [said(f"expert-{number}", answer) for number, answer in enumerate(answers)]
    got = await AGGREGATORS.create("majority").aggregate(panel(members), ask=FakeAsk())
    assert got.extracted == leading_answer(dict(case["votes_in_order"])) == case["majority"]
    assert got.extracted != case["released_code_returns"]
