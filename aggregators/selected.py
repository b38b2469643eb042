"""Hands each panel to the aggregator found best for its kind by `enlist aggregator select`; else to the majority."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aggregators.base import (
    AGGREGATORS,
    Aggregator,
    CallingAggregator,
    LearnedAggregator,
    PlannedCall,
    SettlingAggregator,
)
from aggregators.choices import MAJORITY, OVERALL, Choice, ChoiceTable, read_choices
from aggregators.majority import Majority
from router_service.errors import ConfigError
from router_service.types import Answer, Ask, FitData, Panel

__all__ = ["Selected"]


@AGGREGATORS.register("selected")
class Selected:
    """Looks up the panel's category and kind of answer in what was selected; the answer bears the chosen one's name.

    A choice is made where the recorded answers show that an aggregator beats the vote over as many calls
    (`eval.aggregator_selection`), so without a selection, and where evidence is thin, this is the majority vote.
    `keeps_text` holds only where every choice keeps it, and `order_matters` as soon as one minds.
    """

    def __init__(self, *, path: str | None = None, choice: str | None = None, expert: str | None = None) -> None:
        """`choice` names one aggregator for everything (`NAME[:EXPERT][,OPTION=VALUE ...]`) and `expert` its writer;
        else `path` is a selection file; else it is the majority vote."""
        self.table = _table(path, choice, expert)
        self._made: Mapping[Choice, Aggregator] = {}
        self._take({one: one.create() for one in dict.fromkeys(self.table.cells.values())})

    def fit(self, data: FitData) -> Selected:
        """Let those choices learn that do; returns itself."""
        self._take(
            {
                choice: made.fit(data) if isinstance(made, LearnedAggregator) else made
                for choice, made in self._made.items()
            }
        )
        return self

    def choice_for(self, panel: Panel) -> Choice:
        """Who aggregates this panel."""
        return self.table.choice_for(panel.annotation.category, panel.query.task_format.kind.value)

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """What the panel's own choice makes of it."""
        return await self._aggregator(panel).aggregate(panel, ask=ask)

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        """The calls that the panel's own choice plans."""
        chosen = self._aggregator(panel)
        return chosen.plan(panel) if isinstance(chosen, CallingAggregator) else ()

    def degraded(self) -> Aggregator:
        """Every choice replaced by its next cheaper aggregator; the majority vote where none makes calls."""
        if not any(isinstance(made, CallingAggregator) for made in self._made.values()):
            return Majority()
        cheaper = copy.copy(self)
        cheaper._take({choice: _degraded(made) for choice, made in self._made.items()})
        return cheaper

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        """Whether the panel's own choice finds so."""
        chosen = self._aggregator(panel)
        return isinstance(chosen, SettlingAggregator) and chosen.is_settled(panel, pending)

    def _aggregator(self, panel: Panel) -> Aggregator:
        choice = self.choice_for(panel)
        return self._made[choice] if choice in self._made else Majority()

    def _take(self, made: Mapping[Choice, Aggregator]) -> None:
        self._made = made
        self.keeps_text = all(one.keeps_text for one in made.values())
        self.order_matters = any(getattr(one, "order_matters", False) for one in made.values())
        self.needs_chances = any(getattr(one, "needs_chances", False) for one in made.values())
        self.needs_embeddings = any(getattr(one, "needs_embeddings", False) for one in made.values())


def _table(path: str | None, choice: str | None, expert: str | None) -> ChoiceTable:
    if choice is None and expert is not None:
        raise ConfigError(f"aggregator 'selected': expert {expert!r} writes for no one; name the `choice` too")
    if choice is None:
        return read_choices(path) if path is not None else ChoiceTable({OVERALL: MAJORITY})
    named = Choice.parse(choice)
    if expert is not None and named.expert is not None:
        raise ConfigError(f"aggregator 'selected': choice {choice!r} names an expert, and expert is {expert!r}")
    return ChoiceTable({OVERALL: named if expert is None else replace(named, expert=expert)})


def _degraded(made: Aggregator) -> Aggregator:
    return made.degraded() if isinstance(made, CallingAggregator) else made
