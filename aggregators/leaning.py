"""What the panel leans to: each answer weighed by how likely its members are to be right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aggregators.equivalence import AnswerGroup
from router_service.types import Panel

__all__ = ["by_weight", "member_weight", "weight_of"]

_UNKNOWN = 0.5
"""P(correct) of an expert of whom the recruiter knows nothing."""


def member_weight(panel: Panel, expert_id: str) -> float:
    """The recruiter's P(correct) of an expert for this query, in [0, 1]; 0.5 where it has none."""
    known = panel.p_correct(expert_id)
    return _UNKNOWN if known is None else known


def weight_of(panel: Panel, group: AnswerGroup) -> float:
    """The sum of its members' weights: every sample counts. Exact, so that no order of adding makes or breaks a tie."""
    return math.fsum(member_weight(panel, member.expert_id) for member in group.members)


def by_weight(panel: Panel, groups: Sequence[AnswerGroup]) -> list[AnswerGroup]:
    """The groups, the heaviest first; of level ones the earlier."""
    return sorted(groups, key=lambda group: -weight_of(panel, group))
