"""Renders a replay report as one HTML file that needs nothing else: styles, figures and sorting are all within it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eval.report import wording
from eval.report.verdict import Judgement, judge
from eval.report.views import page_view
from eval.results import ReplayReport
from router_service.errors import ConfigError
from router_service.files import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render_page", "write_page"]

_TEMPLATES = Path(__file__).parent / "templates"
_MARKS = {Judgement.BETTER: "▲", Judgement.WORSE: "▼", Judgement.UNDECIDED: "=", Judgement.UNKNOWN: ""}
"""Signs beside a difference, so that colour is not all that tells."""


def render_page(report: ReplayReport) -> str:
    """The page as HTML; every text of the report is escaped. Raises `ConfigError` for a report without rows, and where
    jinja2 or matplotlib is missing."""
    if not any(not row.is_shuffled for row in report.rows):
        raise ConfigError("the replay report holds no rows, so there is nothing to show; judge a strategy first")
    template = _environment().get_template("report.html.j2")
    return template.render(
        page=page_view(report),
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=(_TEMPLATES / "report.js").read_text(encoding="utf-8"),
    )


def write_page(report: ReplayReport, path: Path) -> None:
    """Write the page to `path`, whole or not at all; errors as in `render_page`."""
    write_atomically(path, render_page(report))


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as missing:
        raise ConfigError('a report needs jinja2; run `pip install "enlist[eval]"`') from missing
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "dollars": wording.dollars,
        "interval": wording.interval,
        "judged": judge,
        "mark": lambda judgement: _MARKS[judgement],
        "number": wording.number,
        "percent": wording.percent,
        "points": wording.points,
        "size": wording.size_of,
        "strategy": wording.strategy_name,
    }
    return environment
