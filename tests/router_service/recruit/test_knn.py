"""Nearest neighbours: the rule against its formula, its ends, and experts that were asked different questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.base import FitData
from router_service.recruit.embedded import OTHER_EMBEDDING
from router_service.recruit.knn import Knn, neighbour_weights
from router_service.recruit.scoring import NO_EMBEDDING
from tests.router_service.recruit.graded import graded, random_units, unit
from tests.router_service.recruit.pools import expert, request

EAST, NORTH = (1.0, 0.0), (0.0, 1.0)


def scores(data: FitData, embedding, **options):
    (decision,) = Knn(**options).fit(data).recruit([request(embedding=embedding)])
    return dict(decision.scores)


def by_hand(data: FitData, embedding, *, neighbours=80, prior_weight=10.0):
    """The formula, expert by expert and question by question."""
    found = {}
    for name, known in data.profiles.items():
        grades = {o.question_id: o.correct for o in data.outcomes if o.expert_id == name}
        likeness = {i: float(np.dot(data.annotations[i].embedding, embedding)) for i in grades}
        least = sorted(likeness.values())[-neighbours:][0]
        weights = {i: max(0.0, like) for i, like in likeness.items() if like >= least - 1e-6}
        wins = sum(weights[i] * grades[i] for i in weights)
        found[name] = (wins + prior_weight * known.overall.rate()) / (sum(weights.values()) + prior_weight)
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 15), st.integers(1, 15), st.floats(0.1, 30), st.data())
def test_arrays_and_formula_agree(number, neighbours, prior_weight, data):
    marks = st.sampled_from([0.0, 0.5, 1.0])
    grades = {
        "a": data.draw(st.lists(marks, min_size=number, max_size=number)),
        "b": data.draw(st.lists(marks, min_size=number, max_size=number)),
        "c": [data.draw(marks), *data.draw(st.lists(st.none() | marks, min_size=number - 1, max_size=number - 1))],
    }
    vectors = random_units(number + 1, 3, seed=data.draw(st.integers(0, 999)))
    fit_on = graded(vectors[1:], grades)
    options = {"neighbours": neighbours, "prior_weight": prior_weight}
    assert scores(fit_on, vectors[0], **options) == pytest.approx(by_hand(fit_on, vectors[0], **options), abs=1e-5)


def test_one_neighbour_is_the_nearest_question():
    data = graded([EAST, NORTH, unit(1, 1)], {"a": [1, 0, 0], "b": [0, 1, 1]})
    options = {"neighbours": 1, "prior_weight": 1e-6}
    assert scores(data, unit(3, 1), **options) == pytest.approx({"a": 1, "b": 0}, abs=1e-4)
    assert scores(data, unit(1, 9), **options) == pytest.approx({"a": 0, "b": 1}, abs=1e-4)


def test_a_heavy_prior_is_the_best_single_expert():
    data = graded([EAST, NORTH, NORTH], {"a": [1, 0, 0], "b": [0, 1, 1]})
    overall = {name: known.overall.rate() for name, known in data.profiles.items()}
    assert scores(data, EAST, prior_weight=1e9) == pytest.approx(overall, abs=1e-6)


def test_questions_of_equal_likeness_all_count():
    likeness = np.array([[0.5, 0.9, 0.5, -0.2]], dtype=np.float32)
    assert neighbour_weights(likeness, 2).tolist() == neighbour_weights(likeness, 3).tolist()
    np.testing.assert_allclose(neighbour_weights(likeness, 2), [[0.5, 0.9, 0.5, 0]])
    np.testing.assert_allclose(neighbour_weights(likeness, 9), [[0.5, 0.9, 0.5, 0]])
    np.testing.assert_allclose(neighbour_weights(likeness, 1), [[0, 0.9, 0, 0]])


def test_who_was_asked_little_is_judged_by_what_it_was_asked():
    """Its neighbours are the nearest of its own questions, so a few dozen answers place a new expert."""
    vectors = [*[unit(1, 0.01 * n) for n in range(10)], NORTH]
    data = graded(vectors, {"old": [1.0] * 10 + [0.0], "new": [None] * 10 + [1.0]})
    found = scores(data, unit(0.6, 0.8), neighbours=1, prior_weight=0.01)
    assert found["new"] > 0.98 and found["old"] < 0.05
    assert scores(data, EAST, neighbours=1)["new"] == pytest.approx(data.profiles["new"].overall.rate())


def test_the_score_is_p_correct_where_there_is_a_profile():
    data = graded([EAST, NORTH], {"a": [1, 0], "b": [0, 1]})
    pool = replace(data, profiles={"a": data.profiles["a"]})
    (decision,) = Knn(k=2).fit(pool).recruit([request(embedding=EAST)])
    by_id = {recruit.expert_id: recruit for recruit in decision.recruits}
    assert by_id["a"].p_correct == by_id["a"].score and by_id["b"].p_correct is None and by_id["b"].score > 0


def test_an_expert_without_answers_goes_by_its_profile_and_one_with_neither_comes_last():
    data = graded([EAST] * 3, {"a": [0, 0, 0], "b": [1, 1, 1]})
    data = replace(data, outcomes=tuple(o for o in data.outcomes if o.expert_id == "a"))
    pool = replace(data, experts=(expert("stranger"), *data.experts))
    (decision,) = Knn(k=3).fit(pool).recruit([request(embedding=EAST)])
    assert [recruit.expert_id for recruit in decision.recruits] == ["b", "a", "stranger"]
    assert decision.scores["b"] == pytest.approx(0.8) and decision.scores["stranger"] == 0


def test_a_fallback_has_its_reason():
    fitted = Knn().fit(graded([EAST, NORTH], {"a": [0, 0], "b": [1, 1]}))
    for embedding, reason in ((None, NO_EMBEDDING), ((1.0,), OTHER_EMBEDDING)):
        (decision,) = fitted.recruit([request(embedding=embedding)])
        assert (decision.fallback_reason, decision.recruits[0].expert_id) == (reason, "b")
        assert decision.recruits[0].p_correct == pytest.approx(0.75)


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"prior_weight": 0.0}])
def test_senseless_options_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"knn.*{name} is"):
        Knn(**options)
