"""Samples vote among themselves first, and experts after that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.majority import Majority
from aggregators.self_consistency import SelfConsistency
from tests.aggregators.panels import FakeAsk, failed, panel, said


async def vote(members):
    return await SelfConsistency().aggregate(panel(members), ask=FakeAsk())


def samples(expert_id, answers):
    return [said(expert_id, answer, sample=number) for number, answer in enumerate(answers)]


async def test_who_is_asked_more_often_has_no_more_votes():
    members = [*samples("ann", "AAAAA"), *samples("ben", "B"), *samples("cyd", "B")]
    got = await vote(members)
    assert (got.extracted, got.supporters) == ("B", ("ben", "cyd"))
    assert got.agreement == pytest.approx(2 / 7)
    assert got.confidence == pytest.approx(2 / 3)
    assert (await Majority().aggregate(panel(members), ask=FakeAsk())).extracted == "A"


async def test_an_expert_weighs_as_much_as_its_samples_agree():
    members = [*samples("ann", "AABCD"), *samples("ben", "BBB")]
    got = await vote(members)
    assert got.extracted == "B"
    assert got.confidence == pytest.approx(1 / (1 + 2 / 5))


async def test_a_sample_without_an_answer_agrees_with_nothing_and_a_failed_one_is_none():
    members = [*samples("ann", ["A", None, None]), *samples("ben", ["B", "B", "C"]), failed("ann"), failed("ann")]
    got = await vote(members)
    assert got.extracted == "B"
    assert got.confidence == pytest.approx((2 / 3) / (2 / 3 + 1 / 3))


async def test_level_samples_go_by_the_lowest_number_and_level_experts_by_samples_then_by_the_earliest():
    tied = [said("ann", "A", sample=1), said("ann", "B", sample=0)]
    assert (await vote(tied)).extracted == "B"
    assert (await vote([*samples("ann", "A"), *samples("ben", "BB")])).extracted == "B"
    assert (await vote([*samples("ann", "A"), *samples("ben", "B")])).extracted == "A"


@settings(deadline=None)
@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=9))
async def test_one_expert_is_plain_plurality(answers):
    got = await vote(samples("ann", answers))
    assert got.extracted == max(dict.fromkeys(answers), key=answers.count)


@settings(deadline=None)
@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=9))
async def test_one_sample_of_each_is_the_majority(answers):
    members = [said(f"e{number}", answer) for number, answer in enumerate(answers)]
    other = await Majority().aggregate(panel(members), ask=FakeAsk())
    assert replace(await vote(members), aggregator="majority") == other


def test_it_is_settled_by_experts_and_not_by_samples():
    """With five samples in, A has at least 1 + 2/3 and B at most 1; with four, B may get 2/3 + 1."""
    one = panel([*samples("ann", "AAA"), *samples("ben", "AAA"), *samples("cyd", "BBB")])

    def settled(seen, pending):
        return SelfConsistency().is_settled(replace(one, completions=one.completions[:seen]), pending)

    assert settled(5, ["ben", "cyd", "cyd", "cyd"])
    assert not settled(4, ["ben", "ben", "cyd", "cyd", "cyd"])
    assert not Majority().is_settled(replace(one, completions=one.completions[:4]), ["ben", "ben", "cyd", "cyd", "cyd"])
