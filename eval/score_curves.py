"""Cost-quality curves of a recruiter's scores: one call each, score traded against price at every exchange rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eval.curves import aiq, apgr, cpt, mixed_quality, non_decreasing_hull, pareto_flags, pgr, share_points
from eval.outcome_matrix import OutcomeMatrix
from eval.results import CostCurve, CurvePoint, ReplayRow, ShareCurve, SharePoint
from router_service.types import RouteDecision

__all__ = ["cost_curve", "mix_curve", "model_curve", "recruiter_curve", "score_matrix", "share_curve"]

Floats = npt.NDArray[np.float64]

_RATES = 40
"""Exchange rates tried: quantiles of those at which some question changes its expert."""
_MAX_PAIRS = 200_000


def score_matrix(decisions: Sequence[RouteDecision], models: Sequence[str]) -> Floats:
    """The score of every model on every question, shape (questions, models); -inf for one that was not eligible or
    that the recruiter cannot score."""
    scores = np.full((len(decisions), len(models)), -np.inf)
    for row, decision in enumerate(decisions):
        for column, model in enumerate(models):
            score = decision.scores.get(model, np.nan)
            if np.isfinite(score):
                scores[row, column] = score
    return scores


def recruiter_curve(
    dataset: str, pool: str, name: str, *, scores: Floats, fit: OutcomeMatrix, test: OutcomeMatrix
) -> CostCurve | None:
    """RouterBench's way to trade quality for cost (Hu et al. 2024, section 4): each question goes to the model with the
    highest score less rate × mean cost, and the rate runs from 0 up.

    Mean costs are those of the fitted questions; quality and cost of the points are the judged ones'. None where a
    cost is unknown or a question has no score.
    """
    prices = fit.mean_costs_usd
    if np.isnan(prices).any() or np.isnan(test.costs_usd).any() or not np.isfinite(scores).any(axis=1).all():
        return None
    rows = np.arange(len(scores))
    points: dict[tuple[float, float], str] = {}
    for rate in _rates(scores, prices):
        chosen = np.argmax(scores - rate * prices, axis=1)
        cost, quality = test.costs_usd[rows, chosen].mean(), test.grades[rows, chosen].mean()
        points.setdefault((1000 * float(cost), float(quality)), f"{rate:.3g} per USD")
    return cost_curve(dataset, pool, name, kind="recruiter", points=[(label, *at) for at, label in points.items()])


def share_curve(
    dataset: str, pool: str, name: str, *, scores: Floats, fit: OutcomeMatrix, test: OutcomeMatrix
) -> ShareCurve | None:
    """The recruiter as a router between two models, by the difference of their scores; None where the pool has more,
    a score is missing, or the model that is stronger on the fitted questions is not so on the judged ones."""
    if len(test.models) != 2 or not np.isfinite(scores).all():
        return None
    strong = fit.best_model
    weak = 1 - strong
    low, high = float(test.grades[:, weak].mean()), float(test.grades[:, strong].mean())
    if high <= low:
        return None
    points = share_points(
        (scores[:, strong] - scores[:, weak]).tolist(),
        test.grades[:, weak].tolist(),
        test.grades[:, strong].tolist(),
    )
    return ShareCurve(
        dataset=dataset,
        pool=pool,
        name=name,
        strong=test.models[strong],
        weak=test.models[weak],
        strong_quality=high,
        weak_quality=low,
        points=tuple(
            SharePoint(share=share, quality=quality, pgr=pgr(quality, weak=low, strong=high))
            for share, quality in sorted(points)
        ),
        apgr=apgr(points, weak=low, strong=high),
        cpt50=cpt(points, 0.5, weak=low, strong=high),
        cpt80=cpt(points, 0.8, weak=low, strong=high),
    )


def model_curve(dataset: str, pool: str, test: OutcomeMatrix) -> CostCurve | None:
    """Each model alone; None where no cost is known."""
    costs, grades = 1000 * test.mean_costs_usd, test.grades.mean(axis=0)
    points = [
        (model, float(cost), float(grade))
        for model, cost, grade in zip(test.models, costs, grades, strict=True)
        if not np.isnan(cost)
    ]
    return cost_curve(dataset, pool, "single models", kind="models", points=points) if points else None


def mix_curve(dataset: str, pool: str, *, fit: OutcomeMatrix, test: OutcomeMatrix) -> CostCurve | None:
    """The straight-line price mix of the cheapest and the best model, both as found on the fitted questions: a random
    share of the questions goes to either. None where a cost is unknown, or where the best is the cheapest."""
    prices = fit.mean_costs_usd
    if np.isnan(prices).any() or np.isnan(test.costs_usd).any():
        return None
    best, cheapest = fit.best_model, int(np.argmin(prices))
    if best == cheapest:
        return None
    costs, grades = 1000 * test.mean_costs_usd, test.grades.mean(axis=0)
    points = [
        (
            f"{share:.0%} {test.models[best]}",
            mixed_quality(float(costs[cheapest]), float(costs[best]), share),
            mixed_quality(float(grades[cheapest]), float(grades[best]), share),
        )
        for share in np.linspace(0, 1, 11).tolist()
    ]
    return cost_curve(dataset, pool, "price mix", kind="mix", points=points)


def strategy_curves(rows: Sequence[ReplayRow]) -> list[CostCurve]:
    """For each recruiter what its aggregators and sizes cost and reach; controls and unknown costs are left out."""
    curves = []
    known = [row for row in rows if not row.is_shuffled and row.cost_usd_per_1k is not None]
    for name in dict.fromkeys(row.recruiter for row in known):
        mine = [row for row in known if row.recruiter == name]
        points = [
            (f"{row.aggregator}, k = {'free' if row.k is None else row.k}", row.cost_usd_per_1k or 0.0, row.accuracy)
            for row in mine
        ]
        curves.append(cost_curve(mine[0].dataset, mine[0].pool, name, kind="strategies", points=points))
    return curves


def with_aiq(curves: Sequence[CostCurve]) -> list[CostCurve]:
    """The curves with their AIQ between the least and the greatest cost of all of them."""
    costs = [point.cost for curve in curves for point in curve.points]
    if not costs:
        return list(curves)
    low, high = min(costs), max(costs)
    return [
        curve.model_copy(update={"aiq": aiq([(p.cost, p.quality) for p in curve.points], cost_min=low, cost_max=high)})
        for curve in curves
    ]


def cost_curve(
    dataset: str, pool: str, name: str, *, kind: str, points: Sequence[tuple[str, float, float]]
) -> CostCurve:
    """A curve of (label, cost per 1,000, quality), by rising cost, with its hull and Pareto points; AIQ comes later."""
    ordered = sorted(points, key=lambda point: point[1:])
    places = [(cost, quality) for _, cost, quality in ordered]
    marked = zip(ordered, pareto_flags(places), strict=True)
    return CostCurve.model_validate(
        {
            "dataset": dataset,
            "pool": pool,
            "name": name,
            "kind": kind,
            "points": tuple(CurvePoint(label=p[0], cost=p[1], quality=p[2], is_pareto=flag) for p, flag in marked),
            "hull": tuple(non_decreasing_hull(places)),
        }
    )


def _rates(scores: Floats, prices: Floats) -> list[float]:
    """0, then quantiles of the rates at which two models of some question are worth the same, then one beyond all."""
    dearer, cheaper = np.nonzero(prices[:, None] > prices[None, :])
    if len(dearer) == 0:
        return [0.0]
    step = max(1, len(scores) * len(dearer) // _MAX_PAIRS)
    some = np.where(np.isfinite(scores[::step]), scores[::step], np.nan)
    rates = (some[:, dearer] - some[:, cheaper]) / (prices[dearer] - prices[cheaper])
    positive = rates[np.isfinite(rates) & (rates > 0)]
    if positive.size == 0:
        return [0.0, 1.0]
    inner = np.unique(np.quantile(positive, np.linspace(0, 1, _RATES))).tolist()
    return [0.0, *inner, 2 * inner[-1]]
