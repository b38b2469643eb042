"""For recruiters with rules of their own about who may be asked: the case without the others, and why each is out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from router_service.recruit.roster import Case, Roster
from router_service.types import Elimination

__all__ = ["held_only", "without"]


def without(case: Case, barred: Mapping[int, Elimination]) -> Case:
    """The case with nobody barred (by position) on its shortlist; whoever is out already keeps the earlier reason."""
    out = tuple(barred[position] for position in case.shortlist.positions if position in barred)
    if not out:
        return case
    positions = tuple(position for position in case.shortlist.positions if position not in barred)
    eliminated = (*case.shortlist.eliminated, *out)
    return replace(case, shortlist=replace(case.shortlist, positions=positions, eliminated=eliminated))


def held_only(case: Case, held: Collection[int], roster: Roster, *, limit: str) -> Case:
    """The case with only the held positions on its shortlist; the others are eliminated with code `not_held`, by the
    `limit` named."""
    out = [position for position in case.shortlist.positions if position not in held]
    if not out:
        return case
    kept = ", ".join(roster.ids[position] for position in sorted(held))
    reason = f"is not held: {limit} leave {kept}"
    return without(case, {i: Elimination(expert_id=roster.ids[i], reason=reason, code="not_held") for i in out})
