"""Arranges a report for the page: by dataset and pool, with figures, controls and the command to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from eval.report.canvas import Drawing
from eval.report.figures import calibration_figure, calls_figure, cost_figure, share_figure
from eval.report.verdict import UNROUTED, PoolVerdict, headline, pool_verdicts
from eval.report.wording import strategy_name
from eval.results import (
    AccuracyTable,
    Baseline,
    Calibration,
    CostCurve,
    DatasetCard,
    LeakAudit,
    ReplayReport,
    ReplayRow,
    ShareCurve,
    Skipped,
)

__all__ = ["Control", "DatasetView", "HeatMap", "PageView", "PoolView", "page_view", "repeat_command"]

_CALIBRATED = 6
"""Strategies whose calibration is drawn, at most."""

Placed = TypeVar("Placed", ReplayRow, Baseline, CostCurve, ShareCurve, Skipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """Everything of one pool, its rows by falling accuracy."""

    anchor: str
    verdict: PoolVerdict
    rows: tuple[ReplayRow, ...]
    baselines: tuple[Baseline, ...]
    cost_curves: tuple[CostCurve, ...]
    share_curves: tuple[ShareCurve, ...]
    skipped: tuple[Skipped, ...]
    drawings: tuple[Drawing, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """A table of accuracies with the shade of each cell: 0 for the lowest of the table, 1 for the highest."""

    table: AccuracyTable
    shades: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetView:
    """Everything of one dataset; `card` is None where the report does not describe it."""

    name: str
    anchor: str
    card: DatasetCard | None
    pools: tuple[PoolView, ...]
    heat_maps: tuple[HeatMap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A strategy beside the same one fitted on shuffled grades."""

    row: ReplayRow
    shuffled: ReplayRow

    @property
    def lost(self) -> float:
        """By how much shuffling the grades lowers the accuracy: what was learnt of the questions was worth this."""
        return self.row.accuracy - self.shuffled.accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class PageView:
    """The whole page."""

    report: ReplayReport
    headline: tuple[str, ...]
    verdicts: tuple[tuple[str, PoolVerdict], ...]
    """Each with the anchor of its pool."""
    datasets: tuple[DatasetView, ...]
    controls: tuple[Control, ...]
    leak_audits: tuple[LeakAudit, ...]
    command: str


def page_view(report: ReplayReport) -> PageView:
    """The report arranged, all figures drawn; raises `ConfigError` where matplotlib is missing."""
    verdicts = pool_verdicts(report)
    anchors = {(verdict.dataset, verdict.pool): f"pool-{number}" for number, verdict in enumerate(verdicts, start=1)}
    datasets = []
    for number, name in enumerate(dict.fromkeys(verdict.dataset for verdict in verdicts), start=1):
        of_dataset = [verdict for verdict in verdicts if verdict.dataset == name]
        datasets.append(
            DatasetView(
                name=name,
                anchor=f"dataset-{number}",
                card=next((card for card in report.datasets if card.name == name), None),
                pools=tuple(_pool(report, v, anchors[v.dataset, v.pool]) for v in of_dataset),
                heat_maps=_heat_maps([table for table in report.accuracy_tables if table.dataset == name]),
            )
        )
    return PageView(
        report=report,
        headline=headline(verdicts),
        verdicts=tuple((anchors[verdict.dataset, verdict.pool], verdict) for verdict in verdicts),
        datasets=tuple(datasets),
        controls=_controls(report.rows),
        leak_audits=report.leak_audits,
        command=repeat_command(report),
    )


def _pool(report: ReplayReport, verdict: PoolVerdict, anchor: str) -> PoolView:
    rows = [row for row in _of(report.rows, verdict) if not row.is_shuffled]
    rows.sort(key=lambda row: (-row.accuracy, row.calls_per_query))
    baselines, curves = _of(report.baselines, verdict), _of(report.cost_curves, verdict)
    shares = _of(report.share_curves, verdict)
    return PoolView(
        anchor=anchor,
        verdict=verdict,
        rows=tuple(rows),
        baselines=tuple(baselines),
        cost_curves=tuple(sorted((c for c in curves if c.aiq is not None), key=lambda curve: -(curve.aiq or 0.0))),
        share_curves=tuple(sorted(shares, key=lambda curve: -curve.apgr)),
        skipped=tuple(_of(report.skipped, verdict)),
        drawings=tuple(_drawings(anchor, rows, baselines=baselines, curves=curves, shares=shares)),
    )


def _of(parts: Iterable[Placed], verdict: PoolVerdict) -> list[Placed]:
    return [part for part in parts if (part.dataset, part.pool) == (verdict.dataset, verdict.pool)]


def _drawings(
    anchor: str,
    rows: Sequence[ReplayRow],
    *,
    baselines: Sequence[Baseline],
    curves: Sequence[CostCurve],
    shares: Sequence[ShareCurve],
) -> Iterable[Drawing]:
    yield calls_figure(f"{anchor}-calls", rows, baselines)
    against_dollars = cost_figure(f"{anchor}-cost", rows, curves=curves, baselines=baselines)
    if against_dollars is not None:
        yield against_dollars
    if shares:
        yield share_figure(f"{anchor}-share", shares)
    kept = (
        ("P(correct) of recruits", _calibrated(rows, lambda row: row.p_correct, by=lambda row: row.recruiter)),
        ("confidence of answers", _calibrated(rows, lambda row: row.confidence, by=lambda row: row.aggregator)),
    )
    for number, (what, found) in enumerate(kept):
        if found:
            yield calibration_figure(f"{anchor}-kept{number}", found, what=what)


def _calibrated(
    rows: Sequence[ReplayRow], of: Callable[[ReplayRow], Calibration | None], *, by: Callable[[ReplayRow], str]
) -> Mapping[str, Calibration]:
    """The calibrations to draw: of the most accurate row of each name first, and only of those that route."""
    found: dict[str, tuple[str, Calibration]] = {}
    for row in rows:
        calibration = of(row)
        if calibration is not None and len(calibration.bins) > 1 and row.recruiter not in UNROUTED:
            found.setdefault(by(row), (strategy_name(row), calibration))
    return dict(list(found.values())[:_CALIBRATED])


def _heat_maps(tables: Sequence[AccuracyTable]) -> tuple[HeatMap, ...]:
    """One for each table but those that say the same under another name, as where each benchmark is one category."""
    different = {(table.split, table.groups, table.accuracy): table for table in reversed(tables)}
    return tuple(_heat_map(table) for table in reversed(different.values()))


def _heat_map(table: AccuracyTable) -> HeatMap:
    values = [value for line in table.accuracy for value in line]
    low = min(values, default=0.0)
    span = (max(values, default=1.0) - low) or 1.0
    shades = tuple(tuple((value - low) / span for value in line) for line in table.accuracy)
    return HeatMap(table=table, shades=shades)


def _controls(rows: Sequence[ReplayRow]) -> tuple[Control, ...]:
    """Each control of a strategy that chooses by the question beside that strategy, as far as it was judged too."""
    judged = {_identity(row): row for row in rows if not row.is_shuffled}
    pairs = [(judged.get(_identity(row)), row) for row in rows if row.is_shuffled and row.recruiter not in UNROUTED]
    return tuple(Control(row=row, shuffled=shuffled) for row, shuffled in pairs if row is not None)


def _identity(row: ReplayRow) -> tuple[object, ...]:
    return row.dataset, row.pool, row.recruiter, row.aggregator, row.k


def repeat_command(report: ReplayReport) -> str:
    """The command that makes the report again, but for the folders of the data, which it does not know."""
    settings = report.settings
    words = ["enlist", "eval", "replay"]
    words += [f"--data DIR_OF_{card.name}" for card in report.datasets]
    words += [
        f"--pool {shlex.quote(pool)}" for pool in dict.fromkeys(p for card in report.datasets for p in card.pools)
    ]
    words += [f"--recruiter {shlex.quote(name)}" for name in settings.recruiters]
    words += [f"--aggregator {shlex.quote(name)}" for name in settings.aggregators]
    words += [f"--k {'free' if k is None else k}" for k in settings.ks]
    words += [f"--seeds {len(settings.seeds)} --seed {min(settings.seeds, default=0)}"]
    words += [f"--fit-on {shlex.quote('+'.join(settings.fit_on))} --split {shlex.quote(settings.split)}"]
    words += ["--shuffled-control"] if settings.has_shuffled_control else []
    return " ".join([*words, f"--embedder {shlex.quote(settings.embedder)}", "--json RESULTS.json"])
