"""Durable batches: a JSONL file of questions in, a JSONL file of answers out; a killed run goes on where it was.

Behind it, for other doors: `submit` a job to a store, let any number of `BatchWorker`s work on it, `cancel` it, and
`collect` its lines once it has ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from router_service._batch_files import remove_file
from router_service._batch_job import BatchJob, check_files, require_no_problem
from router_service._batch_jobs import JobEvents, work_job, work_jobs
from router_service._batch_lines import LineParser, fingerprint_file
from router_service._batch_receipt import Receipt, kept_lines, usage_of, valid_receipt, write_output
from router_service._batch_service import cancel, collect, settle, submit
from router_service._batch_settings import batch_settings, differences
from router_service._batch_worker import BatchEngine, BatchWorker, JobGone, Progress, WorkOptions
from router_service.errors import ConfigError, RouterError, UnknownNameError
from router_service.store.base import Job, JobStore
from router_service.store.sqlite import Sqlite
from router_service.types import Usage

__all__ = [
    "BatchEngine",
    "BatchJob",
    "BatchSummary",
    "BatchWorker",
    "JobEvents",
    "JobGone",
    "LineParser",
    "Progress",
    "WorkOptions",
    "batch_settings",
    "cancel",
    "collect",
    "differences",
    "run_batch",
    "settle",
    "submit",
    "work_job",
    "work_jobs",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """How a batch ended. `n_resumed` lines were finished by an earlier run; failed lines say why in the output.

    `n_retryable` of the failed lines may do better in a run with `retries_failed`; `n_cancelled` of them were left out
    because the job was cancelled. `usage` adds up the lines of the output; what a failed try had cost before another
    one is not in it.
    """

    target: Path
    n_lines: int
    n_failed: int
    n_retryable: int
    n_resumed: int
    usage: Usage
    n_cancelled: int = 0

    @property
    def n_answered(self) -> int:
        """Lines with an answer."""
        return self.n_lines - self.n_failed


async def run_batch(
    engine: BatchEngine, job: BatchJob, *, store: JobStore | None = None, on_progress: Progress | None = None
) -> BatchSummary:
    """Run every line that no earlier run finished, then write the output in input order, whole or not at all.

    The job is kept in `store` (by default in a file beside the output, `job.store_path`); where it is there already,
    this process joins it. Each completion is on disk before it is used and each finished line before it counts, so a
    kill at any moment loses none and none is asked for twice. Raises `ConfigError` where the input cannot be read, or
    output or job are another batch's or the input itself; `InvalidQuery` for a malformed line of a strict job, before
    anything is run; `StoreUnavailable` where store or output cannot be written for long, and nothing is lost then.
    """
    check_files(job)
    header = {"input": fingerprint_file(job.source), **job.settings}
    if job.is_strict:
        require_no_problem(job)
    receipt = None if job.restarts else valid_receipt(job.target, header)
    if receipt is not None and not (job.retries_failed and receipt["retryable"]):
        await _clear_up(job)
        return _summary(job, receipt, n_resumed=receipt["counts"]["lines"])
    async with _opened(job, store) as place:
        found, n_resumed = await _enlist(place, job, header=header, receipt=receipt)
        worker = BatchWorker(engine, place, parser=job.parser, options=job.work)
        try:
            await worker.run(found.id, on_progress=on_progress)
            receipt = await write_output(job.target, header, collect(place, found.id))
            await (place.remove(found.id) if store is None else place.drop_memo(found.id))
        except RouterError:
            receipt = valid_receipt(job.target, header)  # another process may have finished it, and put the job away
            if receipt is None:
                raise
    return _summary(job, receipt, n_resumed=n_resumed)


@asynccontextmanager
async def _opened(job: BatchJob, store: JobStore | None) -> AsyncIterator[JobStore]:
    """The store that was given, or the batch's own, whose file goes once no job is in it."""
    if store is not None:
        yield store
        return
    own = Sqlite(str(job.store_path))
    try:
        yield own
    finally:
        await own.discard()


async def _clear_up(job: BatchJob) -> None:
    """Remove the batch's own store where a kill came between its receipt and that."""
    if not job.store_path.exists():
        return
    with suppress(RouterError):
        async with _opened(job, None) as own:
            for left in await own.jobs():
                await own.remove(left.id)


async def _enlist(
    store: JobStore, job: BatchJob, *, header: Mapping[str, str], receipt: Receipt | None
) -> tuple[Job, int]:
    """The batch's job, new or joined, with nothing of it finished that is to be run again; and how many lines an
    earlier run finished."""
    found = await _found(store, job)
    if job.restarts and found is not None:
        await store.remove(found.id)
        found = None
    is_resumed = found is not None or receipt is not None
    if found is None:
        if receipt is None:
            _begin(job)
        await _submit(store, job, header=header, receipt=receipt)
        found = await store.job(job.job_id)
    _require_same(job, found, header)
    if receipt is not None:  # while it stands, the output counts and the job does not
        remove_file(job.receipt_path)
    if job.retries_failed and is_resumed:
        await store.reopen(found.id)
    return found, (await store.progress(found.id)).finished if is_resumed else 0


async def _found(store: JobStore, job: BatchJob) -> Job | None:
    try:
        return await store.job(job.job_id)
    except UnknownNameError:
        is_own = isinstance(store, Sqlite) and store.path == job.store_path
        others = await store.jobs() if is_own else []  # under another id where the folder was moved
        return others[0] if others else None


def _begin(job: BatchJob) -> None:
    """A fresh start: an output that is not this batch's is never overwritten unasked."""
    if job.target.exists() and not job.restarts:
        raise ConfigError(
            f"{job.target} exists and is not the finished output of this input with these settings; "
            "give --restart to replace it, or name another output file"
        )
    job.receipt_path.unlink(missing_ok=True)


async def _submit(store: JobStore, job: BatchJob, *, header: Mapping[str, str], receipt: Receipt | None) -> None:
    """Put the batch into the store, with what its finished output holds; nothing where another process was faster."""
    kept = None if receipt is None else kept_lines(job.target, job.lines(), receipt)
    metadata = {
        "input": str(job.source.absolute()),
        "target": str(job.target.absolute()),
        "replaces": _fingerprint(job.target),
    }
    await submit(store, Job(id=job.job_id, header=header, metadata=metadata), job.lines(), kept=kept)


def _require_same(job: BatchJob, found: Job, header: Mapping[str, str]) -> None:
    """Refuse to go on with a job of something else, or over an output that came into its way."""
    changed = differences(found.header, header)
    if changed:
        raise ConfigError(
            f"{job.target} belongs to an unfinished batch that differs in: {', '.join(changed)}. Run it again as it "
            "was to finish it, give --restart to drop what it finished, or name another output file"
        )
    if not found.state.is_end and _fingerprint(job.target) not in ("", found.metadata.get("replaces", "")):
        raise ConfigError(
            f"{job.target} exists, and came there after this batch had begun; move it away and run the command again "
            "to go on, or give --restart to replace it"
        )


def _fingerprint(path: Path) -> str:
    return fingerprint_file(path) if path.exists() else ""


def _summary(job: BatchJob, receipt: Receipt, *, n_resumed: int) -> BatchSummary:
    counts = receipt["counts"]
    return BatchSummary(
        target=job.target,
        n_lines=counts["lines"],
        n_failed=counts["failed"],
        n_retryable=len(receipt["retryable"]),
        n_resumed=n_resumed,
        usage=usage_of(receipt),
        n_cancelled=counts.get("cancelled", 0),
    )
