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

from router_service.estimation import Floats
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

    A hard question makes everybody write more and err more, which says nothing of who is right on it. So the sign is
    that of the partial rank correlation (Spearman's) of an expert's lengths with its grades, given how long the other
    experts' completions of the same question were, each in its own standard deviations, and how right; where nobody
    else answered any of its questions, of the plain one. It is believed where its two-sided p value is at most `level`.
    """
    known = [outcome for outcome in outcomes if outcome.completion_tokens]
    logs = np.log1p([outcome.completion_tokens or 0 for outcome in known])
    grades = np.array([outcome.correct for outcome in known], dtype=np.float64)
    experts = _numbered(outcome.expert_id for outcome in known)
    questions = _numbered((outcome.dataset, outcome.question_id) for outcome in known)
    means, spreads = _mean(logs, experts), np.sqrt(_mean((logs - _mean(logs, experts)[experts]) ** 2, experts))
    standings = (logs - means[experts]) / np.where(spreads < _LEAST_SPREAD, np.inf, spreads)[experts]
    by_others = [_mean_of_others(values, questions, experts) for values in (standings, grades)]
    habits = {}
    for number, expert_id in enumerate(dict.fromkeys(outcome.expert_id for outcome in known)):
        rows = np.flatnonzero(experts == number)
        shared = rows[~np.isnan(by_others[0][rows])]
        given = [column[shared] for column in by_others] if len(shared) else []
        compared = shared if len(shared) else rows
        if len(compared) >= _FEWEST_OUTCOMES:
            sign = _sign(standings[compared], grades[compared], given, level=level)
            habits[expert_id] = LengthHabit(sign=sign, mean=float(means[number]), spread=float(spreads[number]))
    return habits


def _numbered(names: Iterable[object]) -> NDArray[np.intp]:
    """A number for each name, in order of first mention."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def _mean(values: Floats, groups: NDArray[np.intp]) -> Floats:
    return np.asarray(np.bincount(groups, weights=values) / np.maximum(np.bincount(groups), 1))


def _mean_of_others(values: Floats, questions: NDArray[np.intp], experts: NDArray[np.intp]) -> Floats:
    """Of each outcome, the mean of what the other experts' outcomes of its question have; NaN where there are none."""
    pairs = _numbered(zip(questions.tolist(), experts.tolist(), strict=True))
    others = np.bincount(questions)[questions] - np.bincount(pairs)[pairs]
    sums = np.bincount(questions, weights=values)[questions] - np.bincount(pairs, weights=values)[pairs]
    return np.where(others > 0, sums / np.maximum(others, 1), np.nan)


def _sign(lengths: Floats, grades: Floats, given: Sequence[Floats], *, level: float) -> int:
    """The sign of the rank correlation of what is left when each is regressed on the ranks of what is given; 0 where
    that may be chance (Student's t, with a degree of freedom less for everything given)."""
    from scipy.stats import rankdata, t

    ranks = np.stack([np.ones(len(lengths)), *map(rankdata, given)], axis=1)
    left = [
        values - ranks @ np.linalg.lstsq(ranks, values, rcond=None)[0] for values in map(rankdata, (lengths, grades))
    ]
    norms = [float(np.linalg.norm(each)) for each in left]
    freedom = len(lengths) - 2 - len(given)
    if min(norms) < _LEAST_SPREAD * len(lengths) or freedom < 1:
        return 0
    correlation = float(left[0] @ left[1]) / (norms[0] * norms[1])
    statistic = abs(correlation) * math.sqrt(freedom / max(1e-12, 1.0 - correlation**2))
    return int(np.sign(correlation)) if 2.0 * float(t.sf(statistic, freedom)) <= level else 0
