"""Jobs in this process's memory, for tests and for work that nobody will go on with; they end with the process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from router_service.errors import UnknownNameError
from router_service.store.base import (
    STORES,
    ClaimedLine,
    FinishedEntry,
    Job,
    JobLine,
    JobProgress,
    JobState,
    JobStore,
    claim_limit,
)
from router_service.types import Completion, CompletionMemo, Usage

__all__ = ["Memory"]


@dataclass(slots=True, kw_only=True)
class _OpenLine:
    """An unfinished line: who holds it until when, and how often it was claimed."""

    attempts: int = 0
    worker: str | None = None
    lease_until_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Kept:
    """All that is kept of a job."""

    job: Job
    lines: dict[int, JobLine]
    open: dict[int, _OpenLine]
    entries: dict[int, FinishedEntry] = field(default_factory=dict)
    completions: dict[str, Completion] = field(default_factory=dict)
    reclaimed: int = 0


@STORES.register("memory")
class Memory(JobStore):
    """A store that forgets; `clock` gives seconds since 1970 and is replaceable, for tests."""

    def __init__(self, url: str = "memory:", *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._jobs: dict[str, _Kept] = {}

    async def create(self, job: Job, lines: Iterable[JobLine], *, entries: Iterable[FinishedEntry] = ()) -> bool:
        """Add a job with all its lines, or none of it."""
        if job.id in self._jobs:
            return False
        by_number = {line.number: line for line in lines}
        finished = {entry.number: entry for entry in entries}
        job = replace(job, state=JobState.IN_PROGRESS, n_lines=len(by_number), created_s=self._clock(), ended_s=None)
        opened = {number: _OpenLine() for number in by_number if number not in finished}
        self._jobs[job.id] = _Kept(job=job, lines=by_number, open=opened, entries=finished)
        return True

    async def job(self, job_id: str) -> Job:
        """The job as it stands."""
        return self._kept(job_id).job

    async def jobs(self) -> list[Job]:
        """All jobs, newest first."""
        return [kept.job for kept in reversed(self._jobs.values())]

    async def set_state(self, job_id: str, state: JobState, *, unless: Sequence[JobState] = ()) -> bool:
        """Move a job on."""
        kept = self._kept(job_id)
        if kept.job.state in unless or (state is JobState.COMPLETED and kept.open):
            return False
        kept.job = replace(kept.job, state=state, ended_s=self._clock() if state.is_end else None)
        return True

    async def claim(self, job_id: str, *, worker: str, limit: int, lease_s: float) -> list[ClaimedLine]:
        """Lines for this worker alone."""
        kept, now = self._kept(job_id), self._clock()
        free = [
            (line.attempts, number)
            for number, line in kept.open.items()
            if line.worker is None or line.lease_until_s <= now
        ]
        if kept.job.state is not JobState.IN_PROGRESS or not free:
            return []
        fewest = min(free)[0]
        numbers = sorted(number for attempts, number in free if attempts == fewest)[: claim_limit(limit, fewest)]
        for number in numbers:
            line = kept.open[number]
            kept.reclaimed += line.worker is not None
            kept.open[number] = _OpenLine(attempts=fewest + 1, worker=worker, lease_until_s=now + lease_s)
        return [ClaimedLine(number=n, payload=kept.lines[n].payload, attempts=fewest + 1) for n in numbers]

    async def renew(self, job_id: str, *, worker: str, lease_s: float) -> set[int]:
        """Prolong this worker's leases."""
        held = self._held(job_id, worker)
        for line in held.values():
            line.lease_until_s = self._clock() + lease_s
        return set(held)

    async def give_back(self, job_id: str, *, worker: str, is_lost: bool = False) -> int:
        """End a worker's leases."""
        held = self._held(job_id, worker)
        for line in held.values():
            line.worker = None
            line.attempts -= not is_lost
        self._kept(job_id).reclaimed += is_lost * len(held)
        return len(held)

    async def workers(self, job_id: str) -> list[str]:
        """Who holds leases that have not ended."""
        now = self._clock()
        return sorted(
            {line.worker for line in self._kept(job_id).open.values() if line.worker and line.lease_until_s > now}
        )

    async def finish(self, job_id: str, entry: FinishedEntry, *, worker: str | None = None) -> bool:
        """Keep a line's end, once."""
        kept = self._kept(job_id)
        line = kept.open.get(entry.number)
        if line is None or (worker is not None and line.worker != worker):
            return False
        del kept.open[entry.number]
        kept.entries[entry.number] = entry
        return True

    async def reopen(self, job_id: str, *, retryable_only: bool = True) -> int:
        """Take failed lines back."""
        kept = self._kept(job_id)
        failed = [e.number for e in kept.entries.values() if e.has_failed and (e.is_retryable or not retryable_only)]
        for number in failed:
            del kept.entries[number]
            kept.open[number] = _OpenLine()
        kept.job = replace(kept.job, state=JobState.IN_PROGRESS, ended_s=None)
        return len(failed)

    async def progress(self, job_id: str) -> JobProgress:
        """Counts and usage so far."""
        kept, now = self._kept(job_id), self._clock()
        entries = kept.entries.values()
        return JobProgress(
            lines=len(kept.lines),
            finished=len(entries),
            failed=sum(entry.has_failed for entry in entries),
            retryable=sum(entry.has_failed and entry.is_retryable for entry in entries),
            claimed=sum(line.worker is not None and line.lease_until_s > now for line in kept.open.values()),
            reclaimed=kept.reclaimed,
            usage=sum((entry.usage for entry in entries), Usage()),
        )

    async def lines(self, job_id: str) -> AsyncIterator[JobLine]:
        """The input lines in order."""
        kept = self._kept(job_id)
        for number in sorted(kept.lines):
            yield kept.lines[number]

    async def entries(self, job_id: str) -> AsyncIterator[FinishedEntry]:
        """The finished lines in order."""
        kept = self._kept(job_id)
        for number in sorted(kept.entries):
            yield kept.entries[number]

    async def remove(self, job_id: str) -> None:
        """Forget a job."""
        self._jobs.pop(job_id, None)

    def memo(self, job_id: str) -> CompletionMemo:
        """The job's completions."""
        return _Memo(self, job_id)

    async def drop_memo(self, job_id: str) -> None:
        """Forget the job's completions."""
        self._kept(job_id).completions.clear()

    def completions(self, job_id: str) -> dict[str, Completion]:
        """What the memo of a job keeps, by key."""
        return self._kept(job_id).completions

    def _kept(self, job_id: str) -> _Kept:
        if job_id not in self._jobs:
            raise UnknownNameError("job", job_id, self._jobs)
        return self._jobs[job_id]

    def _held(self, job_id: str, worker: str) -> dict[int, _OpenLine]:
        return {number: line for number, line in self._kept(job_id).open.items() if line.worker == worker}


class _Memo:
    """The completions of one job in memory."""

    def __init__(self, store: Memory, job_id: str) -> None:
        self._store = store
        self._job_id = job_id

    async def recall(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Those of the keys that are kept."""
        kept = self._store.completions(self._job_id)
        return {key: kept[key] for key in keys if key in kept}

    async def keep(self, key: str, completion: Completion) -> None:
        """Keep a completion; the first one of a key stays."""
        self._store.completions(self._job_id).setdefault(key, completion)
