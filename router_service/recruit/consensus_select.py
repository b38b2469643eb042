"""Recruiter `consensus_select`: drafts first, and a stronger expert only where the most plausible of them differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from aggregators.plausibility import most_plausible, peer_scores, stand_in_nll
from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.call_costs import typical_costs
from router_service.recruit.ranking import best_on_fit
from router_service.recruit.recorded_answers import answer_numbers
from router_service.recruit.roster import Case, Choice, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.sequence import Said, SequenceRecruiter
from router_service.recruit.strength import Floats

__all__ = ["ConsensusSelect"]


@RECRUITERS.register("consensus_select")
class ConsensusSelect(SequenceRecruiter):
    """Speculative Verdict (released code github.com/Tinaliu0123/speculative-verdict, commit 44200842), as recruiting.

    The first wave are drafts: `k` completions less the `verdicts`, of the experts that are best on fit, or cheapest
    (`drafts`). The `keep` drafts that their peers find most plausible are looked at, ties settled by the query's seed:
    where all of them hold one answer, nobody else is asked; else the `verdicts` strongest experts on fit that were not
    asked yet are, and their completions join the panel. Two drafts are the least that can differ, so `k` is 3 or more.
    Where the budget cut the drafts, what they leave of it pays for verdicts one wave after the other.

    Log-likelihoods of one model's draft under another are not in a completion, so plausibility goes by the cheap
    stand-in: a peer that holds the same answer finds a draft as likely as its own (`stand_in_nll`). The paper has five
    drafts, keeps three and asks one large model in any case, which reads their reasons.
    """

    name: ClassVar[str] = "consensus_select"

    def __init__(
        self, *, k: int = 3, verdicts: int = 1, keep: int = 3, drafts: Literal["best", "cheapest"] = "best"
    ) -> None:
        super().__init__(k=k)
        if verdicts < 1 or keep < 2:
            raise ConfigError(
                f"recruiter {self.name!r}: verdicts is {verdicts} and keep is {keep}; needed are 1 verdict or more "
                "and 2 drafts or more to compare"
            )
        self.verdicts = verdicts
        self.keep = keep
        self.drafts = drafts

    def _learn(self, data: FitData, roster: Roster) -> None:
        self.costs_ = typical_costs(data)

    def _learned(self) -> Learned:
        return Learned(arrays={"costs": self.costs_})

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self.costs_ = np.asarray(learned.arrays["costs"], dtype=np.float64)

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        strengths = np.where(roster.table.has_profile, roster.table.overall, 0.0).tolist()
        return [Choice(positions=self._drafters(roster, case), scores=strengths) for case in cases]

    def _drafters(self, roster: Roster, case: Case) -> list[int]:
        order = best_on_fit(roster, case)
        if self.drafts == "cheapest":
            costs = self.costs_.tolist()
            order = sorted(order, key=lambda i: math.inf if math.isnan(costs[i]) else costs[i])
        affordable = case.allowance.best_first(order)
        return affordable[: max(1, len(affordable) - self.verdicts)]

    def _further(self, roster: Roster, case: Case, said: Sequence[Said]) -> Sequence[tuple[int, float]]:
        if len(said) > max(1, self.completions_for(case.request.query) - self.verdicts) or self._agree(case, said):
            return []
        strengths = roster.table.overall
        verdicts = case.allowance.best_first(best_on_fit(roster, case))[: self.verdicts]
        return [(position, float(strengths[position])) for position in verdicts]

    def _agree(self, case: Case, said: Sequence[Said]) -> bool:
        """Whether the most plausible drafts hold one answer; where others failed, one draft alone is no consensus."""
        drafts = [item.completion for item in said if item.completion.succeeded]
        numbers = answer_numbers(drafts, case.request.query.task_format.kind)
        kept = most_plausible(peer_scores(stand_in_nll(numbers)), self.keep, seed=case.request.seed)
        held = {numbers[position] for position in kept}
        return len(kept) >= min(2, len(said)) and len(held) == 1 and min(held) >= 0
