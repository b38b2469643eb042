"""Recruiter `modality`: the experts that read what the query holds and have the very skills it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.ranking import best_of_pool
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats
from router_service.types import Profile, Query

__all__ = ["Modality", "match_skills", "skill_holders"]

NOBODY = "no expert that may be asked has a skill of the query, so the best on the fit questions is asked"


@RECRUITERS.register("modality")
class Modality(RosterRecruiter):
    """MEXA (released code): the experts whose modalities cover the query's and that have a skill the query needs, by
    exact name; those with most of them first, at most `k`.

    An expert has a skill where it was right on at least `floor` of its fit questions. Skills that nobody has are
    left out, and the decision says which; where no expert has any, the best on the fit questions is asked alone.

    Differs from the released code: skills come from the annotator instead of an LLM's list of 17 ids, an unknown one
    is not an error, and profiles say who has a skill instead of a fixed table.
    """

    name: ClassVar[str] = "modality"
    needs_annotation: bool = True
    sizes_panel: ClassVar[bool] = True

    def __init__(self, *, k: int = 3, floor: float = 0.5) -> None:
        if not 0 <= floor <= 1:
            raise ConfigError(f"recruiter {self.name!r}: floor is {floor}; it is a success rate, from 0 to 1")
        self.k = require_k(self.name, k)
        self.floor = floor

    def completions_for(self, query: Query) -> int:
        """At most the query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    def _learn(self, data: FitData, roster: Roster) -> None:
        self._relearn(Learned(), roster)

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        profiles = [roster.profiles.get(expert_id) for expert_id in roster.ids]
        self.holders_ = skill_holders(profiles, floor=self.floor)
        self._order = best_of_pool(roster)

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        return [self._choice(case, size=len(roster.ids)) for case in cases]

    def _choice(self, case: Case, *, size: int) -> Choice:
        scores, strange = match_skills(self.holders_, case.request.annotation.skills, size=size)
        eligible = case.shortlist.positions
        order = self._order if len(eligible) == size else [i for i in self._order if i in eligible]
        panel = sorted((i for i in order if scores[i] > 0), key=lambda i: -scores[i])
        reasons = [f"no expert has the skills {', '.join(map(repr, strange))}, so they are left out"] if strange else []
        if not panel:
            reasons.append(NOBODY)
        positions = case.allowance.best_first(panel or order[:1])
        return Choice(
            positions=positions, scores=scores, fallback_reason="; ".join(reasons) if positions and reasons else None
        )


def skill_holders(profiles: Sequence[Profile | None], *, floor: float) -> dict[str, tuple[int, ...]]:
    """Which of the profiles, by position, have each skill: right on at least `floor` of its fit questions."""
    holders: dict[str, list[int]] = {}
    for position, profile in enumerate(profiles):
        for skill, tally in profile.skills.items() if profile is not None else ():
            if tally.trials > 0 and tally.wins >= floor * tally.trials:
                holders.setdefault(skill, []).append(position)
    return {skill: tuple(positions) for skill, positions in holders.items()}


def match_skills(
    holders: Mapping[str, tuple[int, ...]], skills: Mapping[str, float], *, size: int
) -> tuple[list[float], list[str]]:
    """For each of `size` experts the weight of the needed skills that it has, by exact name; and, sorted, the needed
    skills that nobody has."""
    scores = [0.0] * size
    strange = []
    for skill, weight in skills.items():
        if weight <= 0:
            continue
        if skill not in holders:
            strange.append(skill)
        for position in holders.get(skill, ()):
            scores[position] += weight
    return scores, sorted(strange)
