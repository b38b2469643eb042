"""Recruiter `cluster_rank`: the experts that rank highest in the clusters of fit questions nearest to the query."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.clusters import ClusterRecruiter, cluster_rates, mean_values, rank_scores
from router_service.recruit.embedded import Lesson
from router_service.recruit.strength import Floats

__all__ = ["ClusterRank"]

_OFFSETS = {"rank_0.1": 0.1, "rank_1": 1.0}
_RULES = (*_OFFSETS, "accuracy")


@RECRUITERS.register("cluster_rank")
class ClusterRank(ClusterRecruiter):
    """Avengers ("The Avengers: A Simple Recipe for Uniting Smaller Language Models", method and released code).

    Fit questions are put into `clusters` clusters (unset: 64, fewer where they would hold under 20 questions on
    average), and experts are ranked in each by accuracy, their overall rate counting for `prior_trials` trials. A
    query's score for an expert is the sum, over its `top_k` nearest clusters, of their softmax weight (of minus `beta`
    times distance) over rank plus an offset: 0.1 as in Avengers, which leaves little to whoever is first nowhere, or
    1 as in Avengers-Pro. The rule `accuracy` is the accuracy by weight, without ranks.

    Otherwise than released: centres are made unit length, so that distance is a cosine distance; an expert that a
    cluster does not know is left out of that cluster alone, and the others stay; who is known nowhere comes last.
    Released are 64 clusters, `prior_trials` 0 and, by file, `top_k` 1, 2, 3 or 11 and `beta` 3 or 6.
    """

    name: ClassVar[str] = "cluster_rank"

    def __init__(
        self,
        *,
        k: int = 1,
        clusters: int | None = None,
        top_k: int = 3,
        beta: float = 6.0,
        rule: Literal["rank_0.1", "rank_1", "accuracy"] = "rank_1",
        prior_trials: float = 20.0,
    ) -> None:
        super().__init__(k=k, clusters=clusters, top_k=top_k, beta=beta, prior_trials=prior_trials)
        if rule not in _RULES:
            raise ConfigError(f"recruiter {self.name!r}: rule is {rule!r}; it is one of {', '.join(_RULES)}")
        self.rule = rule

    def _values(self, data: FitData, lesson: Lesson, *, labels: NDArray[np.intp], base: Floats) -> Floats:
        return cluster_rates(lesson.grades, labels, base=base, prior_trials=self.prior_trials)

    def _scores_of(self, weights: Floats) -> Floats:
        if self.rule == "accuracy":
            return mean_values(weights, self.values_)
        return rank_scores(weights, self.ranks_, offset=_OFFSETS[self.rule])
