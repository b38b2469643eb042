"""The regressions behind `predicted_loss`: they learn, they are calibrated, and each expert stands alone."""

from __future__ import annotations

import numpy as np
import pytest

from router_service.recruit.loss_model import (
    LEAST_FOR_ISOTONIC,
    LEAST_FOR_REGRESSION,
    ChanceModels,
    calibration,
)

DIMENSION = 16


def rows(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def truth(vectors):
    """P(correct) of two experts, good on opposite sides of the first axis."""
    lean = 1 / (1 + np.exp(-8 * vectors[:, 0]))
    return np.column_stack([lean, 1 - lean])


def world(count, seed=0):
    vectors = rows(count, seed).astype(np.float64)
    chances = truth(vectors)
    grades = (np.random.default_rng(seed + 1).random(chances.shape) < chances).astype(float)
    return vectors, grades


def models(vectors, grades, regressor="ridge", base=None):
    rates = grades.mean(axis=0) if base is None else base
    return ChanceModels.fit(vectors, grades, base=np.asarray(rates), regressor=regressor)


@pytest.mark.parametrize("regressor", ["ridge", "logistic"])
@pytest.mark.parametrize("count", [300, LEAST_FOR_ISOTONIC + 200])
def test_they_learn_who_is_right_where(regressor, count):
    fitted = models(*world(count), regressor)
    queries = rows(500, seed=9)
    chances, true = fitted.chances(queries), truth(queries)
    assert ((chances - true) ** 2).mean() < 0.25 * ((true.mean(axis=0) - true) ** 2).mean()
    clear = np.abs(queries[:, 0]) > 0.1
    assert (chances.argmax(axis=1) == true.argmax(axis=1))[clear].mean() > 0.95


@pytest.mark.parametrize("count", [300, LEAST_FOR_ISOTONIC + 200])
def test_they_are_calibrated(count):
    """Among queries with like predictions, so many are answered right: the bias of ridge scores is gone."""
    chances = models(*world(count)).chances(rows(4000, seed=9))[:, 0]
    true = truth(rows(4000, seed=9))[:, 0]
    for low in np.arange(0.0, 1.0, 0.2):
        here = (chances >= low) & (chances < low + 0.2)
        assert here.sum() < 50 or abs(chances[here].mean() - true[here].mean()) < 0.08


def test_chances_do_not_depend_on_the_batch():
    fitted = models(*world(LEAST_FOR_ISOTONIC))
    queries = rows(700, seed=3)
    together = fitted.chances(queries)
    assert (together == np.concatenate([fitted.chances(row[None]) for row in queries])).all()
    assert (together[::-1] == fitted.chances(queries[::-1])).all()


@pytest.mark.parametrize("regressor", ["ridge", "logistic"])
def test_an_expert_stands_alone(regressor):
    vectors, grades = world(120)
    grades[::3, 1] = np.nan
    both, alone = models(vectors, grades, regressor, [0.5, 0.5]), models(vectors, grades[:, 1:], regressor, [0.5])
    queries = rows(50, seed=3)
    assert (both.chances(queries)[:, 1] == alone.chances(queries)[:, 0]).all()


def test_too_few_or_one_sided_grades_leave_the_rate():
    vectors, grades = world(60)
    grades[LEAST_FOR_REGRESSION - 1 :, 0] = np.nan
    grades[:, 1] = 1.0
    chances = models(vectors, grades, base=[0.4, 0.98]).chances(rows(5))
    assert chances == pytest.approx(np.tile([0.4, 0.98], (5, 1)))


def test_grades_without_pattern_leave_about_the_rate():
    vectors = rows(400).astype(np.float64)
    grades = (np.random.default_rng(5).random((400, 1)) < 0.3).astype(float)
    chances = models(vectors, grades).chances(rows(200, seed=2))
    assert chances.mean() == pytest.approx(grades.mean(), abs=0.03) and chances.std() < 0.08


@pytest.mark.parametrize("regressor", ["ridge", "logistic"])
def test_grades_may_be_parts(regressor):
    vectors = rows(200).astype(np.float64)
    chances = models(vectors, truth(vectors), regressor).chances(rows(200, seed=4))
    assert np.corrcoef(chances[:, 0], truth(rows(200, seed=4))[:, 0])[0, 1] > 0.9


def test_who_is_unknown_has_no_chance():
    vectors, grades = world(60)
    grades[:, 1] = np.nan
    chances = models(vectors, grades, base=[0.5, np.nan]).chances(rows(3))
    assert np.isnan(chances[:, 1]).all() and ((chances[:, 0] > 0) & (chances[:, 0] < 1)).all()


def test_calibration_turns_down_scores_that_say_nothing():
    rng = np.random.default_rng(0)
    grades = (rng.random(400) < 0.5).astype(float)
    assert calibration(np.zeros(400), grades)[0] == 0
    assert calibration(-grades + rng.normal(size=400), grades)[0] < 0
    slope, shift, knots = calibration(3 * grades + rng.normal(size=400), grades)
    assert slope > 0 and not len(knots) and 1 / (1 + np.exp(-(slope * 1.5 + shift))) == pytest.approx(0.5, abs=0.1)


def test_isotonic_steps_rise_and_reach_neither_end():
    grades = np.arange(LEAST_FOR_ISOTONIC) >= LEAST_FOR_ISOTONIC / 2
    slope, _, knots = calibration(np.arange(LEAST_FOR_ISOTONIC, dtype=float), grades.astype(float))
    assert slope == 1.0 and (np.diff(knots[:, 1]) >= 0).all()
    assert 0 < knots[0, 1] < 0.01 and 0.99 < knots[-1, 1] < 1
