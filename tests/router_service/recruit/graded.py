"""Fit data made of vectors and a table of grades, for the recruiters that go by embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from experts_registry.profiles import fit_profiles
from router_service.recruit.base import FitData
from router_service.types import Expert, Outcome, Question, SkillAnnotation
from tests.router_service.recruit.pools import expert, vector


def graded(
    vectors: Sequence[Sequence[float]],
    grades: Mapping[str, Sequence[float | None]],
    *,
    categories: Sequence[str | None] | None = None,
    texts: Sequence[str] | None = None,
    costs: Mapping[str, Sequence[float | None]] | None = None,
    experts: Sequence[Expert] = (),
) -> FitData:
    """One question per vector; each expert's grades in the questions' order, None where it was not asked."""
    ids = [f"q{number:04}" for number in range(len(vectors))]
    kinds = categories or [None] * len(ids)
    words = texts or ["What?"] * len(ids)
    questions = {i: Question(id=i, text=text, category=kind) for i, text, kind in zip(ids, words, kinds, strict=True)}
    outcomes = tuple(
        Outcome(
            dataset="d",
            split="fit",
            question_id=ids[number],
            expert_id=name,
            correct=grade,
            cost_usd=costs[name][number] if costs and name in costs else None,
        )
        for name, row in grades.items()
        for number, grade in enumerate(row)
        if grade is not None
    )
    annotations = {
        i: SkillAnnotation(query_id=i, category=kind, embedding=tuple(map(float, own)))
        for i, kind, own in zip(ids, kinds, vectors, strict=True)
    }
    return FitData(
        experts=tuple(experts) or tuple(expert(name) for name in grades),
        profiles=fit_profiles(outcomes, questions.values()),
        outcomes=outcomes,
        annotations=annotations,
        questions=questions,
        embed=lambda words: [vector(word) for word in words],
    )


def unit(*values: float) -> tuple[float, ...]:
    """The vector of length 1 in this direction."""
    length = math.sqrt(math.fsum(value * value for value in values))
    return tuple(value / length for value in values)


def random_units(number: int, dimension: int, *, seed: int = 0) -> list[tuple[float, ...]]:
    """Directions drawn alike, as floats of 32 bits."""
    rows = np.random.default_rng(seed).normal(size=(number, dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [tuple(row) for row in rows.astype(np.float32).tolist()]
