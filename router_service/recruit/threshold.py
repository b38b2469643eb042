"""Recruiter `threshold`: every expert whose share of a gate is above a threshold: the query sizes its panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS
from router_service.recruit.eligibility import BUDGET_CODES
from router_service.recruit.ranking import best_of_pool
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.strength import Floats
from router_service.types import MAX_K, Query

__all__ = ["Threshold", "gate"]

NO_PROFILE = "no expert that may be asked has a profile, so the first one in the pool is asked"


def gate(chances: Floats, *, temperature: float) -> Floats:
    """Each row's softmax of P(correct) over `temperature`; NaN has share 0, and a row of NaN has only zeros.

    Every expert is scored on its own, so that among fewer experts the shares are those of all, normalised again.
    """
    logits = np.where(np.isnan(chances), -np.inf, chances) / temperature
    highest = logits.max(axis=1, keepdims=True, initial=-np.inf)
    powers = np.exp(logits - np.where(np.isfinite(highest), highest, 0.0))
    totals = np.cumsum(powers, axis=1)[:, -1:]
    return np.asarray(powers / np.where(totals > 0, totals, 1.0))


@RECRUITERS.register("threshold")
class Threshold(RosterRecruiter):
    """Fusion-X (Enabling Flexible Multi-LLM Integration, released code): the sources whose gate is above .15, at least
    one, so that k depends on the query; `k` is the most.

    The gate is a softmax over the eligible experts, of what their profiles say of P(correct) in the query's skills and
    category, at `temperature`: small gives few experts, large all of them or, as shares shrink with the size of the
    pool, the best alone. Who is only too dear for the query's budget counts in it, so that more budget never means
    fewer experts. Scores are P(correct) itself.

    Differs from the released code: there the gate is a network made anew at every step, which never learns.
    """

    name: ClassVar[str] = "threshold"
    needs_annotation: bool = True
    sizes_panel: ClassVar[bool] = True
    goes_by_chance: ClassVar[bool] = True

    def __init__(self, *, k: int = MAX_K, threshold: float = 0.15, temperature: float = 0.05) -> None:
        if not 0 <= threshold < 1:
            raise ConfigError(f"recruiter {self.name!r}: threshold is {threshold}; it is a share, from 0 to below 1")
        if temperature <= 0:
            raise ConfigError(f"recruiter {self.name!r}: temperature is {temperature}; it is above 0")
        self.k = require_k(self.name, k)
        self.threshold = threshold
        self.temperature = temperature

    def completions_for(self, query: Query) -> int:
        """At most the query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        shares = gate(np.where(_may_be_asked(roster, cases), scores, np.nan), temperature=self.temperature)
        is_above = (shares > self.threshold).tolist()
        order = np.array(best_of_pool(roster), dtype=np.intp)
        is_unknown = np.isnan(scores)
        ranked = order[np.argsort(np.where(is_unknown, np.inf, -scores)[:, order], axis=1, kind="stable")].tolist()
        own = np.where(is_unknown, 0.0, scores).tolist()
        choices = []
        for number, case in enumerate(cases):
            eligible = case.shortlist.positions
            best = [i for i in ranked[number] if i in eligible]
            panel = [i for i in best if is_above[number][i]] or best[:1]
            is_lost = bool(best) and bool(is_unknown[number, best[0]])
            choices.append(
                Choice(
                    positions=case.allowance.best_first(panel),
                    scores=own[number],
                    fallback_reason=NO_PROFILE if is_lost else None,
                )
            )
        return choices


def _may_be_asked(roster: Roster, cases: Sequence[Case]) -> NDArray[np.bool_]:
    """Who is eligible, budgets apart; shape (cases, experts)."""
    may = np.ones((len(cases), len(roster.ids)), dtype=bool)
    position_of = {expert_id: position for position, expert_id in enumerate(roster.ids)}
    for row, case in zip(may, cases, strict=True):
        for elimination in case.shortlist.eliminated:
            if elimination.code not in BUDGET_CODES:
                row[position_of[elimination.expert_id]] = False
    return may
