"""The category table's optimum: the paper's worked example, brute force, and two solvers that must agree."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.recruit.category_plan import CategoryProblem, plan_of
from router_service.recruit.category_program import plan_by_integer_program
from router_service.recruit.category_search import plan_by_enumeration
from tests.experts_registry.golden import golden

SOLVERS = (plan_by_enumeration, plan_by_integer_program)


def sizes(found):
    return None if found is None else (found.value, found.total_b, found.active_b)


def brute_force(problem):
    """Every table there is: the best by value, then parameters held, then active."""
    categories, experts = problem.scores.shape
    best = None
    for table in itertools.product(range(experts), repeat=categories):
        found = plan_of(problem, table)
        if found.total_b > (problem.budget_total or math.inf) + 1e-9:
            continue
        if found.active_b > (problem.budget_active or math.inf) + 1e-9:
            continue
        key = (-round(found.value, 7), round(found.total_b, 6), round(found.active_b, 6))
        if best is None or key < best[0]:
            best = (key, found)
    return None if best is None else best[1]


@st.composite
def problems(draw, *, most_experts=8, most_categories=6):
    """Scores on a coarse grid, so that ties are common; budgets from too small to no limit."""
    experts, categories = draw(st.integers(1, most_experts)), draw(st.integers(1, most_categories))
    counts = np.array(draw(st.lists(st.integers(1, 6), min_size=categories, max_size=categories)), dtype=float)
    grid = st.lists(st.integers(0, 8), min_size=experts, max_size=experts)
    rows = draw(st.lists(grid, min_size=categories, max_size=categories))
    return CategoryProblem(
        scores=np.array(rows) / 8,
        weights=counts / counts.sum(),
        parameters_b=np.array(draw(st.lists(st.integers(1, 12), min_size=experts, max_size=experts)), dtype=float),
        budget_total=draw(st.none() | st.integers(1, 40).map(float)),
        budget_active=draw(st.none() | st.integers(2, 26).map(lambda halves: halves / 2)),
    )


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize(
    ("section", "budget"), [("total_params_budget", "budget_total"), ("avg_active_budget", "budget_active")]
)
def test_the_worked_example(solve, section, budget):
    example = golden("coe")
    ids = list(example["params_B"])
    problem = CategoryProblem(
        scores=np.array([example["score"][i] for i in ids]).T,
        weights=np.array(example["weights"]),
        parameters_b=np.array([example["params_B"][i] for i in ids], dtype=float),
    )
    for billions, (table, value, *active) in example[section].items():
        found = solve(replace(problem, **{budget: float(billions)}))
        assert "".join(ids[expert] for expert in found.experts) == table
        assert found.value == pytest.approx(value, abs=1e-6)
        assert not active or found.active_b == pytest.approx(active[0], abs=1e-6)
    assert solve(replace(problem, **{budget: 6.9})) is None


@settings(max_examples=60, deadline=None)
@given(problems(most_experts=5, most_categories=5))
def test_enumeration_is_brute_force(problem):
    expected, found = sizes(brute_force(problem)), sizes(plan_by_enumeration(problem))
    assert (found is None) == (expected is None)
    assert found is None or found == pytest.approx(expected, abs=2e-6)


@settings(max_examples=80, deadline=None)
@given(problems())
def test_enumeration_and_integer_program_agree(problem):
    listed, programmed = (sizes(solve(problem)) for solve in SOLVERS)
    assert (listed is None) == (programmed is None)
    assert listed is None or listed == pytest.approx(programmed, abs=2e-6)


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(0, 20))
def test_a_larger_budget_is_worth_no_less(problem, more):
    less = plan_by_enumeration(problem)
    larger = replace(
        problem,
        budget_total=None if problem.budget_total is None else problem.budget_total + more,
        budget_active=None if problem.budget_active is None else problem.budget_active + more,
    )
    assert less is None or plan_by_enumeration(larger).value >= less.value - 1e-9


@settings(max_examples=60, deadline=None)
@given(problems())
def test_without_a_budget_it_is_the_oracle_of_categories(problem):
    free = plan_by_enumeration(replace(problem, budget_total=None, budget_active=None))
    assert free.value == pytest.approx(float(problem.weights @ problem.scores.max(axis=1)))


@pytest.mark.parametrize("solve", SOLVERS)
def test_ties_hold_less_then_run_less(solve):
    alike = CategoryProblem(
        scores=np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]),
        weights=np.array([0.5, 0.5]),
        parameters_b=np.array([9.0, 4.0, 5.0]),
        budget_total=20.0,
    )
    assert solve(alike).experts == (1, 1)
    both_held = replace(alike, scores=np.array([[0.9, 0.1, 0.1], [0.5, 0.5, 0.4]]))
    assert solve(both_held).experts == (0, 0)
    needed = replace(both_held, scores=np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.5, 0.5, 0.4]]))
    assert solve(replace(needed, weights=np.array([0.4, 0.4, 0.2]))).experts == (0, 1, 1)


def test_many_categories_are_searched_in_good_time():
    """57 categories, as MMLU has, and more tables than atoms: the bound has to cut nearly all of them."""
    rng = np.random.default_rng(0)
    strength = rng.uniform(0.3, 0.8, 12)
    problem = CategoryProblem(
        scores=np.clip(strength + rng.normal(0, 0.08, (57, 12)), 0, 1),
        weights=np.full(57, 1 / 57),
        parameters_b=np.round(5 + 100 * (strength - 0.3)),
        budget_active=20.0,
    )
    found = plan_by_enumeration(problem)
    assert found.active_b <= 20.0 + 1e-9
    assert found.value == pytest.approx(plan_by_integer_program(problem).value, abs=2e-6)
