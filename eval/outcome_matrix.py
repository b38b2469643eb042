"""Recorded outcomes as matrices, questions × models: what baselines, regret and curves are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.datasets import Dataset
from router_service.types import Question

__all__ = ["OutcomeMatrix", "outcome_matrix"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeMatrix:
    """Mean grade and mean cost in US dollars of each model on each question, shape (questions, models).

    What was not recorded is wrong and cost nothing; a cost that is unknown is NaN.
    """

    questions: tuple[Question, ...]
    models: tuple[str, ...]
    grades: Floats
    costs_usd: Floats

    @property
    def best_model(self) -> int:
        """The model with the highest mean grade; ties go to the earlier one."""
        return int(np.argmax(self.grades.mean(axis=0)))

    @property
    def mean_costs_usd(self) -> Floats:
        """Mean cost of each model, shape (models); NaN where one is unknown."""
        costs: Floats = self.costs_usd.mean(axis=0)
        return costs


def outcome_matrix(dataset: Dataset, questions: Sequence[Question], models: Sequence[str]) -> OutcomeMatrix:
    """The outcomes of these models on these questions; several samples of one are averaged."""
    grades = np.zeros((len(questions), len(models)))
    costs = np.zeros((len(questions), len(models)))
    for row, question in enumerate(questions):
        for column, model in enumerate(models):
            samples = dataset.recorded.get((question.id, model), ())
            if samples:
                grades[row, column] = sum(o.correct for o in samples) / len(samples)
                known = [o.cost_usd for o in samples if o.cost_usd is not None]
                costs[row, column] = sum(known) / len(known) if len(known) == len(samples) else np.nan
    return OutcomeMatrix(questions=tuple(questions), models=tuple(models), grades=grades, costs_usd=costs)
