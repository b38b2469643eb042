"""The aggregator's contract: a panel of completions in, one answer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from router_service.plugins import Registry
from router_service.types import Answer, Ask, FitData, Panel

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "CallingAggregator",
    "LearnedAggregator",
    "PlannedCall",
    "SettlingAggregator",
]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call that an aggregator may make: of whom, and how many tokens it sends and lets be written at most.

    `completion_tokens` None leaves the limit to the expert and the query.
    """

    expert_id: str
    prompt_tokens: int
    completion_tokens: int | None = None


@runtime_checkable
class CallingAggregator(Aggregator, Protocol):
    """An aggregator that asks experts of its own. What it may ask at most is known before it asks anybody, so that a
    query's budget is held to: where the whole plan does not fit, `degraded` aggregates in its place."""

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """The most calls that `aggregate` makes for this panel; none where it needs none (a unanimous panel). Pure."""
        ...

    def degraded(self) -> Aggregator:
        """The next cheaper aggregator of the stated order; the last one makes no calls."""
        ...


@runtime_checkable
class SettlingAggregator(Aggregator, Protocol):
    """An aggregator that can tell when those who have not answered yet can no longer change the outcome."""

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        """Whether the answer (what is extracted, not its wording) stays the same whatever `pending` say; `panel` holds
        the completions so far, `pending` one expert id per completion still out. Pure and quick; False when in doubt.
        """
        ...


AGGREGATORS: Registry[Aggregator] = Registry("aggregator", "aggregators")
