"""What one-shot recruiters share: the fitted pool, who is eligible, what the budget allows, the decision made."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from experts_registry.estimate import estimate_panel
from router_service.errors import ConfigError, NotFittedError
from router_service.recruit.allowance import Allowance, allowance_of
from router_service.recruit.base import FitData, RecruitRequest
from router_service.recruit.eligibility import Eligibility, Shortlist
from router_service.recruit.saved import Learned, SavedRecruiter, options_of
from router_service.recruit.strength import Combine, Floats, StrengthTable
from router_service.types import MAX_K, Expert, Query, Recruit, RouteDecision

__all__ = ["Case", "Choice", "Roster", "RosterRecruiter", "require_k"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request, with who may be asked and how much."""

    request: RecruitRequest
    shortlist: Shortlist
    allowance: Allowance


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a strategy makes of a case: positions of the chosen experts (one per completion, in order of preference),
    the score of every expert of the pool (NaN for one that it cannot score), and why a fallback rule was used."""

    positions: Sequence[int]
    scores: Sequence[float]
    fallback_reason: str | None = None
    p_correct: Sequence[float] | None = None
    """The strategy's own P(correct) of every expert; unset leaves it to the profiles."""
    aggregator: str | None = None
    """The aggregator the strategy advises, for queries whose aggregator is `auto`."""


class Roster:
    """A fitted pool: the experts in order, their strengths and the rules of eligibility."""

    def __init__(self, data: FitData) -> None:
        self.experts = data.experts
        self.profiles = data.profiles
        self.ids = tuple(expert.id for expert in data.experts)
        self.table = StrengthTable(data.experts, data.profiles)
        self._eligibility = Eligibility(data.experts)
        self._is_whole = tuple(range(len(self.ids)))

    def case(self, request: RecruitRequest, k: int) -> Case:
        """The request made ready; `k` is how many completions are wanted where its controls do not say."""
        query = request.query
        shortlist = self._eligibility.of(query)
        budget = query.budget
        if (budget.max_completions, budget.max_cost_usd, budget.max_output_tokens) == (None, None, None):
            return Case(request=request, shortlist=shortlist, allowance=Allowance(completions=k))
        allowance = allowance_of(query, self.experts, k=k, prompt_tokens=shortlist.prompt_tokens)
        return Case(request=request, shortlist=shortlist, allowance=allowance)

    def decide(self, case: Case, choice: Choice, p_correct: Sequence[float], *, recruiter: str) -> RouteDecision:
        """The decision for a case; experts chosen more than once become several samples of one recruit, and recruits
        stand in the order of their scores, ties in the pool's order."""
        samples: dict[int, int] = {}
        for position in choice.positions:
            samples[position] = samples.get(position, 0) + 1
        panel = [(self.experts[position], number) for position, number in samples.items()]
        scores = choice.scores
        p_correct = choice.p_correct if choice.p_correct is not None else p_correct
        order = sorted(samples, key=lambda position: (-scores[position], position))
        return RouteDecision(
            query_id=case.request.query.id,
            recruits=tuple(_recruit(self.ids[i], scores[i], p_correct[i], samples=samples[i]) for i in order),
            recruiter=recruiter,
            aggregator=choice.aggregator,
            eliminated=case.shortlist.eliminated,
            scores=self._scores(case.shortlist, scores),
            is_fallback=choice.fallback_reason is not None,
            fallback_reason=choice.fallback_reason,
            estimate=estimate_panel(panel, case.request.query, prompt_tokens=case.shortlist.prompt_tokens),
            seed=case.request.seed,
        )

    def _scores(self, shortlist: Shortlist, scores: Sequence[float]) -> dict[str, float]:
        if shortlist.positions == self._is_whole:
            return dict(zip(self.ids, scores, strict=True))
        return {self.ids[position]: scores[position] for position in shortlist.positions}


def _recruit(expert_id: str, score: float, p_correct: float, *, samples: int) -> Recruit:
    """A recruit; NaN is what a missing profile leaves of P(correct)."""
    known = None if math.isnan(p_correct) else p_correct
    return Recruit(expert_id=expert_id, score=score, p_correct=known, samples=samples)


class RosterRecruiter(ABC):
    """Base of the recruiters that decide in one shot; a strategy says how it chooses, the rest is here."""

    name: ClassVar[str]
    needs_annotation: bool = False
    needs_embeddings: ClassVar[bool] = False
    """True where the strategy goes by embeddings: `fit` then gets annotations that hold them."""
    needs_profiles: ClassVar[bool] = True
    """True where the strategy has nothing to go by without profiles."""
    scores_jointly: ClassVar[bool] = False
    """True where a score depends on who else is in the pool, as in what is learned of all experts together."""
    sizes_panel: ClassVar[bool] = False
    """True where the strategy settles itself how many completions a query gets, `k` being the most."""

    goes_by_chance: ClassVar[bool] = False
    """True where `_choose` is to have the profiles' P(correct), NaN without a profile, for local scores."""

    has_own_chances: ClassVar[bool] = False
    """True where every choice comes with its own scores and P(correct): the profiles' are then not worked out."""

    combine: Combine = "sum"
    """How the scores of a query's skills become the local score."""

    roster_: Roster | None = None

    def fit(self, data: FitData) -> Self:
        """Learn the pool and its profiles; raises `ConfigError` where profiles are needed and the pool has none."""
        roster = self._enrol(data)
        self._learn(data, roster)
        self.roster_ = roster
        return self

    def save(self, path: str | Path) -> None:
        """Write what was learned to one file; raises `NotFittedError` before `fit`."""
        roster = self._require_fitted()
        SavedRecruiter(
            name=self.name,
            expert_ids=roster.ids,
            profiles=roster.profiles,
            options=options_of(self),
            learned=self._learned(),
        ).write(path)

    def load(self, path: str | Path, *, experts: Sequence[Expert]) -> Self:
        """Take the state that `save` wrote; returns itself. `ConfigError` as `SavableRecruiter.load` says."""
        saved = SavedRecruiter.read(path, name=self.name, options=options_of(self), experts=experts)
        roster = self._enrol(FitData(experts=tuple(experts), profiles=saved.profiles))
        self._relearn(saved.learned, roster)
        self.roster_ = roster
        return self

    def _enrol(self, data: FitData) -> Roster:
        roster = Roster(data)
        if self.needs_profiles and not roster.table.has_profile.any():
            raise ConfigError(
                f"recruiter {self.name!r} goes by profiles, and none of the {len(data.experts)} experts has one; "
                "make them with `enlist profile`, or recruit with `random` or `all`"
            )
        return roster

    def _learn(self, data: FitData, roster: Roster) -> None:  # noqa: B027 (most have nothing to learn)
        """What the strategy learns besides the roster; raises `ConfigError` naming what is missing."""

    def _learned(self) -> Learned:
        """What `_learn` left, as values and arrays: `_relearn` must make the same of it."""
        return Learned()

    def _relearn(self, learned: Learned, roster: Roster) -> None:  # noqa: B027 (as `_learn`)
        """Take back what `_learned` gave."""

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        """One decision per request, in order; raises `NotFittedError` before `fit`."""
        roster = self._require_fitted()
        if not requests:
            return []
        cases = [self._case(roster, request) for request in requests]
        if self.has_own_chances:
            nothing = np.empty((len(cases), 0))
            choices = self._choose(roster, cases, nothing)
            return [roster.decide(*row, (), recruiter=self.name) for row in zip(cases, choices, strict=True)]
        scores, chances = roster.table.strengths([r.annotation for r in requests], combine=self.combine)
        choices = self._choose(roster, cases, chances if self.goes_by_chance else scores)
        rows = chances.tolist()
        return [roster.decide(*row, recruiter=self.name) for row in zip(cases, choices, rows, strict=True)]

    def completions_for(self, query: Query) -> int:
        """How many completions the query gets where its budget covers them."""
        return 1

    def _require_fitted(self) -> Roster:
        if self.roster_ is None:
            raise NotFittedError(f"recruiter {self.name!r} recruits only after `fit`")
        return self.roster_

    def _case(self, roster: Roster, request: RecruitRequest) -> Case:
        return roster.case(request, self.completions_for(request.query))

    @abstractmethod
    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        """One choice per case; `scores` are the local scores, shape (cases, experts)."""


def require_k(name: str, k: int) -> int:
    """`k` where it is 1 to `MAX_K`; else `ConfigError` naming the recruiter."""
    if not 1 <= k <= MAX_K:
        raise ConfigError(f"recruiter {name!r}: k is {k}; it is the number of completions, 1 to {MAX_K}")
    return k
