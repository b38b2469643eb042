"""Recruiter `matrix_factorisation`: experts and queries as short vectors whose product says who will be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData, RecruitRequest
from router_service.recruit.embedded import EmbeddingRecruiter, Vectors32, base_rates, graded_lesson, similarities
from router_service.recruit.factors import Bilinear, probability
from router_service.recruit.ranking import best_of_pool
from router_service.recruit.roster import Case, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.scoring import embedding_rows
from router_service.recruit.strength import Floats

__all__ = ["MatrixFactorisation"]


@RECRUITERS.register("matrix_factorisation")
class MatrixFactorisation(EmbeddingRecruiter):
    """RouteLLM's matrix factorisation (Ong et al. 2024, section 4.2): `score(m, q) = sigmoid(b_m + v_m . W e(q))`.

    The score is P(expert m is right on q), calibrated on fit questions that were held out (see `Bilinear`), and the `k`
    best are asked. Trained on graded answers of every expert in the pool, where the paper has human preferences
    between two models, and by L-BFGS on principal components of whatever embeddings there are.

    `threshold` is the paper's way with two experts: the stronger on fit is asked where the probability that it wins,
    `sigmoid(score difference in log-odds)`, is at least the threshold, else the weaker; the decision's scores are then
    that probability and the threshold. `win_probabilities` gives them for a whole curve of thresholds.
    """

    name: ClassVar[str] = "matrix_factorisation"
    scores_jointly: ClassVar[bool] = True

    def __init__(
        self,
        *,
        k: int = 1,
        rank: int = 8,
        components: int = 32,
        l2: float = 30.0,
        threshold: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(k=k)
        if rank < 1 or components < 1 or l2 <= 0:
            raise ConfigError(
                f"recruiter {self.name!r}: rank is {rank}, components {components}, l2 {l2}; "
                "needed are 1 or more of both, and a penalty above 0"
            )
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"recruiter {self.name!r}: threshold is {threshold}; it is a probability, from 0 to 1")
        self.rank = rank
        self.components = components
        self.l2 = l2
        self.threshold = threshold
        self.seed = seed

    def _learn(self, data: FitData, roster: Roster) -> None:
        if self.threshold is not None and len(data.experts) != 2:
            raise ConfigError(
                f"recruiter {self.name!r}: threshold chooses between two experts, and the pool has "
                f"{len(data.experts)}; leave it out, or route a pool of two"
            )
        lesson = graded_lesson(data, name=self.name)
        model = Bilinear(rank=self.rank, components=self.components, l2=self.l2, seed=self.seed)
        factors = model.fit(lesson.vectors.astype(np.float64), lesson.grades, base_rates(roster, lesson.grades))
        self.slope_ = factors.slope
        self._take(factors.biases, factors.weights.astype(np.float32))

    def _take(self, biases: Floats, weights: Vectors32) -> None:
        self.biases_, self.weights_ = biases, np.ascontiguousarray(weights, dtype=np.float32)
        self.dimension_ = self.weights_.shape[1]

    def _learned(self) -> Learned:
        return Learned(values={"slope": self.slope_}, arrays={"biases": self.biases_, "weights": self.weights_})

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self.slope_ = float(learned.values["slope"])
        self._take(learned.arrays["biases"], learned.arrays["weights"])

    def win_probabilities(self, requests: Sequence[RecruitRequest]) -> Floats:
        """P(the stronger of two experts wins) of each request, shape (requests,); NaN without an embedding. Raises
        `ConfigError` unless the pool has two experts, `NotFittedError` before `fit`."""
        roster = self._require_fitted()
        if len(roster.ids) != 2:
            raise ConfigError(
                f"recruiter {self.name!r}: a win is one of two experts', and the pool has {len(roster.ids)}; "
                "ask for the scores instead"
            )
        rows = embedding_rows([request.annotation for request in requests], self.dimension_).astype(np.float32)
        return self._wins(roster, self._odds(rows))

    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        odds = self._odds(vectors)
        chances = probability(odds)
        scores = chances
        if self.threshold is not None:
            scores = np.full_like(chances, self.threshold)
            scores[:, best_of_pool(roster)[0]] = self._wins(roster, odds)
        return scores, np.where(roster.table.has_profile, chances, np.nan)

    def _odds(self, vectors: Vectors32) -> Floats:
        return self.biases_ + similarities(self.weights_, vectors)

    def _wins(self, roster: Roster, odds: Floats) -> Floats:
        strong, weak = best_of_pool(roster)
        return probability(odds[:, strong] - odds[:, weak])
