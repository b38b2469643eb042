"""What an aggregator means to ask, in tokens and money, and which one of its stated order a query's budget affords."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aggregators.base import Aggregator, CallingAggregator, PlannedCall
from experts_registry.estimate import estimate_usage
from router_service.dispatch.ledger import Ledger, Shortfall
from router_service.errors import AggregationError
from router_service.types import AnswerKind, Expert, Panel, Query, Usage

__all__ = ["Affordable", "affordable", "planned_usage"]

_MOST_STEPS = 32
"""Aggregators of one stated order: one that is longer goes in circles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affordable:
    """The aggregator that is asked, and how many calls it may make: as many as it planned, None where it has no plan.

    `shortfall` says what the one that was wanted lacked, where another one stands in.
    """

    aggregator: Aggregator
    calls: int | None = None
    shortfall: Shortfall | None = None


async def affordable(wanted: Aggregator, panel: Panel, ledger: Ledger) -> Affordable:
    """The first aggregator of the wanted one's stated order whose whole plan the ledger holds and whose deadline is
    not over; one that makes no calls always is.

    Raises `AggregationError` where the order does not end, and what a plan raises.
    """
    aggregator, lack = wanted, None
    for _ in range(_MOST_STEPS):
        if not isinstance(aggregator, CallingAggregator):
            return Affordable(aggregator=aggregator, calls=None if lack is None else 0, shortfall=lack)
        plan = await _plan_of(aggregator, panel)
        found = ledger.shortfall(planned_usage(plan, panel)) if plan else None
        if found is None:
            return Affordable(aggregator=aggregator, calls=len(plan), shortfall=lack)
        lack = lack or found
        aggregator = aggregator.degraded()
    name = type(wanted).__name__
    raise AggregationError(f"aggregator {name} names ever another to stand in; its `degraded` must end in a vote")


def planned_usage(plan: Sequence[PlannedCall], panel: Panel) -> Usage:
    """What the planned calls use at most, all together; `cost_usd` is None where a price is unknown.

    An expert that may not be asked (or is not there) costs nothing: the call will be refused.
    """
    asked = [(panel.experts[call.expert_id], call) for call in plan if call.expert_id in panel.experts]
    return sum((_usage(expert, panel.query, call) for expert, call in asked), Usage())


def _usage(expert: Expert, query: Query, call: PlannedCall) -> Usage:
    if call.completion_tokens is not None:
        query = replace(query, sampling=replace(query.sampling, max_tokens=max(1, call.completion_tokens)))
    return estimate_usage(expert, query, prompt_tokens=call.prompt_tokens)


async def _plan_of(aggregator: CallingAggregator, panel: Panel) -> Sequence[PlannedCall]:
    """The plan; where numbers are compared, which can take its time, it is made beside the event loop."""
    if panel.query.task_format.kind is AnswerKind.NUMBER:
        return await asyncio.to_thread(aggregator.plan, panel)
    return aggregator.plan(panel)
