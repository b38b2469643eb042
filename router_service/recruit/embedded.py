"""Base of the recruiters that go by a query's embedding: the fit questions as vectors with grades, and who has none."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.base import FitData
from router_service.recruit.roster import Case, Roster
from router_service.recruit.scoring import NO_EMBEDDING, ScoringRecruiter, embedding_rows, fit_embeddings, fit_matrix
from router_service.recruit.strength import OVERALL_WEIGHT, Floats, shrunk_rate

__all__ = [
    "BLOCK",
    "NOTHING_LEARNED",
    "OTHER_EMBEDDING",
    "EmbeddingRecruiter",
    "Lesson",
    "Vectors32",
    "base_rates",
    "blocks",
    "graded_lesson",
    "similarities",
]

NOTHING_LEARNED = "nothing was learned of the eligible experts here, so the best on the fit questions are asked"
OTHER_EMBEDDING = (
    "the query's embedding is of another length than those of the fit questions, so the best on these are asked; "
    "use the embedder that was fitted with"
)

Vectors32 = NDArray[np.float32]

BLOCK = 256
"""Queries worked on at once: what lies between similarities and scores then stays in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The embedded fit questions, sorted by id: unit `vectors` (questions, dimension) and each expert's mean `grades`
    (questions, experts), NaN where it was not asked. A question nobody answered is in it too, so that leaving an expert
    out changes no row."""

    ids: tuple[str, ...]
    vectors: Vectors32
    grades: Floats


def graded_lesson(data: FitData, *, name: str) -> Lesson:
    """What the fit data teach of embedded questions; raises `ConfigError`, naming the recruiter, where that is
    nothing."""
    asked, grades = fit_matrix(data, name=name, embedded=True)
    ids = tuple(sorted(i for i, annotation in data.annotations.items() if annotation.embedding is not None))
    rows = {question_id: number for number, question_id in enumerate(ids)}
    placed = np.full((len(ids), len(data.experts)), np.nan)
    placed[[rows[question_id] for question_id in asked]] = grades
    return Lesson(ids=ids, vectors=fit_embeddings(data, ids).astype(np.float32), grades=placed)


def base_rates(roster: Roster, grades: Floats) -> Floats:
    """Each expert's smoothed overall rate: its profile's, else that of these grades (questions, experts); NaN for an
    expert that has neither."""
    is_asked = ~np.isnan(grades)
    trials = is_asked.sum(axis=0)
    own = shrunk_rate(np.where(is_asked, grades, 0.0).sum(axis=0), trials, prior=0.5, weight=OVERALL_WEIGHT)
    own = np.where(trials > 0, own, np.nan)
    return np.asarray(np.where(roster.table.has_profile, roster.table.overall, own), dtype=np.float64)


def similarities(known: Vectors32, vectors: Vectors32) -> Vectors32:
    """Dot products, shape (vectors, known): a vector at a time, so that none depends on the size of the batch."""
    found = np.empty((len(vectors), len(known)), dtype=np.float32)
    for row, vector in zip(found, vectors, strict=True):
        np.dot(known, vector, out=row)
    return found


def blocks(count: int) -> list[slice]:
    """`count` rows in slices of `BLOCK`."""
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]


class EmbeddingRecruiter(ScoringRecruiter):
    """Scores the queries that have an embedding; the others are left unknown, which is the named fallback."""

    needs_annotation = True
    needs_embeddings: ClassVar[bool] = True
    unknown_reason = NOTHING_LEARNED

    dimension_: int = 1

    @abstractmethod
    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        """Scores and P(correct) as `_judge` gives them, of cases with these embeddings, shape (cases, dimension)."""

    def _reason(self, case: Case) -> str:
        embedding = case.request.annotation.embedding
        if embedding is None:
            return NO_EMBEDDING
        return OTHER_EMBEDDING if len(embedding) != self.dimension_ else self.unknown_reason

    def _score(self, roster: Roster, cases: Sequence[Case], local: Floats) -> Floats:
        return self._judge(roster, cases, local)[0]

    def _judge(self, roster: Roster, cases: Sequence[Case], local: Floats) -> tuple[Floats, Floats | None]:
        rows = embedding_rows([case.request.annotation for case in cases], self.dimension_).astype(np.float32)
        is_embedded = ~np.isnan(rows[:, 0])
        if is_embedded.all():
            return self._judge_embedded(roster, cases, rows)
        scores, chances = np.full_like(local, np.nan), np.full_like(local, np.nan)
        places = np.flatnonzero(is_embedded)
        if not len(places):
            return scores, None
        own, p_correct = self._judge_embedded(roster, [cases[place] for place in places.tolist()], rows[places])
        scores[places] = own
        if p_correct is None:
            return scores, None
        chances[places] = p_correct
        return scores, chances
