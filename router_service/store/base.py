"""The job store's contract: lines are claimed under a lease, finished once, and survive the death of any worker."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router_service.plugins import Registry
from router_service.types import CompletionMemo, Usage

__all__ = [
    "CLAIMS_SHRINK_BY",
    "STORES",
    "ClaimedLine",
    "FinishedEntry",
    "Job",
    "JobLine",
    "JobProgress",
    "JobState",
    "JobStore",
    "claim_limit",
]

CLAIMS_SHRINK_BY = 8
"""How much smaller each further claim of the same lines is."""
_SMALLEST_AFTER = 20
"""Claims after which nobody's limit is above one line."""


class JobState(enum.StrEnum):
    """Where a job stands, in the words of OpenAI's Batches API."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_end(self) -> bool:
        """True where nothing more happens by itself."""
        return self in (JobState.CANCELLED, JobState.COMPLETED, JobState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One batch: its id, where it stands, and `header`, what its results depend on (name -> fingerprint).

    `metadata` is whatever its owner wants kept with it. Times are seconds since 1970.
    """

    id: str
    header: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    state: JobState = JobState.VALIDATING
    n_lines: int = 0
    created_s: float = 0.0
    ended_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """One line of a job's input, as bytes, by its number in the input (from 1)."""

    number: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedLine:
    """A line that a worker may work on until its lease ends.

    `attempts` counts the claims so far, this one included; claims that were given back in good order do not count.
    """

    number: int
    payload: bytes
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedEntry:
    """What is kept of a finished line: the record for the output, its route, and what it cost."""

    number: int
    output: Mapping[str, Any]
    has_failed: bool = False
    is_retryable: bool = False
    usage: Usage = Usage()
    route: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """How far a job is: `claimed` lines are under a lease that holds; `reclaimed` counts leases that were lost."""

    lines: int
    finished: int
    failed: int
    retryable: int
    claimed: int
    reclaimed: int
    usage: Usage


class JobStore(ABC):
    """Durable jobs. Every method may be called from several processes at once; what returned survives a kill -9.

    Raises `StoreUnavailable` where the store cannot be read or written (not reached, disk full, damaged),
    `UnknownNameError` for a job that is not there.
    """

    @abstractmethod
    async def create(self, job: Job, lines: Iterable[JobLine], *, entries: Iterable[FinishedEntry] = ()) -> bool:
        """Add a job with all its lines, whole or not at all, in progress; False where the id is there already.

        `entries` are lines that are finished from the start (malformed ones, or what an earlier run brought); they are
        read after `lines`, so that one reading of the input may collect them. The store counts the lines. What the
        iterables raise is raised on.
        """

    @abstractmethod
    async def job(self, job_id: str) -> Job:
        """The job as it stands."""

    @abstractmethod
    async def jobs(self) -> list[Job]:
        """All jobs, newest first."""

    @abstractmethod
    async def set_state(self, job_id: str, state: JobState, *, unless: Sequence[JobState] = ()) -> bool:
        """Move a job on; False where it stands in one of `unless`, or is to be completed and has unfinished lines. An
        end state notes the time."""

    @abstractmethod
    async def claim(self, job_id: str, *, worker: str, limit: int, lease_s: float) -> list[ClaimedLine]:
        """Up to `limit` unfinished lines that nobody holds, in input order, for this worker alone until the lease ends.

        A line whose lease ended is anybody's again. Lines that were claimed least often come first, and only those of
        one count, at most `claim_limit` of them: what may have killed its workers is told apart from its neighbours.
        Nothing is handed out of a job that is not in progress.
        """

    @abstractmethod
    async def renew(self, job_id: str, *, worker: str, lease_s: float) -> set[int]:
        """Prolong all of this worker's leases on the job; the numbers of the lines it still holds."""

    @abstractmethod
    async def give_back(self, job_id: str, *, worker: str, is_lost: bool = False) -> int:
        """End all of a worker's leases on the job at once; how many.

        A worker that stops in good order has not tried these lines; with `is_lost` it is known to be dead, and its
        claims keep counting.
        """

    @abstractmethod
    async def workers(self, job_id: str) -> list[str]:
        """Who holds leases on the job now, sorted."""

    @abstractmethod
    async def finish(self, job_id: str, entry: FinishedEntry, *, worker: str | None = None) -> bool:
        """Keep a line's end, once: False, and nothing changes, where the line is finished already or is none of the
        job's, or where `worker` is given and the line is no longer its own. A lease that ended is still its own until
        another worker claims the line."""

    @abstractmethod
    async def reopen(self, job_id: str, *, retryable_only: bool = True) -> int:
        """Take failed lines back as unfinished and never claimed, and put the job in progress; how many."""

    @abstractmethod
    async def progress(self, job_id: str) -> JobProgress:
        """Counts and usage so far."""

    @abstractmethod
    def lines(self, job_id: str) -> AsyncIterator[JobLine]:
        """The job's input lines in order, not all in memory at once."""

    @abstractmethod
    def entries(self, job_id: str) -> AsyncIterator[FinishedEntry]:
        """The finished lines in input order, not all in memory at once."""

    @abstractmethod
    async def remove(self, job_id: str) -> None:
        """Forget a job with all that is kept of it; nothing to do where it is not there."""

    @abstractmethod
    def memo(self, job_id: str) -> CompletionMemo:
        """What the job's completions are kept in, until the job is removed or its completions are dropped."""

    @abstractmethod
    async def drop_memo(self, job_id: str) -> None:
        """Forget the job's completions: its lines are finished."""

    async def aclose(self) -> None:  # noqa: B027  (a store in memory holds nothing)
        """Give back connections and files."""


STORES: Registry[JobStore] = Registry("job store", "router_service.store")
"""Job stores by the scheme of their address; each is made of its option `url`, see `router_service.store.opening`."""


def claim_limit(limit: int, attempts: int) -> int:
    """How many lines that were claimed `attempts` times before are handed out together at most.

    A line that kills its worker takes all lines of its claim down with it. Each time the next claim is an eighth as
    large, so that the guilty line is soon alone, and innocent ones are finished long before they count as guilty.
    """
    shares: int = CLAIMS_SHRINK_BY ** min(attempts, _SMALLEST_AFTER)
    return max(1, limit // shares)
