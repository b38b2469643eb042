"""A low-rank bilinear model of grades: experts and questions as short vectors whose product says who will be right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.strength import Floats

__all__ = ["Bilinear", "Factors", "log_odds", "probability"]

_FOLDS = 5
_MOST_STEPS = 200
_START_SCALE = 0.1
"""Spread of the factors before the first step; at 0 their product would have no slope to follow."""
_STEEPEST = 1.5
"""The slope of the calibration goes no further: beyond 1 the model was too timid on questions it did not see."""
_RATES = (1e-3, 1.0 - 1e-3)
_SEED_BITS = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """`biases + weights @ embedding` are the experts' log-odds of being right: shapes (experts,), (experts, dimension).

    `slope` is what calibration multiplied the bilinear part by; 0 where it says nothing about new questions.
    """

    biases: Floats
    weights: Floats
    slope: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bilinear:
    """The log-odds that expert m is right on query q: `b_m + v_m . W e(q)` (RouteLLM, matrix factorisation).

    `e(q)` are the first `components` principal components of the embedding, scaled to a mean variance of 1; `v_m` and
    `W e(q)` have `rank` numbers. Trained on cross-entropy with the penalty `l2 / 2` times the squares of `v` and `W`,
    by L-BFGS from a start that the `seed` draws. The bilinear part is then multiplied by the slope that suits held-out
    questions best (of `_FOLDS` parts of them, each judged by a model of the others).
    """

    rank: int
    components: int
    l2: float
    seed: int = 0

    def fit(self, vectors: Floats, grades: Floats, base: Floats) -> Factors:
        """Learn from embeddings (questions, dimension), grades (questions, experts; NaN: not asked) and the experts'
        overall rates, towards whose log-odds their biases are held; an expert without a rate has NaN for a bias."""
        biases = log_odds(np.nan_to_num(base, nan=0.5))
        mean = vectors.mean(axis=0)
        axes = _principal_axes(vectors - mean, self.components)
        placed = (vectors - mean) @ axes.T
        slope = self._slope(placed, grades, biases)
        b, v, w = self._trained(placed, grades, biases)
        weights = slope * (v @ w @ axes)
        offsets = biases + (b - biases if slope > 0 else 0.0) - weights @ mean
        return Factors(biases=np.where(np.isnan(base), np.nan, offsets), weights=weights, slope=slope)

    def _slope(self, placed: Floats, grades: Floats, biases: Floats) -> float:
        """The slope of least cross-entropy on questions left out of the training; 0 for too few to leave any out."""
        from scipy.optimize import minimize_scalar

        if len(placed) < 2 * _FOLDS:
            return 0.0
        fold = np.random.Generator(np.random.PCG64(self.seed & _SEED_BITS)).permutation(len(placed)) % _FOLDS
        parts, sure = np.zeros_like(grades), np.zeros_like(grades)
        for number in range(_FOLDS):
            out = fold == number
            b, v, w = self._trained(placed[~out], grades[~out], biases)
            sure[out], parts[out] = b, placed[out] @ w.T @ v.T
        found = minimize_scalar(
            lambda slope: _cross_entropy(sure + slope * parts, grades), bounds=(0.0, _STEEPEST), method="bounded"
        )
        is_any_use = found.fun < _cross_entropy(sure, grades)
        return float(found.x) if is_any_use else 0.0

    def _trained(self, placed: Floats, grades: Floats, biases: Floats) -> tuple[Floats, Floats, Floats]:
        """Biases (experts,), expert vectors (experts, rank) and the projection (rank, components)."""
        from scipy.optimize import minimize

        experts, components = grades.shape[1], placed.shape[1]
        cut = experts, experts + experts * self.rank
        is_known = ~np.isnan(grades)
        wanted = np.where(is_known, grades, 0.0)

        def unpacked(values: Floats) -> tuple[Floats, Floats, Floats]:
            return (
                values[: cut[0]],
                values[cut[0] : cut[1]].reshape(experts, self.rank),
                values[cut[1] :].reshape(self.rank, components),
            )

        def loss(values: Floats) -> tuple[float, Floats]:
            b, v, w = unpacked(values)
            projected = placed @ w.T
            odds = b + projected @ v.T
            misses = np.where(is_known, probability(odds) - wanted, 0.0)
            drift = b - biases
            value = _cross_entropy(odds, grades) + 0.5 * self.l2 * float((v**2).sum() + (w**2).sum() + (drift**2).sum())
            slopes = [
                misses.sum(axis=0) + self.l2 * drift,
                (misses.T @ projected + self.l2 * v).ravel(),
                ((misses @ v).T @ placed + self.l2 * w).ravel(),
            ]
            return value, np.concatenate(slopes)

        chance = np.random.Generator(np.random.PCG64(self.seed & _SEED_BITS))
        factors = chance.normal(scale=_START_SCALE, size=(experts + components) * self.rank)
        start = np.concatenate([biases, factors])
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MOST_STEPS})
        return unpacked(np.asarray(found.x, dtype=np.float64))


def log_odds(rates: Floats) -> Floats:
    """`log(p / (1 - p))`, of rates held a little off 0 and 1."""
    held = np.clip(rates, *_RATES)
    return np.asarray(np.log(held / (1.0 - held)), dtype=np.float64)


def probability(odds: Floats) -> Floats:
    """The probability of these log-odds, strictly between 0 and 1; NaN stays NaN."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0))), dtype=np.float64)


def _cross_entropy(odds: Floats, grades: Floats) -> float:
    """Summed over the known grades, in nats."""
    return float(np.nansum(np.logaddexp(0.0, odds) - grades * odds))


def _principal_axes(centred: Floats, number: int) -> NDArray[np.float64]:
    """The first principal axes, at most `number`, scaled so that their components have a mean variance of 1."""
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    kept = axes[: min(number, len(axes))]
    spread = float(np.sqrt((sizes[: len(kept)] ** 2).mean() / max(1, len(centred)))) if len(kept) else 0.0
    return np.asarray(kept / spread if spread > 0 else kept, dtype=np.float64)
