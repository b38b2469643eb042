"""Which recruiter and which aggregator a query gets, and making them before it waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from aggregators.base import Aggregator
from router_service.recruit.base import Recruiter
from router_service.types import Query

__all__ = ["NAMED", "EngineDefaults", "EngineParts", "Parts"]

T_co = TypeVar("T_co", covariant=True)

NAMED = "named"
"""The recruiter of a query that names its expert."""
_FIRST = "first"


class Parts(Protocol[T_co]):
    """Named parts of one kind, made when first asked for; `get` may be called from any thread."""

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for."""
        ...

    def get(self, name: str) -> T_co:
        """The part; raises `UnknownNameError`, or `ConfigError`/`NotFittedError` where it cannot be made."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDefaults:
    """What holds where a query does not say: who recruits, what aggregates, the seed of everything random."""

    recruiter: str
    aggregator: str
    seed: int = 0


class EngineParts:
    """An engine's recruiters and aggregators, and which of them a query gets."""

    def __init__(
        self, recruiters: Parts[Recruiter], aggregators: Parts[Aggregator], *, defaults: EngineDefaults
    ) -> None:
        self.recruiters = recruiters
        self.aggregators = aggregators
        self._defaults = defaults
        self._made: set[tuple[str, str]] = set()

    def names(self, query: Query) -> tuple[str, str]:
        """The names of its recruiter and its aggregator."""
        controls = query.controls
        recruiter = NAMED if controls.expert else controls.recruiter or self._defaults.recruiter
        return recruiter, controls.aggregator or (_FIRST if controls.expert else self._defaults.aggregator)

    async def make(self, queries: Iterable[Query]) -> None:
        """Make, off the event loop, what is asked for the first time: fitting may take seconds, and others are served.

        What goes wrong here goes wrong again, and is said, when the query that asks for it is admitted.
        """
        for recruiter, aggregator in {self.names(query) for query in queries} - self._made:
            with suppress(Exception):
                await asyncio.to_thread(self.recruiters.get, recruiter)
                await asyncio.to_thread(self.aggregators.get, aggregator)
                self._made.add((recruiter, aggregator))
