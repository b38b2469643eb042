"""How evenly the experts are used: a number to watch, for a recruiter that always asks the same one routes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from router_service.types import RouteDecision

__all__ = ["expert_usage", "usage_cv2"]


def expert_usage(decisions: Iterable[RouteDecision], expert_ids: Sequence[str]) -> list[int]:
    """How many completions the decisions ask of each expert, in the order of the ids; 0 for one that nobody asks."""
    counts = Counter[str]()
    for decision in decisions:
        for recruit in decision.recruits:
            counts[recruit.expert_id] += recruit.samples
    return [counts[expert_id] for expert_id in expert_ids]


def usage_cv2(usage: Sequence[float]) -> float:
    """The squared coefficient of variation of the experts' usage, variance over squared mean: 0 where all are used
    alike, the number of experts less 1 where one does everything, 0 where nobody is used.

    The balance term of Fusion-X's loss (Enabling Flexible Multi-LLM Integration, released code), as a metric.
    """
    if not usage:
        return 0.0
    mean = math.fsum(usage) / len(usage)
    if mean == 0:
        return 0.0
    return math.fsum((amount - mean) ** 2 for amount in usage) / len(usage) / mean**2
