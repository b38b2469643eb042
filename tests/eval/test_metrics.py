"""Accuracy, its interval and paired differences: known values and laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import accuracy, bootstrap_interval, paired_difference

GRADES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def test_accuracy_is_the_mean_grade():
    assert accuracy([1.0, 0.0, 0.5, 0.5]) == 0.5


def test_no_grades_is_an_error_and_not_a_zero():
    for measure in (accuracy, bootstrap_interval):
        with pytest.raises(ValueError, match="no grades"):
            measure([])


def test_the_interval_is_the_textbook_one_for_many_questions():
    grades = [1.0] * 480 + [0.0] * 520
    low, high = bootstrap_interval(grades)
    half_width = 1.96 * math.sqrt(0.48 * 0.52 / 1000)
    assert low == pytest.approx(0.48 - half_width, abs=0.004)
    assert high == pytest.approx(0.48 + half_width, abs=0.004)


def test_a_higher_level_gives_a_wider_interval():
    grades = [1.0, 0.0] * 50
    narrow, wide = bootstrap_interval(grades, level=0.8), bootstrap_interval(grades, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@settings(deadline=None)
@given(GRADES)
def test_the_interval_is_seeded_and_stays_among_the_grades(grades):
    low, high = bootstrap_interval(grades, resamples=150, seed=3)
    assert (low, high) == bootstrap_interval(grades, resamples=150, seed=3)
    assert min(grades) - 1e-9 <= low <= high <= max(grades) + 1e-9


def test_another_seed_draws_other_questions():
    grades = [0.0, 0.2, 0.7, 1.0, 0.4]
    assert bootstrap_interval(grades, seed=1) != bootstrap_interval(grades, seed=2)


def test_pairing_finds_a_difference_that_separate_intervals_hide():
    second = [float(i % 2) for i in range(200)]
    first = [1.0 if i % 20 == 0 else grade for i, grade in enumerate(second)]
    difference = paired_difference(first, second)
    assert difference.mean == pytest.approx(0.05)
    assert difference.low > 0
    assert bootstrap_interval(first)[0] < bootstrap_interval(second)[1]


def test_equal_strategies_differ_by_nothing():
    difference = paired_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)


def test_pairs_must_be_of_the_same_questions():
    with pytest.raises(ValueError, match="2 grades against 1"):
        paired_difference([1.0, 0.0], [1.0])
