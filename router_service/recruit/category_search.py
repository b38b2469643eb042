"""The best category table by looking at every subset of the experts, and label by label where few may be active."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.category_plan import TIE, CategoryPlan, CategoryProblem, first_plan, plan_of, spendable
from router_service.recruit.strength import Floats

__all__ = ["MOST_ENUMERATED", "plan_by_enumeration"]

MOST_ENUMERATED = 20
"""Experts up to which every subset is looked at, as in CoE: a million subsets."""
_ROUNDING = 1e-9


def plan_by_enumeration(problem: CategoryProblem) -> CategoryPlan | None:
    """The best plan, by looking at every subset of the experts; time and memory grow as 2 to their number.

    Without a limit on the active parameters a subset's best plan is the best member for each category. With one, the
    best plan within a subset is searched for label by label (`_Labels`), only in the largest subsets that fit, the most
    promising first: a bound with the budget's price in it (`_price`) says which cannot win any more.
    """
    totals = _subset_sums(problem.parameters_b)
    fits = totals <= spendable(problem.budget_total)
    fits[0] = False
    if not fits.any():
        return None
    if problem.budget_active is not None:
        return _plan_in_largest(problem, np.flatnonzero(fits & ~_has_room(totals, problem)))
    values = _subset_values(problem.scores, problem.weights)
    near = np.flatnonzero(fits & (values >= values[fits].max() - TIE))
    return first_plan(_nearest_best(problem, int(subset)) for subset in near[_least(totals[near])])


def _plan_in_largest(problem: CategoryProblem, largest: NDArray[np.intp]) -> CategoryPlan | None:
    """The best plan within one of these subsets that keeps to the budget of active parameters."""
    price = _price(problem)
    if price is None:
        return None
    priced = problem.scores - price * problem.parameters_b
    bounds = _subset_values(priced, problem.weights)[largest] + price * spendable(problem.budget_active)
    best: CategoryPlan | None = None
    for place in np.argsort(-bounds, kind="stable").tolist():
        if best is not None and bounds[place] < best.value - TIE:
            break
        members = _members(int(largest[place]))
        found = _Labels(problem.restricted(members), -math.inf if best is None else best.value).best()
        if found is not None:
            own = plan_of(problem, [members[label] for label in found])
            best = own if best is None else first_plan(iter((best, own)))
    return best


def _subset_sums(amounts: Floats) -> Floats:
    """The sum over every subset; bit i of a subset's number is expert i."""
    sums = np.zeros(1)
    for amount in amounts.tolist():
        sums = np.concatenate([sums, sums + amount])
    return sums


def _subset_values(scores: Floats, weights: Floats) -> Floats:
    """The weighted mean of the best member's score over the categories, for every subset; -inf for the empty one."""
    values = np.zeros(2 ** scores.shape[1])
    for row, weight in zip(scores, weights.tolist(), strict=True):
        best = np.full(1, -np.inf)
        for score in row.tolist():
            best = np.concatenate([best, np.maximum(best, score)])
        values[1:] += weight * best[1:]
    values[0] = -np.inf
    return values


def _has_room(totals: Floats, problem: CategoryProblem) -> NDArray[np.bool_]:
    """Whether a subset could take one more expert and still fit."""
    limit = spendable(problem.budget_total)
    subsets = np.arange(len(totals))
    has_room = np.zeros(len(totals), dtype=bool)
    for expert, amount in enumerate(problem.parameters_b.tolist()):
        has_room |= ((subsets >> expert) & 1 == 0) & (totals + amount <= limit)
    return has_room


def _members(subset: int) -> list[int]:
    return [expert for expert in range(subset.bit_length()) if subset >> expert & 1]


def _least(totals: Floats) -> NDArray[np.bool_]:
    """Which of the totals are the least, up to rounding."""
    return np.asarray(totals <= totals.min() + _ROUNDING * max(1.0, float(totals.min())))


def _nearest_best(problem: CategoryProblem, subset: int) -> CategoryPlan:
    """The best member for each category, equals by fewer parameters, then the pool's order."""
    members = _members(subset)
    own = problem.scores[:, members]
    is_best = own >= own.max(axis=1, keepdims=True) - _ROUNDING
    sizes = np.where(is_best, problem.parameters_b[members], np.inf)
    return plan_of(problem, [members[place] for place in sizes.argmin(axis=1)])


# --- active parameters ---------------------------------------------------------------------------------------------


def _price(problem: CategoryProblem) -> float | None:
    """The score that a billion active parameters is worth where the budget is all but spent (its Lagrange multiplier);
    None where even the smallest expert everywhere is too large."""
    limit = spendable(problem.budget_active)
    if problem.parameters_b.min() * problem.weights.sum() > limit:
        return None

    def active(price: float) -> float:
        priced = problem.scores - price * problem.parameters_b
        is_best = priced >= priced.max(axis=1, keepdims=True) - _ROUNDING * max(1.0, price)
        return float((problem.weights * np.where(is_best, problem.parameters_b, np.inf).min(axis=1)).sum())

    if active(0.0) <= limit:
        return 0.0
    low, high = 0.0, 1.0
    while active(high) > limit and high < 1e12:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if active(middle) <= limit else (middle, high)
    return high


class _Labels:
    """The best plan within the budget of active parameters, category by category: a label is a plan for the first
    categories with its value, its active parameters and its experts (as bits).

    A label is dropped where the parameters left do not suffice, where the bound of what can still come is below the
    best plan known, and where another label of the same experts is no worse in value and in parameters.
    """

    def __init__(self, problem: CategoryProblem, floor: float) -> None:
        self._problem = problem
        self._limit = spendable(problem.budget_active)
        self._gains = problem.weights[:, None] * problem.scores
        self._loads = problem.weights[:, None] * problem.parameters_b
        self._floor = floor

    def best(self) -> tuple[int, ...] | None:
        """The experts by category; None where no plan fits, or none reaches the floor.

        Searched twice: for the value alone, then with that as the floor for the experts that reach it.
        """
        price = _price(self._problem)
        if price is None:
            return None
        values, _ = self._search(price, max(self._floor, self._cheap_value(price)), by_subset=False)
        if not len(values):
            return None
        values, choices = self._search(price, float(values.max()), by_subset=True)
        near = np.flatnonzero(values >= values.max() - TIE)
        plans = (plan_of(self._problem, choices[label].tolist()) for label in near.tolist())
        return first_plan(plans).experts

    def _search(self, price: float, floor: float, *, by_subset: bool) -> tuple[Floats, NDArray[np.int8]]:
        """Values and choices of the labels left at the end. Without `by_subset` all labels compete with each other,
        whatever their experts."""
        later_gains, later_loads = self._later(price)
        values, loads = np.zeros(1), np.zeros(1)
        subsets, choices = np.zeros(1, dtype=np.int64), np.zeros((1, 0), dtype=np.int8)
        experts = np.arange(self._gains.shape[1])
        for number in range(len(self._gains)):
            values = (values[:, None] + self._gains[number]).ravel()
            loads = (loads[:, None] + self._loads[number]).ravel()
            subsets = (subsets[:, None] | (by_subset << experts)).ravel()
            bound = values + later_gains[number + 1] + price * (self._limit - loads)
            alive = np.flatnonzero((loads + later_loads[number + 1] <= self._limit) & (bound >= floor - TIE))
            alive = alive[_undominated(values[alive], loads[alive], subsets[alive])]
            parents = choices[alive // len(experts)]
            choices = np.concatenate([parents, (alive % len(experts))[:, None].astype(np.int8)], axis=1)
            values, loads, subsets = values[alive], loads[alive], subsets[alive]
        return values, choices

    def _later(self, price: float) -> tuple[Floats, Floats]:
        """From each category on: the most value at that price for parameters, and the least parameters."""
        gains = (self._gains - price * self._loads).max(axis=1)
        loads = self._loads.min(axis=1)
        return np.append(np.cumsum(gains[::-1])[::-1], 0.0), np.append(np.cumsum(loads[::-1])[::-1], 0.0)

    def _cheap_value(self, price: float) -> float:
        """The value of a plan that fits: the best expert of each category at that price, the smaller of equals."""
        priced = self._gains - price * self._loads
        is_best = priced >= priced.max(axis=1, keepdims=True) - _ROUNDING * self._problem.weights[:, None] * max(
            1, price
        )
        places = np.where(is_best, self._loads, np.inf).argmin(axis=1)
        rows = np.arange(len(places))
        return float(self._gains[rows, places].sum()) if self._loads[rows, places].sum() <= self._limit else -math.inf


def _undominated(values: Floats, loads: Floats, subsets: NDArray[np.int64]) -> NDArray[np.intp]:
    """The labels that no other one of the same experts beats in both value and load; the earliest of equals."""
    order = np.lexsort((np.arange(len(values)), loads, -values, subsets))
    kept = []
    subset, least = -1, math.inf
    for label in order.tolist():
        if subsets[label] != subset:
            subset, least = int(subsets[label]), math.inf
        if loads[label] < least - _ROUNDING:
            kept.append(label)
            least = float(loads[label])
    return np.array(sorted(kept), dtype=np.intp)
