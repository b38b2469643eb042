"""When frugal asking stops: the objective of FrugalFoE, and the rule of its released code; plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["best_stop", "frugal_objective", "released_stop"]


def frugal_objective(error: float, cost: float, penalty: float) -> float:
    """`error + penalty * cost`, in shares of 1 (FrugalFoE's objective); what is free stays free at any penalty."""
    return error + (penalty * cost if cost else 0.0)


def best_stop(errors: Sequence[float], costs: Sequence[float], penalty: float) -> int:
    """Where along a chain of growing panels to stop: the number of the panel with the least objective.

    `errors[i]` is the expected error of the i-th panel, in [0, 1], `costs[i]` what it costs in all. Of equal ones the
    largest is taken, so that a panel that costs nothing is left only where its error is higher.
    """
    objectives = [frugal_objective(e, c, penalty) for e, c in zip(errors, costs, strict=True)]
    least = min(objectives)
    return max(number for number, objective in enumerate(objectives) if objective == least)


def released_stop(errors: Sequence[float], *, delta: float = 0.02) -> int:
    """Where the released code stops (github.com/hwang595/FoE-ICLR2024, commit cde0ae44): the number of the last panel
    before the first one that improves the error by less than `delta` (two percentage points).

    `errors` are those of panels of two experts and more: the error before them counts as infinite, so that the first
    one, of two experts, is always taken.
    """
    current = math.inf
    for number, error in enumerate(errors):
        if current - error < delta - _ROUNDING:
            return number - 1
        current = error
    return len(errors) - 1


_ROUNDING = 1e-12
"""A gain of exactly `delta` is enough, however the two errors were rounded."""
