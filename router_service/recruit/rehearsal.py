"""What panels would have reached on the fit questions: each judged by a fusion that never saw its question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregators.fusion import Verdicts, Votes, cross_fitted, votes_of
from router_service.recruit.base import FitData
from router_service.recruit.chances import Chances
from router_service.recruit.strength import Floats

__all__ = ["NOT_ASKED", "Rehearsal", "Step", "prospects", "ranks_of"]

Positions = NDArray[np.intp]

NOT_ASKED = -1.0
"""In place of P(correct) where nothing was recorded: such an expert comes last, and after it there is nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A panel size on every fit question: the grade of the fused answer (n,), and what could be seen then, (n, f)."""

    grades: Floats
    seen: Floats


class Rehearsal:
    """The fit questions with everybody's recorded answer, to be asked one after the other in a given order."""

    def __init__(self, data: FitData, known: Chances, *, seed: int = 0) -> None:
        question_ids = known.evidence.question_ids
        self.question_ids = tuple(question_ids)
        self._rehearsed: dict[tuple[bytes, bytes, int], Step] = {}
        categories = {data.annotations[i].category for i in question_ids if i in data.annotations}
        self.categories = sorted(name for name in categories if name is not None)
        expected = dict(zip(question_ids, known.left_out().tolist(), strict=True))
        self.votes = votes_of(replace(data, chances=expected), question_ids, self.categories)
        self._folds = cross_fitted(self.votes, categories=len(self.categories), seed=seed)

    @classmethod
    def with_chances(cls, data: FitData, *, name: str, seed: int = 0) -> tuple[Chances, Rehearsal]:
        """P(correct) learned on the graded questions, and these to be rehearsed; `ConfigError`, naming the recruiter,
        where there are none."""
        chances = Chances.fit(data, name=name)
        return chances, cls(data, chances, seed=seed)

    def of_asked(self, chances: Floats) -> Floats:
        """The same P(correct) or rates, (n, m), but `NOT_ASKED` where an expert has no recorded answer to the question:
        it is then rehearsed without that expert, and not as if the expert had been wrong."""
        return np.where(self.votes.asked, chances, NOT_ASKED)

    @property
    def folds(self) -> Sequence[NDArray[np.bool_]]:
        """Which questions are held out in each fold."""
        return [held_out for held_out, _ in self._folds]

    def fused(self, panel: NDArray[np.bool_], chances: Floats, following: Floats) -> Step:
        """Every question with its own panel, (n, m): `chances` (n, m) are the experts' P(correct), `following` (n,) is
        that of the expert who would be asked next, 0 where there is none."""
        votes = self.votes.within(panel)
        grades = np.zeros(len(votes))
        seen = np.zeros((len(votes), 0))
        for held_out, fusion in self._folds:
            part = votes.rows(held_out)
            verdicts = fusion.verdicts(part)
            grades[held_out] = part.is_right(verdicts.winners)
            rows = prospects(part, verdicts, chances=chances[held_out], following=following[held_out])
            if seen.shape[1] == 0:
                seen = np.zeros((len(votes), rows.shape[1]))
            seen[held_out] = rows
        return Step(grades=grades, seen=seen)

    def majority(self, panel: NDArray[np.bool_], chances: Floats) -> Floats:
        """The grades, (n,), of a plurality vote in each panel; ties go to the answer of the member that is likelier to
        be right."""
        return self.votes.within(panel).majority(chances)

    def steps(self, order: Positions, chances: Floats, *, most: int) -> list[Step]:
        """Panels of 1 to `most` experts, each question's in its own order (n, m); rehearsed once, however often asked
        for."""
        ranks = ranks_of(order)
        ranked = np.maximum(np.take_along_axis(chances, order, axis=1), 0.0)
        nobody = np.zeros((len(order), 1))
        following = np.concatenate([ranked[:, 1:], nobody], axis=1)
        content = (order.tobytes(), chances.tobytes())
        for size in range(1, most + 1):
            if (*content, size) not in self._rehearsed:
                self._rehearsed[*content, size] = self.fused(ranks < size, chances, following[:, size - 1])
        return [self._rehearsed[*content, size] for size in range(1, most + 1)]


def ranks_of(order: Positions) -> Positions:
    """The rank of each expert, (n, m), from the experts in order."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    return ranks


def prospects(votes: Votes, verdicts: Verdicts, *, chances: Floats, following: Floats) -> Floats:
    """What is seen of panels half asked, one row per question: the verdicts' signs, how good the winner's best
    supporter, the panel and the next expert are on this question, and how these meet."""
    holds = (votes.labels == verdicts.winners[:, None]) & (votes.labels >= 0)
    lead = np.where(holds, chances, 0.0).max(axis=1, initial=0.0)
    asked = np.maximum(votes.asked.sum(axis=1), 1)
    mean = np.where(votes.asked, chances, 0.0).sum(axis=1) / asked
    unheld = 1.0 - verdicts.shares
    extra = [lead, mean, following, unheld * following, unheld * mean]
    return np.concatenate([verdicts.signs(votes), np.stack(extra, axis=1)], axis=1)
