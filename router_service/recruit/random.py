"""Recruiter `random`: k different experts by chance, the baseline for how little choosing matters."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from router_service.recruit.base import RECRUITERS
from router_service.recruit.ranking import RankingRecruiter
from router_service.recruit.roster import Case, Roster, require_k
from router_service.types import Query

__all__ = ["Random"]


@RECRUITERS.register("random")
class Random(RankingRecruiter):
    """One completion of each of `k` eligible experts, drawn alike and without replacement; every score is 0."""

    name: ClassVar[str] = "random"
    needs_profiles: ClassVar[bool] = False

    def __init__(self, *, k: int = 3) -> None:
        self.k = require_k(self.name, k)

    def completions_for(self, query: Query) -> int:
        """The query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    def _ranked(self, roster: Roster, case: Case) -> list[int]:
        seed = case.request.seed & 0xFFFF_FFFF_FFFF_FFFF
        keys = np.random.Generator(np.random.PCG64(seed)).random(len(roster.ids)).tolist()
        return sorted(case.shortlist.positions, key=keys.__getitem__)

    def _scores(self, roster: Roster) -> list[float]:
        return [0.0] * len(roster.ids)
