"""The command `batch`: a file of questions in, a file of answers out."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_cluster import AddressOption, EngineOption, on_engine
from router_service._cli_engine import LogOption, opened_log, with_engine
from router_service._cli_options import EngineOptions, JsonOption
from router_service._cli_output import print_json, print_lines, print_note, shown_cost
from router_service._cli_progress import progress_bar
from router_service._cli_store import MaxClaimsOption, StoreOption

if TYPE_CHECKING:
    from router_service.batch import BatchEngine, BatchSummary
    from router_service.engine import Engine

__all__ = ["BatchOptions", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions(EngineOptions):
    """Where from, where to, and how."""

    as_json: JsonOption = False

    source: Annotated[
        Path, typer.Argument(metavar="IN.jsonl", help="Lines {id, question} or OpenAI batch lines.", show_default=False)
    ]
    target: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="One line per input line.", show_default=False)]
    window: Annotated[int, typer.Option(min=1, help="Lines given to the experts at once.")] = 512
    strict: Annotated[bool, typer.Option("--strict", help="Run nothing where a line is malformed.")] = False
    restart: Annotated[bool, typer.Option("--restart", help="Drop what an earlier run finished.")] = False
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again where a failure may have passed; keep the rest.")
    ] = False
    engine: EngineOption = None
    address: AddressOption = None
    store: StoreOption = None
    max_claims: MaxClaimsOption = 5
    log: LogOption = None


def batch(options: BatchOptions) -> None:
    """Answer a file of questions; run it again after a kill, and it goes on where it was."""
    from router_service.batch import BatchJob, WorkOptions, batch_settings, run_batch
    from router_service.decision_log import LoggingEngine

    config = on_engine(options.engine_config(), options.engine, options.address)

    async def work(engine: Engine) -> BatchSummary:
        from eval.grading import question_query
        from router_service._batch_chat import chat_parser
        from router_service._batch_job import check_log
        from router_service.store.opening import open_store

        job = BatchJob(
            source=options.source,
            target=options.target,
            as_query=question_query,
            as_chat=chat_parser(engine),
            settings=batch_settings(config, engine.pool.experts),
            work=WorkOptions(window=options.window, max_claims=options.max_claims),
            is_strict=options.strict,
            restarts=options.restart,
            retries_failed=options.retry_failed,
        )
        if options.log is not None:
            check_log(job, options.log)
        async with AsyncExitStack() as stack:
            on_progress = stack.enter_context(progress_bar(options.source.name))
            runs: BatchEngine = engine
            if options.log is not None:
                runs = LoggingEngine(engine, stack.enter_context(opened_log(options.log, config, engine)))
            store = None if options.store is None else open_store(options.store)
            if store is not None:
                stack.push_async_callback(store.aclose)
            return await run_batch(runs, job, store=store, on_progress=on_progress)

    try:
        summary = with_engine(config, work)
    except KeyboardInterrupt:
        again = "the same command again without --restart" if options.restart else "the same command again"
        print_note(f"interrupted; run {again} to go on where it was")
        raise typer.Exit(130) from None
    _print(summary, as_json=options.as_json)
    if summary.n_cancelled:
        raise typer.Exit(1)


def _print(summary: BatchSummary, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "output": summary.target,
                "lines": summary.n_lines,
                "answered": summary.n_answered,
                "failed": summary.n_failed,
                "retryable": summary.n_retryable,
                "cancelled": summary.n_cancelled,
                "resumed": summary.n_resumed,
                "completions": summary.usage.completions,
                "cost_usd": summary.usage.cost_usd,
            }
        )
        return
    resumed = f", {summary.n_resumed} of them by an earlier run" if summary.n_resumed else ""
    failed = f", {summary.n_failed} failed (each says why in its line)" if summary.n_failed else ""
    print_lines(f"{summary.target}: {summary.n_lines} lines finished{resumed}{failed}")
    print_lines(f"{summary.usage.completions} completions, {shown_cost(summary.usage.cost_usd)}", style="dim")
    if summary.n_cancelled:
        print_note(f"the batch was cancelled: {summary.n_cancelled} lines were left out")
    if summary.n_retryable:
        print_note(
            f"{summary.n_retryable} of {summary.n_failed} failed lines may do better now: run the command again with "
            "--retry-failed (and without --restart) to ask them again; everything else is kept"
        )
