"""Calls that wait for a model, or run on it: what each wants, and where it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from router_service.backends.base import Footprint
from router_service.errors import ExpertUnavailable
from router_service.types import Expert

__all__ = ["Request", "Ticket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one call wants a model for: so many samples, some tokens in all, for queries of these ids."""

    expert: Expert
    samples: int
    tokens: float
    queries: frozenset[str]
    arrived_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """One call that waits for its model, or runs on it; `load` is which load of that model it runs on."""

    id: str
    request: Request
    footprint: Footprint
    place: asyncio.Future[str]
    device: str | None = None
    load: int = 0

    def refuse(self, message: str, *, retryable: bool) -> None:
        """End the wait."""
        if not self.place.done():
            error = ExpertUnavailable(message, expert_id=self.request.expert.id, retryable=retryable)
            self.place.set_exception(error)
