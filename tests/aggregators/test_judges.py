"""Who writes, and who judges."""

from __future__ import annotations

import dataclasses

import pytest

from aggregators.judges import best_writer, choose_judge
from router_service.types import Expert, ImagePart, Message
from tests.aggregators.panels import failed, panel, said


def pool_of(*expert_ids, **fields):
    return {expert_id: Expert(id=expert_id, model="m", backend="echo", **fields) for expert_id in expert_ids}


def panel_of(*experts, scores=None, p=None, **more):
    one = panel([said("ann", "A"), said("ben", "B"), failed("eve")], p=p, **more)
    decision = dataclasses.replace(one.decision, scores=scores or {})
    return dataclasses.replace(one, decision=decision, experts=pool_of(*experts))


@pytest.mark.parametrize(
    ("p", "writer"), [({}, "ann"), ({"ann": 0.4, "ben": 0.6}, "ben"), ({"ann": 0.4, "ben": 0.3, "eve": 0.9}, "ann")]
)
def test_the_likeliest_to_be_right_of_those_that_finished_writes(p, writer):
    assert best_writer(panel_of(p=p)) == writer


def test_the_judge_is_not_on_the_panel():
    scores = {"ann": 0.9, "cyd": 0.2, "dan": 0.5}
    assert choose_judge(panel_of("ann", "ben", "cyd", "dan", scores=scores), expert=None) == "dan"
    assert choose_judge(panel_of("ann", "ben", "cyd", "dan"), expert=None) == "cyd"
    assert choose_judge(panel_of("ann", "ben", "cyd"), expert=None, avoid={"cyd"}) == "ann"


def test_who_failed_may_still_judge():
    assert choose_judge(panel_of("ann", "ben", "eve"), expert=None) == "eve"


def test_where_there_is_nobody_else_the_best_of_the_panel_judges():
    assert choose_judge(panel_of("ann", "ben", p={"ben": 0.7}), expert=None) == "ben"
    assert choose_judge(panel_of(), expert=None) == "ann"


def test_the_configured_judge_judges():
    assert choose_judge(panel_of("cyd"), expert="editor") == "editor"


def test_who_is_switched_off_or_sees_no_images_does_not_judge():
    one = panel_of("ann", "ben", "cyd", "dan")
    off = {**one.experts, "cyd": dataclasses.replace(one.experts["cyd"], is_enabled=False)}
    assert choose_judge(dataclasses.replace(one, experts=off), expert=None) == "dan"
    picture = Message(role="user", content=(ImagePart(url="data:x"),))
    query = dataclasses.replace(one.query, messages=(picture,))
    sees = {**one.experts, "dan": dataclasses.replace(one.experts["dan"], modalities=frozenset({"text", "image"}))}
    assert choose_judge(dataclasses.replace(one, query=query, experts=sees), expert=None) == "dan"
