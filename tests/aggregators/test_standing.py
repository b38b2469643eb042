"""When nobody needs to be asked, and what the vote says where somebody was in vain."""

from __future__ import annotations

import pytest

from aggregators.ballot import gather_votes
from aggregators.standing import kept_without_a_call, needs_no_call, vote_stands
from router_service.types import AnswerKind, TaskFormat, ToolCall, Usage
from tests.aggregators.panels import FakeAsk, failed, panel, said

CALL = ToolCall(id="1", name="weather", arguments="{}")
NUMBER = TaskFormat(kind=AnswerKind.NUMBER)


@pytest.mark.parametrize(
    ("members", "task_format", "expected"),
    [
        ([said("ann", "A"), said("ben", "A"), failed("cyd")], None, True),
        ([said("ann", "A"), said("ben", "B")], None, False),
        ([said("ann", "A"), said("ben", None)], None, False),
        ([said("ann", None), said("ben", None)], None, True),
        ([failed("ann")], None, True),
        ([said("ann", "A"), said("ben", None, calls=[CALL])], None, True),
        ([said("ann", "1,000", task_format=NUMBER), said("ben", "1e3", task_format=NUMBER)], NUMBER, True),
        ([said("ann", "4", task_format=NUMBER), said("ben", "5", task_format=NUMBER)], NUMBER, False),
    ],
)
def test_who_needs_no_call(members, task_format, expected):
    given = {"task_format": task_format} if task_format else {}
    assert needs_no_call(panel(members, **given)) is expected


async def kept(members):
    one_panel = panel(members)
    return await kept_without_a_call(one_panel, await gather_votes(one_panel), ask=FakeAsk(), aggregator="synthesise")


async def test_the_unanimous_are_kept_and_tools_voted_on():
    unanimous = await kept([said("ann", "A"), said("ben", "A")])
    assert (unanimous.aggregator, unanimous.confidence, unanimous.agreement) == ("synthesise", 1.0, 1.0)
    voted = await kept([said("ann", None, calls=[CALL]), said("ben", None, calls=[CALL]), said("cyd", "A")])
    assert (voted.aggregator, voted.tool_calls, len(voted.notes)) == ("majority", (CALL,), 1)
    assert await kept([said("ann", "A"), said("ben", "B")]) is None


async def test_the_vote_says_why_it_stands_and_what_was_spent():
    spent = Usage(completions=2, cost_usd=0.5)
    one_panel = panel([said("ann", "A"), said("ben", "B"), said("cyd", "B")])
    got = await vote_stands(one_panel, ask=FakeAsk(), because="nobody answered", usage=spent, notes=["a note"])
    assert (got.extracted, got.aggregator, got.usage) == ("B", "majority", spent)
    assert got.notes == ("a note", "the majority's answer stands, for nobody answered")
