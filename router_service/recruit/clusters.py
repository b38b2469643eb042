"""Clusters of the fit questions' embeddings, each with the experts' success there (Avengers and Avengers-Pro)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import FitData
from router_service.recruit.embedded import (
    EmbeddingRecruiter,
    Lesson,
    Vectors32,
    base_rates,
    blocks,
    graded_lesson,
    similarities,
)
from router_service.recruit.roster import Case, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.strength import CATEGORY_WEIGHT, Floats, shrunk_rate

__all__ = [
    "MOST_CLUSTERS",
    "QUESTIONS_PER_CLUSTER",
    "ClusterRecruiter",
    "cluster_centres",
    "cluster_labels",
    "cluster_ranks",
    "cluster_rates",
    "cluster_weights",
    "mean_values",
    "rank_scores",
]

MOST_CLUSTERS = 64
"""Clusters where no number is given (Avengers)."""
QUESTIONS_PER_CLUSTER = 20
"""Fewer clusters where they would hold fewer questions than so many on average."""
_SEED = 42
"""The seed of k-means in the released code."""


def cluster_labels(vectors: Vectors32, clusters: int) -> NDArray[np.intp]:
    """The cluster of each vector, 0 to at most `clusters` - 1, none empty: k-means++ with Elkan's steps, one start,
    at most 1,000 steps, seed 42, as released. Equal vectors count as one point that weighs more."""
    if clusters == 1:
        return np.zeros(len(vectors), dtype=np.intp)
    points, where, counts = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    where = where.reshape(-1)
    if clusters >= len(points):
        return np.asarray(where, dtype=np.intp)
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    model = KMeans(clusters, n_init=1, max_iter=1000, algorithm="elkan", random_state=_SEED)
    with threadpool_limits(limits=1):  # several threads add up in no fixed order
        labels = model.fit_predict(points.astype(np.float64), sample_weight=counts)
    _, dense = np.unique(labels[where], return_inverse=True)
    return np.asarray(dense, dtype=np.intp)


def cluster_centres(vectors: Vectors32, labels: NDArray[np.intp]) -> Vectors32:
    """The mean of each cluster's vectors, made unit length again; shape (clusters, dimension)."""
    sums = np.zeros((int(labels.max()) + 1, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def cluster_rates(grades: Floats, labels: NDArray[np.intp], *, base: Floats, prior_trials: float) -> Floats:
    """Each expert's success in each cluster, shape (experts, clusters), NaN where nothing is known: the mean grade,
    its overall rate `base` counting for `prior_trials` more (0: the plain accuracy, as released)."""
    number = int(labels.max()) + 1
    is_asked = ~np.isnan(grades)
    wins, trials = np.zeros((number, grades.shape[1])), np.zeros((number, grades.shape[1]))
    np.add.at(wins, labels, np.where(is_asked, grades, 0.0))
    np.add.at(trials, labels, is_asked)
    if prior_trials == 0:
        return np.where(trials > 0, wins / np.maximum(trials, 1), np.nan).T
    return np.asarray(shrunk_rate(wins, trials, prior=base, weight=prior_trials), dtype=np.float64).T


def cluster_ranks(values: Floats) -> Floats:
    """Each expert's rank in each cluster, from 0, ties in the pool's order; `values` and ranks have shape (experts,
    clusters), NaN for an expert that the cluster does not know, which leaves the others' ranks as they are."""
    order = np.argsort(np.where(np.isnan(values), np.inf, -values), axis=0, kind="stable")
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(len(values), dtype=float)[:, None], axis=0)
    return np.where(np.isnan(values), np.nan, ranks)


def cluster_weights(distances: Floats, *, beta: float, top_k: int) -> Floats:
    """The weight of each cluster for each query, rows add up to 1: softmax of -`beta` times distance over the `top_k`
    nearest clusters, ties to the earlier one, 0 elsewhere. Shape as `distances`: (queries, clusters)."""
    count = min(top_k, distances.shape[1])
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
    near = np.take_along_axis(distances, nearest, axis=1)
    powers = np.exp(-beta * (near - near[:, :1]))
    weights = np.zeros(distances.shape)
    np.put_along_axis(weights, nearest, powers / powers.sum(axis=1, keepdims=True), axis=1)
    return weights


def rank_scores(weights: Floats, ranks: Floats, *, offset: float) -> Floats:
    """Sum over clusters of weight / (rank + `offset`), shape (queries, experts); NaN for an expert that none of the
    query's clusters knows. The offset is 0.1 in Avengers' released code and 1 in Avengers-Pro's."""
    parts = np.where(np.isnan(ranks), 0.0, 1.0 / (np.nan_to_num(ranks) + offset))
    scores = np.einsum("qc,ec->qe", weights, parts)
    return np.where(scores > 0, scores, np.nan)


def mean_values(weights: Floats, values: Floats) -> Floats:
    """The mean of (experts, clusters) values by weight, over the clusters that know the expert; (queries, experts),
    NaN where none does."""
    is_known = ~np.isnan(values)
    sums = np.einsum("qc,ec->qe", weights, np.where(is_known, values, 0.0))
    if is_known.all():
        return np.asarray(sums)
    known = np.einsum("qc,ec->qe", weights, is_known.astype(np.float64))
    return np.where(known > 0, sums / np.where(known > 0, known, 1.0), np.nan)


class ClusterRecruiter(EmbeddingRecruiter):
    """Clusters the fit questions, and scores experts by how they rank in the clusters nearest to the query.

    P(correct) is the success in these clusters, in each shrunk towards the expert's overall rate as a category's is.
    """

    scores_jointly = True
    """A rank depends on who else is ranked."""

    def __init__(self, *, k: int, clusters: int | None, top_k: int, beta: float, prior_trials: float) -> None:
        for name, value in (("clusters", clusters), ("top_k", top_k)):
            if value is not None and value < 1:
                raise ConfigError(f"recruiter {self.name!r}: {name} is {value}; it is 1 or more")
        for name, number in (("beta", beta), ("prior_trials", prior_trials)):
            if number < 0:
                raise ConfigError(f"recruiter {self.name!r}: {name} is {number}; it is 0 or more")
        super().__init__(k=k)
        self.clusters = clusters
        self.top_k = top_k
        self.beta = beta
        self.prior_trials = prior_trials

    @abstractmethod
    def _values(self, data: FitData, lesson: Lesson, *, labels: NDArray[np.intp], base: Floats) -> Floats:
        """What experts are ranked by in each cluster, more is better; shape (experts, clusters), NaN where unknown."""

    @abstractmethod
    def _scores_of(self, weights: Floats) -> Floats:
        """The scores of queries with these cluster weights, from `values_` and `ranks_`."""

    def _learn(self, data: FitData, roster: Roster) -> None:
        lesson = graded_lesson(data, name=self.name)
        sparse = max(1, min(MOST_CLUSTERS, len(lesson.ids) // QUESTIONS_PER_CLUSTER))
        labels = cluster_labels(lesson.vectors, self.clusters or sparse)
        base = base_rates(roster, lesson.grades)
        rates = cluster_rates(lesson.grades, labels, base=base, prior_trials=CATEGORY_WEIGHT)
        rates[~roster.table.has_profile] = np.nan
        values = self._values(data, lesson, labels=labels, base=base)
        self._take(cluster_centres(lesson.vectors, labels), values, rates)

    def _take(self, centres: Vectors32, values: Floats, rates: Floats) -> None:
        self.centres_ = centres
        self.values_, self.rates_ = np.ascontiguousarray(values), np.ascontiguousarray(rates)
        self.ranks_ = cluster_ranks(self.values_)
        self.dimension_ = centres.shape[1]

    def _learned(self) -> Learned:
        return Learned(arrays={"centres": self.centres_, "values": self.values_, "rates": self.rates_})

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self._take(learned.arrays["centres"], learned.arrays["values"], learned.arrays["rates"])

    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        scores, chances = np.empty((len(cases), len(roster.ids))), np.empty((len(cases), len(roster.ids)))
        for block in blocks(len(cases)):
            distances = 1.0 - similarities(self.centres_, vectors[block]).astype(np.float64)
            weights = cluster_weights(distances, beta=self.beta, top_k=self.top_k)
            scores[block], chances[block] = self._scores_of(weights), mean_values(weights, self.rates_)
        return scores, chances
