"""Recruiter `predicted_loss`: the least predicted loss plus weighed constraints such as size and cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData, RecruitRequest
from router_service.recruit.constraints import COST, call_costs, check_constraints, pool_amounts, require_known
from router_service.recruit.embedded import EmbeddingRecruiter, Vectors32, base_rates, graded_lesson
from router_service.recruit.exclusion import Exclusion
from router_service.recruit.loss_model import ChanceModels, Regressor
from router_service.recruit.objective import flag_weights, flags_of, scaled, weighed
from router_service.recruit.roster import Case, Choice, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats
from router_service.types import Elimination, Query

__all__ = ["FLAGS", "PredictedLoss"]

FLAGS: Mapping[str, Mapping[str, float]] = {
    "smaller model": {"parameters_b": 0.5},
    "cheaper model": {COST: 0.5},
    "faster model": {"latency_s": 0.5},
    "frugal model": {"energy_j": 0.5},
    "recent model": {"age_days": 0.5},
}
"""Flags that a query may hold, and the weights that they add."""


@RECRUITERS.register("predicted_loss")
class PredictedLoss(EmbeddingRecruiter):
    """Tryage: the expert of least `predicted loss + sum of weight * constraint`.

    The loss is 1 - P(correct), P by a regression per expert over the query's embedding, calibrated on left-out
    predictions (`loss_model`), so that the experts' scales compare. A constraint is its amount as a share of the
    largest in the pool (`constraints`); `weights` hold for every query, and `flags` for queries that hold one:
    `[Flag: smaller model]` in the text, which stays in it, or `flags` in the metadata. A flag nobody knows is left out
    and named in the decision; an amount that is unknown counts as the largest for a flag, and is an error for
    `weights` and `limits`.

    `limits` are hard: whoever is above one is eliminated before anything is weighed, as is one whose licence is not
    among `licences`; where that leaves nobody, nobody is asked and the decision says why. A limit can choose experts
    that no weight ever does (those above the line between two others).

    Differs from the paper: regressions over sentence embeddings instead of a trained BERT, answers' errors instead of
    masked-language losses, and calibration.
    """

    name: ClassVar[str] = "predicted_loss"

    def __init__(
        self,
        *,
        k: int = 1,
        regressor: Regressor = "ridge",
        weights: Mapping[str, float] | None = None,
        flags: Mapping[str, Mapping[str, float]] | None = None,
        limits: Mapping[str, float] | None = None,
        licences: Sequence[str] | None = None,
    ) -> None:
        super().__init__(k=k)
        if regressor not in ("ridge", "logistic"):
            raise ConfigError(f"recruiter {self.name!r}: regressor is {regressor!r}; it is 'ridge' or 'logistic'")
        self.regressor: Regressor = regressor
        self.weights, self.flags, self.limits, self.licences = weights, flags, limits, licences
        self._flags = {" ".join(n.lower().split()): w for n, w in (FLAGS if flags is None else flags).items()}
        named = {"weights": weights or {}, "limits": limits or {}}
        for option, amounts in (named | {f"flag {name!r}": asked for name, asked in self._flags.items()}).items():
            check_constraints(amounts, where=f"recruiter {self.name!r}: {option}")

    # --- fitting ---------------------------------------------------------------------------------------------------

    def _learn(self, data: FitData, roster: Roster) -> None:
        lesson = graded_lesson(data, name=self.name)
        base = base_rates(roster, lesson.grades)
        models = ChanceModels.fit(lesson.vectors.astype(np.float64), lesson.grades, base=base, regressor=self.regressor)
        self._relearn(Learned(arrays=models.arrays), roster)

    def _learned(self) -> Learned:
        return Learned(arrays=self.models_.arrays)

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        for option, named in (("weights", self.weights), ("limits", self.limits)):
            require_known(roster.experts, named or {}, where=f"recruiter {self.name!r}: {option}")
        self.models_ = ChanceModels.of(learned.arrays)
        self.dimension_ = self.models_.coefficients.shape[1]
        self._amounts = pool_amounts(roster.experts)
        self._exclusion = Exclusion(self._barred_always(roster))

    def _barred_always(self, roster: Roster) -> dict[int, Elimination]:
        """Who is above a limit, or of another licence, whatever the query."""
        barred: dict[int, Elimination] = {}
        for position, expert in enumerate(roster.experts):
            for name, limit in (self.limits or {}).items():
                if name != COST and not self._amounts[name][position] <= limit:
                    reason = f"its {name} is {self._amounts[name][position]:g}, and the limit {limit:g}"
                    barred[position] = Elimination(expert_id=expert.id, reason=reason, code="over_limit")
            if self.licences is not None and (expert.licence or "").lower() not in {x.lower() for x in self.licences}:
                reason = f"its licence is {expert.licence or 'unknown'}; allowed: {', '.join(self.licences) or 'none'}"
                barred[position] = Elimination(expert_id=expert.id, reason=reason, code="licence")
        return barred

    # --- recruiting ------------------------------------------------------------------------------------------------

    def _case(self, roster: Roster, request: RecruitRequest) -> Case:
        case = self._exclusion.of(super()._case(roster, request))
        limit = (self.limits or {}).get(COST)
        return case if limit is None else Exclusion(_too_dear(roster, case, limit)).of(case)

    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        chances = self.models_.chances(vectors)
        losses = 1.0 - chances
        weights = self.weights or {}
        objective = weighed(losses, self._constraints(roster, cases, weights), weights)
        for row, case in enumerate(cases):
            asked, _ = self._flagged(case.request.query)
            if asked:
                own = self._constraints(roster, [case], asked)
                objective[row] = weighed(objective[row], {name: share[-1] for name, share in own.items()}, asked)
        return -objective, np.where(roster.table.has_profile, chances, np.nan)

    def _constraints(self, roster: Roster, cases: Sequence[Case], names: Iterable[str]) -> dict[str, Floats]:
        """The amounts named as shares of the largest, shape (cases or 1, experts); unknown ones count as the largest,
        and where none is known nobody has any."""
        found = {}
        for name in names:
            amounts = call_costs(roster.experts, cases) if name == COST else self._amounts[name][None]
            is_known = ~np.isnan(amounts)
            shares = np.where(is_known, scaled(amounts), 1.0)
            found[name] = np.where(is_known.any(axis=1, keepdims=True), shares, 0.0)
        return found

    def _flagged(self, query: Query) -> tuple[dict[str, float], list[str]]:
        """The weights that the query's flags ask for, and what it calls flags that are none."""
        if "[" not in query.text and not query.metadata:
            return {}, []
        return flag_weights(flags_of(query.text, query.metadata), self._flags)

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        choices = super()._choose(roster, cases, scores)
        return [self._with_strange(case, choice) for case, choice in zip(cases, choices, strict=True)]

    def _with_strange(self, case: Case, choice: Choice) -> Choice:
        """The choice, saying which flags were left out."""
        _, strange = self._flagged(case.request.query)
        if not strange or not choice.positions:
            return choice
        known = ", ".join(sorted(self._flags)) or "none"
        left_out = f"left out as no flag: {', '.join(map(repr, strange))}; allowed: {known}"
        reasons = [reason for reason in (choice.fallback_reason, left_out) if reason]
        return replace(choice, fallback_reason="; ".join(reasons))


def _too_dear(roster: Roster, case: Case, limit: float) -> dict[int, Elimination]:
    """Who may cost more than the limit for this query."""
    barred = {}
    for position, cost in enumerate(call_costs(roster.experts, [case])[0].tolist()):
        if not cost <= limit:
            reason = f"one completion may cost up to {cost:.3g} USD, and the limit is {limit:g}"
            barred[position] = Elimination(expert_id=roster.ids[position], reason=reason, code="over_limit")
    return barred
