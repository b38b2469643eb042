"""The command `route replay`: logged decisions made again with another artefact, and what would change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_engine import with_engine
from router_service._cli_options import EngineOptions, JsonOption
from router_service._cli_output import print_json, print_lines, print_table
from router_service._cli_progress import progress_bar

if TYPE_CHECKING:
    from eval.route_replay import DecisionChange, RouteReplay
    from router_service.engine import Engine
    from router_service.types import RouteDecision

__all__ = ["RouteReplayOptions", "replay_log"]

_QUESTION_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteReplayOptions(EngineOptions):
    """Which log, and how much to say about it; the engine is the new one."""

    as_json: JsonOption = False

    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="Written by --log of `route` or `batch`.", show_default=False)
    ]
    limit: Annotated[int, typer.Option(min=0, help="Changes listed at most; the summary counts all.")] = 20
    fail_on_change: Annotated[
        bool, typer.Option("--fail-on-change", help="Exit code 1 where any question would be asked of others.")
    ] = False


def replay_log(options: RouteReplayOptions) -> None:
    """Decide logged questions again, with a new artefact or configuration, and list what changes; asks no expert."""
    from router_service.decision_log import read_decisions

    records = read_decisions(options.log)

    async def work(engine: Engine) -> RouteReplay:
        from eval.route_replay import replay_decisions

        with progress_bar(options.log.name) as on_progress:
            return await replay_decisions(engine, records, on_progress=on_progress)

    report = with_engine(options.engine_config(), work)
    listed = [change for change in report.changes if change.has_other_panel][: options.limit]
    if options.as_json:
        print_json({"summary": report.as_json(), "changes": [change.as_json() for change in listed]})
    else:
        _print(report, listed)
    if options.fail_on_change and report.n_other_panels:
        raise typer.Exit(1)


def _print(report: RouteReplay, listed: list[DecisionChange]) -> None:
    if listed:
        rows = [_row(change) for change in listed]
        print_table(
            f"{len(listed)} of {report.n_other_panels} decisions that change",
            ["question", "then", "now", "P(correct)"],
            rows,
        )
    moved = [[name, then, now, now - then] for name, (then, now) in report.shares.items()]
    if moved:
        print_table("Share of all completions", ["expert", "then", "now", "change"], moved)
    for line in _summary(report):
        print_lines(line)


def _row(change: DecisionChange) -> list[object]:
    text = " ".join(change.record.query.text.split())
    shown = text if len(text) <= _QUESTION_CHARS else text[: _QUESTION_CHARS - 1] + "…"
    shift = change.p_correct_shift
    now = change.failure.message if change.failure is not None else _experts(change.after)
    return [shown, _experts(change.record.decision), now, "" if shift is None else f"{shift:+.3f}"]


def _experts(decision: RouteDecision | None) -> str:
    if decision is None:
        return ""
    names = [f"{r.expert_id} ×{r.samples}" if r.samples > 1 else r.expert_id for r in decision.recruits]
    return f"{', '.join(names)} · {decision.aggregator}"


def _summary(report: RouteReplay) -> list[str]:
    n_all = len(report.changes)
    share = f" ({report.n_other_panels / n_all:.1%})" if n_all else ""
    lines = [
        f"{n_all} decisions: {report.n_other_panels}{share} ask others or aggregate otherwise, "
        f"{report.n_other_numbers} ask the same with other scores, {report.n_failed} can no longer be decided"
    ]
    if report.mean_p_correct_shift is not None:
        lines.append(f"P(correct) of the best recruit moves by {report.mean_p_correct_shift:+.4f} on average")
    return lines
