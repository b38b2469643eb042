"""The aggregator's contract: a panel of completions in, one answer out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from router_service.plugins import Registry
from router_service.types import Answer, Ask, FitData, Panel

__all__ = ["AGGREGATORS", "Aggregator", "LearnedAggregator"]


@runtime_checkable
class Aggregator(Protocol):
    """Makes one answer of many completions; pure given the panel, its seed (`panel.decision.seed`) and `ask`.

    The order of the completions settles ties (the earliest wins) and nothing else; an aggregator to which it means
    more says so with a class attribute `order_matters = True`.
    """

    keeps_text: bool
    """True where the answer's text is always one member's text, unchanged (votes): then a panel of one may stream."""

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer; raises `AggregationError` where no member holds one. Failed members never count.

        An aggregator that lets an LLM write the answer calls `ask(..., is_visible=True)` for that text.
        """
        ...


@runtime_checkable
class LearnedAggregator(Aggregator, Protocol):
    """An aggregator that learns; aggregating before `fit` raises `NotFittedError`."""

    def fit(self, data: FitData) -> LearnedAggregator:
        """Learn from graded outcomes; returns itself."""
        ...


AGGREGATORS: Registry[Aggregator] = Registry("aggregator", "aggregators")
