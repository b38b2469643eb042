"""Which expert writes or judges for an aggregator: the configured one, or the best that may be asked."""

from __future__ import annotations

from collections.abc import Collection

from router_service.types import Panel

__all__ = ["best_writer", "choose_judge"]


def best_writer(panel: Panel) -> str:
    """The expert with the highest P(correct), then score, then the earliest, among those that finished."""
    known = {recruit.expert_id: (recruit.p_correct or 0.0, recruit.score) for recruit in panel.decision.recruits}
    finished = dict.fromkeys(member.expert_id for member in panel.members)
    return max(finished, key=lambda expert_id: known.get(expert_id, (0.0, 0.0)))


def choose_judge(panel: Panel, *, expert: str | None, avoid: Collection[str] | None = None) -> str:
    """The configured `expert`; else the askable expert outside `avoid` (the panel's own, unless others are named) that
    the recruiter scored highest for this query, the earliest in the pool where level; where nobody else may be asked,
    the best writer of the panel. Who cannot take what the query holds (images, audio) does not judge it."""
    if expert is not None:
        return expert
    avoided = {member.expert_id for member in panel.members} if avoid is None else set(avoid)
    wanted = panel.query.modalities
    others = [
        candidate.id
        for candidate in panel.experts.values()
        if candidate.id not in avoided and candidate.is_enabled and wanted <= candidate.modalities
    ]
    if not others:
        return best_writer(panel)
    scores = panel.decision.scores
    return max(others, key=lambda expert_id: scores.get(expert_id, float("-inf")))
