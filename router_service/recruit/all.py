"""Recruiter `all`: every eligible expert, for every query."""

from __future__ import annotations

from typing import ClassVar

from router_service.recruit.base import RECRUITERS
from router_service.recruit.ranking import RankingRecruiter, best_on_fit
from router_service.recruit.roster import Case, Roster
from router_service.types import Query

__all__ = ["All"]


@RECRUITERS.register("all")
class All(RankingRecruiter):
    """One completion of everybody, whatever the query's `k`; where the budget does not cover all, the best on fit."""

    name: ClassVar[str] = "all"
    needs_profiles: ClassVar[bool] = False

    def completions_for(self, query: Query) -> int:
        """As many as there are experts."""
        return len(self.roster_.ids) if self.roster_ is not None else 0

    def _ranked(self, roster: Roster, case: Case) -> list[int]:
        return best_on_fit(roster, case)
