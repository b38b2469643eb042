"""Ranks candidates by comparisons in pairs: mean logits, wins, or one pass that keeps the winner (LLM-Blender).

A comparison matrix C holds at `C[i][j]` how much a judge that sees candidate i on the left and j on the right prefers
i (positive) or j (negative); the diagonal counts for nothing. Source: Jiang et al. 2023, "LLM-Blender", section 3, and
its released code.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence

from router_service.errors import AggregationError

__all__ = ["Compare", "bubble_winner", "compare_all", "max_logits", "max_wins", "shared_ranks"]

Comparisons = Sequence[Sequence[float]]
"""Square, left candidate by right candidate."""

Compare = Callable[[int, int], Awaitable[float]]
"""`C[i][j]`, asked for: an LLM's verdict, or the logit of a learned ranker such as PairRM."""

_LEVEL = 1e-9
"""Scores nearer than this, by their size, are level: sums of the same logits in another order must not differ."""


def max_logits(comparisons: Comparisons) -> tuple[float, ...]:
    """`mean_j (C[i][j] − C[j][i])` per candidate, the mean over all N candidates; higher is better."""
    n = _size(comparisons)
    return tuple(
        math.fsum(part for j in range(n) if j != i for part in (comparisons[i][j], -comparisons[j][i])) / n
        for i in range(n)
    )


def max_wins(comparisons: Comparisons) -> tuple[int, ...]:
    """How many comparisons each candidate wins, of the 2(N − 1) in which it stands on either side.

    The released *score* of this name adds a sum to a mean, unlike its *rank*, which adds two sums as here.
    """
    n = _size(comparisons)
    return tuple(sum((comparisons[i][j] > 0) + (comparisons[j][i] < 0) for j in range(n) if j != i) for i in range(n))


def shared_ranks(scores: Sequence[float]) -> tuple[int, ...]:
    """Rank 1 for the highest score; level scores share the better rank, and the next one counts all above it."""
    return tuple(1 + sum(_is_above(other, score) for other in scores) for score in scores)


async def compare_all(n_candidates: int, compare: Compare) -> list[list[float]]:
    """The whole matrix, N(N − 1) comparisons, all at once; 0 on the diagonal."""
    pairs = [(i, j) for i in range(n_candidates) for j in range(n_candidates) if i != j]
    found = dict(zip(pairs, await asyncio.gather(*(compare(i, j) for i, j in pairs)), strict=True))
    return [[found.get((i, j), 0.0) for j in range(n_candidates)] for i in range(n_candidates)]


async def bubble_winner(n_candidates: int, compare: Compare) -> int:
    """The winner of one pass: the best so far meets each next candidate, in both orders; 2(N − 1) comparisons.

    Who is level with the best so far does not replace it.
    """
    if n_candidates < 1:
        raise AggregationError("there is no candidate to compare; give one or more")
    best = 0
    for other in range(1, n_candidates):
        forth, back = await asyncio.gather(compare(other, best), compare(best, other))
        if _is_above(forth, back):
            best = other
    return best


def _is_above(score: float, other: float) -> bool:
    return score > other and not math.isclose(score, other, rel_tol=_LEVEL, abs_tol=_LEVEL)


def _size(comparisons: Comparisons) -> int:
    n = len(comparisons)
    if n == 0 or any(len(row) != n for row in comparisons):
        raise AggregationError(
            f"the comparison matrix has {n} rows of lengths {sorted({len(row) for row in comparisons})}; it is square, "
            "one row and one column per candidate"
        )
    return n
