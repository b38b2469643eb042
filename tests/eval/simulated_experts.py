"""Experts that are right with a known probability on every question, and banks of questions for them."""

from __future__ import annotations

import numpy as np

from eval.adaptive import AdaptiveProfiler
from eval.adaptive_bank import KnownGrades, QuestionBank
from router_service.types import Question

__all__ = ["bank_of", "graded", "item_response", "profiled"]


def bank_of(strata: int, size: int) -> tuple[Question, ...]:
    """`size` questions in each of `strata` categories; every tenth of a category shares a skill."""
    return tuple(
        Question(id=f"{s}-{n}", text=f"question {n} of {s}", category=f"category {s}", skills=(f"skill {s}.{n % 10}",))
        for s in range(strata)
        for n in range(size)
    )


def graded(random, *, chances, n_questions: int) -> np.ndarray:
    """Bernoulli grades: `chances` broadcasts to the questions."""
    return (random.random(n_questions) < chances).astype(float)


def item_response(random, abilities, easiness) -> np.ndarray:
    """Grades of experts with these abilities (logits) on questions so easy (logits): shape (experts, questions)."""
    chances = 1 / (1 + np.exp(-(np.asarray(abilities)[:, None] + np.asarray(easiness)[None, :])))
    return (random.random(chances.shape) < chances).astype(float)


def profiled(questions, known, grades, *, budget, confidence=0.9, wave=1) -> AdaptiveProfiler:
    """The new expert with these grades, profiled against known experts' grades (experts, questions)."""
    names = tuple(f"known-{number}" for number in range(len(known)))
    bank = QuestionBank(questions, KnownGrades(expert_ids=names, grades=np.asarray(known, dtype=float)))
    profiler = AdaptiveProfiler(bank, budget=budget, confidence=confidence)
    while not profiler.is_finished:
        for position in profiler.next_questions(wave):
            profiler.record(position, float(grades[position]))
    return profiler
