"""The arithmetic of a routing objective: predicted loss plus weighed constraints, and who is best under a limit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from router_service.recruit.strength import Floats

__all__ = [
    "flag_weights",
    "flags_of",
    "least_within",
    "pareto",
    "scaled",
    "switch_weight",
    "weighed",
]

_FLAG = re.compile(r"\[\s*flags?\s*:([^\[\]]*)\]", re.IGNORECASE)
_METADATA_KEY = "flags"


def scaled(amounts: Floats) -> Floats:
    """Amounts as shares of the largest known one along the last axis, so in [0, 1]; unknown (NaN) stays unknown, and
    where all are 0 so are the shares."""
    known = np.where(np.isnan(amounts), 0.0, amounts)
    largest = known.max(axis=-1, keepdims=True)
    return np.asarray(amounts / np.where(largest > 0, largest, 1.0))


def weighed(losses: Floats, constraints: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The objective `loss + sum of weight * constraint` (Tryage); arrays broadcast, a constraint without a weight, or
    with one of 0, adds nothing."""
    total = losses
    for name, weight in sorted(weights.items()):
        if weight:
            total = total + weight * constraints[name]
    return total


def least_within(losses: Sequence[float], amounts: Sequence[float], limit: float) -> int | None:
    """The place of the least loss with an amount of at most `limit`, equals by the smaller amount, then the earlier;
    None where nobody keeps to the limit. Unlike a weight, a limit can reach every Pareto point."""
    within = [place for place, amount in enumerate(amounts) if amount <= limit]
    return min(within, key=lambda place: (losses[place], amounts[place], place), default=None)


def switch_weight(loss: float, amount: float, *, other_loss: float, other_amount: float) -> float:
    """The weight at which two experts come to the same objective; above it the one with less of the amount is chosen.

    `ValueError` where the amounts are equal: then no weight decides between the two.
    """
    if amount == other_amount:
        raise ValueError(f"both have {amount} of the constraint; no weight decides between them")
    return (other_loss - loss) / (amount - other_amount)


def pareto(losses: Sequence[float], amounts: Sequence[float]) -> list[int]:
    """The places that nobody beats in loss and amount both, by growing amount; of equals the earliest."""
    front: list[int] = []
    for place in sorted(range(len(losses)), key=lambda i: (amounts[i], losses[i], i)):
        if not front or losses[place] < losses[front[-1]]:
            front.append(place)
    return front


def flags_of(text: str, metadata: Mapping[str, str]) -> list[str]:
    """The flags of a query, in lower case: `[Flag: smaller model]` in its text, commas between several, and the same
    list under `flags` in its metadata."""
    lists = [match.group(1) for match in _FLAG.finditer(text)] if "[" in text else []
    lists.append(metadata.get(_METADATA_KEY, ""))
    names = (" ".join(name.lower().split()) for listed in lists for name in listed.split(","))
    return list(dict.fromkeys(name for name in names if name))


def flag_weights(names: Iterable[str], flags: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], list[str]]:
    """The weights of the constraints that these flags add up to, and the names that are no flag."""
    weights: dict[str, float] = {}
    strange = []
    for name in names:
        if name not in flags:
            strange.append(name)
        for constraint, weight in flags.get(name, {}).items():
            weights[constraint] = weights.get(constraint, 0.0) + weight
    return weights, strange
