"""Recruiter `self_consistency`: the best single expert asked k times, for its samples to vote among themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from router_service.recruit.base import RECRUITERS
from router_service.recruit.fixed import Fixed
from router_service.recruit.ranking import best_on_fit
from router_service.recruit.roster import Case, Choice, Roster
from router_service.recruit.strength import Floats

__all__ = ["SelfConsistency"]


@RECRUITERS.register("self_consistency")
class SelfConsistency(Fixed):
    """`k` samples of the eligible expert that was right most often on the fit questions (Wang et al. 2023; the first
    half of Avengers' generation step). They only differ where the expert samples, at a temperature above 0. Under a
    budget as many samples are asked as the cheapest expert could give, of the best expert that can give them."""

    name: ClassVar[str] = "self_consistency"

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        own = self._scores(roster)
        choices = []
        for case in cases:
            allowance = case.allowance
            samples = allowance.count(case.shortlist.positions, repeats=True)
            able = [i for i in best_on_fit(roster, case) if allowance.count([i], repeats=True) >= samples]
            choices.append(Choice(positions=able[:1] * samples, scores=own))
        return choices
