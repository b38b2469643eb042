"""The worker of durable batches: claims lines, has them answered, and finishes each before anybody hears of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from router_service._batch_lines import BatchLine, LineParser
from router_service._batch_output import malformed_line, plain_line, spoilt_line
from router_service._batch_patience import GuardedMemo, Patience
from router_service._batch_presence import worker_name
from router_service._batch_service import free_lines_of_the_dead, settle
from router_service.dispatch.ledger import DeadlinesFrom
from router_service.errors import ConfigError, RouterError, StoreUnavailable, UnknownNameError
from router_service.store.base import ClaimedLine, FinishedEntry, Job, JobState, JobStore
from router_service.types import (
    Answered,
    CompletionMemo,
    Event,
    Failed,
    Query,
    RouteFailure,
    RouteResponse,
)

__all__ = ["BatchEngine", "BatchWorker", "JobGone", "Progress", "WorkOptions"]

Progress = Callable[[int, int], None]
"""Called with the lines finished and the lines in all."""


class BatchEngine(Protocol):
    """The part of the engine that a batch needs."""

    def stream(self, queries: Sequence[Query], *, deadlines_from: DeadlinesFrom) -> AsyncGenerator[Event, None]:
        """Events as they happen; exactly one `Answered` or `Failed` per query."""
        ...

    def remembering(self, memo: CompletionMemo) -> BatchEngine:
        """This engine with a memo of completions: none that it keeps is asked for again."""
        ...


class JobGone(ConfigError):
    """The job was removed, or begun anew, while it was worked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """How a worker works."""

    window: int = 512
    """Lines claimed and given to the engine at once: each expert is loaded once per window."""
    lease_s: float = 60.0
    """Seconds after which the lines of a worker that is not heard of are anybody's; renewed all the while."""
    max_claims: int = 5
    """Workers that may end while they work on a line, before it is given up as failed."""
    tick_s: float = 1.0
    """Seconds between two looks at whether the job was cancelled, or others' lines became free."""
    patience_s: float = 60.0
    """Seconds for which a store may be out of reach."""


class BatchWorker:
    """Works jobs of a store off on one engine; any number of workers, here and elsewhere, may work on one job.

    Every completion is kept before it is used, and every line finished before it counts, so that a kill at any moment
    loses nothing and no finished completion is asked for again. A line that was lost to another worker meanwhile is not
    finished twice.
    """

    def __init__(
        self,
        engine: BatchEngine,
        store: JobStore,
        *,
        parser: LineParser,
        options: WorkOptions | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.engine = engine
        self.store = store
        self.parser = parser
        self.options = options or WorkOptions()
        self.patience = patience or Patience(self.options.patience_s)
        self.name = worker_name()
        self.n_finished = 0

    async def run(self, job_id: str, *, on_progress: Progress | None = None, stays: bool = True) -> JobState:
        """Work on a job until it has ended, or (unless it `stays`) until it has no line to be had; its state then.

        Raises `StoreUnavailable` where the store stays out of reach, and `JobGone` where the job is removed or
        begun anew meanwhile; what was finished is kept, and the leases are given back where that can be done.
        """
        try:
            job = await self.patience(lambda: self.store.job(job_id))
            return await _JobRun(self, job, on_progress or (lambda finished, lines: None)).run(stays=stays)
        finally:
            with suppress(RouterError):
                await self.store.give_back(job_id, worker=self.name)


class _JobRun:
    """One worker's work on one job."""

    def __init__(self, worker: BatchWorker, job: Job, on_progress: Progress) -> None:
        self.worker = worker
        self.store = worker.store
        self.options = worker.options
        self.patience = worker.patience
        self.job = job
        self.memo = GuardedMemo(self.store.memo(job.id), worker.patience)
        self.engine = worker.engine.remembering(self.memo)
        self._on_progress = on_progress
        self._finished = -1

    async def run(self, *, stays: bool) -> JobState:
        try:
            await self.look()
            while True:
                await self.patience(lambda: free_lines_of_the_dead(self.store, self.job.id))
                lines = await self._claim()
                if lines:
                    await self._work(lines)
                    continue
                state = await self.patience(lambda: settle(self.store, self.job.id))
                await self.look()
                if state.is_end or not stays:
                    return state
                await asyncio.sleep(self.options.tick_s)
        except UnknownNameError as gone:
            if gone.kind != "job":
                raise
            raise JobGone(f"job {self.job.id!r} was removed while it was worked on; submit it again") from gone

    async def look(self) -> JobState:
        """Where the job stands; tells the progress, and raises `ConfigError` where another one took its id."""
        job = await self.patience(lambda: self.store.job(self.job.id))
        if job.created_s != self.job.created_s:
            raise JobGone(f"job {job.id!r} was begun anew while it was worked on; run the command again to join it")
        progress = await self.patience(lambda: self.store.progress(self.job.id))
        self._report(progress.finished)
        return job.state

    async def finish(self, entry: FinishedEntry) -> None:
        """Keep a line's end, and tell of it once it is kept; a line that is another worker's now is left to it."""
        if await self.patience(lambda: self.store.finish(self.job.id, entry, worker=self.worker.name)):
            self.worker.n_finished += 1
            self._report(self._finished + 1)

    def _report(self, finished: int) -> None:
        if finished > self._finished:
            self._finished = finished
            self._on_progress(finished, self.job.n_lines)

    async def _claim(self) -> list[ClaimedLine]:
        """Lines to work on. A claim whose answer was lost on the way is given back before the next try."""
        name = self.worker.name
        return await self.patience(
            lambda: self.store.claim(self.job.id, worker=name, limit=self.options.window, lease_s=self.options.lease_s),
            before_again=lambda: self.store.give_back(self.job.id, worker=name),
        )

    async def _work(self, lines: Sequence[ClaimedLine]) -> None:
        """Answer the lines, unless the job stops meanwhile."""
        window = _Window(self, lines)
        tasks = [asyncio.create_task(window.answer()), asyncio.create_task(self._keep_leases())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.patience.end()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in done:
            task.result()
        if tasks[0] not in done:  # stopped before all was answered
            await self.patience(lambda: self.store.give_back(self.job.id, worker=self.worker.name))

    async def _keep_leases(self) -> None:
        """Prolong the leases until the job stops, or all of them are lost."""
        renewed = time.monotonic()
        while await self.look() is JobState.IN_PROGRESS:
            await asyncio.sleep(min(self.options.tick_s, self.options.lease_s / 4))
            if time.monotonic() - renewed < self.options.lease_s / 3:
                continue
            renewed = time.monotonic()
            if not await self.patience(
                lambda: self.store.renew(self.job.id, worker=self.worker.name, lease_s=self.options.lease_s)
            ):
                return


class _Window:
    """Lines that are answered together."""

    def __init__(self, run: _JobRun, lines: Sequence[ClaimedLine]) -> None:
        self._run = run
        self._attempts = {line.number: line.attempts for line in lines}
        self._lines = [run.worker.parser(line.number, line.payload) for line in lines]
        self._finishing: list[asyncio.Task[None]] = []

    async def answer(self) -> None:
        """Have the lines answered, each finished as soon as its answer is there; those together share a commit."""
        max_claims = self._run.options.max_claims
        asked: dict[str, BatchLine] = {}
        for line in self._lines:
            if self._attempts[line.number] > max_claims:
                self._finish(spoilt_line(line, claims=max_claims))
            elif line.query is None:
                self._finish(malformed_line(line))
            else:
                asked[line.query.id] = line
        try:
            if asked:
                await self._stream(asked)
        except Exception as broke:
            if self._run.memo.lost is not None:
                raise self._run.memo.lost from broke
            raise
        finally:  # what was answered by now is kept, also where the work ends badly
            ends = await asyncio.gather(*self._finishing, return_exceptions=True)
        for error in ends:
            if error is not None:
                raise error

    async def _stream(self, asked: dict[str, BatchLine]) -> None:
        queries = [_heard_out(line.query) for line in asked.values() if line.query is not None]
        async with aclosing(self._run.engine.stream(queries, deadlines_from="first_call")) as events:
            async for event in events:
                end = _end(event)
                if end is not None:
                    self._require_store(end)
                    self._finish(_finished(asked[end.query_id], end))

    def _require_store(self, end: RouteResponse | RouteFailure) -> None:
        """Raise what kept the memo from answering: what was made without it is no result."""
        if self._run.memo.lost is not None:
            raise self._run.memo.lost
        if isinstance(end, RouteFailure) and end.code == StoreUnavailable.code:
            raise StoreUnavailable(end.message)

    def _finish(self, entry: FinishedEntry) -> None:
        entry = replace(entry, attempts=self._attempts[entry.number])
        self._finishing.append(asyncio.create_task(self._run.finish(entry)))


def _heard_out(query: Query) -> Query:
    """The query with all its experts heard to the end: no line may depend on who was quick."""
    return replace(query, controls=replace(query.controls, waits_for_all=True))


def _end(event: Event) -> RouteResponse | RouteFailure | None:
    if isinstance(event, Answered):
        return event.response
    return event.failure if isinstance(event, Failed) else None


def _finished(line: BatchLine, end: RouteResponse | RouteFailure) -> FinishedEntry:
    if line.form == "plain":
        return plain_line(line, end)
    from router_service._batch_chat import chat_line

    return chat_line(line, end)
