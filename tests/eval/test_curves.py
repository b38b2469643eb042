"""Curves against values worked out by hand, and the laws of hulls and thresholds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.curves import (
    aiq,
    apgr,
    cost_at_quality,
    cpt,
    mixed_quality,
    non_decreasing_hull,
    pareto_flags,
    pgr,
    share_points,
)
from eval.datasets import load_dataset
from eval.outcome_matrix import outcome_matrix
from tests.eval.recorded_dataset import recorded_folder

POINTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), min_size=1, max_size=15).map(
    lambda points: [(float(c), q / 10) for c, q in points]
)


def test_the_hull_runs_from_the_cheapest_to_the_best_point():
    points = [(1.0, 0.5), (2.0, 0.6), (3.0, 0.9), (4.0, 0.85), (5.0, 0.9)]
    assert non_decreasing_hull(points) == [(1.0, 0.5), (3.0, 0.9)]
    assert non_decreasing_hull([(2.0, 0.4)]) == [(2.0, 0.4)]
    assert non_decreasing_hull([]) == []


@given(POINTS)
def test_no_point_lies_above_the_hull_and_its_corners_are_points(points):
    hull = non_decreasing_hull(points)
    assert set(hull) <= set(points)
    for cost, quality in points:
        assert quality <= np.interp(cost, [p[0] for p in hull], [p[1] for p in hull]) + 1e-9
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(hull)]
    assert slopes == sorted(slopes, reverse=True) and all(slope > 0 for slope in slopes)


def test_pareto_points_are_those_that_nothing_beats():
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (2.0, 0.7), (3.0, 0.7), (4.0, 0.8)]
    assert pareto_flags(points) == [True, False, True, True, False, True]


@pytest.mark.parametrize(
    ("cost_min", "cost_max", "expected"),
    [
        (1.0, 3.0, 0.7),  # the trapezoid between .5 and .9
        (1.0, 5.0, 0.8),  # (2 * .7 + 2 * .9) / 4: level beyond the best point
        (0.0, 4.0, 0.575),  # (0 + 2 * .7 + 1 * .9) / 4: nothing is answered for less than the cheapest point
        (2.0, 3.0, 0.8),  # from .7 to .9
        (5.0, 6.0, 0.9),
    ],
)
def test_aiq_is_the_mean_height_of_the_hull(cost_min, cost_max, expected):
    points = [(1.0, 0.5), (2.0, 0.6), (3.0, 0.9)]
    assert aiq(points, cost_min=cost_min, cost_max=cost_max) == pytest.approx(expected)


def test_without_points_or_range_there_is_no_aiq():
    assert aiq([], cost_min=0, cost_max=1) is None
    assert aiq([(1.0, 0.5)], cost_min=1, cost_max=1) is None
    assert aiq([(9.0, 0.5)], cost_min=1, cost_max=2) == 0.0


def test_a_quality_is_reached_on_the_hull_at_the_least_cost():
    points = [(1.0, 0.5), (3.0, 0.9), (2.0, 0.6)]
    assert cost_at_quality(points, 0.7) == pytest.approx(2.0)
    assert cost_at_quality(points, 0.3) == 1.0
    assert cost_at_quality(points, 0.95) is None


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_a_mix_that_is_all_strong_costs_what_the_strong_model_costs(weak, strong):
    weak, strong = sorted((weak / 1000, strong / 1000))
    mix = [(1.0 + share, mixed_quality(weak, strong, share)) for share in (0.0, 0.5, 1.0)]
    assert cost_at_quality(mix, strong) == pytest.approx(2.0 if strong > weak else 1.0)


def test_a_last_digit_does_not_decide_whether_a_quality_is_reached():
    assert cost_at_quality([(1.0, 0.5), (2.0, 0.7 - 2e-16)], 0.7) == pytest.approx(2.0)


WEAK, STRONG = [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]
ADVANTAGE = [0.1, 0.9, 0.8, 0.2]
SHARES = [(1.0, 0.75), (0.75, 0.75), (0.5, 0.75), (0.25, 0.5), (0.0, 0.25)]


def test_thresholds_send_those_who_gain_most_to_the_strong_model():
    assert share_points(ADVANTAGE, WEAK, STRONG, cuts=4) == SHARES
    assert share_points([0.3] * 4, WEAK, STRONG) == [(1.0, 0.75), (0.0, 0.25)]


def test_gap_recovered_and_thresholds_by_hand():
    """PGR is 0, .5, 1, 1, 1 at shares 0, .25, .5, .75, 1."""
    assert [pgr(q, weak=0.25, strong=0.75) for _, q in reversed(SHARES)] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert apgr(SHARES, weak=0.25, strong=0.75) == pytest.approx(0.0625 + 0.1875 + 0.5)
    assert cpt(SHARES, 0.5, weak=0.25, strong=0.75) == pytest.approx(0.25)
    assert cpt(SHARES, 0.8, weak=0.25, strong=0.75) == pytest.approx(0.25 + 0.25 * 0.3 / 0.5)
    assert cpt(SHARES, 1.1, weak=0.25, strong=0.75) is None


def test_a_threshold_is_the_first_share_that_reaches_it_also_where_the_curve_falls_again():
    points = [(0.0, 0.0), (0.2, 0.6), (0.4, 0.3), (1.0, 1.0)]
    assert cpt(points, 0.5, weak=0.0, strong=1.0) == pytest.approx(0.2 * 5 / 6)


def test_random_routing_recovers_half_the_gap():
    ends = [(0.0, 0.4), (1.0, 0.8)]
    assert apgr(ends, weak=0.4, strong=0.8) == pytest.approx(0.5)
    assert cpt(ends, 0.8, weak=0.4, strong=0.8) == pytest.approx(0.8)


def test_without_a_gap_there_is_nothing_to_recover():
    with pytest.raises(ValueError, match="no gap"):
        pgr(0.5, weak=0.5, strong=0.5)
    with pytest.raises(ValueError, match="one share"):
        apgr([(0.5, 0.5)], weak=0.4, strong=0.6)


MAPPED = {  # gap in fit above which a subject goes to the strong model: share, accuracy, price mix at that share
    0.0: (0.9161, 0.8066, 0.7935),
    0.05: (0.8882, 0.8044, 0.7901),
    0.10: (0.5556, 0.7779, 0.7490),
    0.15: (0.3904, 0.7605, 0.7286),
    0.20: (0.1260, 0.7173, 0.6960),
    0.25: (0.0799, 0.7087, 0.6903),
}


def test_a_map_of_subjects_and_the_price_mix_come_out_as_counted_on_recorded_data():
    dataset = load_dataset(recorded_folder("routellm"))
    models = dataset.pools["pair"]
    fit, test = (
        outcome_matrix(dataset, [q for q in dataset.split(split) if q.category != "gsm8k"], models)
        for split in ("fit", "test")
    )
    strong = fit.best_model
    weak = 1 - strong
    assert test.grades.mean(axis=0)[[weak, strong]] == pytest.approx([0.680456, 0.803852], abs=1e-6)
    category = np.array([question.category for question in fit.questions])
    gap = fit.grades[:, strong] - fit.grades[:, weak]
    gaps = {name: gap[category == name].mean() for name in set(category.tolist())}
    advantage = np.array([gaps[question.category] for question in test.questions])
    for threshold, (share, accuracy, mix) in MAPPED.items():
        chosen = advantage > threshold
        assert chosen.mean() == pytest.approx(share, abs=5e-5)
        assert np.where(chosen, test.grades[:, strong], test.grades[:, weak]).mean() == pytest.approx(
            accuracy, abs=5e-5
        )
        assert mixed_quality(0.680456, 0.803852, chosen.mean()) == pytest.approx(mix, abs=5e-5)
