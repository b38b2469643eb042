"""The replay tables of votes: `python -m eval.aggregator_tables --data DIR --pool NAME --json OUT [--html OUT]`.

Every registered aggregator that asks nobody, over the panels of the three and the five best experts and those of the
recruiter `auto`, on recorded outcomes; no model is called. Which one is best is read off the fit questions,
cross-validated; the test questions only tell what became of it.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import html
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from eval.metrics import Difference
from eval.progress import progress_bar
from eval.replay_report import load_datasets
from eval.replay_tables import ReportTable
from eval.vote_rows import PANELS, VotePanel, VoteRow, vote_names, vote_rows
from router_service.files import write_atomically

__all__ = ["main", "tables"]


def main(arguments: Sequence[str] | None = None, *, panels: Sequence[VotePanel] = PANELS) -> None:
    """Replay, write what was asked for, and print the tables."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given = _parser().parse_args(arguments)
    names = tuple(given.aggregator or vote_names())
    fit_on = tuple(given.fit_on.split("+"))
    rows: list[VoteRow] = []
    for dataset in load_datasets(given.data):
        pools = tuple(name for name in given.pool or dataset.pools if name in dataset.pools)
        if pools:
            with progress_bar(dataset.name) as on_progress:
                rows += asyncio.run(
                    vote_rows(dataset, pools, names, panels=panels, fit_on=fit_on, on_progress=on_progress)
                )
    document = {
        "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "panels": [panel.name for panel in panels],
        "fit_on": fit_on,
        "rows": [asdict(row) for row in rows],
    }
    write_atomically(given.json, json.dumps(document, indent=1) + "\n")
    found = tables(rows)
    if given.html is not None:
        write_atomically(given.html, _page(found))
    for table in found:
        sys.stdout.write(_text(table) + "\n\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.aggregator_tables", description="Votes on recorded answers.")
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help="folder of recorded outcomes; repeat it"
    )
    parser.add_argument("--pool", action="append", help="named pool; repeat it; all where none is named")
    parser.add_argument("--aggregator", action="append", help="vote; repeat it; all where none is named")
    parser.add_argument("--fit-on", default="fit", help="splits to learn from, joined by +; fit is always one")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--html", type=Path, help="the tables as a page")
    return parser


def tables(rows: Sequence[VoteRow]) -> list[ReportTable]:
    """A table per pool: each vote's accuracy over each kind of panels, and its paired difference to the majority there;
    then, over all of them, what each gained on the fit questions, by which the best is chosen."""
    pools = list(dict.fromkeys((row.dataset, row.pool) for row in rows))
    by_pool = [_pool_table([row for row in rows if (row.dataset, row.pool) == pool]) for pool in pools]
    return [*by_pool, _summary(rows)]


def _pool_table(rows: Sequence[VoteRow]) -> ReportTable:
    panels = list(dict.fromkeys(row.panel for row in rows))
    columns = ["vote"]
    for panel in panels:
        columns += [panel.name, "vs majority", "vs fixed", "fit, vs majority"]
    lines = []
    for name in dict.fromkeys(row.aggregator for row in rows):
        line: list[str | float | int | None] = [name]
        for panel in panels:
            row = next(row for row in rows if row.panel == panel and row.aggregator == name)
            line += [row.accuracy, _shown(row.vs_majority), _shown(row.vs_fixed), _shown(row.fit_vs_majority)]
        lines.append(tuple(line))
    first = rows[0]
    title = f"{first.dataset}, {first.pool}: {first.n} test questions, and {first.n_fit} fit questions cross-validated"
    return ReportTable(title=title, columns=tuple(columns), rows=tuple(lines))


def _summary(rows: Sequence[VoteRow]) -> ReportTable:
    lines = []
    for name in dict.fromkeys(row.aggregator for row in rows):
        own = [row for row in rows if row.aggregator == name]
        lines.append((name, *_tally([r.fit_vs_majority for r in own]), *_tally([r.vs_majority for r in own])))
    lines.sort(key=lambda line: -float(line[1]))
    cases = {(row.dataset, row.pool, row.panel) for row in rows}
    return ReportTable(
        title=f"Over {len(cases)} kinds of panels, against the majority",
        columns=("vote", "fit: mean gain", "better", "worse", "test: mean gain", "better", "worse"),
        rows=tuple(lines),
    )


def _tally(differences: Sequence[Difference]) -> Iterator[float | int]:
    """The mean gain, and on how many kinds of panels the interval is all above, or all below, nothing."""
    yield sum(difference.mean for difference in differences) / len(differences)
    yield sum(difference.low > 0 for difference in differences)
    yield sum(difference.high < 0 for difference in differences)


def _shown(difference: Difference) -> str:
    return f"{difference.mean:+.3f} [{difference.low:+.3f} {difference.high:+.3f}]"


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def _text(table: ReportTable) -> str:
    lines = [table.columns, *([_cell(value) for value in row] for row in table.rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(table.columns))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([table.title, *shown])


def _page(found: Sequence[ReportTable]) -> str:
    """The tables as one page that needs nothing from elsewhere."""
    parts = ["<!doctype html>", '<html lang="en"><meta charset="utf-8"><title>Votes on recorded answers</title>']
    parts.append("<style>body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}</style>")
    for table in found:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) + "</tr>" for row in table.rows
        )
        parts.append(f"<h2>{html.escape(table.title)}</h2><table><tr>{head}</tr>{body}</table>")
    return "\n".join(parts) + "</html>\n"


if __name__ == "__main__":
    main()
