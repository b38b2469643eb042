"""A replay report as tables of texts and numbers, baselines on top: what the command prints."""

from __future__ import annotations

from dataclasses import dataclass

from eval.curves import cost_at_quality
from eval.results import Baseline, CostCurve, PairedDifference, ReplayReport, ReplayRow

__all__ = ["MARKS", "ReportTable", "report_tables"]

MARKS = "[name] is a baseline, computed from the outcomes alone; with * it looks at the judged questions: a bound"
"""What the marks in the tables mean."""

Cell = str | float | int | None

_COLUMNS = (
    "strategy",
    "aggregator",
    "k",
    "accuracy",
    "95 %",
    "sd of seeds",
    "vs best single",
    "vs fixed",
    "calls",
    "USD/1,000",
    "regret",
    "top-1",
    "ECE",
    "ms p50/p99",
    "no answer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """A title, the names of the columns, and rows of cells; None is an empty cell."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def report_tables(report: ReplayReport) -> list[ReportTable]:
    """For each pool its strategies under its baselines, then what its curves come to, where there are any."""
    tables = []
    for dataset in report.datasets:
        for pool in dataset.pools:
            tables.append(_strategies(report, dataset.name, pool))
            tables += _shares(report, dataset.name, pool)
            tables += _costs(report, dataset.name, pool)
    return tables


def _strategies(report: ReplayReport, dataset: str, pool: str) -> ReportTable:
    rows = [row for row in report.rows if (row.dataset, row.pool) == (dataset, pool)]
    above = [_baseline_cells(b) for b in report.baselines if (b.dataset, b.pool) == (dataset, pool)]
    judged = next((audit for audit in report.leak_audits if audit.dataset == dataset), None)
    number = judged.n_judged if judged is not None else rows[0].n if rows else 0
    split, fitted = report.settings.split, " + ".join(judged.fitted if judged is not None else report.settings.fit_on)
    cells = [*above, *map(_row_cells, rows)]
    used = [i for i in range(len(_COLUMNS)) if any(row[i] is not None for row in cells)]
    return ReportTable(
        title=f"{dataset}, {pool}: {number} {split} questions, fitted on {fitted}",
        columns=tuple(_COLUMNS[i] for i in used),
        rows=tuple(tuple(row[i] for i in used) for row in cells),
    )


def _baseline_cells(baseline: Baseline) -> tuple[Cell, ...]:
    marked = " *" if baseline.looks_at_test else ""
    return (
        f"[{baseline.name}]{marked}",
        None,
        None,
        baseline.accuracy,
        _interval(baseline.ci95),
        None,
        None,
        None,
        baseline.calls_per_query,
        _cost(baseline.cost_usd_per_1k),
        *(None for _ in _COLUMNS[10:]),
    )


def _row_cells(row: ReplayRow) -> tuple[Cell, ...]:
    return (
        f"{row.recruiter} (shuffled)" if row.is_shuffled else row.recruiter,
        row.aggregator,
        "free" if row.k is None else row.k,
        row.accuracy,
        _interval(row.ci95),
        row.accuracy_sd,
        _difference(row.vs_best_single),
        _difference(row.vs_fixed),
        round(row.calls_per_query, 2),
        _cost(row.cost_usd_per_1k),
        row.regret,
        row.top1_accuracy,
        row.p_correct.ece if row.p_correct is not None else None,
        _times(row.recruit_ms_median, row.recruit_ms_p99),
        sum(failed.count for failed in row.failures.values()) or None,
    )


def _shares(report: ReplayReport, dataset: str, pool: str) -> list[ReportTable]:
    curves = [curve for curve in report.share_curves if (curve.dataset, curve.pool) == (dataset, pool)]
    if not curves:
        return []
    first = curves[0]
    rows = [(curve.name, curve.apgr, _share(curve.cpt50), _share(curve.cpt80)) for curve in curves]
    title = (
        f"{dataset}, {pool}: between {first.weak} ({first.weak_quality:.3f}) and "
        f"{first.strong} ({first.strong_quality:.3f})"
    )
    return [ReportTable(title=title, columns=("recruiter", "APGR", "CPT(50 %)", "CPT(80 %)"), rows=tuple(rows))]


def _costs(report: ReplayReport, dataset: str, pool: str) -> list[ReportTable]:
    kinds = ("models", "mix", "recruiter")
    curves = [c for c in report.cost_curves if (c.dataset, c.pool) == (dataset, pool) and c.kind in kinds]
    best = next((b for b in report.baselines if (b.dataset, b.pool, b.name) == (dataset, pool, "best single")), None)
    if best is None or not best.cost_usd_per_1k or not any(curve.kind == "recruiter" for curve in curves):
        return []
    rows = [(curve.name, curve.aiq, *_reaching(curve, best, best.cost_usd_per_1k)) for curve in curves]
    return [
        ReportTable(
            title=f"{dataset}, {pool}: one call per question, quality traded for cost",
            columns=("curve", "AIQ", "best accuracy", "USD/1,000 to match best single", "of its cost"),
            rows=tuple(rows),
        )
    ]


def _reaching(curve: CostCurve, best: Baseline, full_cost: float) -> tuple[Cell, ...]:
    cost = cost_at_quality(curve.hull, best.accuracy)
    highest = max(quality for _, quality in curve.hull)
    return (highest, _cost(cost) if cost is not None else "never", None if cost is None else f"{cost / full_cost:.0%}")


def _interval(ends: tuple[float, float] | None) -> str | None:
    return None if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _difference(difference: PairedDifference | None) -> str | None:
    if difference is None:
        return None
    return f"{difference.mean:+.3f} [{difference.low:+.3f} {difference.high:+.3f}]"


def _times(median_ms: float | None, p99_ms: float | None) -> str | None:
    return None if median_ms is None or p99_ms is None else f"{median_ms:.2f}/{p99_ms:.2f}"


def _cost(cost: float | None) -> Cell:
    return "unknown" if cost is None else cost


def _share(share: float | None) -> Cell:
    return "never" if share is None else f"{share:.1%}"
