"""For recruiters with rules of their own about who may be asked: the case without the others, and why each is out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from router_service.recruit.roster import Case, Roster
from router_service.types import Elimination

__all__ = ["Exclusion", "held_only"]


class Exclusion:
    """The experts that a recruiter never asks, by position, with the reason of each."""

    def __init__(self, barred: Mapping[int, Elimination]) -> None:
        self.barred = dict(barred)
        self._last: tuple[tuple[int, ...], tuple[int, ...], tuple[Elimination, ...]] | None = None

    def of(self, case: Case) -> Case:
        """The case with nobody barred on its shortlist; whoever is out already keeps the earlier reason."""
        shortlist = case.shortlist
        last = self._last
        if last is None or last[0] is not shortlist.positions:  # most queries have the very same shortlist
            left = tuple(position for position in shortlist.positions if position not in self.barred)
            out = tuple(self.barred[position] for position in shortlist.positions if position in self.barred)
            last = self._last = (shortlist.positions, left, out)
        _, left, out = last
        if not out:
            return case
        return replace(case, shortlist=replace(shortlist, positions=left, eliminated=(*shortlist.eliminated, *out)))


def held_only(held: Collection[int], roster: Roster, *, limit: str) -> Exclusion:
    """Nobody but the held positions; the others are out with code `not_held`, by the `limit` named."""
    kept = ", ".join(roster.ids[position] for position in sorted(held))
    reason = f"is not held: {limit} leave {kept}"
    return Exclusion(
        {
            position: Elimination(expert_id=expert_id, reason=reason, code="not_held")
            for position, expert_id in enumerate(roster.ids)
            if position not in held
        }
    )
