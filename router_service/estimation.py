"""Estimates with their doubt: logistic regression with a prior, and how likely one strategy is the better one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "WeightPrior", "chance_better", "fit_logistic", "logit", "sigmoid"]

Floats = NDArray[np.float64]

_CLIP = 1e-3
"""Rates are held this far from 0 and 1 before their log-odds are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPrior:
    """Per weight: the value believed beforehand, how firmly (the precision of a Gaussian, in units of one question's
    information), and whether it may be negative."""

    mean: Sequence[float]
    precision: Sequence[float]
    may_be_negative: Sequence[bool]


def sigmoid(values: Any) -> Floats:
    """`1 / (1 + exp(-x))`, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(values, dtype=np.float64))))


def logit(rates: Any) -> Floats:
    """Log-odds of rates, which are held between 0.001 and 0.999 first."""
    held = np.clip(np.asarray(rates, dtype=np.float64), _CLIP, 1.0 - _CLIP)
    return np.asarray(np.log(held) - np.log1p(-held))


def fit_logistic(features: Floats, grades: Floats, prior: WeightPrior) -> Floats:
    """The weights that maximise the posterior: features (rows, weights), grades (rows,) in [0, 1]; L-BFGS-B.

    Deterministic. Grades between 0 and 1 count in part (cross-entropy).
    """
    from scipy.optimize import minimize

    mean, precision = np.asarray(prior.mean, dtype=np.float64), np.asarray(prior.precision, dtype=np.float64)

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = features @ weights
        value = float(np.sum(np.logaddexp(0.0, scores) - grades * scores))
        away = weights - mean
        slope = features.T @ (sigmoid(scores) - grades) + precision * away
        return value + 0.5 * float(np.sum(precision * away**2)), slope

    bounds = [(None if free else 0.0, None) for free in prior.may_be_negative]
    return np.asarray(minimize(loss, mean.copy(), jac=True, method="L-BFGS-B", bounds=bounds).x)


def chance_better(first: Floats, second: Floats) -> float:
    """The probability that the first strategy is truly better than the second, from their grades on the same questions:
    the paired t-test's normal approximation, read as a posterior under a flat prior. One half where they never
    differ."""
    difference = first - second
    if len(difference) < 2 or not difference.any():
        return 0.5
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    z = float(difference.mean()) / error if error > 0 else math.copysign(math.inf, float(difference.mean()))
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))
