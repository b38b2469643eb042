"""The commands `jobs list`, `jobs show`, `jobs cancel` and `jobs remove`: batches in a job store."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from router_service._cli_options import JsonOption
from router_service._cli_output import print_json, print_lines, print_table, shown_cost
from router_service._cli_store import StoreOption, opened_store
from router_service.errors import ConfigError

if TYPE_CHECKING:
    from router_service.store.base import FinishedEntry, Job, JobProgress, JobStore

__all__ = ["JobOptions", "ListOptions", "RemoveOptions", "ShowOptions", "cancel", "list_jobs", "remove", "show"]

T = TypeVar("T")

_JobArgument = Annotated[
    str | None, typer.Argument(metavar="[JOB]", help="Its id; may be left out for a store's only job.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """Which store."""

    store: StoreOption = None
    as_json: JsonOption = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions(ListOptions):
    """Which job of which store."""

    job: _JobArgument = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowOptions(JobOptions):
    """How much of it."""

    lines: Annotated[bool, typer.Option("--lines", help="Every finished line: route, claims, cost, error.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveOptions(JobOptions):
    """Whether a job that has not ended may go."""

    force: Annotated[bool, typer.Option("--force", help="Also where the job has not ended.")] = False


def list_jobs(options: ListOptions) -> None:
    """List the jobs of a store, newest first, with how far each is and what it has cost."""

    async def work(store: JobStore) -> list[tuple[Job, JobProgress]]:
        return [(job, await store.progress(job.id)) for job in await store.jobs()]

    found = _with_store(options, work)
    if options.as_json:
        print_json([_as_json(job, progress) for job, progress in found])
        return
    rows = [
        [
            *(job.id, job.state.value, f"{progress.finished}/{progress.lines}", progress.failed),
            *(_time(job.created_s), shown_cost(progress.usage.cost_usd), job.metadata.get("target", "")),
        ]
        for job, progress in found
    ]
    columns = ["job", "state", "finished", "failed", "submitted", "cost", "output"]
    print_table(f"{len(rows)} job{'s' * (len(rows) != 1)}", columns, rows)


def show(options: ShowOptions) -> None:
    """Show one job: its progress, who works on it, what it has cost; with --lines every finished line's route."""

    async def work(store: JobStore) -> tuple[dict[str, Any], list[FinishedEntry]]:
        job = await _chosen(store, options.job)
        shown = _as_json(job, await store.progress(job.id)) | {"workers": await store.workers(job.id)}
        entries = [entry async for entry in store.entries(job.id)] if options.lines else []
        return shown, entries

    shown, entries = _with_store(options, work)
    if options.as_json:
        print_json(shown | ({"entries": [_entry_as_json(entry) for entry in entries]} if options.lines else {}))
        return
    for name, value in (shown | {"ended": shown["ended"] or "not yet"}).items():
        print_lines(f"{name}: {_said(value)}")
    if options.lines:
        columns = ["line", "id", "end", "claims", "recruiter", "experts", "aggregator", "completions", "cost"]
        print_table("Finished lines", columns, [_row(entry) for entry in entries])


def _said(value: object) -> str:
    """A field's value for people: nobody is `none`, and what is not known is `unknown`."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)


def cancel(options: JobOptions) -> None:
    """Stop a job: its workers end their open calls, and what is finished stays and is written to the output."""
    from router_service.batch import cancel as cancel_job

    async def work(store: JobStore) -> tuple[Job, JobProgress]:
        job = await _chosen(store, options.job)
        await cancel_job(store, job.id)
        return await store.job(job.id), await store.progress(job.id)

    job, progress = _with_store(options, work)
    if options.as_json:
        print_json(_as_json(job, progress))
    else:
        print_lines(f"{job.id}: {job.state.value}, {progress.finished} of {progress.lines} lines finished")


def remove(options: RemoveOptions) -> None:
    """Forget a job with all that is kept of it; its output file stays where it is."""

    async def work(store: JobStore) -> str:
        job = await _chosen(store, options.job)
        if not (job.state.is_end or options.force):
            raise ConfigError(
                f"job {job.id} is {job.state.value}; cancel it (enlist jobs cancel) until it says that it is "
                "cancelled, or give --force to drop what it finished"
            )
        await store.remove(job.id)
        return job.id

    job_id = _with_store(options, work)
    if options.as_json:
        print_json({"removed": job_id})
    else:
        print_lines(f"{job_id}: removed")


def _with_store(options: ListOptions, work: Callable[[JobStore], Awaitable[T]]) -> T:
    async def run() -> T:
        async with opened_store(options.store) as store:
            return await work(store)

    return asyncio.run(run())


async def _chosen(store: JobStore, job_id: str | None) -> Job:
    if job_id is not None:
        return await store.job(job_id)
    jobs = await store.jobs()
    if len(jobs) != 1:
        listed = ", ".join(job.id for job in jobs) or "none"
        raise ConfigError(f"which job? Name one of those in the store: {listed}")
    return jobs[0]


def _as_json(job: Job, progress: JobProgress) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state.value,
        "input": job.metadata.get("input"),
        "output": job.metadata.get("target"),
        "created": _time(job.created_s),
        "ended": None if job.ended_s is None else _time(job.ended_s),
        "lines": progress.lines,
        "finished": progress.finished,
        "failed": progress.failed,
        "retryable": progress.retryable,
        "claimed": progress.claimed,
        "reclaimed": progress.reclaimed,
        **asdict(progress.usage),
    }


def _entry_as_json(entry: FinishedEntry) -> dict[str, Any]:
    return {
        "line": entry.number,
        "id": _line_id(entry),
        "failed": entry.has_failed,
        "retryable": entry.is_retryable,
        "claims": entry.attempts,
        "route": entry.route,
        **asdict(entry.usage),
        "error": entry.output.get("error"),
    }


def _row(entry: FinishedEntry) -> list[object]:
    route = entry.route
    experts = ", ".join(f"{name} ×{samples}" if samples > 1 else name for name, samples in _recruits(route).items())
    end = "failed" if entry.has_failed else "answered"
    if route.get("fallback"):
        experts += f" (fallback: {route['fallback']})"
    return [
        *(entry.number, _line_id(entry), end, entry.attempts, route.get("recruiter"), experts),
        *(route.get("aggregator"), entry.usage.completions, shown_cost(entry.usage.cost_usd)),
    ]


def _recruits(route: Any) -> dict[str, int]:
    return dict(route.get("recruits", {}))


def _line_id(entry: FinishedEntry) -> Any:
    return entry.output.get("custom_id", entry.output.get("id"))


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
