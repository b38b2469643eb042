"""Recruiter `subset_select`: first which experts to keep within energy, latency and memory, then the best k of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData, RecruitRequest
from router_service.recruit.category_table import category_scores
from router_service.recruit.exclusion import held_only
from router_service.recruit.ranking import best_of_pool
from router_service.recruit.roster import Case, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.scoring import ScoringRecruiter
from router_service.recruit.strength import CATEGORY_WEIGHT, Floats
from router_service.recruit.subset_search import SubsetProblem, best_subset
from router_service.types import Expert

__all__ = ["SubsetSelect"]


@RECRUITERS.register("subset_select")
class SubsetSelect(ScoringRecruiter):
    """MoE² (edge LLMs: joint gating and expert selection): a coarse choice of whom to keep, and a gate at run time.

    Kept is the set with the highest mean, over the fit questions' categories, of its best member's success rate there
    (`subset_search`), whose `energy_j` together is at most `energy_j` joules and whose `memory_gib` together at most
    `memory_gib`, each member at most `latency_s` seconds slow, and in a category of `category_latency_s` at most as
    slow as it says. A member's latency is its `latency_s`, and in a category the mean recorded on its fit questions,
    where there is one. What room is left is filled with the best on the fit questions, so that panels of k can be had;
    without any limit everybody is kept. Experts that are switched off take room too.

    The gate is what profiles say of P(correct) in the query's skills and category, each expert on its own, so that
    what was fitted for all of them holds for any subset (the paper's first claim); the best k of those kept are asked.

    Differs from the paper: the gate is not a network, and the sets are searched by branch and bound from below instead
    of a polyblock from above, which removes one expert at a time and so is slow where few can stay.
    """

    name: ClassVar[str] = "subset_select"
    needs_annotation: bool = True
    goes_by_chance: ClassVar[bool] = True
    unknown_reason = "no expert that may be asked has a profile, so the first ones in the pool are asked"

    def __init__(
        self,
        *,
        k: int = 1,
        energy_j: float | None = None,
        latency_s: float | None = None,
        memory_gib: float | None = None,
        category_latency_s: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(k=k)
        limits = {"energy_j": energy_j, "latency_s": latency_s, "memory_gib": memory_gib}
        named = {f"category_latency_s of {c!r}": limit for c, limit in (category_latency_s or {}).items()}
        for option, limit in (limits | named).items():
            if limit is not None and limit <= 0:
                raise ConfigError(f"recruiter {self.name!r}: {option} is {limit}; it is above 0")
        self.energy_j, self.latency_s, self.memory_gib = energy_j, latency_s, memory_gib
        self.category_latency_s = category_latency_s

    def _learn(self, data: FitData, roster: Roster) -> None:
        everybody = range(len(roster.ids))
        if (self.energy_j, self.latency_s, self.memory_gib) == (None, None, None) and not self.category_latency_s:
            self._hold(everybody, roster)
            return
        problem = _problem(data, roster, self._shares(data))
        usable = [position for position in everybody if roster.table.has_profile[position]]
        found = best_subset(_restricted(problem, usable))
        if not found.members:
            raise ConfigError(
                f"recruiter {self.name!r}: no expert with a profile keeps to energy_j = {self.energy_j}, latency_s = "
                f"{self.latency_s}, memory_gib = {self.memory_gib} and category_latency_s = {self.category_latency_s}; "
                "raise the limits, or add a smaller expert to the pool"
            )
        self._hold(_filled_up(problem, [usable[place] for place in found.members], best_of_pool(roster)), roster)

    def _hold(self, members: Iterable[int], roster: Roster) -> None:
        self.held_ = frozenset(members)
        self._exclusion = held_only(self.held_, roster, limit="the limits on energy, latency and memory")

    def _shares(self, data: FitData) -> Floats:
        """The part of each limit that each expert takes, shape (limits, experts), infinite for one that is too slow.

        Raises `ConfigError` naming the experts of which an amount is unknown.
        """
        experts = data.experts
        rows = [np.zeros(len(experts))]
        if self.energy_j is not None:
            rows.append(self._known(experts, [e.energy_j for e in experts], what="energy_j") / self.energy_j)
        if self.memory_gib is not None:
            rows.append(self._known(experts, [e.memory_gib for e in experts], what="memory_gib") / self.memory_gib)
        for delays, limit in self._delays(data):
            rows.append(np.where(self._known(experts, delays, what="latency_s") <= limit, 0.0, np.inf))
        return np.array(rows)

    def _delays(self, data: FitData) -> Iterator[tuple[list[float | None], float]]:
        """The seconds that each expert takes, with the limit on them: of any query, then of each limited category."""
        recorded = _recorded_latencies(data, None)
        typical = [recorded.get(e.id) if e.latency_s is None else e.latency_s for e in data.experts]
        if self.latency_s is not None:
            yield typical, self.latency_s
        for category, limit in (self.category_latency_s or {}).items():
            here = _recorded_latencies(data, category)
            yield [here.get(e.id, usual) for e, usual in zip(data.experts, typical, strict=True)], limit

    def _known(self, experts: Sequence[Expert], amounts: Sequence[float | None], *, what: str) -> Floats:
        unknown = [expert.id for expert, amount in zip(experts, amounts, strict=True) if amount is None]
        if unknown:
            raise ConfigError(
                f"recruiter {self.name!r} has a limit on {what}, and that of {', '.join(unknown)} is unknown; give "
                f"`{what}` in the pool, or leave the limit out"
            )
        return np.array(amounts, dtype=np.float64)

    def _learned(self) -> Learned:
        return Learned(arrays={"held": np.array(sorted(self.held_), dtype=np.intp)})

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self._hold(learned.arrays["held"].tolist(), roster)

    def _case(self, roster: Roster, request: RecruitRequest) -> Case:
        return self._exclusion.of(super()._case(roster, request))

    def _score(self, roster: Roster, cases: Sequence[Case], local: Floats) -> Floats:
        return local


def _problem(data: FitData, roster: Roster, shares: Floats) -> SubsetProblem:
    """Success rates by category, the categories as frequent as among the fit questions; one for all where they have
    none."""
    counts = Counter(a.category for a in data.annotations.values() if a.category is not None)
    if not counts:
        return SubsetProblem(scores=roster.table.overall[None], weights=np.ones(1), shares=shares)
    names = sorted(counts)
    scores = category_scores(roster.experts, roster.profiles, categories=names, smoothing=CATEGORY_WEIGHT)
    weights = np.array([counts[name] for name in names], dtype=np.float64)
    return SubsetProblem(scores=scores, weights=weights / weights.sum(), shares=shares)


def _restricted(problem: SubsetProblem, experts: Sequence[int]) -> SubsetProblem:
    return SubsetProblem(scores=problem.scores[:, experts], weights=problem.weights, shares=problem.shares[:, experts])


def _filled_up(problem: SubsetProblem, members: Sequence[int], order: Sequence[int]) -> frozenset[int]:
    """The members, and of the others in this order all that still fit."""
    kept = list(members)
    for expert in order:
        if expert not in kept and problem.fits([*kept, expert]):
            kept.append(expert)
    return frozenset(kept)


def _recorded_latencies(data: FitData, category: str | None) -> dict[str, float]:
    """The mean recorded latency of each expert on the fit questions, of one category or all, where there is one."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for outcome in data.outcomes:
        annotation = data.annotations.get(outcome.question_id)
        is_meant = category is None or (annotation is not None and annotation.category == category)
        if outcome.latency_s is not None and is_meant:
            seconds[outcome.expert_id].append(outcome.latency_s)
    return {expert_id: math.fsum(known) / len(known) for expert_id, known in seconds.items()}
