"""The command line, `enlist`: parses, calls, prints; every decision is made elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from router_service import (
    _cli_aggregator,
    _cli_ask,
    _cli_assert,
    _cli_batch,
    _cli_convert,
    _cli_demo,
    _cli_harness,
    _cli_jobs,
    _cli_personas,
    _cli_pool,
    _cli_profile,
    _cli_recruiter,
    _cli_replay,
    _cli_report,
    _cli_route_replay,
    _cli_serve,
    _cli_worker,
)
from router_service._cli_group import DEFAULT_COMMAND, CommandGroup
from router_service._cli_options import QuestionOptions, takes
from router_service._cli_output import print_error
from router_service.errors import RouterError

__all__ = ["app", "main"]

_SET_UP_IS_BROKEN = 2

app = typer.Typer(
    name="enlist",
    help="Recruit the few LLM experts that are measurably good at each question, and turn their answers into one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
route_app = typer.Typer(cls=CommandGroup, help="Show who would be asked, and why; or decide logged questions again.")
jobs_app = typer.Typer(help="Look at batches in a job store, stop them, forget them.", no_args_is_help=True)
pool_app = typer.Typer(help="Look at a pool of experts, or give them personas.", no_args_is_help=True)
eval_app = typer.Typer(help="Measure strategies.", no_args_is_help=True)
recruiter_app = typer.Typer(help="Prepare who chooses the experts.", no_args_is_help=True)
aggregator_app = typer.Typer(help="Choose how completions become one answer.", no_args_is_help=True)

app.command()(takes(QuestionOptions)(_cli_ask.ask))
app.add_typer(route_app, name="route")
route_app.command(DEFAULT_COMMAND)(takes(_cli_ask.RouteOptions)(_cli_ask.route))
route_app.command("replay")(takes(_cli_route_replay.RouteReplayOptions)(_cli_route_replay.replay_log))
app.command()(takes(_cli_batch.BatchOptions)(_cli_batch.batch))
app.command()(takes(_cli_worker.WorkerOptions)(_cli_worker.worker))
app.add_typer(jobs_app, name="jobs")
jobs_app.command("list")(takes(_cli_jobs.ListOptions)(_cli_jobs.list_jobs))
jobs_app.command()(takes(_cli_jobs.ShowOptions)(_cli_jobs.show))
jobs_app.command()(takes(_cli_jobs.JobOptions)(_cli_jobs.cancel))
jobs_app.command()(takes(_cli_jobs.RemoveOptions)(_cli_jobs.remove))
app.command()(takes(_cli_demo.DemoOptions)(_cli_demo.demo))
app.command()(takes(_cli_serve.ServeOptions)(_cli_serve.serve))
app.command()(takes(_cli_profile.ProfileOptions)(_cli_profile.profile))
app.add_typer(pool_app, name="pool")
app.add_typer(eval_app, name="eval")
app.add_typer(aggregator_app, name="aggregator")
app.add_typer(recruiter_app, name="recruiter")
pool_app.command()(takes(_cli_pool.PoolOptions)(_cli_pool.check))
pool_app.command()(takes(_cli_pool.PoolOptions)(_cli_pool.show))
pool_app.command("personas")(takes(_cli_personas.PersonasOptions)(_cli_personas.write_personas))
eval_app.command()(takes(_cli_replay.ReplayOptions)(_cli_replay.replay))
eval_app.command()(takes(_cli_convert.ConvertOptions)(_cli_convert.convert))
eval_app.command("assert")(takes(_cli_assert.AssertOptions)(_cli_assert.assert_routes))
eval_app.command()(takes(_cli_report.ReportOptions)(_cli_report.report))
eval_app.command()(takes(_cli_harness.HarnessOptions)(_cli_harness.harness))
recruiter_app.command()(takes(_cli_recruiter.FitOptions)(_cli_recruiter.fit))
aggregator_app.command()(takes(_cli_aggregator.SelectOptions)(_cli_aggregator.select))
aggregator_app.command()(takes(_cli_aggregator.ShowOptions)(_cli_aggregator.show))


@eval_app.callback()
@recruiter_app.callback()
def _group() -> None:
    """Keeps a group with one command a group."""


@app.command()
def version() -> None:
    """Print the version."""
    from router_service import __version__

    typer.echo(f"enlist {__version__}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a broken set-up ends in one line on standard error and exit code 2."""
    try:
        app(args=None if arguments is None else list(arguments))
    except RouterError as error:
        print_error(error.message)
        sys.exit(_SET_UP_IS_BROKEN)


if __name__ == "__main__":
    main()
