"""The law of aggregators that settle: once they say so, nothing that is still out changes what is extracted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.base import SettlingAggregator
from aggregators.equivalence import same_answer
from aggregators.majority import Majority
from router_service.errors import AggregationError
from router_service.types import AnswerKind, TaskFormat
from tests.aggregators.laws import NAMES, aggregator_of
from tests.aggregators.panels import CHOICE, FakeAsk, failed, panel, said

SETTLING = [name for name in NAMES if isinstance(aggregator_of(name), SettlingAggregator)]
every_settler = pytest.mark.parametrize("name", SETTLING)
law = settings(deadline=None, max_examples=100)

WORDINGS = {
    AnswerKind.CHOICE: ["A", "A", "A", "B", "C", "(a)"],
    AnswerKind.NUMBER: ["4", "4", "4", "4.0", "\\sqrt{16}", "5", "\\frac{10}{2}", "6"],
    AnswerKind.FREE: ["3 km", "3 km", "3000 m", "4 km", "The cat.", "a cat"],
}
FORMATS = {
    AnswerKind.CHOICE: CHOICE,
    AnswerKind.NUMBER: TaskFormat(kind=AnswerKind.NUMBER),
    AnswerKind.FREE: TaskFormat(),
}


@st.composite
def rounds(draw):
    """A whole panel in the order of recruiting, and which of its places are still out."""
    kind = draw(st.sampled_from(list(WORDINGS)))
    favourite = draw(st.sampled_from(WORDINGS[kind]))
    answers = st.sampled_from([*WORDINGS[kind], *[favourite] * 6, None])
    whole = []
    for expert_id in draw(st.permutations(["ann", "ben", "cyd", "dan", "eve"]))[: draw(st.integers(1, 5))]:
        for sample in range(draw(st.sampled_from([1, 1, 2, 3, 5]))):
            answer = draw(answers)
            is_lost = draw(st.integers(0, 9)) == 0
            text = answer or ""
            whole.append(failed(expert_id) if is_lost else said(expert_id, answer, sample=sample, text=text))
    chances = draw(
        st.dictionaries(
            st.sampled_from(["ann", "ben", "cyd", "dan", "eve"]),
            st.sampled_from([0.0, 0.3125, 0.9]) | st.floats(0, 1),
            max_size=5,
        )
    )
    out = draw(st.sets(st.integers(0, len(whole) - 1), max_size=4))
    return kind, tuple(whole), chances, out


def complete(name_or_aggregator, one_panel):
    try:
        return asyncio.run(name_or_aggregator.aggregate(one_panel, ask=FakeAsk())).extracted
    except AggregationError:
        return None


def claims_and_keeps(aggregator, drawn, said_otherwise) -> bool | None:
    """Whether the outcome stays when the places that are out say something else; None where nothing was claimed."""
    kind, whole, chances, out = drawn
    one = panel(whole, task_format=FORMATS[kind], p=chances)
    seen = replace(one, completions=tuple(c for place, c in enumerate(whole) if place not in out))
    if not aggregator.is_settled(seen, [whole[place].expert_id for place in sorted(out)]):
        return None
    ends = [complete(aggregator, one)]
    for answer in said_otherwise:
        changed = [
            replace(c, text=answer or "", extracted=answer, error=None) if place in out else c
            for place, c in enumerate(whole)
        ]
        ends.append(complete(aggregator, replace(one, completions=tuple(changed))))
    lost = [c for place, c in enumerate(whole) if place not in out]
    ends.append(complete(aggregator, replace(one, completions=tuple(lost))))
    if not out:
        return ends[0] == ends[-1]
    first = ends[-1]
    return first is not None and all(end is not None and same_answer(end, first, kind) for end in ends)


@every_settler
@law
@given(drawn=rounds())
def test_once_settled_nothing_that_is_out_changes_the_outcome(name, drawn):
    others = [*dict.fromkeys(WORDINGS[drawn[0]]), "9", None]
    assert claims_and_keeps(aggregator_of(name), drawn, others) is not False


class Eager(Majority):
    """Says it is settled as soon as one member has spoken."""

    def is_settled(self, panel, pending):
        return bool(panel.members)


class TiesAreEnough(Majority):
    """Takes a lead that can still be drawn level for settled."""

    def is_settled(self, panel, pending):
        answers = [m.extracted for m in panel.members if m.extracted]
        counts = sorted((answers.count(answer) for answer in set(answers)), reverse=True)
        return bool(counts) and counts[0] >= len(pending) + (counts[1] if len(counts) > 1 else 0)


@pytest.mark.parametrize("wrong", [Eager(), TiesAreEnough()], ids=["eager", "ties"])
def test_the_law_catches_who_settles_too_early(wrong):
    early = said("ann", "B", text="B"), said("ben", "A", text="A")
    drawn = (AnswerKind.CHOICE, early, {}, {0})
    assert claims_and_keeps(wrong, drawn, ["A", "B", "C"]) is False


@every_settler
def test_what_all_but_one_agree_on_is_settled(name):
    """The law above is not kept by never settling: five of six samples are in, the first expert's among them."""
    members = [said("ann", "B", sample=number) for number in range(5)]
    one = panel([*members, said("zoe", None)], p={"ann": 0.6, "zoe": 0.6})
    assert aggregator_of(name).is_settled(replace(one, completions=tuple(members)), ["ann"])
    apart = [said(expert_id, "B") for expert_id in ("ann", "ben", "cyd", "dan")]
    whole = panel([*apart, said("eve", None)])
    settled = aggregator_of(name).is_settled(replace(whole, completions=tuple(apart)), ["eve"])
    assert settled
    none_yet = replace(whole, completions=())
    assert not aggregator_of(name).is_settled(none_yet, ["ann", "ben", "cyd", "dan", "eve"])
