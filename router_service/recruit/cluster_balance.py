"""Recruiter `cluster_balance`: right and cheap, in a chosen proportion, in the clusters nearest to the query."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.call_costs import group_costs
from router_service.recruit.clusters import ClusterRecruiter, cluster_rates, rank_scores
from router_service.recruit.embedded import Lesson
from router_service.recruit.strength import Floats

__all__ = ["ClusterBalance", "balance_scores"]

_TRACE = 1e-9
"""What puts an expert of unknown cost behind one as good whose cost is known."""


def balance_scores(accuracy: Floats, cost_usd: Floats, *, alpha: float) -> Floats:
    """`alpha` * (accuracy - min) / (max - min) + (1 - `alpha`) * (1 - cost / max cost), per column; rows are experts.

    NaN where the accuracy is unknown. An unknown cost is as dear as the dearest known one and a trace dearer; where all
    are equally good, or all are free, that half says nothing: 0 for accuracy, 1 for cost.
    """
    low, high = np.fmin.reduce(accuracy, axis=0), np.fmax.reduce(accuracy, axis=0)
    good = (accuracy - low) / np.where(high > low, high - low, 1.0)
    known = np.where(np.isnan(cost_usd), -1.0, cost_usd)
    dearest = known.max(axis=0)
    cheap = np.where(dearest > 0, 1.0 - known / np.where(dearest > 0, dearest, 1.0), 1.0)
    return np.asarray(alpha * good + (1 - alpha) * np.where(known < 0, -_TRACE, cheap), dtype=np.float64)


@RECRUITERS.register("cluster_balance")
class ClusterBalance(ClusterRecruiter):
    """Avengers-Pro ("Beyond GPT-5: Making LLMs Cheaper and Better via Performance-Efficiency Optimized Routing").

    As `cluster_rank` with offset 1, but experts are ranked in each cluster by `balance_scores`: `alpha` times
    normalised accuracy plus (1 - `alpha`) times cheapness. `alpha` = 1 looks at accuracy alone, 0 at cost alone. What a
    call costs is the mean recorded cost of the expert's outcomes in the cluster, else what its prices make of the
    tokens such calls take (`group_costs`).

    Otherwise than released: an unknown cost counts as the dearest, where the released code takes it for 0 and so
    favours experts without a price; centres are unit length; `clusters` and `prior_trials` as in `cluster_rank`.
    Released are 25 to 35 clusters, `top_k` 3, `beta` 9 and `alpha` 0.45 or 0.7.
    """

    name: ClassVar[str] = "cluster_balance"

    def __init__(
        self,
        *,
        k: int = 1,
        alpha: float = 0.7,
        clusters: int | None = None,
        top_k: int = 3,
        beta: float = 9.0,
        prior_trials: float = 20.0,
    ) -> None:
        super().__init__(k=k, clusters=clusters, top_k=top_k, beta=beta, prior_trials=prior_trials)
        if not 0 <= alpha <= 1:
            raise ConfigError(f"recruiter {self.name!r}: alpha is {alpha}; it is the weight of accuracy, 0 to 1")
        self.alpha = alpha

    def _values(self, data: FitData, lesson: Lesson, *, labels: NDArray[np.intp], base: Floats) -> Floats:
        rates = cluster_rates(lesson.grades, labels, base=base, prior_trials=self.prior_trials)
        costs = group_costs(data, dict(zip(lesson.ids, labels.tolist(), strict=True)), rates.shape[1])
        return balance_scores(rates, costs, alpha=self.alpha)

    def _scores_of(self, weights: Floats) -> Floats:
        return rank_scores(weights, self.ranks_, offset=1.0)
