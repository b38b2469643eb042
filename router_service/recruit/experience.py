"""Recruiter `experience`: the experts that solved questions like this one, out of a store of verified experiences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError, NotFittedError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.embedded import (
    EmbeddingRecruiter,
    Vectors32,
    base_rates,
    blocks,
    graded_lesson,
    similarities,
)
from router_service.recruit.experience_store import ExperienceStore, Solved, text_key
from router_service.recruit.knn import neighbour_weights
from router_service.recruit.roster import Case, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats
from skills.texts import question_text

__all__ = ["Experience"]


@RECRUITERS.register("experience")
class Experience(EmbeddingRecruiter):
    """Xolver's episodic memory (section on experience; released code github.com/kagnlp/Xolver), used for recruiting.

    The store holds questions whose answer was verified, with the experts that solved them: at first the fit questions
    that some expert got wholly right. An expert's score is how often it solved the `neighbours` experiences nearest to
    the query (cosine of embeddings, each weighing as much as it is alike), with its rate on all fit questions counting
    for `prior_weight` of them. Experiences that are the query itself, by words or by a similarity of `near` and up,
    are left out, so that nothing is remembered for its own question.

    Unlike the released memory, which keeps the last response unchecked and finds a question for itself on a second run,
    `remember` takes verified experiences only and nothing twice. Recruiting writes nothing: an evaluation runs on a
    frozen store.
    """

    name: ClassVar[str] = "experience"
    scores_jointly: ClassVar[bool] = True
    """A question is stored where some expert solved it, so each expert has a say in what the store holds."""
    unknown_reason = "no stored experience is like the query, so the best on the fit questions are asked"

    store_: ExperienceStore | None = None

    def __init__(self, *, k: int = 1, neighbours: int = 40, prior_weight: float = 40.0, near: float = 0.95) -> None:
        super().__init__(k=k)
        if neighbours < 1 or prior_weight <= 0 or not 0 < near <= 1:
            raise ConfigError(
                f"recruiter {self.name!r}: neighbours is {neighbours}, prior_weight {prior_weight}, near {near}; "
                "needed are 1 neighbour or more, a weight above 0, and a cosine similarity above 0 and at most 1"
            )
        self.neighbours = neighbours
        self.prior_weight = prior_weight
        self.near = near

    def remember(self, solved: Solved) -> str | None:
        """Store an experience for the queries to come; returns why it is refused, None where it is stored.

        Refused are answers that are not verified, questions that nobody solved, and questions that are stored already,
        word for word or nearly so. Raises `NotFittedError` before `fit`, `UnknownNameError` for a winner outside the
        pool, and `ConfigError` for an embedding that does not fit the others.
        """
        store, (refusal,) = self._require_store().adding([solved])
        self._take(store)
        return refusal

    def _require_store(self) -> ExperienceStore:
        if self.store_ is None:
            raise NotFittedError(f"recruiter {self.name!r} has a store only after `fit`")
        return self.store_

    def _take(self, store: ExperienceStore) -> None:
        self.store_ = store
        self._has_won = np.ascontiguousarray(store.has_won.T, dtype=np.float32)
        self._rows_of: dict[str, list[int]] = {}
        for row, key in enumerate(store.keys):
            self._rows_of.setdefault(key, []).append(row)

    # --- fitting ---------------------------------------------------------------------------------------------------

    def _learn(self, data: FitData, roster: Roster) -> None:
        lesson = graded_lesson(data, name=self.name)
        self.base_ = base_rates(roster, lesson.grades)
        self.dimension_ = lesson.vectors.shape[1]
        said = {o.question_id: o.extracted for o in data.outcomes if o.correct >= 1.0}
        found = []
        for question_id, vector, grades in zip(lesson.ids, lesson.vectors, lesson.grades, strict=True):
            question = data.questions.get(question_id)
            reference = question.answer if question is not None else None
            found.append(
                Solved(
                    text="" if question is None else question.text,
                    winners=tuple(i for i, grade in zip(roster.ids, grades.tolist(), strict=True) if grade >= 1.0),
                    answer=said.get(question_id) if reference is None else reference,
                    skills=tuple(data.annotations[question_id].skills),
                    is_verified=True,
                    embedding=vector,
                )
            )
        store, _ = ExperienceStore.empty(roster.ids, dimension=self.dimension_, near=self.near).adding(found)
        self._take(store)

    def _learned(self) -> Learned:
        store = self._require_store()
        arrays = {"vectors": store.vectors, "has_won": store.has_won, "base": self.base_}
        return Learned(values=store.as_values(), arrays=arrays)

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        arrays = learned.arrays
        self.base_ = arrays["base"]
        self.dimension_ = arrays["vectors"].shape[1]
        empty = ExperienceStore.empty(roster.ids, dimension=self.dimension_, near=self.near)
        self._take(empty.with_values(learned.values, vectors=arrays["vectors"], has_won=arrays["has_won"]))

    # --- deciding --------------------------------------------------------------------------------------------------

    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        store = self._require_store()
        scores = np.full((len(cases), len(roster.ids)), np.nan)
        for block in blocks(len(cases)):
            alike = similarities(store.vectors, vectors[block])
            alike[alike >= self.near] = 0.0
            for number, case in enumerate(cases[block]):
                alike[number, self._rows_of.get(text_key(question_text(case.request.query)), [])] = 0.0
            scores[block] = self._rates(alike)
        return scores, None

    def _rates(self, alike: Vectors32) -> Floats:
        weights = neighbour_weights(alike, self.neighbours)
        wins = np.einsum("bi,ei->be", weights, self._has_won).astype(np.float64)
        trials = weights.sum(axis=1, dtype=np.float64)[:, None]
        rates = (wins + self.prior_weight * self.base_) / (trials + self.prior_weight)
        return np.where(trials > 0, rates, np.nan)
