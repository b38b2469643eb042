"""Cost-quality curves: Pareto points, the non-decreasing convex hull and AIQ, and RouteLLM's PGR, APGR and CPT.

Sources: RouterBench (Hu et al. 2024, section 3) with its released `evaluation/AIQ.py`; RouteLLM (Ong et al. 2024,
section 2) with its released `routellm/evals/evaluate.py`, whose arithmetic the published tables follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "aiq",
    "apgr",
    "cost_at_quality",
    "cpt",
    "mixed_quality",
    "non_decreasing_hull",
    "pareto_flags",
    "pgr",
    "share_points",
]

Point = tuple[float, float]
"""Cost (or share of strong calls) and quality."""

Floats = npt.NDArray[np.float64]

_ROUNDING = 1e-9
"""Qualities nearer than this are the same: one mean summed in two orders differs in its last digit."""


def pareto_flags(points: Sequence[Point]) -> list[bool]:
    """For each point whether no other is at most as dear and at least as good, and better in one; equal ones stay."""
    flags = []
    for cost, quality in points:
        beaten = any(c <= cost and q >= quality and (c < cost or q > quality) for c, q in points)
        flags.append(not beaten)
    return flags


def non_decreasing_hull(points: Sequence[Point]) -> list[Point]:
    """The upper convex hull from the cheapest point to the best one, by rising cost; above it nothing is reached.

    Between two neighbours any point is reached by sending a share of the questions to either. Points that cost more
    than the best one and are no better are left out, so quality rises along it. Empty without points.
    """
    hull: list[Point] = []
    for point in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if hull and point[1] <= hull[-1][1]:
            continue  # as dear or dearer, and no better
        while len(hull) >= 2 and not _turns_right(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_right(a: Point, b: Point, c: Point) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) < 0


def aiq(points: Sequence[Point], *, cost_min: float, cost_max: float) -> float | None:
    """Average improvement in quality: the mean height of the hull between two costs (Hu et al. 2024, section 3.3).

    Beyond its best point the hull goes on level, and below its cheapest one nothing is answered, so the height is 0, as
    in the released code. The range must be that of all curves compared. None without points or without a range.
    """
    hull = non_decreasing_hull(points)
    if not hull or not cost_max > cost_min:
        return None
    start = max(cost_min, hull[0][0])
    inner = [p for p in hull if start < p[0] < cost_max]
    costs = np.array([start, *(p[0] for p in inner), max(start, cost_max)])
    heights = np.interp(costs, [p[0] for p in hull], [p[1] for p in hull])
    return float(_area(costs, heights) / (cost_max - cost_min))


def cost_at_quality(points: Sequence[Point], quality: float) -> float | None:
    """The least cost at which the hull is as good as `quality`; None where it never is."""
    hull = non_decreasing_hull(points)
    if not hull or hull[-1][1] < quality - _ROUNDING:
        return None
    if hull[0][1] >= quality:
        return hull[0][0]
    return float(np.interp(quality, [p[1] for p in hull], [p[0] for p in hull]))


def mixed_quality(weak: float, strong: float, share: float) -> float:
    """What sending a random share of the questions to the strong model reaches: the straight-line price mix."""
    return weak + share * (strong - weak)


def pgr(quality: float, *, weak: float, strong: float) -> float:
    """Performance gap recovered: (quality - weak) / (strong - weak). Raises `ValueError` where there is no gap."""
    if strong == weak:
        raise ValueError(f"both models reach {weak}: there is no gap to recover")
    return (quality - weak) / (strong - weak)


def share_points(
    advantage: Sequence[float], weak: Sequence[float], strong: Sequence[float], *, cuts: int = 10
) -> list[Point]:
    """Share of strong calls and quality at `cuts` + 1 thresholds, shares falling from 1 to 0.

    `advantage` is how much the strong model is preferred on each question, the others are both models' grades on it.
    As in RouteLLM's evaluation the thresholds are the quantiles of the advantage, equal ones once; questions at or
    above a threshold go to the strong model, and a last point sends it none. Equal advantages are never parted.
    """
    scores, low, high = (np.asarray(values, dtype=np.float64) for values in (advantage, weak, strong))
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, cuts + 1)))
    chosen = [*(scores >= threshold for threshold in thresholds), np.zeros(scores.shape, dtype=bool)]
    points = [(float(strong_ones.mean()), float(np.where(strong_ones, high, low).mean())) for strong_ones in chosen]
    return list(dict.fromkeys(points))


def apgr(points: Sequence[Point], *, weak: float, strong: float) -> float:
    """Average performance gap recovered over the share of strong calls, by the trapezoid rule; random routing has 0.5.

    The paper averages PGR at ten shares; the released evaluation, followed here, integrates over the shares measured.
    Raises `ValueError` without a gap or where all points have one share.
    """
    shares, recovered = _recovered(points, weak=weak, strong=strong)
    if shares[-1] == shares[0]:
        raise ValueError("all points have one share of strong calls; there is nothing to average over")
    return float(_area(shares, recovered) / (shares[-1] - shares[0]))


def cpt(points: Sequence[Point], level: float, *, weak: float, strong: float) -> float | None:
    """Call-performance threshold: the least share of strong calls that recovers `level` of the gap (0.5 is CPT(50 %)).

    Between measured shares the curve is taken as straight. None where no share reaches it. (The released evaluation
    interpolates the share by quality, which is undefined where the curve is not rising; the definition is kept here.)
    """
    shares, recovered = _recovered(points, weak=weak, strong=strong)
    if recovered[0] >= level:
        return float(shares[0])
    for i in range(1, len(shares)):
        if recovered[i] >= level:
            part = (level - recovered[i - 1]) / (recovered[i] - recovered[i - 1])
            return float(shares[i - 1] + part * (shares[i] - shares[i - 1]))
    return None


def _recovered(points: Sequence[Point], *, weak: float, strong: float) -> tuple[Floats, Floats]:
    ordered = sorted(points)
    shares = np.array([share for share, _ in ordered])
    return shares, np.array([pgr(quality, weak=weak, strong=strong) for _, quality in ordered])


def _area(x: Floats, y: Floats) -> float:
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())
