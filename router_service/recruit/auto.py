"""Recruiter `auto`: the strategy that the evidence favours, down to a single expert where mixing does not pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError
from router_service.recruit.adaptive import Adaptive
from router_service.recruit.base import RECRUITERS, FitData, RecruitRequest
from router_service.recruit.calibrated import Calibrated
from router_service.recruit.contest import Verdict, judge, verdicts_by_category
from router_service.recruit.fixed import Fixed
from router_service.recruit.rehearsal import Rehearsal
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.saved import Learned
from router_service.recruit.self_consistency import SelfConsistency
from router_service.recruit.strategies import Strategy, contenders_at, strategy_named
from router_service.recruit.strength import Floats
from router_service.types import Query, Recruit, RouteDecision

__all__ = ["Auto"]

_JUDGED = (1, 2, 3, 5)
_FREE = 0
"""The number under which the choice for an open number of completions is kept."""


@RECRUITERS.register("auto")
class Auto(RosterRecruiter):
    """The guard. On the fit questions, cross-validated and at equal completions on average, it rehearses the best
    single expert, its own repeated samples (where recorded), the fixed panel by majority and fused, the `calibrated`
    panel and the `adaptive` one, simplest first. By a paired test one replaces a simpler one only where it is better
    with probability `level`, or, taking no more completions, where it is the better bet. In a category with evidence
    enough another may win, with probability `category_level`.

    Queries like nothing seen (nearest fit question below `floor` in cosine similarity) go by the overall choice. The
    evidence is kept with what was learned, and `explain` shows it. Each choice names the aggregator that goes with it,
    for queries whose aggregator is `auto`.
    """

    name: ClassVar[str] = "auto"
    needs_annotation: bool = True
    needs_embeddings: ClassVar[bool] = True
    scores_jointly: ClassVar[bool] = True
    sizes_panel: ClassVar[bool] = True

    def __init__(
        self,
        *,
        k: int | None = None,
        level: float = 0.7,
        category_level: float = 0.95,
        floor: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.k = k if k is None else require_k(self.name, k)
        for option, value in (("level", level), ("category_level", category_level)):
            if not 0.5 <= value < 1:
                raise ConfigError(
                    f"recruiter {self.name!r}: {option} is {value}; it is a probability, from 0.5 to below 1"
                )
        if not -1 <= floor <= 1:
            raise ConfigError(f"recruiter {self.name!r}: floor is {floor}; it is a cosine similarity, -1 to 1")
        self.level, self.category_level, self.floor, self.seed = level, category_level, floor, seed
        self.verdicts_: dict[int, Verdict] = {}
        self.by_category_: dict[int, dict[str, Verdict]] = {}
        self._calibrated = Calibrated(seed=seed)
        self._adaptive = Adaptive(seed=seed)
        self._fixed = Fixed()
        self._repeated = SelfConsistency()

    def completions_for(self, query: Query) -> int:
        """The most of the first wave."""
        return max(1, query.controls.k or self.k or 1)

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        """One decision per request, in order, each by the strategy chosen for it; `NotFittedError` before `fit`."""
        self._require_fitted()
        decisions: list[RouteDecision | None] = [None] * len(requests)
        rows_of: dict[Strategy, list[int]] = {}
        for row, request in enumerate(requests):
            rows_of.setdefault(self._strategy(request)[0], []).append(row)
        for strategy, rows in rows_of.items():
            part = self._part(strategy)
            asked = [strategy.request(requests[row]) for row in rows]
            for row, decision in zip(rows, part.recruit(asked), strict=True):
                decisions[row] = strategy.decided(decision, recruiter=self.name)
        return [decision for decision in decisions if decision is not None]

    def extend(self, requests: Sequence[RecruitRequest]) -> list[tuple[Recruit, ...]]:
        """Further recruits where the strategy chosen for a query asks in waves. `NotFittedError` before `fit`."""
        self._require_fitted()
        strategies = [self._strategy(request)[0] for request in requests]
        return [
            self._adaptive.extend([strategy.request(request)])[0] if strategy.is_sequential else ()
            for strategy, request in zip(strategies, requests, strict=True)
        ]

    def is_final(self, decision: RouteDecision) -> bool:
        """Whether nobody further will be asked: one expert alone was chosen, whatever it says."""
        return decision.aggregator == "first"

    def explain(self, request: RecruitRequest) -> list[str]:
        """The evidence behind the choice for this request."""
        self._require_fitted()
        strategy, verdict, why = self._strategy_with_evidence(request)
        return [f"strategy {strategy.label}, {why}, judged on {verdict.n} fit questions:", *verdict.lines()]

    def _learn(self, data: FitData, roster: Roster) -> None:
        known, rehearsal = Rehearsal.with_chances(data, name=self.name, seed=self.seed)
        self._calibrated.learn_from(known, rehearsal)
        self._adaptive.learn_from(known, rehearsal, expert_ids=roster.ids)
        self._adopt(roster)
        self.verdicts_, self.by_category_ = {}, {}
        for wanted in sorted({_FREE, *_JUDGED, *([self.k] if self.k else [])}):
            contenders = contenders_at(
                wanted or None, data, rehearsal, calibrated=self._calibrated, adaptive=self._adaptive
            )
            overall = judge(contenders, level=self.level)
            found = verdicts_by_category(
                contenders, rehearsal.votes.categories, overall=overall.chosen, level=self.category_level
            )
            self.verdicts_[wanted] = overall
            self.by_category_[wanted] = {rehearsal.categories[number]: verdict for number, verdict in found.items()}

    def _adopt(self, roster: Roster) -> None:
        for part in (self._calibrated, self._adaptive, self._fixed, self._repeated):
            part.roster_ = roster

    def _strategy(self, request: RecruitRequest) -> tuple[Strategy, Verdict]:
        strategy, verdict, _ = self._strategy_with_evidence(request)
        return strategy, verdict

    def _strategy_with_evidence(self, request: RecruitRequest) -> tuple[Strategy, Verdict, str]:
        asked_for = request.query.controls.k or self.k
        wanted = _FREE if asked_for is None else min(self.verdicts_, key=lambda n: (n == _FREE, abs(n - asked_for), n))
        annotation = request.annotation
        overall = self.verdicts_[wanted]
        if annotation.novelty is not None and annotation.novelty > 1.0 - self.floor:
            return strategy_named(overall.chosen, asked_for), overall, "the query is like nothing seen, so overall"
        own = self.by_category_[wanted].get(annotation.category or "")
        if own is not None:
            return strategy_named(own.chosen, asked_for), own, f"in category {annotation.category!r}"
        return strategy_named(overall.chosen, asked_for), overall, "overall"

    def _part(self, strategy: Strategy) -> RosterRecruiter:
        others = {"adaptive": self._adaptive, "calibrated": self._calibrated, "self_consistency": self._repeated}
        return others.get(strategy.kind, self._fixed)

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        raise AssertionError("auto decides through its strategies")

    def _learned(self) -> Learned:
        calibrated, adaptive = self._calibrated._learned(), self._adaptive._learned()
        verdicts = {
            str(wanted): {
                "overall": verdict.as_json(),
                "by_category": {name: own.as_json() for name, own in self.by_category_[wanted].items()},
            }
            for wanted, verdict in self.verdicts_.items()
        }
        values = {"verdicts": verdicts, "calibrated": dict(calibrated.values), "adaptive": dict(adaptive.values)}
        arrays = {**adaptive.arrays, "overlap": np.asarray(calibrated.arrays["overlap"])}
        return Learned(values=values, arrays=arrays)

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self._calibrated._relearn(replace(learned, values=learned.values["calibrated"]), roster)
        self._adaptive._relearn(replace(learned, values=learned.values["adaptive"]), roster)
        self._adopt(roster)
        self.verdicts_, self.by_category_ = {}, {}
        for wanted, found in learned.values["verdicts"].items():
            self.verdicts_[int(wanted)] = Verdict.from_json(found["overall"])
            own = {name: Verdict.from_json(verdict) for name, verdict in found["by_category"].items()}
            self.by_category_[int(wanted)] = own
