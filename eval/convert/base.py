"""What a converter is: it reads a recording as somebody published it, and says which records it could not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from router_service.plugins import Registry
from router_service.types import Outcome, Question

__all__ = ["CONVERTERS", "TO_SPLIT", "Converter", "Problem", "Recording"]

TO_SPLIT = ""
"""The split of a question that is yet to go to `fit` or `test`; a converter may name another one, which stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A record that could not be used: where it stands (file and row, the first row of data being 1) and why."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was recorded. Each outcome belongs to one of the questions; models are the outcomes' `expert_id`."""

    questions: tuple[Question, ...]
    outcomes: tuple[Outcome, ...]
    responses: Mapping[tuple[str, str], str] = field(default_factory=dict, repr=False)
    """Full texts by question id and model (of the first sample), where they were published."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader of the converted dataset must know: which rule read the answers, what was left alone."""

    @property
    def models(self) -> tuple[str, ...]:
        """Every model with an outcome, in order of appearance."""
        return tuple(dict.fromkeys(outcome.expert_id for outcome in self.outcomes))


class Converter(Protocol):
    """Reads one published layout."""

    def read(self, source: Path) -> Recording:
        """The recording at `source`, a file or a folder.

        A malformed record becomes a `Problem`; raises `ConfigError` where nothing at `source` is of this layout.
        """
        ...


CONVERTERS: Registry[Converter] = Registry("layout", "eval.convert")
