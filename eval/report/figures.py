"""Draws a pool's figures: accuracy against calls, dollars and the share of strong calls, and how chances are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eval.curves import pareto_flags
from eval.report.canvas import Canvas, Drawing
from eval.report.inline_svg import MUTED, SERIES
from eval.report.verdict import UNROUTED
from eval.report.wording import dollars, interval, number, percent, strategy_name
from eval.results import Baseline, Calibration, CostCurve, CurvePoint, ReplayRow, ShareCurve

__all__ = ["calibration_figure", "calls_figure", "cost_figure", "share_figure"]

_MAX_LINES = 6
"""Lines of one figure that can still be told apart."""

_SAME = 3
"""Decimals in which two strategies agree that stand at one place of a figure."""

_CLEARLY_LESS = 0.99
_MIX_POINTS = 40
_ROUTED, _UNROUTED, _MODELS, _MIX, _BASELINE = SERIES[:5]
_DRAWN_BASELINES = {"best single": "dashed", "best per category": "dotted"}
_ACCURACY = "Accuracy, %"

Cost = Callable[[ReplayRow], float]


def calls_figure(name: str, rows: Sequence[ReplayRow], baselines: Sequence[Baseline]) -> Drawing:
    """Accuracy against calls per question, with the frontier and the vote of fixed panels as a line."""
    canvas = Canvas(name, x="Calls per question", y=_ACCURACY)
    for baseline in baselines:
        if baseline.name in _DRAWN_BASELINES:
            label = f"{baseline.name}, {percent(baseline.accuracy)} %"
            canvas.level(100 * baseline.accuracy, label, color=_BASELINE, linestyle=_DRAWN_BASELINES[baseline.name])
    frontier = _strategies(canvas, rows, cost=lambda row: row.calls_per_query, unit="calls a question")
    calls = sorted({round(row.calls_per_query) for row in rows})
    canvas.spread_x([row.calls_per_query for row in rows], ticks=_apart(calls))
    return canvas.drawn("Accuracy against calls", _told(frontier, "calls"), key=_key(frontier))


def cost_figure(
    name: str, rows: Sequence[ReplayRow], *, curves: Sequence[CostCurve], baselines: Sequence[Baseline]
) -> Drawing | None:
    """Accuracy against US dollars per 1,000 questions, with the models alone and the straight-line price mix.

    None where no row has a known cost.
    """
    priced = [row for row in rows if row.cost_usd_per_1k is not None]
    if not priced:
        return None
    canvas = Canvas(name, x="US dollars per 1,000 questions", y=_ACCURACY)
    for curve in curves:
        if curve.kind == "models":
            _models(canvas, curve.points)
        elif curve.kind == "mix":
            _mix(canvas, curve.points)
    for curve in _best_curves(curves):
        canvas.line(
            [(cost, 100 * quality) for cost, quality in curve.hull],
            color=_ROUTED,
            linewidth=1,
            linestyle="dashed",
            label=f"{curve.name}, one call at every exchange rate",
        )
    frontier = _strategies(canvas, priced, cost=lambda row: row.cost_usd_per_1k or 0.0, unit="USD per 1,000")
    costs = [row.cost_usd_per_1k or 0.0 for row in priced]
    canvas.spread_x([*costs, *(point.cost for curve in curves for point in curve.points)])
    told = _told(frontier, "dollars")
    single = next((baseline for baseline in baselines if baseline.name == "best single"), None)
    if single is not None and single.cost_usd_per_1k:
        told += _saved(priced, curves, accuracy=single.accuracy, cost_usd=single.cost_usd_per_1k)
    return canvas.drawn("Accuracy against dollars", told, key=_key(frontier))


def _saved(rows: Sequence[ReplayRow], curves: Sequence[CostCurve], *, accuracy: float, cost_usd: float) -> str:
    """For how little the best single expert's accuracy is had, and what the best recruiter's curve reaches at half."""
    said = ""
    as_good = [row for row in rows if row.accuracy >= accuracy]
    least = min(as_good, key=lambda row: row.cost_usd_per_1k or 0.0, default=None)
    if least is not None and (least.cost_usd_per_1k or 0.0) < _CLEARLY_LESS * cost_usd:
        said = (
            f" The accuracy of the best single expert, which costs {dollars(cost_usd)} USD, is reached for "
            f"{dollars(least.cost_usd_per_1k)} USD by {strategy_name(least)}."
        )
    for curve in _best_curves(curves):
        at_half = float(np.interp(cost_usd / 2, [cost for cost, _ in curve.hull], [y for _, y in curve.hull]))
        if curve.hull[0][0] <= cost_usd / 2:
            said += (
                f" At half the cost of the best single expert, one call by {curve.name} reaches {percent(at_half)} % "
                f"(the expert itself {percent(accuracy)} %)."
            )
    return said


def _strategies(canvas: Canvas, rows: Sequence[ReplayRow], *, cost: Cost, unit: str) -> list[list[ReplayRow]]:
    """Every row as a marker; places on the frontier numbered, with their intervals. Gives the rows of each place."""
    labelled = set()
    for row in sorted(rows, key=lambda row: row.recruiter not in UNROUTED):
        routed = row.recruiter not in UNROUTED
        label = "chooses by the question" if routed else "looks at no question"
        canvas.point(
            (cost(row), 100 * row.accuracy),
            f"{strategy_name(row)}: {percent(row.accuracy)} % ({interval(row.ci95)}), {number(cost(row))} {unit}",
            color=_ROUTED if routed else _UNROUTED,
            marker="o" if routed else "s",
            label=None if label in labelled else label,
        )
        labelled.add(label)
    frontier = _frontier(rows, cost)
    places = [(cost(place[0]), 100 * place[0].accuracy) for place in frontier]
    if len(places) > 1:
        canvas.line(places, color=MUTED, linewidth=0.8, zorder=1)
    for position, (at, place) in enumerate(zip(places, frontier, strict=True), start=1):
        canvas.spread(at, (100 * place[0].ci95[0], 100 * place[0].ci95[1]), color=MUTED)
        canvas.number(at, str(position), is_above=position % 2 == 1)
    _fixed_line(canvas, rows, cost)
    return frontier


def _frontier(rows: Sequence[ReplayRow], cost: Cost) -> list[list[ReplayRow]]:
    """The rows that none beats in accuracy and cost, by cost, those at one place together."""
    flags = pareto_flags([(cost(row), row.accuracy) for row in rows])
    places: dict[tuple[float, float], list[ReplayRow]] = {}
    for row in sorted((row for row, flag in zip(rows, flags, strict=True) if flag), key=cost):
        places.setdefault((round(cost(row), _SAME), round(row.accuracy, _SAME)), []).append(row)
    return list(places.values())


def _fixed_line(canvas: Canvas, rows: Sequence[ReplayRow], cost: Cost) -> None:
    fixed = sorted((row for row in rows if (row.recruiter, row.aggregator) == ("fixed", "majority")), key=cost)
    if len(fixed) > 1:
        points = [(cost(row), 100 * row.accuracy) for row in fixed]
        canvas.line(points, color=_UNROUTED, linewidth=1.4, label="fixed panel's vote, by size")


def _models(canvas: Canvas, points: Sequence[CurvePoint]) -> None:
    for place, point in enumerate(points):
        canvas.point(
            (point.cost, 100 * point.quality),
            f"{point.label} alone: {percent(point.quality)} %, {dollars(point.cost)} USD per 1,000",
            color=_MODELS,
            marker="D",
            markersize=4,
            label="a model alone" if place == 0 else None,
        )


def _mix(canvas: Canvas, points: Sequence[CurvePoint]) -> None:
    """The straight line between two models, drawn through many points, since it is bent on a logarithmic axis."""
    ends = sorted((point.cost, 100 * point.quality) for point in points)
    if len(ends) > 1:
        (x0, y0), (x1, y1) = ends[0], ends[-1]
        shares = np.linspace(0, 1, _MIX_POINTS) ** 3  # more of them near the cheap end
        line = [(x0 + share * (x1 - x0), y0 + share * (y1 - y0)) for share in shares.tolist()]
        canvas.line(line, color=_MIX, linewidth=1.2, linestyle="dotted", label="straight-line price mix")


def _best_curves(curves: Sequence[CostCurve]) -> list[CostCurve]:
    traded = [curve for curve in curves if curve.kind == "recruiter" and len(curve.hull) > 1]
    return sorted(traded, key=lambda curve: -(curve.aiq or 0.0))[:1]


def _apart(values: Sequence[int]) -> list[int]:
    """Those of rising whole numbers that can be written side by side on a logarithmic axis."""
    kept: list[int] = []
    for value in values:
        if value > 0 and (not kept or value / kept[-1] >= 1.3):
            kept.append(value)
    return kept


def _told(frontier: Sequence[Sequence[ReplayRow]], of: str) -> str:
    first, last = frontier[0][0], frontier[-1][0]
    if first is last:
        return f"{strategy_name(first)} is both best and cheapest in {of}, with {percent(first.accuracy)} %."
    return (
        f"From {strategy_name(first)} with {percent(first.accuracy)} % to {strategy_name(last)} with "
        f"{percent(last.accuracy)} %: no strategy beats these in both accuracy and {of}."
    )


def _key(frontier: Sequence[Sequence[ReplayRow]]) -> list[str]:
    lines = []
    for place in frontier:
        others = f", and {len(place) - 1} more of the same" if len(place) > 1 else ""
        lines.append(f"{strategy_name(place[0])}: {percent(place[0].accuracy)} %{others}")
    return lines


def share_figure(name: str, curves: Sequence[ShareCurve]) -> Drawing:
    """Accuracy against the share of questions that go to the strong model, as RouteLLM draws it."""
    first = curves[0]
    canvas = Canvas(name, x=f"Calls of {first.strong}, %", y=_ACCURACY)
    ends = [(0.0, 100 * first.weak_quality), (100.0, 100 * first.strong_quality)]
    canvas.line(ends, color=_MIX, linestyle="dotted", linewidth=1.2, label="by chance")
    routers = [curve for curve in curves if curve.name not in UNROUTED] or list(curves)
    best = sorted(routers, key=lambda curve: -curve.apgr)[:_MAX_LINES]
    for color, curve in zip(SERIES, best, strict=False):
        points = [(100 * point.share, 100 * point.quality) for point in curve.points]
        canvas.line(sorted(points), color=color, linewidth=1.4, label=f"{curve.name}, APGR {curve.apgr:.3f}")
    told = (
        f"{best[0].name} recovers {percent(best[0].apgr)} % of the gap between {first.weak} "
        f"({percent(first.weak_quality)} %) and {first.strong} ({percent(first.strong_quality)} %) on average over the "
        "share of strong calls; chance recovers half."
    )
    return canvas.drawn("Accuracy against strong calls", told)


def calibration_figure(name: str, kept: Mapping[str, Calibration], *, what: str) -> Drawing:
    """Stated against observed chances, bin by bin. `kept` maps a strategy to its calibration; some are drawn."""
    canvas = Canvas(name, x=f"Stated {what}, %", y="Right, %")
    canvas.line([(0, 0), (100, 100)], color=MUTED, linestyle="dotted", linewidth=1, label="kept exactly")
    drawn = list(kept.items())[:_MAX_LINES]
    for color, (strategy, found) in zip(SERIES, drawn, strict=False):
        points = [(100 * part.p_mean, 100 * part.correct_mean) for part in found.bins]
        canvas.line(points, color=color, linewidth=1.2, label=f"{strategy} (ECE {found.ece:.3f})")
        for point, part in zip(points, found.bins, strict=True):
            told = f"{strategy}: stated {number(point[0], 1)} %, right {number(point[1], 1)} % of {part.n}"
            canvas.point(point, told, color=color, markersize=3.5)
    strategy, found = drawn[0]
    ways = f"{strategy} is off by {percent(found.ece)} points on average (expected calibration error)."
    return canvas.drawn(f"How well {what} is kept", ways)
