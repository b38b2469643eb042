"""Symbolic-MoE's arithmetic: from local scores to weights, from weights to draws."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from router_service.recruit.allowance import Allowance
from router_service.recruit.strength import Floats

__all__ = [
    "draw",
    "global_strength",
    "lifted_weights",
    "positive_weights",
    "share_of_total",
    "softmax_weights",
    "trim_weights",
]

_TOLERANCE = 1e-12
_SEED_BITS = 0xFFFF_FFFF_FFFF_FFFF


def global_strength(totals: Floats, *, tau: float = 0.5) -> Floats:
    """The experts' strengths over the whole pool, adding up to 1 (Symbolic-MoE, released code).

    Totals are shifted by `1 - min` where one is negative, raised to `1/tau` and normalised. Where all totals are 0,
    which the released code divides by, every expert is equally strong.
    """
    least = totals.min(initial=0.0)
    shifted = totals - least + 1.0 if least < 0 else totals
    powers = np.power(shifted, 1.0 / tau)
    total = powers.sum()
    return np.asarray(powers / total if total > 0 else np.full(len(totals), 1.0 / max(1, len(totals))))


def share_of_total(totals: Floats, *, tau: float = 0.5) -> Floats:
    """Each expert's share of the pool's total score (Symbolic-MoE, paper).

    A share says nothing where the total is 0 or a part of it negative (a weak expert's negative score would turn
    positive, a strong one's share exceed 1): there `global_strength` is used, as in the worked example.
    """
    if totals.min(initial=0.0) < 0 or totals.sum() <= 0:
        return global_strength(totals, tau=tau)
    return np.asarray(totals / totals.sum())


def positive_weights(scores: Floats, strength: Floats) -> Floats:
    """Score times strength for the experts with a positive score, 0 for the others; rows are queries.

    The released code has no answer where every positive expert has strength 0: such a row uses the scores alone.
    """
    positive = np.maximum(scores, 0.0)
    weights = positive * strength
    is_empty = (weights.max(axis=1, initial=0.0) == 0) & (positive.max(axis=1, initial=0.0) > 0)
    return np.asarray(np.where(is_empty[:, None], positive, weights))


def lifted_weights(scores: Floats, strength: Floats) -> Floats:
    """`(score - least score + 1) * strength` for everyone: the released code's rule where no score is positive."""
    return np.asarray((scores - scores.min(axis=1, keepdims=True) + 1.0) * strength)


def softmax_weights(scores: Floats, strength: Floats, *, tau: float = 0.5) -> Floats:
    """Softmax of `strength * score / tau` in each row (Symbolic-MoE, paper)."""
    logits = scores * strength / tau
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / np.cumsum(powers, axis=1)[:, -1:], dtype=np.float64)


def trim_weights(weights: Floats, trim: float) -> Floats:
    """The weights without the experts that hold less than the share `trim` of their row; a share of exactly `trim`
    stays. What the others lose is redrawn in proportion to the survivors (Symbolic-MoE, helper of the released code,
    applied in the paper only). A row in which nobody holds that much is left as it is.
    """
    if trim <= 0:
        return weights
    kept = weights >= (trim - _TOLERANCE) * np.cumsum(weights, axis=1)[:, -1:]
    survives = kept.any(axis=1, keepdims=True)
    return np.where(kept | ~survives, weights, 0.0)


def draw(
    levels: Sequence[Sequence[float]],
    allowance: Allowance,
    *,
    seed: int,
    candidates: Sequence[int],
    replacement: bool,
) -> list[int]:
    """The positions drawn, one per completion, as many as the allowance covers.

    `levels` are weights over the pool (any scale): each draw uses the first level that leaves someone to draw, and
    everyone alike where none does. With limits on cost or output tokens an expert can be drawn only where the rest of
    the completions stay affordable.
    """
    number = allowance.count(candidates, repeats=replacement)
    if number == 0:
        return []
    points = np.random.Generator(np.random.PCG64(seed & _SEED_BITS)).random(number).tolist()
    if replacement and not allowance.shares:
        cumulated = list(accumulate(_first_level(levels, candidates)))
        return [_at(cumulated, point) for point in points]
    left = list(candidates)
    drawn: list[int] = []
    for point in points:
        affordable = _affordable(left, allowance, drawn, number=number, replacement=replacement)
        position = _at(list(accumulate(_first_level(levels, affordable))), point)
        drawn.append(position)
        if not replacement:
            left.remove(position)
    return drawn


def _first_level(levels: Sequence[Sequence[float]], candidates: Sequence[int]) -> Sequence[float]:
    """The first level in which a candidate has weight, without the others; equal weights where there is none."""
    size = len(levels[0])
    for level in levels:
        weights = level if len(candidates) == size else _only(level, candidates)
        if any(weights):
            return weights
    return _only([1.0] * size, candidates)


def _only(level: Sequence[float], candidates: Sequence[int]) -> list[float]:
    weights = [0.0] * len(level)
    for position in candidates:
        weights[position] = level[position]
    return weights


def _affordable(
    left: Sequence[int], allowance: Allowance, drawn: Sequence[int], *, number: int, replacement: bool
) -> list[int]:
    """Who can be drawn next so that `number` completions can still be paid for; the cheapest always can."""
    if not allowance.shares:
        return list(left)
    shares = allowance.shares
    free = allowance.room_after(drawn)
    later = number - len(drawn) - 1
    cheapest = min(left, key=lambda position: shares[position])
    fits = []
    for position in left:
        others = [other for other in left if other != position]
        reserve = later * shares[cheapest] if replacement else allowance.reserve(others, later)
        if position == cheapest or shares[position] + reserve <= free:
            fits.append(position)
    return fits


def _at(cumulated: Sequence[float], point: float) -> int:
    """The position whose weight covers `point` of the whole; one without weight is never met."""
    total = cumulated[-1]
    position = bisect_right(cumulated, point * total)
    return position if position < len(cumulated) else bisect_left(cumulated, total)
