"""Baselines against counting by hand on a few outcomes, and the chance oracle against shuffling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from eval.accuracy_tables import accuracy_tables
from eval.baselines import baselines, best_by_category, chance_of_the_best
from eval.datasets import load_dataset
from eval.outcome_matrix import OutcomeMatrix, outcome_matrix
from router_service.types import Question
from tests.eval.recorded_dataset import recorded_folder, write_dataset


def matrix(grades, costs=None, categories=None, split="test"):
    grades = np.array(grades, dtype=float)
    categories = categories or ["c"] * len(grades)
    questions = tuple(
        Question(id=f"{split}{i}", text=f"?{i}", category=category, split=split, skills=("s",))
        for i, category in enumerate(categories)
    )
    models = tuple("abc"[: grades.shape[1]])
    costs = np.full(grades.shape, 0.001) if costs is None else np.array(costs, dtype=float)
    return OutcomeMatrix(questions=questions, models=models, grades=grades, costs_usd=costs)


FIT = matrix([[1, 0], [1, 0], [0, 1], [1, 1]], categories=["x", "x", "y", "y"], split="fit")
TEST = matrix([[0, 1], [1, 1], [0, 0], [0, 1]], costs=[[1, 2], [1, 2], [1, 2], [1, 2]], categories=["x", "x", "y", "z"])


def named(found):
    return {baseline.name: baseline for baseline in found}


def test_each_baseline_is_what_counting_gives():
    found = named(baselines("d", "p", fit=FIT, test=TEST))
    assert {name: b.accuracy for name, b in found.items()} == {
        "random": 0.5,
        "best single": 0.25,  # a, with .75 on fit
        "best per category": 0.25,  # x: a (0, 1), y: b (0), z: unknown, so a (0)
        "best single on test": 0.75,
        "oracle": 0.75,
        "shuffled oracle": pytest.approx(1 - 0.75 * 0.25),
    }
    assert {name for name, b in found.items() if b.looks_at_test} == {
        "best single on test",
        "oracle",
        "shuffled oracle",
    }
    costs = {name: b.cost_usd_per_1k for name, b in found.items()}
    assert (costs["random"], costs["best single"], costs["best per category"]) == (1500, 1000, 1250)
    assert costs["oracle"] == 1000 * (2 + 1 + 1 + 2) / 4  # the cheaper one where both are as good
    assert costs["shuffled oracle"] is None


def test_a_category_that_is_tied_or_unknown_goes_by_the_whole():
    fit = matrix([[1, 0], [0, 1], [1, 0]], categories=["x", "x", "y"], split="fit")
    test = matrix([[0, 0], [0, 0]], categories=["x", "new"])
    assert best_by_category(fit, test).tolist() == [0, 0]


def test_one_unknown_cost_leaves_only_its_own_baselines_unknown():
    test = matrix([[1, 1], [1, 1]], costs=[[0.001, np.nan], [0.001, 0.002]])
    found = named(baselines("d", "p", fit=matrix([[1, 0], [1, 0]], split="fit"), test=test))
    assert found["random"].cost_usd_per_1k is None
    assert found["best single"].cost_usd_per_1k == pytest.approx(1.0)
    assert found["oracle"].cost_usd_per_1k == pytest.approx(1.0)


def test_the_chance_oracle_is_the_mean_over_all_shuffles():
    grades = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, 0.25]])
    orders = list(itertools.permutations(range(3)))
    best = [
        np.maximum(grades[list(one), 0], grades[list(other), 1]).mean()
        for one, other in itertools.product(orders, orders)
    ]
    assert chance_of_the_best(grades) == pytest.approx(np.mean(best))


def test_recorded_baselines_are_as_counted_by_others():
    dataset = load_dataset(recorded_folder("mmlu_pro"))
    expected = {"small16": (0.351, 0.465, 0.859), "top10": (0.610, 0.771, 0.917)}
    for pool, (chance, best, oracle) in expected.items():
        fit, test = (outcome_matrix(dataset, dataset.split(s), dataset.pools[pool]) for s in ("fit", "test"))
        found = named(baselines("mmlu_pro", pool, fit=fit, test=test))
        reached = [found[name].accuracy for name in ("random", "best single", "oracle")]
        assert reached == pytest.approx([chance, best, oracle], abs=1e-3)


def test_samples_are_averaged_and_what_is_missing_is_wrong_and_free(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "tiny"))
    test = outcome_matrix(dataset, dataset.split("test"), ("counter", "guesser"))
    assert test.grades.mean(axis=0).tolist() == [0.5, 0.0]
    assert test.mean_costs_usd.tolist() == pytest.approx([0.001, 0.001 * 22 / 24])


def test_tables_hold_the_mean_grade_of_each_group(tmp_path):
    dataset = load_dataset(write_dataset(tmp_path / "tiny"))
    fit = outcome_matrix(dataset, dataset.split("fit"), ("counter", "traveller"))
    by_category, by_skill = accuracy_tables("tiny", "fit", fit)
    assert (by_category.by, by_skill.by) == ("category", "skill")
    assert by_category.groups == ("arithmetic", "geography")
    assert by_category.counts == (12, 12)
    assert by_category.experts == ("counter", "traveller")
    assert by_category.accuracy == ((1.0, 0.0), (0.0, 1.0))
