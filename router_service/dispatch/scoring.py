"""Has an expert read given texts: in its turn, within its time, and on the query's budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from experts_registry.prices import cost_usd
from router_service.backends.base import Backend, DeviceLost, ScoringBackend
from router_service.dispatch.ledger import Ledger
from router_service.dispatch.residency import Residency
from router_service.dispatch.verdicts import error_of
from router_service.errors import ExpertError, ExpertRefused, ExpertTimeout, ExpertUnavailable
from router_service.prompt_tokens import estimate_tokens, persona_tokens
from router_service.types import Assignment, Expert, ExpertBatch, Message, Query, TextScore, Usage

__all__ = ["Scoring"]

_KINDS = {kind.code: kind for kind in (ExpertError, ExpertRefused, ExpertTimeout, ExpertUnavailable)}

Texts = Sequence[tuple[Query, str]]


class Scoring:
    """Reading texts, in the same turns and lines as completions, over all runs of a runner."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency

    async def score(
        self, expert: Expert, backend: Backend, texts: Texts, *, ledger: Ledger, spends: Callable[[Usage], None]
    ) -> list[TextScore]:
        """A score per text, in order. One completion a text is reserved before anything goes out; each text counts as
        prompt tokens, with its query, as estimated: no backend says how many it really read.

        `spends` is told what was used, also where the reading failed. Raises `BudgetExceeded`, or an `ExpertError`
        where the expert cannot.
        """
        if not isinstance(backend, ScoringBackend):
            raise _cannot(expert)
        batch = _batch_of(expert, texts)
        usage = _usage(expert, batch)
        reservation = ledger.reserve(usage)
        spent = Usage()

        def begin() -> None:
            nonlocal spent
            spent = usage
            ledger.start_clock()

        try:
            async with asyncio.timeout(ledger.remaining_s() if ledger.is_running else None):
                return await self._read(expert, backend, batch=batch, texts=texts, ledger=ledger, begin=begin)
        except TimeoutError:
            raise _late(expert, "the query's deadline passed before its texts were read") from None
        finally:
            ledger.settle(reservation, spent)
            spends(spent)

    async def _read(
        self,
        expert: Expert,
        backend: Backend,
        *,
        batch: ExpertBatch,
        texts: Texts,
        ledger: Ledger,
        begin: Callable[[], None],
    ) -> list[TextScore]:
        """Read once more on another device where one is lost, once per device."""
        lost: set[str] = set()
        while True:
            limit_s = 0.0
            try:
                async with self._residency.turn(expert, backend, batch) as turn:
                    begin()
                    limit_s = min(expert.limits.timeout_s * turn.samples, ledger.remaining_s() or float("inf"))
                    async with asyncio.timeout(limit_s):
                        assert isinstance(backend, ScoringBackend)
                        return await backend.score(expert, texts)
            except DeviceLost as gone:
                if gone.device in lost:
                    message = f"expert {expert.id!r}: device {gone.device!r} was lost while it read ({gone.message})"
                    raise ExpertUnavailable(f"{message}; ask again", expert_id=expert.id, retryable=True) from None
                lost.add(gone.device)
            except Exception as broke:
                if not (limit_s or isinstance(broke, ExpertError)):
                    raise  # the machinery broke, not the backend
                raise _failure(broke, expert, limit_s=limit_s) from broke


def _batch_of(expert: Expert, texts: Texts) -> ExpertBatch:
    """What the reading takes, for the schedule: each text as a query that is answered with one token."""
    read = (
        replace(
            query,
            messages=(*query.messages, Message(role="assistant", content=text)),
            sampling=replace(query.sampling, max_tokens=1),
        )
        for query, text in texts
    )
    return ExpertBatch(expert_id=expert.id, assignments=tuple(Assignment(query=query) for query in read))


def _usage(expert: Expert, batch: ExpertBatch) -> Usage:
    tokens = sum(estimate_tokens(each.query) + persona_tokens(expert) for each in batch.assignments)
    cost = cost_usd(expert.prices, prompt_tokens=tokens, completion_tokens=0)
    return Usage(completions=len(batch.assignments), prompt_tokens=tokens, cost_usd=cost)


def _failure(broke: Exception, expert: Expert, *, limit_s: float) -> ExpertError:
    """What a backend raised, as one of the tree; the expert's key never shows."""
    error = error_of(broke, expert, limit_s=limit_s)
    kind = _KINDS.get(error.code, ExpertError)
    return kind(error.message, expert_id=expert.id, retryable=error.is_retryable, retry_after_s=error.retry_after_s)


def _cannot(expert: Expert) -> ExpertRefused:
    return ExpertRefused(
        f"expert {expert.id!r} cannot score texts: backend {expert.backend!r} only writes; "
        "name an expert of an engine that reads them (transformers, vllm)",
        expert_id=expert.id,
    )


def _late(expert: Expert, why: str) -> ExpertTimeout:
    return ExpertTimeout(f"expert {expert.id!r}: {why}; raise deadline_s", expert_id=expert.id, retryable=False)
