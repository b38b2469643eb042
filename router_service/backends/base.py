"""The backend's contract: one expert's batch in, a stream of completions (and token deltas) out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import ClassVar

from router_service.plugins import Registry
from router_service.types import Completion, Expert, ExpertBatch, TokenDelta

__all__ = ["BACKENDS", "Backend"]


class Backend(ABC):
    """One way to reach experts. One instance serves all experts of the pool that name it."""

    is_batched: ClassVar[bool] = False
    """True where a whole `ExpertBatch` belongs in one call (an embedded engine); False where each assignment is a call
    of its own (a server), so that the runner can limit, retry and cancel them one by one."""

    extracts_answers: ClassVar[bool] = False
    """True where `Completion.extracted` is already right, None included (recorded outcomes): nobody reads the text
    again."""

    @abstractmethod
    def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Completion | TokenDelta]:
        """Completions as they finish: every sample of every assignment exactly once, in any order.

        Each has its text, usage (tokens; `cost_usd` only where the backend knows better than the price list, else
        None) and latency. Token deltas come only for assignments with `streams`. What fails one assignment is a
        `Completion` with `error`; what fails the call raises an `ExpertError`. Closing the iterator, or cancelling
        the task that reads it, ends the upstream work.
        """

    def check(self, expert: Expert) -> None:  # noqa: B027  (a backend without demands needs none)
        """Raise `ConfigError` where the expert's entry (address, adapter, weights, options) cannot work here."""

    async def aclose(self) -> None:  # noqa: B027  (most backends hold nothing)
        """Give back connections, processes and memory."""


BACKENDS: Registry[Backend] = Registry("backend", "router_service.backends")
