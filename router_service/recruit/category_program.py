"""The best category table by an integer program, for pools too large to look at every subset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from router_service.errors import ConfigError
from router_service.recruit.category_plan import TIE, CategoryPlan, CategoryProblem, plan_of
from router_service.recruit.strength import Floats

__all__ = ["plan_by_integer_program"]

_INFEASIBLE = 2  # as SciPy numbers how a program ended


def plan_by_integer_program(problem: CategoryProblem) -> CategoryPlan | None:
    """The best plan, by SciPy's HiGHS: 1 for each expert held and each (category, expert) used, solved for the value,
    then for the parameters held at that value, then for those active. None where no plan fits."""
    program = _Program(problem)
    goals = (program.value, program.total, program.active)
    experts: list[int] | None = None
    for goal in goals:
        experts = program.solve(goal)
        if experts is None:
            return None
        program.keep(goal, experts)
    assert experts is not None
    return plan_of(problem, experts)


class _Program:
    """The constraints so far; variables are the experts held, then category by category the expert used."""

    def __init__(self, problem: CategoryProblem) -> None:
        self._categories, self._experts = problem.scores.shape
        scale = max(1.0, float(problem.parameters_b.max()))
        sizes = problem.parameters_b / scale
        unheld, unused = np.zeros(self._experts), np.zeros(problem.scores.size)
        self.value: Floats = np.concatenate([unheld, -(problem.weights[:, None] * problem.scores).ravel()])
        self.total: Floats = np.concatenate([sizes, unused])
        self.active: Floats = np.concatenate([unheld, (problem.weights[:, None] * sizes).ravel()])
        self._rows: list[Floats] = []
        self._most: list[float] = []
        for goal, budget in ((self.total, problem.budget_total), (self.active, problem.budget_active)):
            if budget is not None:
                self._at_most(goal, budget / scale)

    def _at_most(self, row: Floats, most: float) -> None:
        self._rows.append(row)
        self._most.append(most)

    def keep(self, goal: Floats, experts: Sequence[int]) -> None:
        """Hold what was reached, so that the next goal only breaks ties."""
        self._at_most(goal, float(goal @ self._variables(experts)) + TIE / 10)

    def _variables(self, experts: Sequence[int]) -> Floats:
        point = np.zeros(self._experts * (1 + self._categories))
        point[list(experts)] = 1.0
        point[[self._experts * (1 + number) + expert for number, expert in enumerate(experts)]] = 1.0
        return point

    def solve(self, goal: Floats) -> list[int] | None:
        """The expert of each category that makes the goal least; None where nothing fits."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array, eye_array, hstack, kron

        n, c = self._experts, self._categories
        used = eye_array(c * n)
        each_category_once = hstack([csr_array((c, n)), kron(eye_array(c), np.ones((1, n)))])
        only_held = hstack([-kron(np.ones((c, 1)), eye_array(n)), used])
        constraints = [LinearConstraint(each_category_once, 1, 1), LinearConstraint(only_held, -np.inf, 0)]
        if self._rows:
            constraints.append(LinearConstraint(np.array(self._rows), -np.inf, np.array(self._most)))
        found = milp(
            goal,
            integrality=np.ones(n * (1 + c)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None and found.status != _INFEASIBLE:
            raise ConfigError(f"the integer program of the category table was not solved: {found.message}")
        return None if found.x is None else [int(row.argmax()) for row in found.x[n:].reshape(c, n)]
