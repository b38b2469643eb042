"""Which aggregator a panel is handed to, and what of it shows from outside: text kept, calls planned, early ends."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from aggregators.base import CallingAggregator, LearnedAggregator
from aggregators.choices import MAJORITY, OVERALL, SELECTION_FORMAT, SELECTION_VERSION, Choice
from aggregators.majority import Majority
from aggregators.selected import Selected
from aggregators.synthesise import Synthesise
from router_service.errors import ConfigError, NotFittedError, UnknownNameError
from router_service.types import SkillAnnotation
from tests.aggregators.panels import FakeAsk, lessons, panel, said

MEMBERS = [said("ann", "A"), said("ben", "B"), said("cyd", "B")]
WRITER = Choice(aggregator="synthesise", expert="ann", options=(("layers", "2"),))


def of(category):
    """The panel of three as one of this category."""
    return replace(panel(MEMBERS), annotation=SkillAnnotation(query_id="q", category=category))


def select(tmp_path, cells):
    path = tmp_path / "selection.json"
    document = [{"category": key[0], "kind": key[1], "chosen": chosen.document} for key, chosen in cells.items()]
    path.write_text(json.dumps({"format": SELECTION_FORMAT, "version": SELECTION_VERSION, "cells": document}), "utf-8")
    return Selected(path=str(path))


async def test_without_a_choice_it_is_the_majority():
    selected = Selected()
    got = await selected.aggregate(panel(MEMBERS), ask=FakeAsk())
    assert (got.aggregator, got.extracted) == ("majority", "B")
    assert selected.keeps_text
    assert selected.plan(panel(MEMBERS)) == ()


async def test_the_choice_may_be_given_with_its_writer():
    ask = FakeAsk("The answer is (A)")
    selected = Selected(choice="synthesise", expert="editor")
    got = await selected.aggregate(panel(MEMBERS), ask=ask)
    assert (got.aggregator, got.extracted) == ("synthesise", "A")
    assert ask.calls[0][0] == "editor"
    assert not selected.keeps_text


async def test_each_category_goes_to_its_own_choice(tmp_path):
    selected = select(tmp_path, {OVERALL: MAJORITY, ("law", "choice"): WRITER})
    ask = FakeAsk("The answer is (A)")
    assert (await selected.aggregate(of("art"), ask=ask)).aggregator == "majority"
    assert ask.calls == []
    assert (await selected.aggregate(of("law"), ask=ask)).aggregator == "synthesise"
    assert not selected.keeps_text


async def test_it_plans_what_the_panels_own_choice_plans_and_comes_down_step_by_step(tmp_path):
    selected = select(tmp_path, {OVERALL: MAJORITY, ("law", "choice"): WRITER})
    assert isinstance(selected, CallingAggregator)
    assert selected.plan(of("art")) == ()
    assert selected.plan(of("law")) == Synthesise(expert="ann", layers=2).plan(of("law"))
    once, calls = selected.degraded(), []
    while isinstance(once, CallingAggregator):
        assert once.plan(of("art")) == ()
        calls.append(len(once.plan(of("law"))))
        once = once.degraded()
    assert calls == [1, 0]
    assert isinstance(once, Majority)
    assert len(selected.plan(of("law"))) == 4, "the steps down leave the aggregator itself as it was"


def test_it_is_settled_where_the_panels_own_choice_is(tmp_path):
    selected = select(tmp_path, {OVERALL: MAJORITY, ("law", "choice"): WRITER})
    decided = replace(of("art"), completions=(said("ann", "A"), said("ben", "A")))
    assert selected.is_settled(decided, ["cyd"])
    assert not selected.is_settled(replace(decided, annotation=of("law").annotation), ["cyd"])


async def test_choices_that_learn_are_taught(tmp_path):
    selected = select(tmp_path, {OVERALL: Choice(aggregator="fuser"), (None, "number"): MAJORITY})
    assert isinstance(selected, LearnedAggregator)
    assert selected.needs_chances
    with pytest.raises(NotFittedError):
        await selected.aggregate(panel(MEMBERS), ask=FakeAsk())
    got = await selected.fit(lessons()).aggregate(panel(MEMBERS), ask=FakeAsk())
    assert got.aggregator == "fuser"


def test_a_choice_made_outright_wins_over_a_file(tmp_path):
    made = select(tmp_path, {OVERALL: WRITER})
    assert made.choice_for(of("art")) == WRITER
    outright = Selected(path=str(tmp_path / "selection.json"), choice="weighted")
    assert outright.choice_for(of("art")).name == "weighted"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert": "ann"}, "name the `choice` too"),
        ({"choice": "selected"}, "cannot choose itself"),
        ({"choice": "majority", "expert": "ann"}, "'majority' has no option 'expert'"),
        ({"choice": "synthesise:ann", "expert": "ben"}, "names an expert, and expert is 'ben'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Selected(**options)


def test_an_unknown_choice_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'majority'"):
        Selected(choice="majorty")
