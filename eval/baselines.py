"""What simple rules reach on recorded outcomes, computed from the outcomes alone: the bars every strategy stands by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eval.metrics import bootstrap_interval
from eval.outcome_matrix import OutcomeMatrix
from eval.results import Baseline

__all__ = ["baselines", "best_by_category", "chance_of_the_best"]

Floats = npt.NDArray[np.float64]


def baselines(dataset: str, pool: str, *, fit: OutcomeMatrix, test: OutcomeMatrix) -> list[Baseline]:
    """Random, best single as chosen on `fit` and on `test`, best per category, the oracle and its floor by chance."""
    rows = np.arange(len(test.questions))
    best, best_on_test = fit.best_model, test.best_model
    per_category = best_by_category(fit, test)
    oracle = _cheapest_best(test)
    ways = [
        ("random", test.grades.mean(axis=1), test.costs_usd.mean(axis=1), "expected value of one random expert"),
        ("best single", test.grades[:, best], test.costs_usd[:, best], f"{test.models[best]}, chosen on fit"),
        (
            "best per category",
            test.grades[rows, per_category],
            test.costs_usd[rows, per_category],
            f"{len(set(per_category.tolist()))} experts, chosen on fit by the recorded category",
        ),
        (
            "best single on test",
            test.grades[:, best_on_test],
            test.costs_usd[:, best_on_test],
            f"{test.models[best_on_test]}, chosen on test",
        ),
        ("oracle", test.grades.max(axis=1), test.costs_usd[rows, oracle], "the best expert of each question"),
    ]
    found = [
        Baseline(
            dataset=dataset,
            pool=pool,
            name=name,
            accuracy=float(grades.mean()),
            ci95=bootstrap_interval(grades.tolist()),
            calls_per_query=1.0,
            cost_usd_per_1k=_per_1k(costs),
            looks_at_test=name in ("best single on test", "oracle"),
            detail=detail,
        )
        for name, grades, costs, detail in ways
    ]
    return [*found, _shuffled_oracle(dataset, pool, test)]


def best_by_category(fit: OutcomeMatrix, test: OutcomeMatrix) -> npt.NDArray[np.int64]:
    """For each question of `test` the model that is best on its category in `fit`; ties, and categories that are not
    there, go by the mean grade over all of `fit`."""
    overall = fit.grades.mean(axis=0)
    of_category: dict[str | None, int] = {}
    categories = np.array([question.category or "" for question in fit.questions])
    for category in {question.category for question in fit.questions if question.category}:
        means = fit.grades[categories == category].mean(axis=0)
        of_category[category] = max(range(len(means)), key=lambda i: (round(means[i], 12), overall[i], -i))
    return np.array([of_category.get(question.category, fit.best_model) for question in test.questions], dtype=np.int64)


def chance_of_the_best(grades: Floats) -> float:
    """The mean over questions of the best grade, were each model's grades shuffled over the questions by itself.

    Exact, no shuffling needed: the models' grades are then independent, each question's best has the distribution
    function prod F_m(x), and for right-or-wrong grades this is 1 - prod(1 - p_m). It says how much of an oracle is
    chance: many models make a high one whatever they know. `grades` has shape (questions, models).
    """
    values = np.unique(grades)
    below = np.array([np.prod((grades <= value).mean(axis=0)) for value in values])
    return float((values * np.diff(below, prepend=0.0)).sum())


def _shuffled_oracle(dataset: str, pool: str, test: OutcomeMatrix) -> Baseline:
    return Baseline(
        dataset=dataset,
        pool=pool,
        name="shuffled oracle",
        accuracy=chance_of_the_best(test.grades),
        calls_per_query=1.0,
        cost_usd_per_1k=None,
        looks_at_test=True,
        detail="the oracle, were each expert's outcomes shuffled over the questions: what chance alone gives it",
    )


def _cheapest_best(test: OutcomeMatrix) -> npt.NDArray[np.int64]:
    """For each question the cheapest of the models with the best grade; an unknown cost counts as the dearest."""
    is_best = test.grades >= test.grades.max(axis=1, keepdims=True) - 1e-12
    costs = np.where(np.isnan(test.costs_usd), np.inf, test.costs_usd)
    dear = np.where(is_best, costs, np.inf)
    first = np.argmin(dear, axis=1)
    only_unknown = np.isinf(dear.min(axis=1))
    chosen: npt.NDArray[np.int64] = np.where(only_unknown, np.argmax(is_best, axis=1), first)
    return chosen


def _per_1k(costs_usd: Floats) -> float | None:
    mean = float(costs_usd.mean())
    return None if np.isnan(mean) else 1000 * mean
