"""How many completions a query's budget pays for, and which: the best ones that leave the number as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experts_registry.estimate import output_limit
from router_service.prompt_tokens import estimate_tokens
from router_service.recruit.eligibility import call_cost_usd
from router_service.types import Expert, Query

__all__ = ["Allowance", "allowance_of"]

_ROUNDING = 1e-10
"""Three thirds fit into one; stricter than the ledger's tolerance, so that what is recruited can be reserved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A budget in calls: `shares` is the part of the budget that one call of each expert takes at most, of cost or of
    output tokens, whichever is scarcer (empty: no limit on either); `completions` is how many calls there may be.

    The number of completions is settled first, as many as the cheapest experts allow up to k; then the best are
    chosen that still leave room for the rest. So a larger budget never buys fewer.
    """

    completions: int
    shares: tuple[float, ...] = ()

    def count(self, candidates: Sequence[int], *, repeats: bool) -> int:
        """How many completions of these experts the budget covers; with `repeats` one expert may give several."""
        if not candidates:
            return 0
        if not self.shares:
            return self.completions if repeats else min(self.completions, len(candidates))
        cheapest = sorted(self.shares[position] for position in candidates)
        if repeats:
            least = cheapest[0]
            return self.completions if least == 0 else min(self.completions, math.floor((1 + _ROUNDING) / least))
        number, used = 0, 0.0
        for share in cheapest[: self.completions]:
            used += share
            if used > 1 + _ROUNDING:
                break
            number += 1
        return number

    def best_first(self, order: Sequence[int]) -> list[int]:
        """The experts to ask, best first, one completion each: as many as the budget covers, and of these the best."""
        number = self.count(order, repeats=False)
        if not self.shares:
            return list(order[:number])
        left = list(order)
        chosen: list[int] = []
        for position in order:
            if len(chosen) == number:
                break
            left.remove(position)
            if self.shares[position] + self.reserve(left, number - len(chosen) - 1) <= self.room_after(chosen):
                chosen.append(position)
        return chosen

    def room_after(self, chosen: Sequence[int]) -> float:
        """The share of the budget that is left when these are paid, rounding allowed for."""
        return 1 + _ROUNDING - math.fsum(self.shares[position] for position in chosen)

    def reserve(self, candidates: Sequence[int], number: int) -> float:
        """The least share of the budget that `number` different ones of the candidates take."""
        return math.fsum(sorted(self.shares[position] for position in candidates)[:number]) if number > 0 else 0.0


def allowance_of(query: Query, experts: Sequence[Expert], *, k: int, prompt_tokens: int | None = None) -> Allowance:
    """What the query's budget allows of at most `k` completions by these (eligible) experts."""
    budget = query.budget
    completions = k if budget.max_completions is None else min(k, budget.max_completions)
    if budget.max_cost_usd is None and budget.max_output_tokens is None:
        return Allowance(completions=max(0, completions))
    tokens = estimate_tokens(query) if prompt_tokens is None else prompt_tokens
    shares = tuple(max(_cost_share(e, query, tokens), _output_share(e, query, tokens)) for e in experts)
    return Allowance(completions=max(0, completions), shares=shares)


def _cost_share(expert: Expert, query: Query, prompt_tokens: int) -> float:
    limit = query.budget.max_cost_usd
    if limit is None:
        return 0.0
    cost = call_cost_usd(expert, query, prompt_tokens)
    if cost is None:
        return math.inf
    return cost / limit if limit > 0 else (0.0 if cost == 0 else math.inf)


def _output_share(expert: Expert, query: Query, prompt_tokens: int) -> float:
    """A single call is always cut to the limit (`max_output_tokens`), so it takes the whole of it at most."""
    limit = query.budget.max_output_tokens
    if limit is None:
        return 0.0
    longest = max(1, output_limit(expert, query, prompt_tokens=prompt_tokens))
    return min(1.0, longest / limit) if limit > 0 else math.inf
