"""What backends of chat APIs share: several samples in one request where that works, one by one where not."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

from router_service.backends.base import Backend
from router_service.errors import ExpertRefused
from router_service.types import Assignment, Completion, Expert, ExpertBatch, TokenDelta

__all__ = ["ChatBackend", "Piece"]

Piece = Completion | TokenDelta

_COMPLAINS_ABOUT_N = re.compile(r"(?<![\w'’])['\"`]?n['\"`]?(?![\w'’])")


class ChatBackend(Backend):
    """Calls an upstream once per assignment, or once per sample where it does not know `n`; remembers which."""

    def __init__(self) -> None:
        self._without_n: set[str] = set()

    @abstractmethod
    def takes_n(self, expert: Expert) -> bool:
        """Whether several samples of this expert may be asked for in one request."""

    @abstractmethod
    async def request(self, expert: Expert, assignment: Assignment, *, first: int, samples: int) -> list[Completion]:
        """One request for `samples` completions numbered from `first`; an upstream may bring fewer, at least one.

        Raises an `ExpertError` for what fails it.
        """

    @abstractmethod
    def stream(self, expert: Expert, assignment: Assignment) -> AsyncGenerator[Piece, None]:
        """One completion with its token deltas before it."""

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Piece, None]:
        """One request per assignment; raises an `ExpertError` for what fails one."""
        for assignment in batch.assignments:
            is_streamed = assignment.streams and assignment.samples == 1
            pieces = self.stream(expert, assignment) if is_streamed else self._samples(expert, assignment)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece

    async def _samples(self, expert: Expert, assignment: Assignment) -> AsyncGenerator[Piece, None]:
        sample, end = assignment.first_sample, assignment.first_sample + assignment.samples
        if assignment.samples > 1 and expert.id not in self._without_n and self.takes_n(expert):
            for completion in await self._together(expert, assignment):
                yield completion
                sample += 1
        while sample < end:
            yield (await self.request(expert, assignment, first=sample, samples=1))[0]
            sample += 1

    async def _together(self, expert: Expert, assignment: Assignment) -> list[Completion]:
        """What one request with `n` brings: fewer samples, or none, from an upstream that does not know it."""
        try:
            completions = await self.request(
                expert, assignment, first=assignment.first_sample, samples=assignment.samples
            )
        except ExpertRefused as refusal:
            if not _COMPLAINS_ABOUT_N.search(refusal.message.removeprefix(expert.id)):
                raise
            completions = []
        if len(completions) < assignment.samples:
            self._without_n.add(expert.id)
        return completions
