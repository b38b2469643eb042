"""How plausible drafts are to one another's authors: Speculative Verdict's score and selection; plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from router_service.errors import ConfigError

__all__ = ["most_plausible", "peer_scores", "stand_in_nll"]

_EPSILON = 1e-12
"""Scores this near are a tie, as in the released code."""
_SEED_BITS = 0xFFFF_FFFF_FFFF_FFFF


def peer_scores(nll: Sequence[Sequence[float]], *, is_one_sided: bool = False) -> list[float]:
    """`s(y_i) = sum over the others j of |NLL_j(y_i) - NLL_j(y_j)|`, smaller is better (Speculative Verdict).

    `nll[i][j]` is the mean negative log-likelihood (nats a token) of draft i under the author of draft j. One-sided,
    only what a peer likes less than its own draft counts: `max(0, ...)` in the place of the absolute value. Raises
    `ConfigError` unless the matrix is square.
    """
    if any(len(row) != len(nll) for row in nll):
        raise ConfigError(
            f"{len(nll)} drafts need a square table of likelihoods, {len(nll)} by {len(nll)}; "
            f"the rows have {', '.join(str(len(row)) for row in nll)} entries"
        )
    scores = []
    for i, row in enumerate(nll):
        differences = [value - nll[j][j] for j, value in enumerate(row) if j != i]
        scores.append(math.fsum(max(0.0, d) if is_one_sided else abs(d) for d in differences))
    return scores


def most_plausible(scores: Sequence[float], number: int, *, seed: int = 42) -> list[int]:
    """The positions of the `number` best (smallest) scores, in order; ties are settled by chance, from the seed."""
    chances = np.random.Generator(np.random.PCG64(seed & _SEED_BITS)).random(len(scores)).tolist()
    ranked = sorted(range(len(scores)), key=lambda i: scores[i])
    steps, level = {}, 0
    for before, position in zip([None, *ranked], ranked, strict=False):
        level += before is not None and scores[position] - scores[before] > _EPSILON
        steps[position] = level
    return sorted(ranked, key=lambda i: (steps[i], chances[i]))[:number]


def stand_in_nll(numbers: Sequence[int]) -> list[list[float]]:
    """Likelihoods where nobody gave any: a draft costs its peer nothing if both hold the same answer, else 1.

    `numbers` are the drafts' answers, equal ones alike, -1 for none, which is nobody's answer but its author's.
    """
    return [
        [0.0 if i == j or (mine == other and mine >= 0) else 1.0 for j, other in enumerate(numbers)]
        for i, mine in enumerate(numbers)
    ]
