"""What is special to the plurality vote and to `first`."""

from __future__ import annotations

import dataclasses

import pytest

from aggregators.first import First
from aggregators.majority import Majority
from router_service.errors import AggregationError
from router_service.types import AnswerKind, TaskFormat, ToolCall, Usage
from tests.aggregators.panels import FakeAsk, failed, panel, said

NUMBER = TaskFormat(kind=AnswerKind.NUMBER)


async def vote(members, **more):
    return await Majority().aggregate(panel(members, **more), ask=FakeAsk())


async def test_a_tie_goes_to_the_earliest_completion():
    got = await vote([said("ann", "C"), said("ben", "A"), said("cyd", "A"), said("dan", "C")])
    assert got.extracted == "C"
    assert got.supporters == ("ann", "dan")


async def test_samples_of_one_expert_are_one_vote_each():
    got = await vote([said("ann", "A"), said("ben", "B", sample=0), said("ben", "B", sample=1)])
    assert (got.extracted, got.supporters) == ("B", ("ben",))
    assert got.agreement == got.confidence == pytest.approx(2 / 3)


async def test_agreement_counts_members_without_an_answer_but_not_the_failed():
    got = await vote([said("ann", "A"), said("ben", None), failed("cyd")])
    assert got.agreement == pytest.approx(1 / 2)


async def test_numbers_are_one_answer_by_value():
    members = [said("ann", "7", task_format=NUMBER), said("ben", "1,000"), said("cyd", "1e3")]
    got = await vote(members, task_format=NUMBER)
    assert got.extracted == "1,000"
    assert got.usage == Usage()


async def test_tools_and_words_compete():
    call = ToolCall(id="1", name="weather", arguments="{}")
    members = [said("ann", "It rains."), said("ben", None, calls=[call]), said("cyd", None, calls=[call])]
    got = await vote(members, task_format=TaskFormat())
    assert got.tool_calls == (call,)
    words = [said("ann", "It rains.", text="It rains."), said("ben", "It rains."), said("cyd", None, calls=[call])]
    got = await vote(words, task_format=TaskFormat())
    assert (got.text, got.tool_calls) == ("It rains.", ())


async def test_nobody_holds_an_answer():
    with pytest.raises(AggregationError, match="none of 3 completions holds an answer of kind 'choice'") as error:
        await vote([said("ann", None), said("ben", None), failed("cyd")])
    assert "2 finished without one, 1 failed: cyd expert_timeout" in error.value.message


async def test_the_finish_reason_is_passed_on():
    cut = dataclasses.replace(said("ann", "A"), finish_reason="length")
    assert (await vote([cut])).finish_reason == "length"


async def test_first_takes_the_first_that_holds_an_answer():
    members = [failed("ann"), said("ben", None), said("cyd", "B"), said("dan", "A"), said("eve", "A")]
    got = await First().aggregate(panel(members), ask=FakeAsk())
    assert (got.extracted, got.supporters) == ("B", ("cyd",))
    assert got.agreement == pytest.approx(1 / 4)


async def test_first_passes_on_a_text_nobody_can_read_an_answer_from():
    got = await First().aggregate(panel([failed("ann"), said("ben", None)]), ask=FakeAsk())
    assert (got.text, got.extracted, got.agreement, got.supporters) == ("No idea.", None, 0.0, ("ben",))
