"""Base of the recruiters that rank the whole pool the same way for every query, or by chance, and take the first k."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter
from router_service.recruit.strength import Floats

__all__ = ["RankingRecruiter", "best_of_pool", "best_on_fit"]


class RankingRecruiter(RosterRecruiter):
    """Takes one completion of each of the first experts of an order, as many as wanted and paid for."""

    @abstractmethod
    def _ranked(self, roster: Roster, case: Case) -> list[int]:
        """The positions of the eligible experts, most preferred first."""

    def _scores(self, roster: Roster) -> list[float]:
        """The score of every expert, whatever the query: the smoothed success rate on the fit questions, 0 without a
        profile."""
        return [
            rate if known else 0.0
            for rate, known in zip(roster.table.overall.tolist(), roster.table.has_profile.tolist(), strict=True)
        ]

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        own = self._scores(roster)
        return [Choice(positions=case.allowance.best_first(self._ranked(roster, case)), scores=own) for case in cases]


def best_on_fit(roster: Roster, case: Case) -> list[int]:
    """The eligible experts by smoothed success rate on the fit questions; ties in the pool's order, and experts
    without a profile last."""
    everyone, positions = roster.table.best_first, case.shortlist.positions
    if len(positions) == len(everyone):
        return list(everyone)
    eligible = frozenset(positions)
    return [position for position in everyone if position in eligible]


def best_of_pool(roster: Roster) -> list[int]:
    """All positions of the pool, in the order that `best_on_fit` gives eligible ones."""
    return list(roster.table.best_first)
