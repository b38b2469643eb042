"""What it takes to have an expert read texts instead of writing one: planned, and counted as the ledger counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aggregators.base import PlannedCall
from router_service.prompt_tokens import estimate_tokens, persona_tokens
from router_service.types import Message, Panel, Query, Usage

__all__ = ["planned_reading", "reading_usage"]


def planned_reading(panel: Panel, expert_id: str, *, query: Query, text: str) -> PlannedCall:
    """One text read after its query: a call that writes nothing."""
    tokens = _tokens(panel, expert_id, query=query, text=text)
    return PlannedCall(expert_id=expert_id, prompt_tokens=tokens, completion_tokens=1)


def reading_usage(panel: Panel, expert_id: str, texts: Sequence[tuple[Query, str]]) -> Usage:
    """A completion a text, all of it prompt tokens, estimated: no backend says how many it really read."""
    tokens = sum(_tokens(panel, expert_id, query=query, text=text) for query, text in texts)
    expert = panel.experts.get(expert_id)
    prices = expert.prices if expert is not None else None
    cost = tokens * prices.input_usd_per_mtok / 1e6 if prices is not None else None
    return Usage(completions=len(texts), prompt_tokens=tokens, cost_usd=cost)


def _tokens(panel: Panel, expert_id: str, *, query: Query, text: str) -> int:
    read = replace(query, messages=(*query.messages, Message(role="assistant", content=text)))
    expert = panel.experts.get(expert_id)
    return estimate_tokens(read) + (persona_tokens(expert) if expert is not None else 0)
