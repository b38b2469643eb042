"""The command `worker`: lends an engine to batches that others submitted to a shared store."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_engine import LogOption, opened_log, with_engine
from router_service._cli_options import EngineOptions
from router_service._cli_output import print_lines, print_note
from router_service._cli_store import MaxClaimsOption, StoreOption, opened_store

if TYPE_CHECKING:
    from router_service.batch import BatchEngine, JobEvents
    from router_service.engine import Engine
    from router_service.store.base import Job, JobState

__all__ = ["WorkerOptions", "worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions(EngineOptions):
    """Which store, and which of its jobs."""

    store: StoreOption = None
    job: Annotated[str | None, typer.Option(help="Only this job, until it has ended.", show_default=False)] = None
    window: Annotated[int, typer.Option(min=1, help="Lines given to the experts at once.")] = 512
    lease_s: Annotated[
        float, typer.Option(min=1.0, help="Seconds after which the lines of a silent worker are anybody's.")
    ] = 60.0
    max_claims: MaxClaimsOption = 5
    exit_when_idle: Annotated[
        bool, typer.Option("--exit-when-idle", help="End where there is nothing to do, rather than wait for more.")
    ] = False
    log: LogOption = None


def worker(options: WorkerOptions) -> None:
    """Work on batches of a store that other commands submitted (enlist batch --store URL), on any machine."""
    from router_service.batch import BatchWorker, LineParser, WorkOptions, batch_settings, work_job, work_jobs
    from router_service.decision_log import LoggingEngine

    config = options.engine_config()

    async def work(engine: Engine) -> None:
        from eval.grading import question_query
        from router_service._batch_chat import chat_parser

        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(opened_store(options.store))
            runs: BatchEngine = engine
            if options.log is not None:
                runs = LoggingEngine(engine, stack.enter_context(opened_log(options.log, config, engine)))
            lent = BatchWorker(
                runs,
                store,
                parser=LineParser(as_query=question_query, as_chat=chat_parser(engine)),
                options=WorkOptions(window=options.window, lease_s=options.lease_s, max_claims=options.max_claims),
            )
            settings = batch_settings(config, engine.pool.experts)
            if options.job is not None:
                await work_job(lent, options.job, settings, events=_told())
            else:
                await work_jobs(lent, settings, events=_told(), until_idle=options.exit_when_idle)
            print_lines(f"{lent.n_finished} lines finished by this worker")

    try:
        with_engine(config, work)
    except KeyboardInterrupt:
        print_note("interrupted; the lines it held are anybody's again")
        raise typer.Exit(130) from None


def _told() -> JobEvents:
    from router_service.batch import JobEvents

    class Told(JobEvents):
        """Says on standard error which jobs are left alone."""

        def refused(self, job: Job, changed: list[str]) -> None:
            print_note(
                f"job {job.id} is left alone: it was submitted for an engine that differs in: {', '.join(changed)}"
            )

        def left(self, job: Job, state: JobState) -> None:
            print_lines(f"{job.id}: {state.value}")

    return Told()
