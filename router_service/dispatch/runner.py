"""The runner: works batches off on their backends and yields completions, token deltas and complete panels."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from router_service.backends.base import Backend, ScoringBackend
from router_service.config import DispatchConfig
from router_service.dispatch.ledger import DeadlinesFrom, Ledger
from router_service.dispatch.planner import keys_of
from router_service.dispatch.residency import Residency
from router_service.dispatch.sandbox import Sandbox
from router_service.dispatch.scoring import Scoring
from router_service.dispatch.tries import Tries
from router_service.dispatch.verdicts import failed_completion
from router_service.dispatch.wave import Call, PanelReady, Settles, Wave, WaveEvent
from router_service.errors import ExpertError, UnknownNameError
from router_service.types import (
    Budget,
    CompletionError,
    CompletionMemo,
    Expert,
    ExpertBatch,
    Query,
    TextScore,
    Usage,
)

__all__ = ["PanelReady", "Runner", "Settles", "WaveEvent"]


class Runner:
    """Asks experts. Limits per expert and the turns of embedded engines hold over all runs of one runner.
    `sandbox` is where programs run that an expert wrote.

    A run never raises for what a backend does: each failure is a completion with `error`. `clock` and `sleep` are
    replaceable, for tests.
    """

    def __init__(
        self,
        *,
        experts: Mapping[str, Expert],
        backends: Mapping[str, Backend],
        settings: DispatchConfig | None = None,
        sandbox: Sandbox | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._experts = experts
        self._backends = backends
        self._settings = settings or DispatchConfig()
        self.sandbox = sandbox or Sandbox()
        self._residency = Residency(self._settings, clock=clock)
        self._tries = Tries(self._settings, residency=self._residency, clock=clock, sleep=sleep)
        self._scoring = Scoring(self._residency)
        self._memo: CompletionMemo | None = None

    def remembering(self, memo: CompletionMemo) -> Runner:
        """This runner (its limits, turns and backends are shared) with a memo: a completion that it keeps is not
        asked for again, and each one that succeeds is kept before anybody hears of it."""
        runner = copy.copy(self)
        runner._memo = memo
        return runner

    def expert(self, expert_id: str) -> Expert:
        """The expert of that id; raises `UnknownNameError`."""
        if expert_id not in self._experts:
            raise UnknownNameError("expert", expert_id, self._experts)
        return self._experts[expert_id]

    def ledger(self, budget: Budget, *, deadline_from: DeadlinesFrom = "arrival") -> Ledger:
        """A ledger for everything done for one query, with the configured deadline where the budget has none."""
        if budget.deadline_s is None:
            budget = replace(budget, deadline_s=self._settings.default_deadline_s)
        return Ledger(budget, deadline_from=deadline_from)

    def is_batched(self, expert_id: str) -> bool:
        """True where the expert's backend takes whole batches; raises `UnknownNameError`."""
        return self._backend_of(self.expert(expert_id)).is_batched

    def can_score(self, expert_id: str) -> bool:
        """True where the expert's backend reads texts; raises `UnknownNameError`."""
        return isinstance(self._backend_of(self.expert(expert_id)), ScoringBackend)

    async def score(
        self,
        expert_id: str,
        texts: Sequence[tuple[Query, str]],
        *,
        ledger: Ledger,
        spends: Callable[[Usage], None],
    ) -> list[TextScore]:
        """How likely the expert finds each text, see `Scoring.score`; raises `UnknownNameError` too."""
        expert = self.expert(expert_id)
        return await self._scoring.score(expert, self._backend_of(expert), texts, ledger=ledger, spends=spends)

    async def run(
        self, batches: Sequence[ExpertBatch], ledgers: Mapping[str, Ledger], *, settles: Settles | None = None
    ) -> AsyncGenerator[WaveEvent, None]:
        """Every completion once, good or bad, and one `PanelReady` per query after its last completion.

        `ledgers` are keyed by query id, or by `parent_id` where a query has one; all of a query's assignments are
        reserved before any call goes out. Close the iterator (`contextlib.aclosing`), or cancel the task that reads
        it, to cancel every open call; it returns when they have ended. Where `settles` says that an outcome stands,
        the rest of that panel is stopped and fails with `NOT_NEEDED` (never without `stops_early`).

        Raises `UnknownNameError` for an expert or
        backend that is not there, and `InvalidQuery` where one sample is asked for twice.
        """
        calls = self._calls(batches)
        settles = settles if self._settings.stops_early else None
        wave = Wave(calls, ledgers, settings=self._settings, memo=self._memo, settles=settles)
        tasks: list[asyncio.Task[None]] = []
        try:
            wave.open()
            tasks = [self._start(call, wave) for call in calls if call.open]
            while (event := await wave.next()) is not None:
                yield event
        finally:
            wave.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Give back what the backends hold; one that fails to does not keep the others from it. No resident backend
        is asked after that."""
        await self._residency.aclose()
        await asyncio.gather(*(backend.aclose() for backend in self._backends.values()), return_exceptions=True)

    def _calls(self, batches: Sequence[ExpertBatch]) -> list[Call]:
        """One call per batch of an embedded engine (or several, where it can work on them at once), one per assignment
        of a server."""
        calls = []
        for batch in batches:
            expert = self.expert(batch.expert_id)
            backend = self._backend_of(expert)
            parts = self._residency.parts_of(expert, backend, batch)
            calls += [Call(expert=expert, backend=backend, batch=part) for part in parts]
        return calls

    def _start(self, call: Call, wave: Wave) -> asyncio.Task[None]:
        call.task = asyncio.create_task(self._tries.work(call, wave), name=f"ask {call.expert.id}")
        call.task.add_done_callback(partial(_ended, call, wave))
        return call.task

    def _backend_of(self, expert: Expert) -> Backend:
        if expert.backend not in self._backends:
            raise UnknownNameError("backend", expert.backend, self._backends)
        return self._backends[expert.backend]


def _ended(call: Call, wave: Wave, task: asyncio.Task[None]) -> None:
    """See to it that a call leaves nothing open: a run must end whatever a backend does."""
    if not task.cancelled() and (defect := task.exception()) is not None:
        wave.fail(defect)
        return
    error = CompletionError(
        code=ExpertError.code,
        message=f"the call of {call.expert.id} was cancelled inside backend {call.expert.backend!r}",
    )
    for key in [key for key in keys_of(call.batch) if key in call.open]:
        wave.finish(failed_completion(key, error, expert=call.expert))
