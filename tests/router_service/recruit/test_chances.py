"""Calibrated P(correct): every source leaves a question's own grade out, and the model finds who is good where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router_service.errors import ConfigError
from router_service.recruit.base import FitData
from router_service.recruit.chances import Chances
from router_service.recruit.evidence import Kernel, Labels, gather_evidence
from router_service.types import SkillAnnotation
from tests.router_service.recruit.worlds import World

SPECIALISTS = World(accuracy=((0.9, 0.4, 0.5), (0.4, 0.9, 0.5)))


def without(data: FitData, question_id: str) -> FitData:
    return replace(data, outcomes=tuple(o for o in data.outcomes if o.question_id != question_id))


@pytest.mark.parametrize("kind", ["category", "skill", Kernel])
def test_leaving_out_is_like_never_having_seen_the_question(kind):
    data = SPECIALISTS.data(24)
    evidence = gather_evidence(data, name="test")
    row = 5
    fewer = gather_evidence(without(data, evidence.question_ids[row]), name="test")
    for source, other in zip(evidence.sources, fewer.sources, strict=True):
        if (isinstance(source, Labels) and source.kind == kind) or (kind is Kernel and isinstance(source, Kernel)):
            seen = other.rates_for([data.annotations[evidence.question_ids[row]]], evidence.rates)
            assert source.left_out(evidence.rates)[row] == pytest.approx(seen[0], abs=1e-6)


def test_an_empty_text_is_left_out_too():
    """Its vector is 0, so it is not even like itself."""
    rows, grades = np.eye(4, 3, dtype=np.float32), np.array([[0.0], [0.0], [0.0], [1.0]])
    found = Kernel(0.05, 10.0, rows, grades).left_out(np.array([0.5]))
    grades[3] = 0.0
    again = Kernel(0.05, 10.0, rows, grades).left_out(np.array([0.5]))
    assert found[3] == again[3]


def test_every_source_is_there_and_what_is_missing_is_left_out():
    data = SPECIALISTS.data(40)
    skills = {i: replace(a, skills={f"s{n}": 1.0}) for n, (i, a) in enumerate(data.annotations.items())}
    kinds = [getattr(s, "kind", "kernel") for s in gather_evidence(replace(data, annotations=skills), name="x").sources]
    assert kinds == ["category", "skill", "family", "kernel", "kernel"]
    bare = {i: SkillAnnotation(query_id=i) for i in data.annotations}
    evidence = gather_evidence(replace(data, annotations=bare, embed=None), name="x")
    assert evidence.sources == []
    chances = Chances.fit(replace(data, annotations=bare, embed=None), name="x").of([SPECIALISTS.request().annotation])
    assert chances[0] == pytest.approx(evidence.rates, abs=0.05)


def test_specialists_are_found_and_calibrated():
    chances = Chances.fit(SPECIALISTS.data(300), name="test")
    fresh = [(c, SPECIALISTS.annotation(f"n{i}", c, 5_000 + i)) for i in range(100) for c in (0, 1)]
    found = chances.of([annotation for _, annotation in fresh])
    for category in (0, 1):
        mean = found[[c == category for c, _ in fresh]].mean(axis=0)
        assert mean == pytest.approx(SPECIALISTS.accuracy[category], abs=0.08)
    assert ((found > 0) & (found < 1)).all()


def test_a_query_nothing_is_known_of_gets_the_global_rates():
    chances = Chances.fit(SPECIALISTS.data(300), name="test")
    found = chances.of([SkillAnnotation(query_id="q")])[0]
    assert found == pytest.approx(chances.evidence.rates, abs=0.06)


def test_it_is_the_same_alone_in_a_batch_and_after_saving():
    chances = Chances.fit(SPECIALISTS.data(80), name="test")
    annotations = [SPECIALISTS.annotation(f"n{i}", i % 2, 900 + i) for i in range(7)]
    together = chances.of(annotations)
    assert all((chances.of([a])[0] == row).all() for a, row in zip(annotations, together, strict=True))
    assert (Chances.relearned(chances.learned()).of(annotations) == together).all()


def test_an_expert_that_was_asked_little_stays_near_the_others_prior():
    data = SPECIALISTS.data(100)
    little = tuple(o for o in data.outcomes if o.expert_id != "e2" or o.question_id < "q0002")
    found = Chances.fit(replace(data, outcomes=little), name="test").of([SPECIALISTS.request().annotation])[0]
    assert 0.1 < found[2] < 0.9 and np.isfinite(found).all()


def test_nothing_graded_is_an_error():
    with pytest.raises(ConfigError, match=r"'test'.*enlist profile"):
        Chances.fit(FitData(experts=SPECIALISTS.data(2).experts), name="test")
