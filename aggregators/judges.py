"""Which expert writes or judges for an aggregator: the configured one, or the best that may be asked."""

from __future__ import annotations

from collections.abc import Collection

from router_service.types import Panel

__all__ = ["best_writer", "choose_judge"]


def best_writer(panel: Panel) -> str:
    """The recruit with the highest P(correct), then score, then the earliest, among the experts that finished."""
    finished = {member.expert_id for member in panel.members}
    recruits = [recruit for recruit in panel.decision.recruits if recruit.expert_id in finished]
    if not recruits:
        return panel.members[0].expert_id
    return max(recruits, key=lambda recruit: (recruit.p_correct or 0.0, recruit.score)).expert_id


def choose_judge(panel: Panel, *, expert: str | None, avoid: Collection[str] = ()) -> str:
    """The configured `expert`; else the askable expert outside `avoid` that the recruiter scored highest for this
    query, the earliest in the pool where level; where nobody else may be asked, the best writer of the panel."""
    if expert is not None:
        return expert
    others = [expert_id for expert_id in panel.experts if expert_id not in avoid]
    if not others:
        return best_writer(panel)
    scores = panel.decision.scores
    return max(others, key=lambda expert_id: scores.get(expert_id, float("-inf")))
