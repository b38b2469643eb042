"""The table of mean scores by category and expert, what experts cost, and who is good enough for less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.strength import Floats, shrunk_rate
from router_service.types import Expert, Profile, Tally

__all__ = ["category_scores", "cheapest_within", "expenses"]

_ROUNDING = 1e-9
_EVEN = 0.5


def category_scores(
    experts: Sequence[Expert], profiles: Mapping[str, Profile], *, categories: Sequence[str], smoothing: float
) -> Floats:
    """S[c, e] of CoE: expert e's mean grade on the fit questions of category c, shrunk by `smoothing` trials towards
    its overall rate, which stands where it has no trials; shape (categories, experts), 0 without a profile."""
    scores = np.zeros((len(categories), len(experts)))
    for column, expert in enumerate(experts):
        profile = profiles.get(expert.id)
        if profile is None:
            continue
        overall = _overall_rate(profile.overall, is_plain=smoothing == 0)
        for row, category in enumerate(categories):
            tally = profile.categories.get(category, Tally())
            shrunk = shrunk_rate(tally.wins, tally.trials, prior=overall, weight=smoothing) if tally.trials else overall
            scores[row, column] = shrunk
    return scores


def cheapest_within(scores: Floats, expenses: Floats, *, margin: float) -> NDArray[np.intp]:
    """Per row of `scores` the cheapest column that is at most `margin` below the best: the better of equally cheap
    ones, then the earlier. With two columns the dearer is chosen exactly where its gap exceeds `margin`."""
    is_near = scores >= scores.max(axis=1, keepdims=True) - margin - _ROUNDING
    cost = np.where(is_near, expenses, np.inf)
    is_cheapest = is_near & (cost <= cost.min(axis=1, keepdims=True))
    return np.asarray(np.where(is_cheapest, scores, -np.inf).argmax(axis=1))


def expenses(experts: Sequence[Expert], *, name: str) -> Floats:
    """What the experts cost, in one unit: USD for a million tokens in and out, else billions of parameters. Raises
    `ConfigError`, naming the recruiter, where neither is known of all."""
    if all(expert.prices is not None for expert in experts):
        paid = [(e.prices.input_usd_per_mtok, e.prices.output_usd_per_mtok) for e in experts if e.prices]
        return np.array([sum(price) for price in paid])
    if all(expert.parameters_b is not None for expert in experts):
        return np.array([expert.parameters_b for expert in experts], dtype=np.float64)
    unpriced = ", ".join(expert.id for expert in experts if expert.prices is None)
    raise ConfigError(
        f"recruiter {name!r} has a margin, so it must know who is cheaper, and the prices of {unpriced} are unknown; "
        "give `prices`, or `parameters_b`, of every expert in the pool"
    )


def _overall_rate(overall: Tally, *, is_plain: bool) -> float:
    if not is_plain:
        return overall.rate()
    return overall.wins / overall.trials if overall.trials else _EVEN
