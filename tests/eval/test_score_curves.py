"""Curves of a recruiter's scores against what trading and counting by hand give."""

from __future__ import annotations

import numpy as np
import pytest

from eval.decision_times import time_decisions
from eval.score_curves import mix_curve, model_curve, recruiter_curve, score_matrix, share_curve, strategy_curves
from router_service.recruit.base import RecruitRequest
from router_service.types import RouteDecision, SkillAnnotation, user_query
from tests.eval.test_baselines import matrix
from tests.eval.test_results import ROW

PRICES = [[0.001, 0.003]] * 4
FIT = matrix([[0, 1], [1, 1], [0, 1], [0, 0]], costs=PRICES, split="fit")
TEST = matrix([[1, 1], [0, 1], [0, 1], [0, 0]], costs=PRICES)
SCORES = np.array([[0.5, 0.6], [0.1, 0.9], [0.2, 0.8], [0.3, 0.5]])


def test_scores_come_from_the_decisions_and_who_has_none_is_never_chosen():
    decisions = [
        RouteDecision(query_id="q", recruits=(), recruiter="r", scores={"a": 0.2, "b": 0.7}),
        RouteDecision(query_id="r", recruits=(), recruiter="r", scores={"b": 0.1, "c": float("nan")}),
    ]
    assert score_matrix(decisions, ("a", "b", "c")).tolist() == [[0.2, 0.7, -np.inf], [-np.inf, 0.1, -np.inf]]


def test_a_rising_price_of_money_moves_the_least_sure_questions_first():
    """b costs 2 more; gaps .1, .8, .6, .2: they change sides at rates 50, 400, 300, 100 per dollar."""
    curve = recruiter_curve("d", "p", "r", scores=SCORES, fit=FIT, test=TEST)
    assert [(round(p.cost, 9), p.quality) for p in curve.points] == [
        (1.0, 0.25),
        (1.5, 0.5),
        (2.0, 0.75),
        (2.5, 0.75),
        (3.0, 0.75),
    ]
    assert [(round(cost, 9), quality) for cost, quality in curve.hull] == [(1.0, 0.25), (2.0, 0.75)]
    assert [p.is_pareto for p in curve.points] == [True, True, True, False, False]


def test_equal_scores_are_a_single_point_or_the_cheapest():
    curve = recruiter_curve("d", "p", "r", scores=np.zeros((4, 2)), fit=FIT, test=TEST)
    assert [(p.cost, p.quality) for p in curve.points] == [(1.0, 0.25)]


def test_an_unknown_cost_or_a_question_without_scores_leaves_no_curve():
    unknown = matrix([[1, 1]] * 4, costs=[[0.001, np.nan]] * 4)
    assert recruiter_curve("d", "p", "r", scores=SCORES, fit=FIT, test=unknown) is None
    blind = SCORES.copy()
    blind[2] = -np.inf
    assert recruiter_curve("d", "p", "r", scores=blind, fit=FIT, test=TEST) is None
    assert mix_curve("d", "p", fit=FIT, test=unknown) is None
    assert [p.label for p in model_curve("d", "p", unknown).points] == ["a"]


def test_two_models_are_judged_by_the_gap_recovered():
    """Thresholds at every quantile of the gaps .1 .2 .6 .8 part the questions as 4, 3, 2, 1 and 0 strong ones."""
    curve = share_curve("d", "p", "r", scores=SCORES, fit=FIT, test=TEST)
    assert (curve.weak, curve.strong, curve.weak_quality, curve.strong_quality) == ("a", "b", 0.25, 0.75)
    assert {(p.share, p.quality, p.pgr) for p in curve.points} == {
        (0.0, 0.25, 0.0),
        (0.25, 0.5, 0.5),
        (0.5, 0.75, 1.0),
        (0.75, 0.75, 1.0),
        (1.0, 0.75, 1.0),
    }
    assert (curve.apgr, curve.cpt50, curve.cpt80) == (pytest.approx(0.75), 0.25, pytest.approx(0.4))


def test_more_models_or_no_gap_have_no_share_curve():
    three = matrix([[1, 1, 0]] * 4)
    assert share_curve("d", "p", "r", scores=np.zeros((4, 3)), fit=three, test=three) is None
    assert share_curve("d", "p", "r", scores=SCORES, fit=FIT, test=matrix([[1, 0]] * 4)) is None


def test_the_price_mix_is_a_straight_line_from_the_cheapest_to_the_best():
    curve = mix_curve("d", "p", fit=FIT, test=TEST)
    assert len(curve.points) == 11
    for share, point in zip(np.linspace(0, 1, 11), curve.points, strict=True):
        assert (point.cost, point.quality) == (pytest.approx(1 + 2 * share), pytest.approx(0.25 + 0.5 * share))
    assert mix_curve("d", "p", fit=matrix([[1, 0]], costs=[[1, 2]], split="fit"), test=TEST) is None


def test_the_rows_of_a_recruiter_are_a_curve_where_their_cost_is_known():
    rows = [
        ROW.model_copy(update={"cost_usd_per_1k": cost, "k": k, "is_shuffled": shuffled})
        for cost, k, shuffled in ((2.0, 3, False), (1.0, None, False), (None, 5, False), (9.0, 3, True))
    ]
    [curve] = strategy_curves(rows)
    assert [p.label for p in curve.points] == ["majority, k = free", "majority, k = 3"]
    assert curve.kind == "strategies"


class Counting:
    """A recruiter that notes how many requests it was shown at a time."""

    needs_annotation = False

    def __init__(self):
        self.batches = []

    def fit(self, data):
        return self

    def recruit(self, requests):
        self.batches.append(len(requests))
        return [RouteDecision(query_id=r.query.id, recruits=(), recruiter="counting") for r in requests]


def test_deciding_is_timed_alone_and_together():
    requests = [
        RecruitRequest(query=user_query(f"q{i}", "?"), annotation=SkillAnnotation(query_id=f"q{i}")) for i in range(50)
    ]
    recruiter = Counting()
    times = time_decisions(recruiter, requests, singles=20)
    assert recruiter.batches == [1] * 10 + [50] + [1] * 17  # every third of 50
    assert [decision.query_id for decision in times.decisions] == [f"q{i}" for i in range(50)]
    assert 0 <= times.median_ms <= times.p99_ms
    assert times.decisions_per_s > 0
