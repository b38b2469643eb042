"""Fitting to a budget: the number first, then the best; against brute force."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.recruit.allowance import Allowance, allowance_of
from router_service.types import Budget
from tests.router_service.recruit.pools import LONGEST, expert, request

USD = LONGEST / 1e6
"""What one call of an expert at 1 USD per million tokens costs."""

shares = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 1 / 3, 0.7, 1.0, math.inf]), max_size=6).map(tuple)


@given(shares, st.integers(0, 6))
def test_as_many_as_any_choice_could_have(parts, most):
    allowance = Allowance(completions=most, shares=parts)
    positions = range(len(parts))
    best = max(
        len(subset)
        for size in range(min(most, len(parts)) + 1)
        for subset in itertools.combinations(positions, size)
        if math.fsum(parts[i] for i in subset) <= 1 + 1e-9
    )
    if not parts:
        best = 0
    chosen = allowance.best_first(list(positions))
    assert len(chosen) == best and math.fsum(parts[i] for i in chosen) <= 1 + 1e-9
    assert len(set(chosen)) == len(chosen)


@given(shares, st.integers(0, 6))
def test_the_choice_is_the_most_preferred_of_its_size(parts, most):
    """No other choice of the same size comes earlier when both are read in order of preference."""
    allowance = Allowance(completions=most, shares=parts)
    chosen = allowance.best_first(list(range(len(parts))))
    others = [
        subset
        for subset in itertools.combinations(range(len(parts)), len(chosen))
        if math.fsum(parts[i] for i in subset) <= 1 + 1e-9
    ]
    assert tuple(chosen) == min(others)


@given(shares, st.integers(0, 6), st.floats(1.0, 10.0))
def test_more_budget_never_means_fewer(parts, most, factor):
    less = Allowance(completions=most, shares=parts)
    more = Allowance(completions=most, shares=tuple(share / factor for share in parts))
    for repeats in (False, True):
        positions = list(range(len(parts)))
        assert less.count(positions, repeats=repeats) <= more.count(positions, repeats=repeats)


def test_three_thirds_fit():
    allowance = Allowance(completions=9, shares=(1 / 3, 1 / 3, 1 / 3, 1 / 3))
    assert allowance.best_first([3, 1, 0, 2]) == [3, 1, 0]
    assert allowance.count([0], repeats=True) == 3


def test_shares_are_of_the_scarcer_limit():
    pool = [expert("a"), expert("b", usd_per_mtok=4.0), expert("c", usd_per_mtok=None)]
    item = request(budget=Budget(max_cost_usd=8 * USD, max_output_tokens=4 * LONGEST, max_completions=2))
    allowance = allowance_of(item.query, pool, k=5)
    assert allowance.completions == 2
    assert allowance.shares == pytest.approx((0.25, 0.5, math.inf))


def test_a_longer_token_budget_makes_no_call_dearer():
    pool = [expert("a")]
    for limit in (10, 1000):
        item = request(budget=Budget(max_cost_usd=2 * USD, max_output_tokens=limit))
        assert allowance_of(item.query, pool, k=5).count([0], repeats=True) == (1 if limit == 10 else 2)
