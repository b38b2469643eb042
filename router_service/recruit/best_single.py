"""Recruiter `best_single`: the one expert that was right most often on the fit questions, for every query."""

from __future__ import annotations

from typing import ClassVar

from router_service.recruit.base import RECRUITERS
from router_service.recruit.ranking import RankingRecruiter, best_on_fit
from router_service.recruit.roster import Case, Roster

__all__ = ["BestSingle"]


@RECRUITERS.register("best_single")
class BestSingle(RankingRecruiter):
    """One completion of the best eligible expert: the baseline that routing has to beat. It ignores a query's `k`."""

    name: ClassVar[str] = "best_single"

    def _ranked(self, roster: Roster, case: Case) -> list[int]:
        return best_on_fit(roster, case)
