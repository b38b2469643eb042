"""Which aggregator serves which panel: choices by category and kind of answer, as `enlist aggregator select` found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregators.base import AGGREGATORS, Aggregator
from router_service.errors import ConfigError

__all__ = [
    "MAJORITY",
    "OVERALL",
    "SELECTION_FORMAT",
    "SELECTION_VERSION",
    "CellKey",
    "Choice",
    "ChoiceTable",
    "read_choices",
    "read_selection",
]

SELECTION_FORMAT = "enlist.aggregator_selection"
SELECTION_VERSION = 2

CellKey = tuple[str | None, str | None]
"""A category and a kind of answer; None stands for any."""

OVERALL: CellKey = (None, None)

_ADVICE = "make one with `enlist aggregator select`"
_SELF = "selected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An aggregator by name and, where it lets an LLM write or judge, the expert that does; `options` are its others,
    as texts, which are read as the numbers or truth values they spell."""

    aggregator: str
    expert: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Choice:
        """`NAME[:EXPERT][,OPTION=VALUE ...]`, as in `synthesise:writer,layers=2`; raises `ConfigError`."""
        head, *rest = text.split(",")
        name, _, expert = head.partition(":")
        options = [tuple(part.strip() for part in option.partition("=")[::2]) for option in rest]
        if not name.strip() or any(not all(option) for option in options):
            raise ConfigError(f"{text!r} names no aggregator; write NAME, NAME:EXPERT or NAME:EXPERT,OPTION=VALUE")
        return cls(
            aggregator=name.strip(),
            expert=expert.strip() or None,
            options=tuple((option, value) for option, value in options),
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Choice:
        """What `document` wrote; raises `KeyError` or `TypeError` for anything else."""
        expert, options = document.get("expert"), dict(document.get("options") or {})
        if not isinstance(document["aggregator"], str):
            raise TypeError("an aggregator's name is a text")
        return cls(
            aggregator=document["aggregator"],
            expert=str(expert) if expert else None,
            options=tuple((str(name), str(value)) for name, value in options.items()),
        )

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        head = f"{self.aggregator}:{self.expert}" if self.expert else self.aggregator
        return ",".join([head, *(f"{option}={value}" for option, value in self.options)])

    @property
    def document(self) -> dict[str, Any]:
        """The choice as JSON holds it."""
        return {"aggregator": self.aggregator, "expert": self.expert, "options": dict(self.options)}

    def create(self) -> Aggregator:
        """The aggregator itself, unfitted; raises `UnknownNameError`, or `ConfigError` for an option it does not
        take."""
        if self.aggregator == _SELF:
            raise ConfigError("aggregator 'selected' cannot choose itself; choose another, such as 'majority'")
        given = {"expert": self.expert} if self.expert else {}
        return AGGREGATORS.create(self.aggregator, {**given, **dict(self.options)})


MAJORITY = Choice(aggregator="majority")


@dataclass(frozen=True, slots=True)
class ChoiceTable:
    """A choice per cell; what has no cell of its own goes by its kind of answer, and that by the overall choice."""

    cells: Mapping[CellKey, Choice]

    def choice_for(self, category: str | None, kind: str) -> Choice:
        """The choice of the nearest cell: category and kind, then the kind, then overall, then the majority vote."""
        for key in ((category, kind), (None, kind), OVERALL):
            if key in self.cells:
                return self.cells[key]
        return MAJORITY


def read_choices(path: str | Path) -> ChoiceTable:
    """The choices in a selection file; raises `ConfigError` as `read_selection` does."""
    document = read_selection(path)
    try:
        cells = {(cell["category"], cell["kind"]): Choice.of_document(cell["chosen"]) for cell in document["cells"]}
    except (KeyError, TypeError, AttributeError, ValueError) as broken:
        raise ConfigError(f"aggregator selection {str(path)!r} is incomplete ({broken!r}); {_ADVICE} again") from broken
    if OVERALL not in cells:
        raise ConfigError(f"aggregator selection {str(path)!r} holds no overall choice; {_ADVICE} again")
    return ChoiceTable(cells)


def read_selection(path: str | Path) -> dict[str, Any]:
    """A selection file as JSON holds it; raises `ConfigError` where there is none, or another version, or none that
    can be read."""
    try:
        document = json.loads(Path(path).read_text("utf-8"))
    except OSError as missing:
        raise ConfigError(
            f"aggregator selection {str(path)!r} cannot be read ({missing.strerror}); {_ADVICE}"
        ) from missing
    except ValueError as broken:
        raise ConfigError(f"aggregator selection {str(path)!r} is not JSON ({broken}); {_ADVICE}") from broken
    if not isinstance(document, dict) or document.get("format") != SELECTION_FORMAT:
        raise ConfigError(f"{str(path)!r} is no aggregator selection (format {SELECTION_FORMAT!r}); {_ADVICE}")
    if document.get("version") != SELECTION_VERSION:
        raise ConfigError(
            f"aggregator selection {str(path)!r} has version {document.get('version')!r}, but this release reads "
            f"version {SELECTION_VERSION}; make it again with `enlist aggregator select`"
        )
    return document
