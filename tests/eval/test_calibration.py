"""Calibration against hand-computed values, and its laws."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.calibration import calibration

PAIRS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=50)


def test_equal_mass_bins_by_hand():
    """Bins (.1, .3 -> 0, 0), (.6, .8 -> 1, 0): gaps .2 and .2; squares .01 + .09 + .16 + .64 over 4."""
    found = calibration([0.8, 0.1, 0.6, 0.3], [0.0, 0.0, 1.0, 0.0], bins=2)
    assert [(b.n, b.p_mean, b.correct_mean) for b in found.bins] == [
        (2, pytest.approx(0.2), 0.0),
        (2, pytest.approx(0.7), 0.5),
    ]
    assert found.ece == pytest.approx(0.2)
    assert found.brier == pytest.approx(0.225)


def test_a_bin_never_parts_equal_chances():
    found = calibration([0.5] * 9 + [0.9], [1.0, 0.0] * 5)
    assert [b.n for b in found.bins] == [9, 1]


def test_kept_chances_have_no_error():
    found = calibration([0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0])
    assert found.ece == pytest.approx(0.0)


@given(PAIRS, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_the_error_is_bounded(pairs, rng):
    shuffled = random.Random(rng.random()).sample(pairs, len(pairs))
    one, other = (calibration([p for p, _ in rows], [y for _, y in rows]) for rows in (pairs, shuffled))
    assert one.ece == pytest.approx(other.ece) and one.brier == pytest.approx(other.brier)
    assert 0 <= one.ece <= 1 and sum(b.n for b in one.bins) == one.n == len(pairs)
    assert one.ece**2 <= one.brier + 1e-9  # Jensen, bin by bin


def test_nothing_stated_is_nothing_to_judge():
    assert calibration([], []) is None
    with pytest.raises(ValueError, match="outside"):
        calibration([1.2], [1.0])
    with pytest.raises(ValueError, match="1 chances against 2"):
        calibration([0.5], [1.0, 0.0])
