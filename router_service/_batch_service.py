"""Jobs as a service: submitted, cancelled, brought to their end and collected, whoever asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from router_service._batch_lines import BatchLine, identify_line
from router_service._batch_output import cancelled_line, malformed_line
from router_service._batch_presence import is_known_dead
from router_service.store.base import FinishedEntry, Job, JobLine, JobState, JobStore

__all__ = ["cancel", "collect", "free_lines_of_the_dead", "settle", "submit"]

_ALL_BUT_RUNNING = tuple(state for state in JobState if state is not JobState.IN_PROGRESS)
_ENDS = tuple(state for state in JobState if state.is_end)


async def submit(
    store: JobStore, job: Job, lines: Iterable[BatchLine], *, kept: Iterable[FinishedEntry] | None = None
) -> bool:
    """Put a job with its input into a store, whole or not at all; False where its id is there already.

    Malformed lines are finished from the start. `kept` are the lines that an earlier run brought, malformed ones
    included.
    """
    malformed: list[FinishedEntry] = []

    def payloads() -> Iterator[JobLine]:
        for line in lines:
            if line.query is None and kept is None:
                malformed.append(malformed_line(line))
            yield JobLine(number=line.number, payload=line.raw)

    return await store.create(job, payloads(), entries=malformed if kept is None else kept)


async def cancel(store: JobStore, job_id: str) -> JobState:
    """Have a job stopped: workers end their open calls, and what is finished stays. Its state by now: `cancelling` as
    long as a worker holds lines, or an end state."""
    await store.set_state(job_id, JobState.CANCELLING, unless=_ENDS)
    await free_lines_of_the_dead(store, job_id)
    return await settle(store, job_id)


async def free_lines_of_the_dead(store: JobStore, job_id: str) -> None:
    """End the leases of workers of this machine whose process is gone."""
    for name in await store.workers(job_id):
        if is_known_dead(name):
            await store.give_back(job_id, worker=name, is_lost=True)


async def settle(store: JobStore, job_id: str) -> JobState:
    """Move a job to its end where it has come to it (all lines finished; cancelled, and nobody at work); its state."""
    state = (await store.job(job_id)).state
    if state is JobState.IN_PROGRESS:
        progress = await store.progress(job_id)
        if progress.finished == progress.lines:
            await store.set_state(job_id, JobState.COMPLETED, unless=_ALL_BUT_RUNNING)
    elif state is JobState.CANCELLING and not await store.workers(job_id):
        await store.set_state(job_id, JobState.CANCELLED, unless=(*_ENDS, JobState.IN_PROGRESS))
    return (await store.job(job_id)).state


async def collect(store: JobStore, job_id: str) -> AsyncIterator[FinishedEntry]:
    """Every line of an ended job in input order: as it was finished, or as one that its cancelling left out."""
    entries = store.entries(job_id)
    entry = await anext(entries, None)
    async for line in store.lines(job_id):
        if entry is not None and entry.number == line.number:
            yield entry
            entry = await anext(entries, None)
        else:
            yield cancelled_line(identify_line(line.number, line.payload))
