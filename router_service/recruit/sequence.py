"""Base of the recruiters that ask in waves: what was said so far decides whether somebody further is asked."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from router_service.recruit.base import RecruitRequest
from router_service.recruit.roster import Case, Roster, RosterRecruiter, require_k
from router_service.types import Completion, Query, Recruit

__all__ = ["Said", "SequenceRecruiter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One completion so far and the position of its expert in the pool."""

    position: int
    completion: Completion


class SequenceRecruiter(RosterRecruiter):
    """Starts with the wave that `_choose` says and widens it by what `_further` says, up to `k` completions in all.

    Nobody is asked twice. What an expert that was not asked would have said is not there to be seen, so it cannot
    influence a decision.
    """

    sizes_panel: ClassVar[bool] = True

    def __init__(self, *, k: int = 3) -> None:
        self.k = require_k(self.name, k)

    def completions_for(self, query: Query) -> int:
        """The most: the query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    def extend(self, requests: Sequence[RecruitRequest]) -> list[tuple[Recruit, ...]]:
        """Further recruits per request, in order; an empty tuple ends the asking. `NotFittedError` before `fit`."""
        roster = self._require_fitted()
        if not requests:
            return []
        _, chances = roster.table.strengths([request.annotation for request in requests])
        return [self._extended(roster, *row) for row in zip(requests, chances.tolist(), strict=True)]

    def _extended(self, roster: Roster, request: RecruitRequest, chances: Sequence[float]) -> tuple[Recruit, ...]:
        position_of = {expert_id: position for position, expert_id in enumerate(roster.ids)}
        said = [
            Said(position=position_of[completion.expert_id], completion=completion)
            for completion in request.completions
            if completion.expert_id in position_of
        ]
        left = self.completions_for(request.query) - len(request.completions)
        if left < 1:
            return ()
        case = roster.case(request, left)
        asked = {item.position for item in said}
        positions = tuple(position for position in case.shortlist.positions if position not in asked)
        case = replace(case, shortlist=replace(case.shortlist, positions=positions))
        if not positions:
            return ()
        return tuple(
            Recruit(
                expert_id=roster.ids[position],
                score=score,
                p_correct=None if math.isnan(chances[position]) else chances[position],
            )
            for position, score in self._further(roster, case, said)
        )

    @abstractmethod
    def _further(self, roster: Roster, case: Case, said: Sequence[Said]) -> Sequence[tuple[int, float]]:
        """Whom to ask besides, of the case's shortlist (which holds nobody asked before) and within its allowance,
        each with a score; nobody ends the asking."""
