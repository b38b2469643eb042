"""Which expert each category is sent to within a budget of parameters: CoE's table as a problem, and its plans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from router_service.recruit.strength import Floats

__all__ = ["TIE", "CategoryPlan", "CategoryProblem", "first_plan", "plan_of", "spendable"]

TIE = 1e-6
"""Values, and shares of a budget, that differ by less count as equal: what the integer program's solver can tell."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryProblem:
    """Mean `scores` (categories, experts), the `weights` of the categories (adding up to 1), the experts' sizes in
    billions, and the budgets in billions: of the experts held together, and of those active on average."""

    scores: Floats
    weights: Floats
    parameters_b: Floats
    budget_total: float | None = None
    budget_active: float | None = None

    def restricted(self, experts: Sequence[int]) -> CategoryProblem:
        """The problem with these experts alone."""
        return CategoryProblem(
            scores=self.scores[:, experts],
            weights=self.weights,
            parameters_b=self.parameters_b[list(experts)],
            budget_total=self.budget_total,
            budget_active=self.budget_active,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryPlan:
    """The expert of each category, the weighted mean score, and the billions of parameters held and active."""

    experts: tuple[int, ...]
    value: float
    total_b: float
    active_b: float

    @property
    def held(self) -> tuple[int, ...]:
        """The experts that some category is sent to, in order."""
        return tuple(sorted(set(self.experts)))


def plan_of(problem: CategoryProblem, experts: Sequence[int]) -> CategoryPlan:
    """The plan that sends each category to the expert named."""
    rows = np.arange(len(experts))
    sizes = problem.parameters_b[list(experts)]
    return CategoryPlan(
        experts=tuple(int(expert) for expert in experts),
        value=math.fsum((problem.weights * problem.scores[rows, list(experts)]).tolist()),
        total_b=math.fsum(problem.parameters_b[expert] for expert in set(experts)),
        active_b=math.fsum((problem.weights * sizes).tolist()),
    )


def first_plan(plans: Iterator[CategoryPlan]) -> CategoryPlan:
    """The best of some plans by value (up to `TIE`), parameters held, parameters active; the earliest of equals."""
    best = next(plans)
    for other in plans:
        if other.value < best.value - TIE:
            continue
        is_better = other.value > best.value + TIE
        key, least = _sizes(other), _sizes(best)
        best = other if is_better or key < least else best
    return best


def _sizes(found: CategoryPlan) -> tuple[float, float]:
    return round(found.total_b, 6), round(found.active_b, 6)


def spendable(budget: float | None) -> float:
    """The budget with room for rounding: three thirds of a billion fit into one."""
    return math.inf if budget is None else budget * (1 + _ROUNDING) + _ROUNDING
