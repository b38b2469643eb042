"""Matrix factorisation: what the bilinear model finds, what it must not find, and RouteLLM's threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router_service.errors import ConfigError, NotFittedError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.factors import Bilinear, log_odds, probability
from router_service.recruit.matrix_factorisation import MatrixFactorisation
from tests.router_service.recruit.pools import DIMENSION, recruiter, request
from tests.router_service.recruit.waves import recorded_pool

SIZE = 240


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def placed(pool: FitData, rows: np.ndarray) -> FitData:
    annotations = {
        question_id: replace(annotation, embedding=tuple(row))
        for (question_id, annotation), row in zip(sorted(pool.annotations.items()), rows.tolist(), strict=True)
    }
    return replace(pool, annotations=annotations)


def two_sided_pool(seed: int = 0, *, shuffled: bool = False) -> FitData:
    """`left` is right where the first coordinate is negative, `right` where it is not; `steady` on every third."""
    rows = unit_rows(SIZE, seed)
    sides = rows[:, 0] < 0
    if shuffled:
        sides = np.random.default_rng(seed + 1).permutation(sides)
    answers = {
        "left": ["A" if side else "B" for side in sides],
        "right": ["B" if side else "A" for side in sides],
        "steady": ["A" if number % 3 else "B" for number in range(SIZE)],
    }
    return placed(recorded_pool(answers, ["A"] * SIZE), rows)


def test_a_planted_difference_is_found_on_new_questions():
    fitted = recruiter("matrix_factorisation", two_sided_pool(), l2=1.0)
    rows = unit_rows(200, seed=9)
    decisions = fitted.recruit([request(embedding=tuple(row)) for row in rows.tolist()])
    chosen = [d.recruits[0].expert_id for d in decisions]
    wanted = ["left" if row[0] < 0 else "right" for row in rows]
    clear = np.abs(rows[:, 0]) > 0.2
    assert np.mean([c == w for c, w, is_clear in zip(chosen, wanted, clear, strict=True) if is_clear]) > 0.97
    assert fitted.slope_ > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_leave_the_best_on_fit(seed):
    fitted = recruiter("matrix_factorisation", two_sided_pool(seed, shuffled=True))
    decisions = fitted.recruit([request(embedding=tuple(row)) for row in unit_rows(100, seed=9).tolist()])
    assert fitted.slope_ < 0.5
    assert np.mean([d.recruits[0].expert_id == "steady" for d in decisions]) > 0.95


def test_chances_are_calibrated_on_new_questions():
    """Graded by a known probability: what is said to be right so often is right so often."""
    rows, new = unit_rows(2000), unit_rows(2000, seed=9)
    chance = np.random.default_rng(3)
    truth = probability(2.0 * rows[:, :1] * np.array([[1.0, -1.0]]) + 0.5)
    grades = (chance.random(truth.shape) < truth).astype(float)
    factors = Bilinear(rank=2, components=4, l2=1.0).fit(rows, grades, grades.mean(axis=0))
    said = probability(factors.biases + new @ factors.weights.T)
    real = probability(2.0 * new[:, :1] * np.array([[1.0, -1.0]]) + 0.5)
    assert np.abs(said - real).mean() < 0.03 and 0.8 < factors.slope < 1.2


def test_the_model_is_bilinear_of_the_rank_asked_for():
    rows = unit_rows(300)
    grades = (np.random.default_rng(3).random((300, 6)) < probability(3 * rows[:, [0, 1, 2, 3, 0, 1]])).astype(float)
    weights = Bilinear(rank=2, components=4, l2=0.1).fit(rows, grades, grades.mean(axis=0)).weights
    assert np.linalg.matrix_rank(weights, tol=1e-6) == 2
    one = Bilinear(rank=3, components=1, l2=0.1).fit(rows, grades, grades.mean(axis=0)).weights
    assert np.linalg.matrix_rank(one, tol=1e-6) == 1


def test_it_learns_between_the_first_step_and_the_next_and_alike_each_time():
    pool = two_sided_pool()
    first, again = (recruiter("matrix_factorisation", pool, l2=1.0) for _ in range(2))
    assert np.abs(first.weights_).max() > 0.1
    assert (first.weights_ == again.weights_).all() and (first.biases_ == again.biases_).all()


def test_a_stiff_penalty_leaves_the_rates_on_fit():
    fitted = recruiter("matrix_factorisation", two_sided_pool(), l2=1e9)
    (decision,) = fitted.recruit([request(embedding=(1.0, 0.0, 0.0, 0.0))])
    assert decision.recruits[0].expert_id == "steady"
    assert decision.scores["steady"] == pytest.approx(fitted.roster_.table.overall[2], abs=0.01)


def test_few_questions_are_too_few_to_tell():
    pool = two_sided_pool()
    few = {o.question_id for o in pool.outcomes[:9]}
    pool = replace(
        pool,
        outcomes=tuple(o for o in pool.outcomes if o.question_id in few),
        annotations={i: a for i, a in pool.annotations.items() if i in few},
    )
    assert recruiter("matrix_factorisation", pool).slope_ == 0.0


def test_an_expert_that_was_never_asked_is_asked_last():
    pool = two_sided_pool()
    pool = replace(pool, outcomes=tuple(o for o in pool.outcomes if o.expert_id != "steady"))
    pool = replace(pool, profiles={i: p for i, p in pool.profiles.items() if i != "steady"})
    (decision,) = recruiter("matrix_factorisation", pool, k=3).recruit([request(embedding=(0.0, 1.0, 0.0, 0.0))])
    assert {r.expert_id: r.p_correct for r in decision.recruits}["steady"] is None
    assert decision.scores["steady"] == 0.0


# --- RouteLLM's threshold ---------------------------------------------------------------------------------------------


def pair_pool() -> FitData:
    pool = two_sided_pool()
    return replace(
        pool,
        experts=tuple(e for e in pool.experts if e.id != "left"),
        outcomes=tuple(o for o in pool.outcomes if o.expert_id != "left"),
        profiles={i: p for i, p in pool.profiles.items() if i != "left"},
    )


def test_the_strong_one_is_asked_where_it_wins_often_enough():
    rows = unit_rows(100, seed=9).tolist()
    items = [request(embedding=tuple(row)) for row in rows]
    pool = pair_pool()
    wins = recruiter("matrix_factorisation", pool).win_probabilities(items)
    assert 0 < wins.min() < 0.5 < wins.max() < 1
    shares = []
    for threshold in (0.0, 0.3, 0.5, 0.7, 1.0):
        decisions = recruiter("matrix_factorisation", pool, threshold=threshold).recruit(items)
        chosen = [d.recruits[0].expert_id for d in decisions]
        assert chosen == ["steady" if win >= threshold else "right" for win in wins]
        assert decisions[0].scores == {"right": threshold, "steady": wins[0]}
        shares.append(chosen.count("steady"))
    assert shares == sorted(shares, reverse=True) and shares[0] == 100 and shares[-1] == 0


def test_a_win_is_the_difference_of_the_scores_in_log_odds():
    fitted = recruiter("matrix_factorisation", pair_pool())
    item = request(embedding=(0.6, 0.8, 0.0, 0.0))
    scores = fitted.recruit([item])[0].scores
    odds = log_odds(np.array([scores["steady"], scores["right"]]))
    assert fitted.win_probabilities([item])[0] == pytest.approx(probability(odds[:1] - odds[1:])[0])


def test_a_query_without_an_embedding_has_no_win_and_falls_back():
    fitted = recruiter("matrix_factorisation", pair_pool(), threshold=0.5)
    assert np.isnan(fitted.win_probabilities([request()])).all()
    (decision,) = fitted.recruit([request()])
    assert decision.is_fallback and [r.expert_id for r in decision.recruits] == ["steady"]


def test_thresholds_are_for_two():
    with pytest.raises(ConfigError, match="the pool has 3"):
        recruiter("matrix_factorisation", two_sided_pool(), threshold=0.5)
    with pytest.raises(ConfigError, match="the pool has 3"):
        recruiter("matrix_factorisation", two_sided_pool()).win_probabilities([request()])
    with pytest.raises(NotFittedError):
        MatrixFactorisation().win_probabilities([request()])


def test_what_is_saved_wins_alike(tmp_path):
    pool = pair_pool()
    fitted = recruiter("matrix_factorisation", pool, threshold=0.4)
    fitted.save(tmp_path / "m.npz")
    loaded = RECRUITERS.create("matrix_factorisation", {"threshold": 0.4}).load(
        tmp_path / "m.npz", experts=pool.experts
    )
    items = [request(embedding=tuple(row)) for row in unit_rows(20, seed=9).tolist()]
    assert (loaded.win_probabilities(items) == fitted.win_probabilities(items)).all() and loaded.slope_ == fitted.slope_


@pytest.mark.parametrize("options", [{"rank": 0}, {"components": 0}, {"l2": 0.0}, {"threshold": 1.5}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        recruiter("matrix_factorisation", pair_pool(), **options)
