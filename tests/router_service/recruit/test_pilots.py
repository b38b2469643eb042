"""RouterRetriever: the worked example that tells mean from maximum, whose question a tie is, and what pilots are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.embedded import NOTHING_LEARNED
from router_service.recruit.pilot_max import PilotMax
from router_service.recruit.pilot_mean import PilotMean, best_shares, pilot_scores
from tests.experts_registry.golden import golden
from tests.router_service.recruit.graded import graded, unit
from tests.router_service.recruit.pools import request

EAST, NORTH = (1.0, 0.0), (0.0, 1.0)
NO_COSTS = np.full(3, np.nan)


def decide(fitted, embedding, **controls):
    (decision,) = fitted.recruit([request(embedding=embedding, **controls)])
    return decision


@pytest.mark.parametrize("reading", ["mean", "max"])
def test_golden_scores(reading):
    case = golden("routerretriever")
    pilots = [pilot for own in case["pilots"].values() for pilot in own]
    starts = np.cumsum([0, *map(len, case["pilots"].values())])
    likeness = np.array([case["q"]]) @ np.array(pilots).T
    (scores,) = pilot_scores(likeness, starts, by_max=reading == "max")
    np.testing.assert_allclose(scores, list(case[reading].values()), atol=1e-9)


def test_golden_choice():
    """The same pilots, made from graded questions: e1 is best in two categories, e2 in one."""
    case = golden("routerretriever")
    vectors = [*case["pilots"]["e1"], *case["pilots"]["e2"]]
    data = graded(vectors, {"e1": [1, 1, 0], "e2": [0, 0, 1]}, categories=["x", "y", "z"])
    for strategy, reading, choice in ((PilotMean, "mean", "paper"), (PilotMax, "max", "released_code")):
        decision = decide(strategy(min_questions=1).fit(data), tuple(case["q"]))
        assert decision.scores == pytest.approx(case[reading], abs=1e-6)
        assert decision.recruits[0].expert_id == case[f"{choice}_choice"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.booleans(), st.data())
def test_given_the_pilots_removing_an_expert_changes_no_other_score(counts, by_max, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    likeness = rng.uniform(-1, 1, size=(3, sum(counts)))
    starts = np.cumsum([0, *counts])
    gone = data.draw(st.integers(0, len(counts) - 1))
    kept = np.delete(likeness, np.arange(starts[gone], starts[gone + 1]), axis=1)
    fewer = np.cumsum([0, *counts[:gone], *counts[gone + 1 :]])
    before = np.delete(pilot_scores(likeness, starts, by_max=by_max), gone, axis=1)
    np.testing.assert_array_equal(before, pilot_scores(kept, fewer, by_max=by_max))


def test_whose_a_tie_is():
    grades = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [np.nan, 0.5, 0.5]])
    costs = np.array([0.3, 0.2, 0.1])
    shares = {ties: best_shares(grades, ties=ties, costs_usd=costs).tolist() for ties in ("skip", "split", "first")}
    nobody = [0, 0, 0]
    assert shares["skip"] == [nobody, [0, 1, 0], nobody, nobody]
    assert shares["split"] == [[0.5, 0.5, 0], [0, 1, 0], nobody, [0, 0.5, 0.5]]
    assert shares["first"] == [[1, 0, 0], [0, 1, 0], nobody, [0, 1, 0]]
    assert best_shares(grades, ties="cheapest", costs_usd=costs).tolist() == [[0, 1, 0], [0, 1, 0], nobody, [0, 0, 1]]


def test_an_unknown_cost_is_not_the_cheapest():
    grades = np.array([[1.0, 1.0, 1.0]])
    assert best_shares(grades, ties="cheapest", costs_usd=np.array([np.nan, 9.0, np.nan])).tolist() == [[0, 1, 0]]
    assert best_shares(grades, ties="cheapest", costs_usd=NO_COSTS).tolist() == [[1, 0, 0]]


def test_a_pilot_is_the_mean_of_its_group():
    vectors = [EAST, unit(1, 1), NORTH, NORTH]
    data = graded(vectors, {"a": [1, 1, 0, 1], "b": [0, 0, 1, 1]}, categories=["x", "x", "x", "y"])
    fitted = PilotMean(ties="skip", min_questions=1).fit(data)
    np.testing.assert_allclose(fitted.pilots_, [unit(1 + 2**-0.5, 2**-0.5), NORTH], atol=1e-6)
    split = PilotMean(ties="split", min_questions=1).fit(data)
    assert split.starts_.tolist() == [0, 2, 4]
    assert PilotMean(ties="split", min_questions=2).fit(data).starts_.tolist() == [0, 1, 1]


def test_specialists_are_found_and_who_leads_nowhere_comes_last():
    grades = {"weak": [0.0] * 8, "north": [0.0] * 4 + [1.0] * 4, "east": [1.0] * 4 + [0.0] * 4}
    data = graded([EAST] * 4 + [NORTH] * 4, grades)
    for strategy in (PilotMean, PilotMax):
        fitted = strategy(k=3).fit(data)
        assert [r.expert_id for r in decide(fitted, unit(1, 0.2)).recruits[:2]] == ["east", "north"]
        assert decide(fitted, unit(0.2, 1), k=1).recruits[0].expert_id == "north"
        assert decide(fitted, NORTH, experts_allowed=("weak",)).fallback_reason == NOTHING_LEARNED


def test_where_every_question_is_a_tie_nothing_is_learned():
    fitted = PilotMean(ties="skip").fit(graded([EAST] * 4, {"a": [1.0] * 4, "b": [1.0] * 4}))
    assert decide(fitted, EAST).fallback_reason == NOTHING_LEARNED


@pytest.mark.parametrize("strategy", [PilotMean, PilotMax])
def test_senseless_options_are_refused(strategy):
    with pytest.raises(ConfigError, match="ties is 'last'; it is one of skip, split, cheapest, first"):
        strategy(ties="last")
    with pytest.raises(ConfigError, match="min_questions is 0"):
        strategy(min_questions=0)
