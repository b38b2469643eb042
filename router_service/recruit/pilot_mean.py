"""Recruiter `pilot_mean`: the experts whose own kind of question, by mean likeness to their pilots, the query is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.call_costs import typical_costs
from router_service.recruit.embedded import EmbeddingRecruiter, Vectors32, blocks, graded_lesson, similarities
from router_service.recruit.roster import Case, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats

__all__ = ["PilotMean", "best_shares", "pilot_scores"]

Ties = Literal["skip", "split", "cheapest", "first"]
_TIES = ("skip", "split", "cheapest", "first")


def best_shares(grades: Floats, *, ties: Ties, costs_usd: Floats) -> Floats:
    """How much of each question belongs to each expert as the best on it, shape (questions, experts).

    A question that nobody got right belongs to nobody. One with several best experts belongs to nobody (`skip`), to
    each in equal parts (`split`), to the cheapest (`cheapest`; the earlier of equals, unknown costs last) or to the
    earlier in the pool (`first`, as released).
    """
    filled = np.where(np.isnan(grades), 0.0, grades)
    best = filled.max(axis=1, keepdims=True)
    is_best = (filled == best) & (best > 0)
    number = is_best.sum(axis=1, keepdims=True)
    if ties == "skip":
        return np.where(number == 1, is_best, False).astype(np.float64)
    if ties == "split":
        return np.asarray(is_best / np.maximum(number, 1))
    price = np.where(np.isnan(costs_usd), np.inf, costs_usd) if ties == "cheapest" else np.zeros(grades.shape[1])
    order = np.argsort(price, kind="stable")
    first = order[np.argmax(is_best[:, order], axis=1)]
    return np.asarray((np.arange(grades.shape[1]) == first[:, None]) & is_best, dtype=np.float64)


def pilot_scores(similarity: Floats, starts: NDArray[np.intp], *, by_max: bool) -> Floats:
    """Mean or greatest likeness to each expert's pilots, shape (queries, experts); `similarity` has shape (queries,
    pilots), the pilots of one expert side by side from `starts` on (experts + 1 bounds), NaN for one without any."""
    scores = np.full((len(similarity), len(starts) - 1), np.nan)
    owners = np.flatnonzero(np.diff(starts))
    if len(owners):
        reduce = np.maximum if by_max else np.add
        found = reduce.reduceat(similarity, starts[owners], axis=1)
        scores[:, owners] = found if by_max else found / np.diff(starts)[owners]
    return scores


@RECRUITERS.register("pilot_mean")
class PilotMean(EmbeddingRecruiter):
    """RouterRetriever (Lee et al., "RouterRetriever: Routing over a Mixture of Expert Embedding Models", method).

    The fit questions of each category are grouped by the expert that is best on them, and a group's mean embedding is
    a pilot of its expert. A query's score for an expert is its mean likeness (cosine) to the expert's pilots; experts
    without a pilot come last. Groups of under `min_questions` questions make no pilot.

    The paper's measure has few ties; right or wrong has many, and `ties` says whose such a question is: nobody's, each
    one's in equal parts, the cheapest one's or, as released, the pool's first. Pilots are made unit length, so that a
    group of a few alike questions does not outweigh one of many.
    """

    name: ClassVar[str] = "pilot_mean"
    by_max: ClassVar[bool] = False
    scores_jointly = True
    """Who is best on a question depends on who else was asked. Given the pilots, a score is the expert's own."""

    def __init__(self, *, k: int = 1, ties: Ties = "skip", min_questions: int = 3) -> None:
        if ties not in _TIES:
            raise ConfigError(f"recruiter {self.name!r}: ties is {ties!r}; it is one of {', '.join(_TIES)}")
        if min_questions < 1:
            raise ConfigError(f"recruiter {self.name!r}: min_questions is {min_questions}; it is 1 or more")
        super().__init__(k=k)
        self.ties: Ties = ties
        self.min_questions = min_questions

    def _learn(self, data: FitData, roster: Roster) -> None:
        lesson = graded_lesson(data, name=self.name)
        shares = best_shares(lesson.grades, ties=self.ties, costs_usd=typical_costs(data))
        rows_by_category: defaultdict[str, list[int]] = defaultdict(list)
        for row, question_id in enumerate(lesson.ids):
            rows_by_category[data.annotations[question_id].category or ""].append(row)
        pilots: list[Floats] = []
        starts = [0]
        for column in range(len(roster.ids)):
            for _, rows in sorted(rows_by_category.items()):
                pilots += self._pilot(lesson.vectors[rows], shares[rows, column])
            starts.append(len(pilots))
        vectors = np.array(pilots, dtype=np.float32).reshape(-1, lesson.vectors.shape[1])
        self._take(vectors, np.array(starts, dtype=np.intp))

    def _pilot(self, vectors: Vectors32, shares: Floats) -> list[Floats]:
        """The pilot of one group, none where it is too small."""
        if (shares > 0).sum() < self.min_questions:
            return []
        total = (vectors * shares[:, None]).sum(axis=0, dtype=np.float64)
        length = np.linalg.norm(total)
        return [total / length] if length > 0 else []

    def _take(self, pilots: Vectors32, starts: NDArray[np.intp]) -> None:
        self.pilots_, self.starts_ = pilots, starts
        self.dimension_ = pilots.shape[1]

    def _learned(self) -> Learned:
        return Learned(arrays={"pilots": self.pilots_, "starts": self.starts_})

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self._take(learned.arrays["pilots"], learned.arrays["starts"].astype(np.intp))

    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        scores = np.empty((len(cases), len(roster.ids)))
        for block in blocks(len(cases)):
            likeness = similarities(self.pilots_, vectors[block]).astype(np.float64)
            scores[block] = pilot_scores(likeness, self.starts_, by_max=self.by_max)
        return scores, None
