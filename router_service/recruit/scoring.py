"""Base of the recruiters that score every expert for every query by a rule of their own, and take the best k."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import FitData
from router_service.recruit.ranking import best_of_pool
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.strength import Floats
from router_service.types import Query, SkillAnnotation

__all__ = ["NO_EMBEDDING", "ScoringRecruiter", "embedding_rows", "fit_embeddings", "fit_matrix"]

NO_EMBEDDING = "the annotator gave the query no embedding, so the best on the fit questions are asked"


class ScoringRecruiter(RosterRecruiter):
    """Takes one completion of each of the eligible experts that score best, as many as wanted and paid for.

    A score of NaN means that the strategy cannot tell: such experts come last, ordered by their success on the fit
    questions; where it can tell of nobody, that is the fallback, with `unknown_reason`.
    """

    unknown_reason: str = NO_EMBEDDING

    def __init__(self, *, k: int = 1) -> None:
        self.k = require_k(self.name, k)

    def completions_for(self, query: Query) -> int:
        """The query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    @abstractmethod
    def _score(self, roster: Roster, cases: Sequence[Case], local: Floats) -> Floats:
        """Scores, shape (cases, experts), NaN where unknown; `local` are the skill scores of the profiles.

        A row must not depend on the other rows, bit by bit: no matrix product over the batch, whose rounding depends
        on its size (use `embedding_rows` and `np.einsum`, or a row at a time).
        """

    def _judge(self, roster: Roster, cases: Sequence[Case], local: Floats) -> tuple[Floats, Floats | None]:
        """Scores as `_score` gives them, and the strategy's own P(correct) of the same shape where it has one.

        P(correct) lies strictly between 0 and 1, and is NaN exactly for experts without a profile. It is left to the
        profiles where it is None, and for a query that falls back.
        """
        return self._score(roster, cases, local), None

    def _reason(self, case: Case) -> str:
        """Why the strategy can tell of nobody whom this case may ask."""
        return self.unknown_reason

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        own, chances = self._judge(roster, cases, scores)
        order = np.array(best_of_pool(roster), dtype=np.intp)
        is_unknown = np.isnan(own)
        ranked = order[np.argsort(np.where(is_unknown, np.inf, -own)[:, order], axis=1, kind="stable")].tolist()
        finite = np.where(is_unknown, 0.0, own).tolist()  # 0 is what a decision shows of an expert nothing is known of
        has_unknown = np.asarray(is_unknown.any(axis=1)).tolist()
        choices = []
        for number, case in enumerate(cases):
            positions = case.shortlist.positions
            best = ranked[number]
            if len(positions) < len(best):
                best = [position for position in best if position in positions]
            is_lost = bool(best) and has_unknown[number] and bool(is_unknown[number, positions].all())
            choices.append(
                Choice(
                    positions=case.allowance.best_first(best),
                    scores=finite[number],
                    fallback_reason=self._reason(case) if is_lost else None,
                    p_correct=None if is_lost or chances is None else chances[number].tolist(),
                )
            )
        return choices


def embedding_rows(annotations: Sequence[SkillAnnotation], dimension: int) -> Floats:
    """The annotations' embeddings, shape (annotations, dimension), float64; a row of NaN where there is none, or one
    of another dimension."""
    rows = np.full((len(annotations), dimension), np.nan)
    for number, annotation in enumerate(annotations):
        if annotation.embedding is not None and len(annotation.embedding) == dimension:
            rows[number] = annotation.embedding
    return rows


def fit_matrix(data: FitData, *, name: str, embedded: bool = False) -> tuple[list[str], Floats]:
    """Question ids (sorted) and the mean grade of each expert on each, shape (questions, experts), NaN where not asked.

    With `embedded` only questions with an embedding are in it. Raises `ConfigError`, naming the recruiter, where
    nothing is left to learn from.
    """
    ids = sorted({o.question_id for o in data.outcomes if not embedded or _is_embedded(data, o.question_id)})
    if not ids:
        what = "graded fit questions with embeddings" if embedded else "graded fit questions"
        raise ConfigError(
            f"recruiter {name!r} learns from {what}, and there are none; make an artefact with `enlist profile`"
            + (", and use an annotator that embeds queries, such as `embedding`" if embedded else "")
        )
    row_of = {question_id: number for number, question_id in enumerate(ids)}
    column_of = {expert.id: number for number, expert in enumerate(data.experts)}
    sums, counts = np.zeros((len(ids), len(column_of))), np.zeros((len(ids), len(column_of)))
    for outcome in sorted(data.outcomes, key=lambda o: (o.question_id, o.expert_id, o.sample)):
        if outcome.question_id in row_of and outcome.expert_id in column_of:
            sums[row_of[outcome.question_id], column_of[outcome.expert_id]] += outcome.correct
            counts[row_of[outcome.question_id], column_of[outcome.expert_id]] += 1
    return ids, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _is_embedded(data: FitData, question_id: str) -> bool:
    annotation = data.annotations.get(question_id)
    return annotation is not None and annotation.embedding is not None


def fit_embeddings(data: FitData, ids: Sequence[str]) -> NDArray[Any]:
    """The embeddings of these questions, shape (questions, dimension), float64."""
    return np.array([data.annotations[question_id].embedding for question_id in ids], dtype=np.float64)
