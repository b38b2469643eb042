"""For recruiters that hold only some of the pool: nobody else may be asked, and the decision says so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from router_service.recruit.roster import Case, Roster
from router_service.types import Elimination

__all__ = ["held_only"]


def held_only(case: Case, held: Collection[int], roster: Roster, *, limit: str) -> Case:
    """The case with only the held positions on its shortlist; the others are eliminated with code `not_held`, by the
    `limit` named."""
    out = [position for position in case.shortlist.positions if position not in held]
    if not out:
        return case
    kept = ", ".join(roster.ids[position] for position in sorted(held))
    reason = f"is not held: {limit} leave {kept}"
    unheld = tuple(Elimination(expert_id=roster.ids[i], reason=reason, code="not_held") for i in out)
    positions = tuple(position for position in case.shortlist.positions if position in held)
    shortlist = replace(case.shortlist, positions=positions, eliminated=(*case.shortlist.eliminated, *unheld))
    return replace(case, shortlist=shortlist)
