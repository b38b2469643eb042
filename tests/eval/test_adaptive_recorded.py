"""Adaptive profiling on real models' recorded answers: each model in turn is new, the others are known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.stats import spearmanr

from eval.adaptive import AdaptiveProfiler, error_scales
from eval.adaptive_bank import KnownGrades, QuestionBank, known_grades
from eval.datasets import load_dataset
from tests.eval.recorded_dataset import recorded_folder

BUDGET, WAVE, CONFIDENCE = 60, 6, 0.9


@dataclass
class Study:
    """Errors of estimates against what asking everything shows, over models (and banks)."""

    overall: list[float] = field(default_factory=list)
    strata: list[float] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)
    covered_strata: list[bool] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"overall {rms(self.overall):.4f}, category {rms(self.strata):.4f}, rank {np.mean(self.ranks):.3f}, "
            f"covered {np.mean(self.covered or [0]):.3f} / {np.mean(self.covered_strata or [0]):.3f}, verdicts "
            f"{sum(self.verdicts)} of {len(self.verdicts)} right"
        )


def rms(errors) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def adaptive(questions, known: KnownGrades, study: Study) -> None:
    """Profile every model with 60 chosen questions."""
    accuracies = []
    for number in range(len(known.expert_ids)):
        others, grades = known.without(number), known.grades[number]
        bank = QuestionBank(questions, others)
        profiler = AdaptiveProfiler(bank, budget=BUDGET, confidence=CONFIDENCE)
        while not profiler.is_finished:
            for position in profiler.next_questions(WAVE):
                profiler.record(position, float(grades[position]))
        scales = error_scales(questions, others, budget=BUDGET, confidence=CONFIDENCE, wave=WAVE)
        result = profiler.result("new", scales)
        accuracies.append(result.overall.accuracy)
        study.overall.append(result.overall.accuracy - grades.mean())
        study.covered.append(result.overall.low <= grades.mean() <= result.overall.high)
        for stratum, made in enumerate(result.strata.values()):
            truth = grades[bank.stratum_of == stratum].mean()
            study.strata.append(made.estimate.accuracy - truth)
            study.covered_strata.append(made.estimate.low <= truth <= made.estimate.high)
            if made.verdict is not None:
                study.verdicts.append((made.verdict == "above") == (truth > made.incumbent_accuracy))
    study.ranks.append(spearmanr(accuracies, known.grades.mean(axis=1)).statistic)


def at_random(questions, known: KnownGrades, study: Study, *, seed: int) -> None:
    """Profile every model with 60 random questions: the mean of the grades, a category's shrunk towards it."""
    random, accuracies = np.random.default_rng(seed), []
    stratum_of = QuestionBank(questions, known).stratum_of
    for grades in known.grades:
        asked = random.choice(len(questions), size=BUDGET, replace=False)
        overall = grades[asked].mean()
        accuracies.append(overall)
        study.overall.append(overall - grades.mean())
        for stratum in range(stratum_of.max() + 1):
            seen = grades[asked][stratum_of[asked] == stratum]
            estimate = (seen.sum() + 20 * overall) / (len(seen) + 20)
            study.strata.append(estimate - grades[stratum_of == stratum].mean())
    study.ranks.append(spearmanr(accuracies, known.grades.mean(axis=1)).statistic)


def known_of(dataset, questions, pool: str) -> KnownGrades:
    return known_grades(questions, dataset.outcomes(questions, dataset.pools[pool]))


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(recorded_folder("mmlu_pro"))


def test_sixty_chosen_questions_say_more_than_sixty_random_ones(dataset) -> None:
    questions = dataset.split("fit")
    known = known_of(dataset, questions, "small16")
    chosen, drawn = Study(), Study()
    adaptive(questions, known, chosen)
    for seed in range(10):
        at_random(questions, known, drawn, seed=seed)
    told = f"chosen: {chosen}; random: {drawn}"
    assert rms(chosen.overall) < 0.75 * rms(drawn.overall), told
    assert rms(chosen.strata) < rms(drawn.strata), told
    assert np.mean(chosen.ranks) > np.mean(drawn.ranks), told
    assert np.mean(chosen.covered) >= 0.8, told
    assert np.mean(chosen.covered_strata) >= 0.85, told
    assert all(chosen.verdicts), told


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["small16", "mid9", "top10"])
def test_choosing_pays_on_other_questions_and_other_models_too(dataset, pool) -> None:
    """Three banks of 24 questions a category, drawn from fit and extra."""
    everything = [*dataset.split("fit"), *dataset.split("extra")]
    chosen, drawn = Study(), Study()
    for seed in range(3):
        random = np.random.default_rng(seed)
        questions = []
        for category in sorted({question.category for question in everything}):
            there = [question for question in everything if question.category == category]
            questions += [there[number] for number in random.choice(len(there), size=24, replace=False)]
        known = known_of(dataset, questions, pool)
        adaptive(questions, known, chosen)
        for draw in range(10):
            at_random(questions, known, drawn, seed=100 * seed + draw)
    told = f"{pool}: chosen: {chosen}; random: {drawn}"
    print(told)
    assert rms(chosen.overall) < 0.75 * rms(drawn.overall), told
    assert rms(chosen.strata) < 0.85 * rms(drawn.strata), told
    assert np.mean(chosen.ranks) > np.mean(drawn.ranks), told
    assert np.mean(chosen.covered) >= 0.8 and np.mean(chosen.covered_strata) >= 0.85, told
    assert np.mean(chosen.verdicts or [True]) >= 0.9, told
