"""What one call of each expert costs, going by the fit questions: recorded where it was, else by prices and tokens."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experts_registry.estimate import ASSUMED_OUTPUT_TOKENS
from experts_registry.prices import cost_usd
from router_service.prompt_tokens import estimate_tokens
from router_service.recruit.base import FitData
from router_service.recruit.strength import Floats
from router_service.types import Expert, Outcome, user_query

__all__ = ["group_costs", "typical_costs"]


def group_costs(data: FitData, group_of: Mapping[str, int], groups: int) -> Floats:
    """USD of one call of each expert in each group of questions, shape (experts, groups), NaN where unknown: the mean
    recorded cost of its outcomes there, else its `typical_costs`."""
    rows = {expert.id: row for row, expert in enumerate(data.experts)}
    recorded: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    for outcome in data.outcomes:
        if outcome.cost_usd is not None and outcome.expert_id in rows and outcome.question_id in group_of:
            recorded[rows[outcome.expert_id], group_of[outcome.question_id]].append(outcome.cost_usd)
    costs = np.repeat(typical_costs(data)[:, None], groups, axis=1)
    for place, known in recorded.items():
        costs[place] = math.fsum(known) / len(known)
    return costs


def typical_costs(data: FitData) -> Floats:
    """USD of one call of each expert, shape (experts,), NaN where unknown: the mean recorded cost of its outcomes, else
    its prices times the tokens of such calls (`_Tokens`), and never 0 for want of a price."""
    by_expert: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in data.outcomes:
        by_expert[outcome.expert_id].append(outcome)
    tokens = _Tokens.of(data)
    costs = [_typical_cost(expert, by_expert[expert.id], tokens) for expert in data.experts]
    return np.array([math.nan if cost is None else cost for cost in costs])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """Mean tokens of a call where an expert's own outcomes do not say: those of all recorded calls, else the length of
    the fit questions and (None) the expert's longest completion."""

    prompt: float
    completion: float | None

    @classmethod
    def of(cls, data: FitData) -> _Tokens:
        prompt = _mean(outcome.prompt_tokens for outcome in data.outcomes)
        if prompt is None:
            prompt = _mean(estimate_tokens(user_query("", question.text)) for question in data.questions.values())
        return cls(prompt=prompt or 0.0, completion=_mean(outcome.completion_tokens for outcome in data.outcomes))


def _typical_cost(expert: Expert, outcomes: Sequence[Outcome], tokens: _Tokens) -> float | None:
    recorded = _mean(outcome.cost_usd for outcome in outcomes)
    if recorded is not None or expert.prices is None:
        return recorded
    prompt = _mean(outcome.prompt_tokens for outcome in outcomes)
    completion = _mean(outcome.completion_tokens for outcome in outcomes)
    if completion is None:
        completion = tokens.completion
    if completion is None:
        completion = expert.max_output_tokens or ASSUMED_OUTPUT_TOKENS
    prompt_tokens = round(tokens.prompt if prompt is None else prompt)
    return cost_usd(expert.prices, prompt_tokens=prompt_tokens, completion_tokens=round(completion))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
