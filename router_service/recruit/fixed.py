"""Recruiter `fixed`: the same k experts for every query, those that were right most often on the fit questions."""

from __future__ import annotations

from typing import ClassVar

from router_service.recruit.base import RECRUITERS
from router_service.recruit.ranking import RankingRecruiter, best_on_fit
from router_service.recruit.roster import Case, Roster, require_k
from router_service.types import Query

__all__ = ["Fixed"]


@RECRUITERS.register("fixed")
class Fixed(RankingRecruiter):
    """One completion of each of the `k` best eligible experts: a panel that costs no annotation and is hard to beat."""

    name: ClassVar[str] = "fixed"

    def __init__(self, *, k: int = 3) -> None:
        self.k = require_k(self.name, k)

    def completions_for(self, query: Query) -> int:
        """The query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    def _ranked(self, roster: Roster, case: Case) -> list[int]:
        return best_on_fit(roster, case)
