"""What the REST door needs of an engine, so that a test can stand in for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from router_service.types import DecisionMade, Event, Expert, Failed, Query, RouteFailure, RouteResponse

__all__ = ["EngineLike", "PoolLike"]


class PoolLike(Protocol):
    """The part of a pool that the door reads."""

    @property
    def experts(self) -> tuple[Expert, ...]:
        """Every expert, disabled ones too."""
        ...


class EngineLike(Protocol):
    """The part of the engine that the door calls."""

    @property
    def pool(self) -> PoolLike:
        """Who can be asked."""
        ...

    @property
    def recruiter_names(self) -> tuple[str, ...]:
        """What `auto/<recruiter>` may name."""
        ...

    @property
    def aggregator_names(self) -> tuple[str, ...]:
        """What `enlist.aggregator` may name."""
        ...

    def stream(self, queries: Sequence[Query]) -> AsyncGenerator[Event, None]:
        """Events as they happen; closing the generator cancels every open call."""
        ...

    async def run(self, queries: Sequence[Query]) -> list[RouteResponse | RouteFailure]:
        """One response or failure per query, in order."""
        ...

    async def route(self, queries: Sequence[Query]) -> list[DecisionMade | Failed]:
        """Annotate and recruit only, in order."""
        ...

    async def aclose(self) -> None:
        """Give back what the backends hold."""
        ...
