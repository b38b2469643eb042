"""Recruiter `knn`: the experts that were right on the fit questions most like the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.embedded import (
    EmbeddingRecruiter,
    Vectors32,
    base_rates,
    blocks,
    graded_lesson,
    similarities,
)
from router_service.recruit.roster import Case, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats

__all__ = ["Knn", "neighbour_weights"]


def neighbour_weights(similarity: Vectors32, neighbours: int) -> Vectors32:
    """Each row's `neighbours` largest similarities, ties included, as weights: negative ones and the others are 0."""
    count = similarity.shape[1]
    if neighbours < count:
        least = np.partition(similarity, count - neighbours, axis=1)[:, count - neighbours, None]
        similarity = np.where(similarity >= least, similarity, np.float32(0))
    return np.maximum(similarity, np.float32(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Experts that answered the same fit questions: their `columns`, the `rows` answered (None: all) and the grades,
    shape (experts, rows)."""

    columns: NDArray[np.intp]
    rows: NDArray[np.intp] | None
    grades: Vectors32


@RECRUITERS.register("knn")
class Knn(EmbeddingRecruiter):
    """Nearest neighbours, the plain rule that learned routers have to beat.

    An expert's score is its mean grade on the `neighbours` fit questions most like the query (cosine of embeddings,
    those of equal likeness all taken), each weighing as much as it is alike, with the expert's overall rate counting
    for `prior_weight` questions of likeness 1. Every expert is judged by the nearest of the questions that it was
    asked itself, so who else is in the pool does not matter. The score is also its P(correct).
    """

    name: ClassVar[str] = "knn"

    def __init__(self, *, k: int = 1, neighbours: int = 80, prior_weight: float = 10.0) -> None:
        if neighbours < 1:
            raise ConfigError(f"recruiter {self.name!r}: neighbours is {neighbours}; it is 1 or more")
        if prior_weight <= 0:
            raise ConfigError(f"recruiter {self.name!r}: prior_weight is {prior_weight}; it is above 0")
        super().__init__(k=k)
        self.neighbours = neighbours
        self.prior_weight = prior_weight

    def _learn(self, data: FitData, roster: Roster) -> None:
        lesson = graded_lesson(data, name=self.name)
        self._take(lesson.vectors, lesson.grades, base_rates(roster, lesson.grades))

    def _take(self, vectors: Vectors32, grades: Floats, base: Floats) -> None:
        self.vectors_, self.grades_, self.base_ = vectors, grades, base
        self.dimension_ = vectors.shape[1]
        patterns, group_of = np.unique(~np.isnan(grades.T), axis=0, return_inverse=True)
        self._groups = [
            _group(grades, asked=pattern, columns=np.flatnonzero(group_of.reshape(-1) == number))
            for number, pattern in enumerate(patterns)
        ]

    def _learned(self) -> Learned:
        return Learned(arrays={"vectors": self.vectors_, "grades": self.grades_, "base": self.base_})

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self._take(learned.arrays["vectors"], learned.arrays["grades"], learned.arrays["base"])

    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        scores = np.empty((len(cases), len(roster.ids)))
        for block in blocks(len(cases)):
            similarity = similarities(self.vectors_, vectors[block])
            for group in self._groups:
                scores[block, group.columns] = self._rates(similarity, group)
        return scores, np.where(roster.table.has_profile, scores, np.nan)

    def _rates(self, similarity: Vectors32, group: _Group) -> Floats:
        own = similarity if group.rows is None else np.ascontiguousarray(similarity[:, group.rows])
        weights = neighbour_weights(own, self.neighbours)
        wins = np.einsum("bq,eq->be", weights, group.grades).astype(np.float64)
        trials = weights.sum(axis=1, dtype=np.float64)[:, None]
        return np.asarray((wins + self.prior_weight * self.base_[group.columns]) / (trials + self.prior_weight))


def _group(grades: Floats, *, asked: NDArray[np.bool_], columns: NDArray[np.intp]) -> _Group:
    rows = np.flatnonzero(asked)
    own = np.ascontiguousarray(grades[np.ix_(rows, columns)].T, dtype=np.float32)
    return _Group(columns=columns, rows=None if asked.all() else rows, grades=own)
