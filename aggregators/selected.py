"""Uses the aggregator that was found best by `enlist aggregator select`; the majority vote until one was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from aggregators.base import AGGREGATORS, Aggregator
from router_service.errors import ConfigError
from router_service.types import Answer, Ask, Panel

__all__ = ["SELECTION_FORMAT", "SELECTION_VERSION", "Choice", "Selected", "read_choice"]

SELECTION_FORMAT = "enlist.aggregator_selection"
SELECTION_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An aggregator by name and, where it lets an LLM write, the expert that writes."""

    aggregator: str
    expert: str | None = None

    @property
    def name(self) -> str:
        """`synthesise:writer`, or the aggregator's name alone."""
        return f"{self.aggregator}:{self.expert}" if self.expert else self.aggregator

    def create(self) -> Aggregator:
        """The aggregator itself; raises `UnknownNameError`, or `ConfigError` where it takes no expert."""
        return AGGREGATORS.create(self.aggregator, {"expert": self.expert} if self.expert else {})


def read_choice(path: str | Path) -> Choice:
    """The choice in a selection file; raises `ConfigError` where there is none or it cannot be read."""
    advice = "make one with `enlist aggregator select`"
    try:
        document = json.loads(Path(path).read_text("utf-8"))
    except OSError as missing:
        raise ConfigError(
            f"aggregator selection {str(path)!r} cannot be read ({missing.strerror}); {advice}"
        ) from missing
    except ValueError as broken:
        raise ConfigError(f"aggregator selection {str(path)!r} is not JSON ({broken}); {advice}") from broken
    if not isinstance(document, dict) or document.get("format") != SELECTION_FORMAT:
        raise ConfigError(f"{str(path)!r} is no aggregator selection (format {SELECTION_FORMAT!r}); {advice}")
    if document.get("version") != SELECTION_VERSION:
        raise ConfigError(
            f"aggregator selection {str(path)!r} has version {document.get('version')!r}, but this release reads "
            f"version {SELECTION_VERSION}; {advice} again"
        )
    chosen = document.get("chosen")
    if not isinstance(chosen, dict) or not isinstance(chosen.get("aggregator"), str):
        raise ConfigError(f"aggregator selection {str(path)!r} names no chosen aggregator; {advice} again")
    expert = chosen.get("expert")
    return Choice(aggregator=chosen["aggregator"], expert=str(expert) if expert else None)


@AGGREGATORS.register("selected")
class Selected:
    """Hands every panel to the chosen aggregator, whose name the answer then bears.

    Selection tries the aggregators on questions with one right and two wrong completions (Symbolic-MoE, section on
    aggregator selection), and keeps to the majority vote unless another one is clearly better.
    """

    def __init__(self, *, path: str | None = None, choice: str | None = None, expert: str | None = None) -> None:
        """`choice` names the aggregator and `expert` its writer; else `path` is a selection file; else majority."""
        if choice is None and expert is not None:
            raise ConfigError(f"aggregator 'selected': expert {expert!r} writes for no one; name the `choice` too")
        is_read = path is not None and choice is None
        chosen = read_choice(str(path)) if is_read else Choice(aggregator=choice or "majority", expert=expert)
        if chosen.aggregator == "selected":
            raise ConfigError("aggregator 'selected' cannot choose itself; choose another, such as 'majority'")
        self.choice = chosen
        self._aggregator = chosen.create()
        self.keeps_text: bool = self._aggregator.keeps_text
        self.order_matters: bool = getattr(self._aggregator, "order_matters", False)

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """What the chosen aggregator makes of the panel."""
        return await self._aggregator.aggregate(panel, ask=ask)
