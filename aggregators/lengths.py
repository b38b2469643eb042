"""How long each expert's completions usually are, and whether its longer or its shorter ones tend to be right.

Complexity-based voting (Fu et al. 2023) takes long chains of thought for good ones. For models trained to reason the
opposite holds: length goes with failure. So the sign is measured, expert by expert.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_service.types import Outcome

__all__ = ["LengthHabit", "length_habits"]

_FEWEST_OUTCOMES = 10
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthHabit:
    """One expert's lengths: mean and spread of log(1 + completion tokens), and the sign of length, +1 where its longer
    completions are right more often, -1 where its shorter ones are, 0 where length says nothing."""

    sign: int
    mean: float
    spread: float

    def standing(self, tokens: int) -> float:
        """How long a completion is for this expert, in standard deviations; 0 where its lengths hardly differ."""
        return 0.0 if self.spread < _LEAST_SPREAD else (math.log1p(tokens) - self.mean) / self.spread


def length_habits(outcomes: Sequence[Outcome], *, level: float) -> dict[str, LengthHabit]:
    """The habits of every expert with at least 10 outcomes of known length.

    A hard question makes everybody write more and err more, which says nothing of who is right on it. So an outcome's
    length, in the expert's own standard deviations, and its grade are taken as differences from the means of all
    outcomes of the same question, wherever a question has several; the sign is that of their Spearman rank correlation
    where its two-sided p value is at most `level`.
    """
    known = [outcome for outcome in outcomes if outcome.completion_tokens]
    by_expert: dict[str, list[int]] = {}
    for row, outcome in enumerate(known):
        by_expert.setdefault(outcome.expert_id, []).append(row)
    logs = np.log1p([outcome.completion_tokens or 0 for outcome in known])
    standings, habits = np.zeros(len(known)), {}
    for expert_id, rows in by_expert.items():
        mean, spread = float(logs[rows].mean()), float(logs[rows].std())
        habits[expert_id] = LengthHabit(sign=0, mean=mean, spread=spread)
        standings[rows] = (logs[rows] - mean) / spread if spread >= _LEAST_SPREAD else 0.0
    grades = np.array([outcome.correct for outcome in known])
    questions = [(outcome.dataset, outcome.question_id) for outcome in known]
    lengths, is_shared = _differences(standings, questions)
    right, _ = _differences(grades, questions)
    signed = {}
    for expert_id, rows in by_expert.items():
        compared = [row for row in rows if is_shared[row]] or rows
        if len(compared) >= _FEWEST_OUTCOMES:
            sign = _sign(lengths[compared], right[compared], level)
            signed[expert_id] = LengthHabit(sign=sign, mean=habits[expert_id].mean, spread=habits[expert_id].spread)
    return signed


def _differences(
    values: NDArray[np.float64], questions: Iterable[object]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values less the mean of their question's, and which questions have several."""
    numbers: dict[object, int] = {}
    rows = np.array([numbers.setdefault(question, len(numbers)) for question in questions], dtype=np.intp)
    counts = np.bincount(rows, minlength=len(numbers))
    sums = np.bincount(rows, weights=values, minlength=len(numbers))
    is_shared = counts[rows] > 1
    return np.where(is_shared, values - sums[rows] / np.maximum(counts[rows], 1), values), is_shared


def _sign(lengths: NDArray[np.float64], grades: NDArray[np.float64], level: float) -> int:
    if np.ptp(lengths) < _LEAST_SPREAD or np.ptp(grades) < _LEAST_SPREAD:
        return 0
    from scipy.stats import spearmanr

    found = spearmanr(lengths, grades)
    return int(np.sign(found.statistic)) if found.pvalue <= level else 0
