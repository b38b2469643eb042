"""Recruiter `adaptive`: asks the likeliest experts first, and further ones only where that should change the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from aggregators.equivalence import group_answers
from aggregators.fusion import Fusion
from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData, RecruitRequest
from router_service.recruit.calibrated import with_strangers_last
from router_service.recruit.chances import Chances
from router_service.recruit.gains import Gains, first_wave, most_asked
from router_service.recruit.rehearsal import Rehearsal, prospects
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats
from router_service.types import MAX_K, Query, Recruit

__all__ = ["Adaptive"]


@RECRUITERS.register("adaptive")
class Adaptive(RosterRecruiter):
    """Our own recruiter, in several waves: `k` completions a query on average, few where the first agree and up to
    `most` where they do not (twice `k` and one more, but 11, unless given). More than 8 on average are not rehearsed:
    so many are asked at once. Without `k` it asks on as long as one completion more should gain `worth` in accuracy, up
    to `most` (9, unless given).

    After each wave the answers so far are fused (aggregator `fuser`, which it advises), and a model learned on the fit
    questions predicts how much likelier a right answer becomes by asking on: from how clearly the fused answer leads,
    how good its supporters and the next expert are here. Where that falls below a threshold it stops; the threshold is
    the one with which the fit questions would have taken `k` completions on average. The experts are asked in order of
    P(correct) (`Chances`). The idea is Frugal Fusion of Experts' (stop where the expected gain does not pay), with a
    calibrated model in place of nearest neighbours in the space of outputs.

    A query's budget holds as for every recruiter; its `k` is the average here too, so a limit on completions is
    `budget.max_completions`.
    """

    name: ClassVar[str] = "adaptive"
    needs_annotation: bool = True
    needs_embeddings: ClassVar[bool] = True
    scores_jointly: ClassVar[bool] = True
    sizes_panel: ClassVar[bool] = True
    has_own_chances: ClassVar[bool] = True

    def __init__(self, *, k: int | None = None, most: int | None = None, worth: float = 0.002, seed: int = 0) -> None:
        self.k = k if k is None else require_k(self.name, k)
        if worth < 0:
            raise ConfigError(f"recruiter {self.name!r}: worth is {worth}; it is accuracy per completion, 0 or more")
        if most is not None and not 1 <= most <= MAX_K:
            raise ConfigError(f"recruiter {self.name!r}: most is {most}; it is a panel's largest size, 1 to {MAX_K}")
        self.most, self.worth, self.seed = most, worth, seed
        self.chances_: Chances | None = None
        self.fusion_: Fusion | None = None
        self.gains_: Gains | None = None

    def completions_for(self, query: Query) -> int:
        """How many are asked at once to begin with: as `first_wave` says, within `most`."""
        return min(first_wave(self._wanted(query)), self._most(query))

    def extend(self, requests: Sequence[RecruitRequest]) -> list[tuple[Recruit, ...]]:
        """The next expert of each query where asking on should pay; empty where it should not."""
        roster = self._require_fitted()
        return [self._further(roster, request) for request in requests]

    def _wanted(self, query: Query) -> int | None:
        return query.controls.k or self.k

    def _most(self, query: Query) -> int:
        return min(MAX_K, self.most or most_asked(self._wanted(query)))

    def _learn(self, data: FitData, roster: Roster) -> None:
        self.learn_from(*Rehearsal.with_chances(data, name=self.name, seed=self.seed), expert_ids=roster.ids)

    def learn_from(self, known: Chances, rehearsal: Rehearsal, *, expert_ids: Sequence[str]) -> None:
        """Learn to fuse what was said, and when asking on pays."""
        self.chances_ = known
        self.fusion_ = Fusion(expert_ids, rehearsal.categories).fit(rehearsal.votes, seed=self.seed)
        self.gains_ = Gains.fit(rehearsal, rehearsal.of_asked(known.left_out()))

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        chances = self._chances(roster, [case.request for case in cases])
        known = np.where(roster.table.has_profile, chances, np.nan).tolist()
        choices = []
        for case, row, shown in zip(cases, chances, known, strict=True):
            positions = case.allowance.best_first(self._order(roster, case, row))
            choices.append(Choice(positions=positions, scores=row.tolist(), p_correct=shown, aggregator="fuser"))
        return choices

    def _chances(self, roster: Roster, requests: Sequence[RecruitRequest]) -> Floats:
        assert self.chances_ is not None
        return self.chances_.of([request.annotation for request in requests])

    def _order(self, roster: Roster, case: Case, chances: Floats) -> list[int]:
        ranking = np.argsort(-with_strangers_last(chances[None, :], roster)[0], kind="stable").tolist()
        allowed = set(case.shortlist.positions)
        asked = {completion.expert_id for completion in case.request.completions}
        return [position for position in ranking if position in allowed and roster.ids[position] not in asked]

    def _further(self, roster: Roster, request: RecruitRequest) -> tuple[Recruit, ...]:
        assert self.gains_ is not None
        asked = len(request.completions)
        if asked >= self._most(request.query):
            return ()
        case = roster.case(request, 1)
        chances = self._chances(roster, [request])[0]
        position = next(iter(case.allowance.best_first(self._order(roster, case, chances))), None)
        if position is None:
            return ()
        if not self._pays(roster, request, chances=chances, following=float(chances[position])):
            return ()
        is_known = bool(roster.table.has_profile[position])
        p_correct = float(chances[position]) if is_known else None
        return (Recruit(expert_id=roster.ids[position], score=float(chances[position]), p_correct=p_correct),)

    def _pays(self, roster: Roster, request: RecruitRequest, *, chances: Floats, following: float) -> bool:
        """Whether to ask on; always where nobody holds an answer yet. Failed completions are members without one."""
        assert self.fusion_ is not None and self.gains_ is not None
        members = request.completions
        groups = group_answers([m for m in members if m.succeeded], request.query.task_format.kind)
        if not groups:
            return True
        fusion = self.fusion_.of_members([member.expert_id for member in members])
        own = chances[None, [roster.ids.index(member.expert_id) for member in members]]
        category = request.annotation.category
        votes = self.fusion_.votes_of_panel(groups, members, category=category, chances=own[0].tolist())
        seen = prospects(votes, fusion.verdicts(votes), chances=own, following=np.array([following]))
        return self.gains_.pays(seen[0], len(members), wanted=self._wanted(request.query), worth=self.worth)

    def _learned(self) -> Learned:
        assert self.chances_ is not None and self.fusion_ is not None and self.gains_ is not None
        inner = self.chances_.learned()
        fusion = {f"fusion_{name}": array for name, array in self.fusion_.arrays().items()}
        values = {**inner.values, "categories": list(self.fusion_.categories)}
        return Learned(values=values, arrays={**inner.arrays, **fusion, **self.gains_.arrays()})

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self.chances_ = Chances.relearned(learned)
        prefix = "fusion_"
        arrays = {name.removeprefix(prefix): a for name, a in learned.arrays.items() if name.startswith(prefix)}
        self.fusion_ = Fusion.from_arrays(roster.ids, learned.values["categories"], arrays)
        self.gains_ = Gains.from_arrays(learned.arrays)
