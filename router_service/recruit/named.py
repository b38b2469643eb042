"""Recruiter `named`: the one expert that the query asks for by name; nothing is routed."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from router_service.errors import UnknownNameError
from router_service.recruit.base import RECRUITERS, RecruitRequest
from router_service.recruit.eligibility import Shortlist
from router_service.recruit.ranking import RankingRecruiter
from router_service.recruit.roster import Case, Roster
from router_service.types import Elimination

__all__ = ["Named"]


@RECRUITERS.register("named")
class Named(RankingRecruiter):
    """One completion of `controls.expert`, if it is registered and eligible; nobody where the query names none."""

    name: ClassVar[str] = "named"
    needs_profiles: ClassVar[bool] = False

    def _case(self, roster: Roster, request: RecruitRequest) -> Case:
        case = super()._case(roster, request)
        return replace(case, shortlist=_only(request.query.controls.expert, case.shortlist, roster))

    def _ranked(self, roster: Roster, case: Case) -> list[int]:
        return list(case.shortlist.positions)


def _only(expert_id: str | None, shortlist: Shortlist, roster: Roster) -> Shortlist:
    if expert_id is None:
        reason = "recruiter 'named' asks the expert that controls.expert names, and the query names none"
        nobody = tuple(Elimination(expert_id=i, reason=reason, code="not_asked") for i in roster.ids)
        return replace(shortlist, positions=(), eliminated=nobody)
    if expert_id not in roster.ids:
        reason = UnknownNameError("expert", expert_id, roster.ids).message
        unknown = Elimination(expert_id=expert_id, reason=reason, code="unknown")
        return replace(shortlist, positions=(), eliminated=(unknown,))
    position = roster.ids.index(expert_id)
    positions = tuple(i for i in shortlist.positions if i == position)
    return replace(
        shortlist, positions=positions, eliminated=tuple(e for e in shortlist.eliminated if e.expert_id == expert_id)
    )
