"""What the contract suites of this room share: every registered aggregator, ready made, and panels drawn for it."""

from __future__ import annotations

import asyncio
import functools

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from aggregators.base import AGGREGATORS
from router_service.errors import AggregationError
from router_service.types import ToolCall
from tests.aggregators.panels import FakeFullAsk, failed, made, panel, pool_of, said, shown_choice

NAMES = AGGREGATORS.names()
every_aggregator = pytest.mark.parametrize("name", NAMES)
law = settings(deadline=None, max_examples=20)

PEOPLE = ["ann", "ben", "cyd", "dan", "eve"]
EXPERTS = st.sampled_from(PEOPLE)
ANSWERS = st.sampled_from(["A", "B", "C", "D", None])
CALLS = st.sampled_from(
    [
        ToolCall(id="1", name="weather", arguments='{"at":"Rome"}'),
        ToolCall(id="2", name="weather", arguments='{"at": "Rome"}'),
        ToolCall(id="3", name="time", arguments="not JSON"),
    ]
)


@st.composite
def completions(draw, *, answers=ANSWERS, with_failures=True):
    """Completions of a choice question, some of which failed or came to no answer."""
    drawn = []
    for sample in range(draw(st.integers(1, 9))):
        expert = draw(EXPERTS)
        if with_failures and draw(st.integers(0, 4)) == 0:
            drawn.append(failed(expert))
        else:
            drawn.append(said(expert, draw(answers), sample=sample))
    return drawn


@st.composite
def any_members(draw):
    """Completions of whatever kind: answers as they come, tool calls, the same sample twice, empty texts."""
    drawn = []
    for _ in range(draw(st.integers(1, 6))):
        expert, sample = draw(EXPERTS), draw(st.integers(0, 1))
        answer = draw(st.sampled_from(["A", "7", "7.0", "\\frac{1}{2}", "the cat", '{"a":1}', "print(1)", "No.", None]))
        calls = draw(st.sampled_from([(), (), (draw(CALLS),)]))
        if draw(st.integers(0, 5)) == 0:
            drawn.append(failed(expert))
        else:
            drawn.append(
                said(expert, answer, sample=sample, calls=calls, text=draw(st.sampled_from([None, "", "So."])))
            )
    return drawn


@functools.cache
def aggregator_of(name):
    """The aggregator, fitted where it learns; made once, so what one panel leaves behind in it shows in another."""
    return made(name)


def shown_panel(members, *, spare=(), **more):
    """A panel of a choice question that shows its options, and that knows whom it may ask."""
    experts = pool_of([*PEOPLE, *(m.expert_id for m in members)], spare=spare)
    return panel(members, query=shown_choice(), experts=experts, **more)


def aggregate(name, one_panel, ask=None, *, aggregator=None):
    """The answer of the aggregator of that name (or of the one given)."""
    one = aggregator or aggregator_of(name)
    return asyncio.run(one.aggregate(one_panel, ask=ask or FakeFullAsk()))


def accounts_for(answer, ask):
    """Whether the answer's usage is what was spent: every call as it was answered, and one completion a text read."""
    texts_read = sum(len(texts) for _, texts in ask.scored)
    if texts_read:
        return answer.usage.completions == len(ask.calls) - ask.refused + texts_read
    return answer.usage == ask.spent


def outcome(name, one_panel, ask=None):
    """The answer, or the error's code where there is none."""
    try:
        return aggregate(name, one_panel, ask)
    except AggregationError as error:
        return error.code
