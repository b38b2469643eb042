"""Works whatever jobs a store holds, as far as this worker's engine is the one that they were submitted for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from router_service._batch_settings import differences
from router_service._batch_worker import BatchWorker, JobGone, Progress
from router_service.errors import ConfigError
from router_service.store.base import Job, JobState

__all__ = ["JobEvents", "work_job", "work_jobs"]

_POLL_S = 2.0


class JobEvents:
    """Hears what a worker does with jobs; this one says nothing."""

    def progress(self, job: Job) -> Progress:
        """What is called with a job's finished lines and its lines in all."""
        return lambda finished, lines: None

    def refused(self, job: Job, changed: list[str]) -> None:
        """A job is left alone, because it was submitted for an engine that differs in these settings; told once."""

    def left(self, job: Job, state: JobState) -> None:
        """The worker is done with a job, which stands so."""


async def work_job(worker: BatchWorker, job_id: str, settings: Mapping[str, str], *, events: JobEvents) -> JobState:
    """Work on one job until it has ended; raises `ConfigError` where it was submitted for another engine, naming what
    differs."""
    job = await worker.patience(lambda: worker.store.job(job_id))
    changed = differences(job.header, settings, is_elsewhere=True)
    if changed:
        raise ConfigError(
            f"job {job_id} was submitted for an engine that differs from this worker's in: {', '.join(changed)}; start "
            "the worker with the submitter's configuration, pool and artefact"
        )
    state = await worker.run(job_id, on_progress=events.progress(job))
    events.left(job, state)
    return state


async def work_jobs(
    worker: BatchWorker,
    settings: Mapping[str, str],
    *,
    events: JobEvents,
    until_idle: bool = False,
) -> None:
    """Work on the jobs of the store, oldest first, and wait for more; `until_idle` returns where there is nothing to do
    for this worker."""
    refused: set[str] = set()
    while True:
        has_worked = False
        for job in reversed(await worker.patience(worker.store.jobs)):
            changed = differences(job.header, settings, is_elsewhere=True)
            if changed and job.id not in refused and not job.state.is_end:
                refused.add(job.id)
                events.refused(job, changed)
            if not changed and not job.state.is_end:
                has_worked = await _lend_a_hand(worker, job, events) or has_worked
        if until_idle and not has_worked:
            return
        if not has_worked:
            await asyncio.sleep(_POLL_S)


async def _lend_a_hand(worker: BatchWorker, job: Job, events: JobEvents) -> bool:
    """Work on a job as long as it has lines to be had; True where it had some."""
    finished_before = worker.n_finished
    try:
        state = await worker.run(job.id, on_progress=events.progress(job), stays=False)
    except JobGone:
        return False
    has_worked = worker.n_finished > finished_before
    if has_worked or state.is_end:
        events.left(job, state)
    return has_worked
