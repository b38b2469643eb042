"""How many tokens a query will take at most, and what an expert will charge for it, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable

from experts_registry.prices import cost_usd
from router_service.prompt_tokens import estimate_tokens, persona_tokens
from router_service.types import Expert, Query, Usage

__all__ = ["ASSUMED_OUTPUT_TOKENS", "estimate_panel", "estimate_usage", "max_output_tokens"]

ASSUMED_OUTPUT_TOKENS = 1024
"""Longest completion assumed where neither the query nor the expert says one; calls are made with this limit."""


def max_output_tokens(expert: Expert, query: Query, *, prompt_tokens: int | None = None) -> int:
    """The longest completion to ask this expert for: what query, expert and the query's token budget allow, at least 1.

    Every call is to be made with this limit, so that `estimate_usage` is a bound and not a guess. `prompt_tokens`
    saves the estimate of the query where it is known.
    """
    limit = output_limit(expert, query, prompt_tokens=prompt_tokens)
    budget = query.budget.max_output_tokens
    return max(1, limit if budget is None else min(limit, budget))


def output_limit(expert: Expert, query: Query, *, prompt_tokens: int | None = None) -> int:
    """`max_output_tokens` before the budget: query over expert, within the model's own limit and what is left of its
    context window after the prompt; 0 or less where nothing is left."""
    asked = query.sampling.max_tokens or expert.sampling.max_tokens or expert.max_output_tokens or ASSUMED_OUTPUT_TOKENS
    limit = asked if expert.max_output_tokens is None else min(asked, expert.max_output_tokens)
    if expert.context_window is None:
        return limit
    prompt = estimate_tokens(query) if prompt_tokens is None else prompt_tokens
    return min(limit, expert.context_window - prompt - persona_tokens(expert))


def estimate_usage(expert: Expert, query: Query, samples: int = 1, *, prompt_tokens: int | None = None) -> Usage:
    """What `samples` completions use at most; `cost_usd` is None where the expert's prices are unknown.

    The prompt is counted once per sample: not every server shares it between samples.
    """
    return estimate_panel([(expert, samples)], query, prompt_tokens=prompt_tokens)


def estimate_panel(panel: Iterable[tuple[Expert, int]], query: Query, *, prompt_tokens: int | None = None) -> Usage:
    """What a panel of experts, each with its number of samples, uses at most; `cost_usd` is None where a price is
    unknown."""
    tokens = estimate_tokens(query) if prompt_tokens is None else prompt_tokens
    completions = prompts = outputs = 0
    cost: float | None = 0.0
    for expert, samples in panel:
        prompt = (tokens + persona_tokens(expert)) * samples
        output = max_output_tokens(expert, query, prompt_tokens=tokens) * samples
        own = cost_usd(expert.prices, prompt_tokens=prompt, completion_tokens=output)
        cost = None if cost is None or own is None else cost + own
        completions, prompts, outputs = completions + samples, prompts + prompt, outputs + output
    return Usage(completions=completions, prompt_tokens=prompts, completion_tokens=outputs, cost_usd=cost)
