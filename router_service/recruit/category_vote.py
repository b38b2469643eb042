"""Which category a query is of, and how sure that is: the nearest fit questions vote with theirs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.embedded import Vectors32, blocks, similarities
from router_service.recruit.strength import Floats

__all__ = ["category_posterior", "normalised_entropy"]

_NEIGHBOURS = 40
_TEMPERATURE = 0.05
"""A neighbour's vote is exp(cosine / temperature). Chosen on fit questions left out one by one (all-MiniLM-L6-v2), of 8
to 80 neighbours with equal votes or temperatures 0.05 to 0.2: the log loss of the true category is within 2 % of the
least, 1.11 on MMLU-Pro's 14 categories and 0.82 on the 58 of RouteLLM's questions, the winner is right for 64 % and
76 %, and, unlike with fewer neighbours, an entropy above 0.8 does occur."""


def category_posterior(known: Vectors32, categories: NDArray[np.intp], *, vectors: Vectors32, size: int) -> Floats:
    """The share of each of `size` categories in the votes of the nearest of the `known` unit rows, whose categories are
    given; shape (vectors, size), rows add up to 1."""
    posterior = np.empty((len(vectors), size))
    wanted = min(_NEIGHBOURS, len(known))
    for block in blocks(len(vectors)):
        similarity = similarities(known, vectors[block])
        rows = np.arange(len(similarity))[:, None]
        nearest = np.argpartition(-similarity, wanted - 1, axis=1)[:, :wanted]
        near = similarity[rows, nearest].astype(np.float64)
        votes = np.exp((near - near.max(axis=1, keepdims=True)) / _TEMPERATURE)
        places = (rows * size + categories[nearest]).ravel()
        sums = np.bincount(places, weights=votes.ravel(), minlength=len(rows) * size).reshape(len(rows), size)
        posterior[block] = sums / np.cumsum(votes, axis=1)[:, -1:]
    return posterior


def normalised_entropy(posterior: Floats) -> Floats:
    """The entropy of each row over the most that so many categories can have: 0 is certain, 1 knows nothing (CoE's
    uncertainty). One category alone is certain."""
    if posterior.shape[1] < 2:
        return np.zeros(len(posterior))
    terms = posterior * np.log(np.where(posterior > 0, posterior, 1.0))
    entropy = -np.cumsum(terms, axis=1)[:, -1] / math.log(posterior.shape[1])
    return np.minimum(entropy, 1.0)  # rounding would put an even vote above 1
