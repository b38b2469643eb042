"""The weights of the weighted vote, by hand."""

from __future__ import annotations

import math

import pytest

from aggregators.weighted import Weighted
from router_service.errors import ConfigError
from router_service.types import AnswerKind, TaskFormat
from tests.aggregators.panels import FakeAsk, panel, said

LITERAL = TaskFormat(kind=AnswerKind.LITERAL)


async def vote(members, *, p=None, task_format=None, **options):
    more = {"task_format": task_format} if task_format else {}
    return await Weighted(**options).aggregate(panel(members, p=p, **more), ask=FakeAsk())


async def test_one_good_expert_outweighs_two_poor_ones():
    members = [said("poor", "A"), said("weak", "A"), said("good", "B")]
    p = {"poor": 0.3, "weak": 0.35, "good": 0.9}
    got = await vote(members, p=p)
    assert got.extracted == "B"
    a = math.log(0.3 * 3 / 0.7) + math.log(0.35 * 3 / 0.65)
    b = math.log(0.9 * 3 / 0.1)
    assert got.confidence == pytest.approx(math.exp(b) / (math.exp(a) + math.exp(b) + 2))


async def test_confidence_is_the_posterior_of_bayes_rule():
    """Two answers, one vote: the posterior is p itself."""
    two = TaskFormat(kind=AnswerKind.CHOICE, options=("yes", "no"))
    got = await vote([said("ann", "A")], p={"ann": 0.8}, task_format=two)
    assert got.confidence == pytest.approx(0.8)


async def test_more_options_make_a_vote_worth_more():
    """With 10 options an expert right half of the time is worth log 9, with 2 nothing."""
    members = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]
    p = {"ann": 0.75, "ben": 0.5, "cyd": 0.5}
    two = TaskFormat(kind=AnswerKind.CHOICE, options=("yes", "no"))
    ten = TaskFormat(kind=AnswerKind.CHOICE, options=tuple("abcdefghij"))
    assert (await vote(members, p=p, task_format=two)).extracted == "A"
    assert (await vote(members, p=p, task_format=ten)).extracted == "B"


async def test_a_vote_below_chance_never_counts_against_its_answer():
    members = [said("a", "A"), said("b", "A"), said("c", "A"), said("d", "B")]
    assert (await vote(members, p=dict.fromkeys("abcd", 0.05))).extracted == "A"


async def test_without_any_p_it_is_the_majority():
    got = await vote([said("ann", "B"), said("ben", "A"), said("cyd", "A")])
    assert got.extracted == "A"


async def test_the_prior_stands_in_where_the_recruiter_has_no_p():
    members = [said("known", "A"), said("new", "B")]
    assert (await vote(members, p={"known": 0.6}, prior=0.5)).extracted == "A"
    assert (await vote(members, p={"known": 0.6}, prior=0.7)).extracted == "B"


async def test_free_answers_count_those_held_and_one_more():
    members = [said("ann", "mice", task_format=LITERAL), said("ben", "geese", task_format=LITERAL)]
    got = await vote(members, p={"ann": 0.6, "ben": 0.5}, task_format=LITERAL)
    a, b = 0.6 * 2 / 0.4, 0.5 * 2 / 0.5
    assert got.confidence == pytest.approx(a / (a + b + 1))
    told = await vote(members, p={"ann": 0.6, "ben": 0.5}, task_format=LITERAL, answers=10)
    a, b = 0.6 * 9 / 0.4, 0.5 * 9 / 0.5
    assert told.confidence == pytest.approx(a / (a + b + 8))


async def test_a_certain_expert_is_clipped():
    got = await vote([said("sure", "A"), said("ben", "B"), said("cyd", "B")], p={"sure": 1.0, "ben": 0.9, "cyd": 0.9})
    assert got.extracted == "B"


def test_one_more_answer_changes_every_weight_so_it_is_not_settled():
    """With two answers held a vote of p = 0.3125 is worth next to nothing, with three it outweighs many at chance."""
    many = [said("poor", "geese", sample=number, task_format=LITERAL) for number in range(7)]
    members = [said("ben", "mice", task_format=LITERAL), *many]
    one = panel(members, p={"ben": 0.3125, "poor": 0.0}, task_format=LITERAL)
    assert not Weighted().is_settled(one, ["poor"])
    assert Weighted(answers=2).is_settled(one, ["poor"])


@pytest.mark.parametrize("prior", [0.0, 1.0, -1.0, 7.0])
def test_a_prior_outside_0_and_1_is_refused(prior):
    with pytest.raises(ConfigError, match="prior is"):
        Weighted(prior=prior)


def test_fewer_than_two_answers_are_refused():
    with pytest.raises(ConfigError, match="answers is 1"):
        Weighted(answers=1)
