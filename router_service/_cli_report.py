"""The command `eval report`: what a replay found, as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from router_service._cli_output import print_lines, require_writable

__all__ = ["ReportOptions", "report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What to show, and where."""

    results: Annotated[Path, typer.Argument(help="Written by `enlist eval replay --json`.", show_default=False)]
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html")


def report(options: ReportOptions) -> None:
    """Write one self-contained HTML page: verdicts, tables, curves, calibration, audits and settings."""
    from eval.report.page import write_page
    from eval.results import ReplayReport

    require_writable(options.out)
    write_page(ReplayReport.load(options.results), options.out)
    print_lines(f"{options.out}: open it in a browser; it needs nothing else")
