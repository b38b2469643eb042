"""The command `eval harness`: how another evaluation harness asks a running service, written out or run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_output import print_lines

if TYPE_CHECKING:
    from eval.harness.commands import HarnessCommand

__all__ = ["HarnessOptions", "harness"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessOptions:
    """Which harness asks what of which service."""

    name: Annotated[str, typer.Argument(help="lm-eval or inspect.", show_default=False)]
    further: Annotated[
        list[str] | None, typer.Argument(help="Further options of the harness, after --.", show_default=False)
    ] = None
    task: Annotated[
        list[str], typer.Option(help="Task to run, as the harness names it; may be repeated.", show_default=False)
    ]
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000"
    model: Annotated[str, typer.Option(help="auto, auto/<recruiter> or the id of an expert.")] = "auto"
    recruiter: Annotated[str | None, typer.Option(help="Who chooses the experts.", show_default=False)] = None
    aggregator: Annotated[str | None, typer.Option(help="What makes one answer.", show_default=False)] = None
    k: Annotated[int | None, typer.Option(min=1, help="Completions per question.", show_default=False)] = None
    answer_kind: Annotated[
        str | None,
        typer.Option(help="How answers are read: choice, number, literal, code; votes need it.", show_default=False),
    ] = None
    concurrency: Annotated[int, typer.Option(min=1, help="Questions asked at once.")] = 8
    limit: Annotated[int | None, typer.Option(min=1, help="Questions per task.", show_default=False)] = None
    run: Annotated[bool, typer.Option("--run", help="Run the command instead of printing it.")] = False


def harness(options: HarnessOptions) -> None:
    """Print (or run) the command that lets lm-eval or inspect ask a running service."""
    from eval.harness.commands import HarnessPlan, harness_command

    plan = HarnessPlan(
        tasks=tuple(options.task),
        url=options.url,
        model=options.model,
        recruiter=options.recruiter,
        aggregator=options.aggregator,
        k=options.k,
        answer_kind=options.answer_kind,
        concurrency=options.concurrency,
        limit=options.limit,
        further=tuple(options.further or ()),
    )
    command = harness_command(options.name, plan)
    if options.run:
        sys.exit(_ran(command))
    print_lines(str(command))


def _ran(command: HarnessCommand) -> int:
    """The harness's exit code; raises `ConfigError` where it is not installed."""
    import os
    import subprocess

    from router_service.errors import ConfigError

    try:
        finished = subprocess.run(command.words, env={**command.environment, **os.environ}, check=False)
    except FileNotFoundError as missing:
        raise ConfigError(f'there is no program {command.words[0]!r}; run `pip install "enlist[harness]"`') from missing
    return finished.returncode
