"""Each expert's chance of being right as a regression over embeddings, calibrated on what it did not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.embedded import Vectors32, blocks
from router_service.recruit.strength import OVERALL_WEIGHT, Floats, shrunk_rate

__all__ = ["LEAST_FOR_ISOTONIC", "LEAST_FOR_REGRESSION", "ChanceModels", "Family", "Regressor", "calibration"]

Regressor = Literal["ridge", "logistic"]

LEAST_FOR_REGRESSION = 20
"""Graded questions below which an expert has one chance for every query: its smoothed rate."""
LEAST_FOR_ISOTONIC = 1000
"""Graded questions from which a step function calibrates better than a logistic curve (scikit-learn, user guide,
section on probability calibration)."""
_FOLDS = 5
_UNREGULARISED = 1e4
_LEAST_CHANCE = 1e-6
_NO_KNOTS: Floats = np.zeros((0, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChanceModels:
    """The models of all experts as arrays: a linear score (`coefficients`, shape (experts, dimension), and
    `intercepts`), then the logistic curve of it, or where `knots` are given the broken line through them."""

    coefficients: NDArray[np.float32]
    intercepts: Floats
    is_known: NDArray[np.bool_]
    knot_counts: NDArray[np.intp]
    knots: Floats

    @classmethod
    def fit(cls, vectors: Floats, grades: Floats, *, base: Floats, regressor: Regressor) -> Self:
        """Learn from questions as rows: `vectors` (questions, dimension) and `grades` (questions, experts), NaN where
        not asked. `base` is each expert's rate where there is too little to learn from, NaN where unknown.

        Each expert's model depends on its own grades alone. The strength of the regularisation is the one of the least
        squared error on left-out fifths of the questions, and the calibration is learned from those very predictions
        (Platt's logistic curve, or isotonic steps).
        """
        fitted = []
        for row, rate in zip(grades.T, base.tolist(), strict=True):
            is_asked = ~np.isnan(row)
            model = _fit_one(vectors[is_asked], row[is_asked], regressor)
            fitted.append(model or _flat(rate, vectors.shape[1]))
        return cls(
            coefficients=np.array([model.coefficients for model in fitted], dtype=np.float32),
            intercepts=np.array([model.intercept for model in fitted]),
            is_known=np.array([model.is_known for model in fitted]),
            knot_counts=np.array([len(model.knots) for model in fitted], dtype=np.intp),
            knots=np.concatenate([model.knots for model in fitted]),
        )

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The models that `arrays` gave."""
        return cls(**arrays)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it by name, for a file."""
        return {name: getattr(self, name) for name in self.__slots__}

    def chances(self, vectors: Vectors32) -> Floats:
        """P(correct), shape (vectors, experts), strictly between 0 and 1; NaN for experts with nothing learned."""
        scores = np.empty((len(vectors), len(self.intercepts)))
        for block in blocks(len(vectors)):
            scores[block] = np.einsum("bd,ed->be", vectors[block], self.coefficients)
        scores += self.intercepts
        chances = _sigmoid(scores)
        for expert, knots in self._stepped():
            chances[:, expert] = np.interp(scores[:, expert], knots[:, 0], knots[:, 1])
        chances = np.clip(chances, _LEAST_CHANCE, 1 - _LEAST_CHANCE)
        chances[:, ~self.is_known] = np.nan
        return chances

    def _stepped(self) -> Iterator[tuple[int, Floats]]:
        """The experts calibrated by a broken line, with its points, shape (points, 2)."""
        ends = np.cumsum(self.knot_counts)
        for expert in np.flatnonzero(self.knot_counts).tolist():
            yield expert, self.knots[ends[expert] - self.knot_counts[expert] : ends[expert]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """One expert's model; `knots` (points, 2) are empty where the logistic curve is its calibration."""

    coefficients: Floats
    intercept: float
    knots: Floats
    is_known: bool = True


def _flat(rate: float, dimension: int) -> _Model:
    """One chance for every query."""
    is_known = not math.isnan(rate)
    intercept = _logit(rate) if is_known else 0.0
    return _Model(coefficients=np.zeros(dimension), intercept=intercept, knots=_NO_KNOTS, is_known=is_known)


def _fit_one(vectors: Floats, grades: Floats, regressor: Regressor) -> _Model | None:
    """The model of one expert; None where there are too few grades, or the vectors say nothing about them."""
    if len(grades) < LEAST_FOR_REGRESSION or not 0 < grades.mean() < 1:
        return None
    family = _FAMILIES[regressor]
    trials = [(strength, _left_out_scores(vectors, grades, family, strength=strength)) for strength in family.strengths]
    strength, scores = min(trials, key=lambda trial: float(((family.chance(trial[1]) - grades) ** 2).mean()))
    slope, shift, knots = calibration(scores, grades)
    if slope <= 0:
        return None
    weights, intercept = family.train(vectors, grades, strength)
    return _Model(coefficients=slope * weights, intercept=slope * intercept + shift, knots=knots)


def _left_out_scores(vectors: Floats, grades: Floats, family: Family, *, strength: float) -> Floats:
    """Linear scores of every question by a model that did not see it: every fifth question is left out in turn."""
    folds = np.arange(len(grades)) % _FOLDS
    scores = np.empty(len(grades))
    for fold in range(_FOLDS):
        is_out = folds == fold
        weights, intercept = family.train(vectors[~is_out], grades[~is_out], strength)
        scores[is_out] = vectors[is_out] @ weights + intercept
    return scores


def calibration(scores: Floats, grades: Floats) -> tuple[float, float, Floats]:
    """What turns scores into chances: slope and shift of a logistic curve (Platt 1999, with his smoothed targets), or
    where there are `LEAST_FOR_ISOTONIC` scores slope 1 and the points of an isotonic line, none at 0 or 1. A slope of
    0 or less means that the scores say nothing."""
    count, wins = len(grades), float(grades.sum())
    if count >= LEAST_FOR_ISOTONIC:
        from sklearn.isotonic import IsotonicRegression

        line = IsotonicRegression(y_min=1 / (count + 2), y_max=1 - 1 / (count + 2), out_of_bounds="clip")
        line.fit(scores, grades)
        return 1.0, 0.0, np.column_stack([line.X_thresholds_, line.y_thresholds_])
    spread = float(scores.std())
    if spread == 0:
        return 0.0, 0.0, _NO_KNOTS
    targets = grades * (wins + 1) / (wins + 2) + (1 - grades) / (count - wins + 2)
    weights, shift = _train_logistic(scores[:, None] / spread, targets, _UNREGULARISED)
    return float(weights[0]) / spread, shift, _NO_KNOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of regression: how it is trained, giving weights and intercept, the strengths of regularisation to
    choose from, and how its linear score reads as a chance."""

    train: Callable[[Floats, Floats, float], tuple[Floats, float]]
    strengths: tuple[float, ...]
    chance: Callable[[Floats], Floats]


def _train_ridge(vectors: Floats, grades: Floats, strength: float) -> tuple[Floats, float]:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=strength).fit(vectors, grades)
    return np.asarray(model.coef_, dtype=np.float64), float(model.intercept_)


def _train_logistic(vectors: Floats, grades: Floats, strength: float) -> tuple[Floats, float]:
    """Grades between 0 and 1 count as so much of a right answer and the rest of a wrong one."""
    from sklearn.linear_model import LogisticRegression

    if not 0 < grades.mean() < 1:
        rate = float(shrunk_rate(grades.sum(), len(grades), prior=0.5, weight=OVERALL_WEIGHT))
        return np.zeros(vectors.shape[1]), _logit(rate)
    rows = np.concatenate([np.flatnonzero(grades > 0), np.flatnonzero(grades < 1)])
    is_right = np.arange(len(rows)) < np.count_nonzero(grades > 0)
    shares = np.where(is_right, grades[rows], 1 - grades[rows])
    model = LogisticRegression(C=strength, max_iter=1000).fit(vectors[rows], is_right, sample_weight=shares)
    return np.asarray(model.coef_[0], dtype=np.float64), float(model.intercept_[0])


def _logit(chance: float) -> float:
    return float(np.log(chance / (1 - chance)))


def _sigmoid(scores: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-scores)))


_FAMILIES: dict[Regressor, Family] = {
    "ridge": Family(train=_train_ridge, strengths=(1.0, 3.0, 10.0, 30.0, 100.0, 300.0), chance=lambda s: s),
    "logistic": Family(train=_train_logistic, strengths=(0.03, 0.1, 0.3, 1.0, 3.0), chance=_sigmoid),
}
