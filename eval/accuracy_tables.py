"""Who is good at what: mean grades of experts × categories, benchmarks and skills of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from eval.outcome_matrix import OutcomeMatrix
from eval.results import AccuracyTable
from router_service.types import Question

__all__ = ["MAX_SKILLS", "accuracy_tables"]

MAX_SKILLS = 40
"""A table of skills holds this many of the most frequent ones; the thousands that one question has tell nothing."""

By = Literal["category", "skill", "benchmark"]


def accuracy_tables(dataset: str, split: str, matrix: OutcomeMatrix) -> list[AccuracyTable]:
    """A table by category, by benchmark (where there are several) and by skill (where questions have skills)."""
    tables = []
    for by in ("category", "benchmark", "skill"):
        counts = Counter(group for question in matrix.questions for group in _groups(question, by))
        wanted = sorted(counts, key=lambda group: (-counts[group], group))
        if by == "skill":
            wanted = [group for group in wanted if counts[group] > 1][:MAX_SKILLS]
        if len(wanted) > (by == "benchmark"):
            tables.append(_table(dataset, split, matrix, by=by, groups=wanted))
    return tables


def _table(dataset: str, split: str, matrix: OutcomeMatrix, *, by: By, groups: Sequence[str]) -> AccuracyTable:
    rows_of: dict[str, list[int]] = {group: [] for group in groups}
    for row, question in enumerate(matrix.questions):
        for group in _groups(question, by):
            if group in rows_of:
                rows_of[group].append(row)
    means = np.array([matrix.grades[rows_of[group]].mean(axis=0) for group in groups])
    return AccuracyTable(
        dataset=dataset,
        split=split,
        by=by,
        groups=tuple(groups),
        counts=tuple(len(rows_of[group]) for group in groups),
        experts=matrix.models,
        accuracy=tuple(tuple(column) for column in means.T.tolist()),
    )


def _groups(question: Question, by: str) -> tuple[str, ...]:
    if by == "skill":
        return tuple(dict.fromkeys(question.skills))
    group = question.category if by == "category" else question.benchmark
    return (group,) if group else ()
