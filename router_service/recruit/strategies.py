"""The strategies that `auto` chooses among: how each is rehearsed, and what it asks of the recruiters in service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregators.equivalence import canonical
from router_service.recruit.adaptive import Adaptive
from router_service.recruit.base import FitData, RecruitRequest
from router_service.recruit.calibrated import Calibrated
from router_service.recruit.contest import Contender
from router_service.recruit.gains import LARGEST
from router_service.recruit.rehearsal import Rehearsal, ranks_of
from router_service.recruit.strength import Floats
from router_service.types import AnswerKind, Outcome, RouteDecision

__all__ = ["Strategy", "contenders_at", "strategy_named"]

_SIZES = (3, 5)
"""Fixed panels that are judged where the number of completions is left open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """What is asked: `best_single`, `self_consistency`, `fixed`, `calibrated` or `adaptive`, with `k` completions (None
    leaves the number to the recruiter) and the aggregator that goes with it."""

    kind: str
    k: int | None
    aggregator: str

    @property
    def label(self) -> str:
        """For people."""
        size = "" if self.k is None or self.kind == "best_single" else f", k = {self.k}"
        return f"{self.kind} with {self.aggregator}{size}"

    @property
    def is_sequential(self) -> bool:
        """True where it asks in waves."""
        return self.kind == "adaptive"

    def request(self, request: RecruitRequest) -> RecruitRequest:
        """The request as this strategy's recruiter is to see it."""
        k = 1 if self.kind == "best_single" else self.k
        if request.query.controls.k == k:
            return request
        return replace(request, query=replace(request.query, controls=replace(request.query.controls, k=k)))

    def decided(self, decision: RouteDecision, *, recruiter: str) -> RouteDecision:
        """The decision as the query's own: `recruiter` made it, and this strategy's aggregator goes with it."""
        return replace(decision, recruiter=recruiter, aggregator=self.aggregator)


def strategy_named(name: str, wanted: int | None) -> Strategy:
    """The strategy of a contender's name, for so many completions; a name may fix the number ("fixed-5 fuser")."""
    kind, _, aggregator = name.partition(" ")
    kind, _, size = kind.partition("-")
    return Strategy(kind=kind, k=int(size) if size else wanted, aggregator=aggregator or "first")


def contenders_at(
    wanted: int | None, data: FitData, rehearsal: Rehearsal, *, calibrated: Calibrated, adaptive: Adaptive
) -> list[Contender]:
    """The strategies that ask `wanted` completions on average (None: any number), simplest first."""
    assert calibrated.chances_ is not None and adaptive.gains_ is not None
    chances = rehearsal.of_asked(calibrated.chances_.left_out())
    rates = rehearsal.of_asked(_fold_rates(rehearsal))
    ones = np.ones(len(chances))
    found = [Contender(name="best_single", grades=_best(rehearsal, rates), calls=ones)]
    if wanted != 1:
        found.append(Contender(name="calibrated-1 first", grades=_best(rehearsal, chances), calls=ones))
    for size in _SIZES if wanted is None else [wanted]:
        if 1 < size <= chances.shape[1]:
            found += _fixed(rehearsal, rates, data=data, size=size, mark=f"-{size}" if wanted is None else "")
    sized = wanted or calibrated.size_
    steps = rehearsal.steps(calibrated.order(chances), chances, most=min(sized, chances.shape[1]))
    found.append(Contender(name="calibrated fuser", grades=steps[-1].grades, calls=ones * len(steps)))
    if wanted != 1:
        found.append(_adaptive(rehearsal, chances, adaptive, wanted=wanted))
    return found


def _adaptive(rehearsal: Rehearsal, chances: Floats, adaptive: Adaptive, *, wanted: int | None) -> Contender:
    assert adaptive.gains_ is not None
    order = np.argsort(-chances, axis=1, kind="stable")
    steps = rehearsal.steps(order, chances, most=min(LARGEST, chances.shape[1]))
    if len(steps) == 1:
        return Contender(name="adaptive fuser", grades=steps[0].grades, calls=np.ones(len(chances)))
    calls = np.minimum(adaptive.gains_.rehearsed_calls(wanted=wanted, worth=adaptive.worth), len(steps))
    grades = np.stack([step.grades for step in steps])[calls - 1, np.arange(len(calls))]
    return Contender(name="adaptive fuser", grades=grades, calls=calls.astype(np.float64))


def _fixed(rehearsal: Rehearsal, rates: Floats, *, data: FitData, size: int, mark: str) -> list[Contender]:
    order = np.argsort(-rates, axis=1, kind="stable")
    panel = ranks_of(order) < size
    calls = np.full(len(rates), float(size))
    fused = rehearsal.fused(panel, rates, np.zeros(len(rates)))
    found = []
    repeated = _repeated(data, rehearsal, order[:, 0], size=size)
    if repeated is not None:
        found.append(Contender(name=f"self_consistency{mark} majority", grades=repeated, calls=calls))
    found.append(Contender(name=f"fixed{mark} majority", grades=rehearsal.majority(panel, rates), calls=calls))
    found.append(Contender(name=f"fixed{mark} fuser", grades=fused.grades, calls=calls))
    return found


def _fold_rates(rehearsal: Rehearsal) -> Floats:
    """Each expert's success rate on the other folds, for every question of a fold, (n, m)."""
    grades = rehearsal.votes.grades()
    asked = ~np.isnan(grades)
    rates = np.zeros(grades.shape)
    for held_out in rehearsal.folds:
        seen = asked & ~held_out[:, None]
        rates[held_out] = (np.where(seen, grades, 0.0).sum(axis=0) + 1.0) / (seen.sum(axis=0) + 2.0)
    return rates


def _best(rehearsal: Rehearsal, rates: Floats) -> Floats:
    """The grade of the one expert with the highest rate on each question."""
    best = np.argmax(rates, axis=1)
    labels = rehearsal.votes.labels[np.arange(len(best)), best]
    return rehearsal.votes.is_right(labels)


def _repeated(data: FitData, rehearsal: Rehearsal, best: NDArray[np.intp], *, size: int) -> Floats | None:
    """The majority of `size` samples of the best single expert on each question; None where they were not recorded."""
    samples: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in sorted(data.outcomes, key=lambda o: o.sample):
        samples.setdefault((outcome.question_id, outcome.expert_id), []).append(outcome)
    ids = [data.experts[position].id for position in best.tolist()]
    said = [samples.get(pair, [])[:size] for pair in zip(rehearsal.question_ids, ids, strict=True)]
    if any(len(outcomes) < size for outcomes in said):
        return None
    return np.array([_majority_grade(data, outcomes) for outcomes in said])


def _majority_grade(data: FitData, outcomes: Sequence[Outcome]) -> float:
    """The grade of the answer that most samples give; the earliest where two are level."""
    by_answer: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.extracted is not None:
            question = data.questions.get(outcome.question_id)
            kind = AnswerKind.FREE if question is None else question.answer_kind
            by_answer.setdefault(canonical(outcome.extracted, kind), []).append(outcome.correct)
    winner = max(by_answer.values(), key=len, default=[0.0])
    return winner[0]
