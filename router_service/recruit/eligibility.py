"""Who may be asked at all: the experts a query rules out by its content, its controls or its budget, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experts_registry.estimate import output_limit
from experts_registry.prices import cost_usd
from router_service.errors import BudgetExceeded, NoExpertAvailable, RouterError
from router_service.prompt_tokens import estimate_tokens, persona_tokens
from router_service.types import Elimination, Expert, Query, RouteDecision

__all__ = ["BUDGET_CODES", "Eligibility", "Shortlist", "eligible", "explain_empty"]

BUDGET_CODES = frozenset({"over_budget", "no_completions", "no_output_tokens", "price_unknown"})
"""Kinds of elimination that a larger budget, or none, would undo. The others: `disabled`, `denied`, `not_allowed`,
`not_asked`, `no_experts_asked`, `modality`, `context`, `unknown`; and of recruiters with rules of their own `not_held`,
`over_limit`, `licence`."""

_REASONS_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortlist:
    """Positions (in the pool) of the experts that may be asked, and why the others may not."""

    positions: tuple[int, ...]
    eliminated: tuple[Elimination, ...] = ()
    prompt_tokens: int = 0


def eligible(query: Query, experts: Sequence[Expert]) -> tuple[list[Expert], tuple[Elimination, ...]]:
    """The experts that may be asked, in order, and why each of the others may not; every reason has its numbers."""
    shortlist = Eligibility(experts).of(query)
    return [experts[position] for position in shortlist.positions], shortlist.eliminated


class Eligibility:
    """The rules for one pool, with a short way for the query that nothing rules out."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        self.experts = tuple(experts)
        self._disabled = tuple(_disabled(expert) for expert in self.experts if not expert.is_enabled)
        self._enabled = tuple(i for i, expert in enumerate(self.experts) if expert.is_enabled)
        windows = [e.context_window - persona_tokens(e) for e in self.experts if e.context_window is not None]
        self._least_window = min(windows, default=None)

    def of(self, query: Query) -> Shortlist:
        """The query's shortlist."""
        tokens = estimate_tokens(query)
        fits = self._least_window is None or tokens < self._least_window
        if fits and not _has_demands(query):
            return Shortlist(positions=self._enabled, eliminated=self._disabled, prompt_tokens=tokens)
        positions = []
        eliminated = []
        for position, expert in enumerate(self.experts):
            elimination = _elimination(expert, query, tokens)
            if elimination is None:
                positions.append(position)
            else:
                eliminated.append(elimination)
        return Shortlist(positions=tuple(positions), eliminated=tuple(eliminated), prompt_tokens=tokens)


def call_cost_usd(expert: Expert, query: Query, prompt_tokens: int) -> float | None:
    """What one call costs at most, in USD; None where the price is unknown.

    The query's limit on output tokens is left out here: with it a larger token budget would make calls dearer, and
    so could buy fewer experts.
    """
    return cost_usd(
        expert.prices,
        prompt_tokens=prompt_tokens + persona_tokens(expert),
        completion_tokens=max(1, output_limit(expert, query, prompt_tokens=prompt_tokens)),
    )


def _has_demands(query: Query) -> bool:
    controls, budget = query.controls, query.budget
    return (
        bool(controls.experts_allowed or controls.experts_denied)
        or (controls.k is not None and controls.k < 1)
        or (budget.max_completions, budget.max_cost_usd, budget.max_output_tokens) != (None, None, None)
        or len(query.modalities) > 1
    )


def _elimination(expert: Expert, query: Query, prompt_tokens: int) -> Elimination | None:
    if not expert.is_enabled:
        return _disabled(expert)
    return (
        _by_controls(expert, query)
        or _by_content(expert, query, prompt_tokens)
        or _by_budget(expert, query, prompt_tokens)
    )


def _disabled(expert: Expert) -> Elimination:
    return Elimination(
        expert_id=expert.id,
        reason="is switched off in the pool file, or was left out when the engine started",
        code="disabled",
    )


def _by_controls(expert: Expert, query: Query) -> Elimination | None:
    controls = query.controls
    if controls.k is not None and controls.k < 1:
        reason = f"the query asks for k = {controls.k} experts; k is at least 1"
        return Elimination(expert_id=expert.id, reason=reason, code="no_experts_asked")
    if expert.id in controls.experts_denied:
        return Elimination(expert_id=expert.id, reason="the query denies it", code="denied")
    if controls.experts_allowed and expert.id not in controls.experts_allowed:
        reason = "is not among the experts the query allows"
        return Elimination(expert_id=expert.id, reason=reason, code="not_allowed")
    return None


def _by_content(expert: Expert, query: Query, prompt_tokens: int) -> Elimination | None:
    missing = query.modalities - expert.modalities
    if missing:
        reason = f"does not read {_listed(missing)}; it reads {_listed(expert.modalities)}"
        return Elimination(expert_id=expert.id, reason=reason, code="modality")
    needed = prompt_tokens + persona_tokens(expert)
    if expert.context_window is not None and needed >= expert.context_window:
        reason = (
            f"the query takes about {needed:,} tokens, and its context window holds {expert.context_window:,}, "
            "answer included"
        )
        return Elimination(expert_id=expert.id, reason=reason, code="context")
    return None


def _by_budget(expert: Expert, query: Query, prompt_tokens: int) -> Elimination | None:
    budget = query.budget
    if budget.max_completions is not None and budget.max_completions < 1:
        reason = f"the budget allows {budget.max_completions} completions"
        return Elimination(expert_id=expert.id, reason=reason, code="no_completions")
    if budget.max_output_tokens is not None and budget.max_output_tokens < 1:
        reason = f"the budget allows {budget.max_output_tokens} output tokens"
        return Elimination(expert_id=expert.id, reason=reason, code="no_output_tokens")
    if budget.max_cost_usd is None:
        return None
    cost = call_cost_usd(expert, query, prompt_tokens)
    if cost is None:
        reason = f"its price is unknown, and the budget is {budget.max_cost_usd:g} USD"
        return Elimination(expert_id=expert.id, reason=reason, code="price_unknown")
    if cost > budget.max_cost_usd:
        reason = f"one completion may cost up to {cost:.3g} USD, and the budget is {budget.max_cost_usd:g} USD"
        return Elimination(expert_id=expert.id, reason=reason, code="over_budget", cost_usd=cost)
    return None


def _listed(kinds: frozenset[str]) -> str:
    return ", ".join(sorted(kinds))


# --- nobody is left ------------------------------------------------------------------------------------------------


def explain_empty(decision: RouteDecision, query: Query) -> RouterError:
    """The error for a decision without recruits: `BudgetExceeded` where a larger budget would find an expert, with
    the budget, the cheapest expert and its cost; else `NoExpertAvailable` with what ruled the experts out."""
    by_budget = [elimination for elimination in decision.eliminated if elimination.code in BUDGET_CODES]
    if by_budget:
        return BudgetExceeded(_budget_text(by_budget, query))
    return NoExpertAvailable(f"no expert is available for query {query.id!r}: {_reasons_text(decision)}")


def _budget_text(eliminated: Sequence[Elimination], query: Query) -> str:
    codes = {elimination.code for elimination in eliminated}
    budget = query.budget
    if "no_completions" in codes:
        return f"max_completions is {budget.max_completions}; one completion is the least, so set it to 1 or more"
    if "no_output_tokens" in codes:
        return f"max_output_tokens is {budget.max_output_tokens}; set it to what one answer needs, or leave it out"
    if "over_budget" not in codes:
        unknown = ", ".join(sorted(e.expert_id for e in eliminated))
        return (
            f"max_cost_usd is {budget.max_cost_usd:g}, and the price of {unknown} is unknown; "
            "give prices in the pool, or leave max_cost_usd out"
        )
    cheapest = min(eliminated, key=lambda e: math.inf if e.cost_usd is None else e.cost_usd)
    return (
        f"max_cost_usd is {budget.max_cost_usd:g}, and one completion of the cheapest expert, {cheapest.expert_id!r}, "
        f"may cost up to {cheapest.cost_usd:.3g} USD; raise max_cost_usd, or lower max_tokens"
    )


def _reasons_text(decision: RouteDecision) -> str:
    if not decision.eliminated:
        return decision.fallback_reason or "the pool has no expert; add one to the pool file"
    experts_by_reason: dict[str, list[str]] = {}
    for elimination in decision.eliminated:
        experts_by_reason.setdefault(elimination.reason, []).append(elimination.expert_id)
    shown = [
        f"{', '.join(ids[:_REASONS_SHOWN])}{' …' if len(ids) > _REASONS_SHOWN else ''}: {reason}"
        for reason, ids in list(experts_by_reason.items())[:_REASONS_SHOWN]
    ]
    more = len(experts_by_reason) - _REASONS_SHOWN
    return "; ".join([*shown, f"and {more} more reasons"] if more > 0 else shown)
