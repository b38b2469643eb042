"""Logistic regression with a prior, and how likely one strategy is the better one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from router_service.estimation import WeightPrior, chance_better, fit_logistic, logit, sigmoid


def prior(*mean, precision=1.0, free=True):
    return WeightPrior(mean=mean, precision=[precision] * len(mean), may_be_negative=[free] * len(mean))


def test_without_data_the_prior_stays():
    assert fit_logistic(np.zeros((0, 2)), np.zeros(0), prior(0.5, -1.0)).tolist() == [0.5, -1.0]


def test_weights_are_found_again():
    random = np.random.default_rng(0)
    features = random.normal(size=(20_000, 2))
    grades = (random.random(20_000) < sigmoid(features @ np.array([1.5, -0.7]))).astype(float)
    assert fit_logistic(features, grades, prior(0.0, 0.0)).tolist() == pytest.approx([1.5, -0.7], abs=0.06)


def test_a_firm_prior_moves_little_and_a_bound_holds():
    features, grades = np.ones((100, 1)), np.zeros(100)
    assert fit_logistic(features, grades, prior(1.0, precision=1e6))[0] == pytest.approx(1.0, abs=1e-3)
    assert fit_logistic(features, grades, prior(1.0, free=False))[0] == 0.0
    assert fit_logistic(features, grades, prior(1.0))[0] < -2


def test_logit_and_sigmoid_are_inverse_and_safe():
    assert sigmoid(logit([0.1, 0.5, 0.9])).tolist() == pytest.approx([0.1, 0.5, 0.9])
    assert np.isfinite(logit([0.0, 1.0])).all() and sigmoid([-1e9, 1e9]).tolist() == [0.0, 1.0]


def test_how_likely_one_is_better():
    a, b = np.array([1.0, 1, 1, 0, 1, 1]), np.array([1.0, 0, 1, 0, 0, 1])
    z = (2 / 6) / (np.array([0, 1, 0, 0, 1, 0]).std(ddof=1) / math.sqrt(6))
    assert chance_better(a, b) == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))))
    assert chance_better(a, b) + chance_better(b, a) == pytest.approx(1.0)
    assert chance_better(a, a) == 0.5 and chance_better(a[:1], b[:1]) == 0.5
    assert chance_better(np.ones(3), np.zeros(3)) == 1.0
