"""Plurality vote: the answer that most completions hold, the earliest of them where two are level."""

from __future__ import annotations

from collections.abc import Sequence

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS
from aggregators.settling import safe_leader
from router_service.types import Answer, Ask, Panel

__all__ = ["Majority"]


@AGGREGATORS.register("majority")
class Majority:
    """Every sample is one vote, also several of one expert; a completion without an answer does not vote.

    Tool calls are votes too: the same tools with the same arguments are one answer, beside the answers in words.
    Confidence is the agreement, the share of all finished members that hold the answer.
    """

    keeps_text = True

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer with most votes; a tie goes to the group whose first vote came earliest."""
        groups = await gather_votes(panel)
        winner = max(groups, key=lambda group: len(group.members))
        agreement = len(winner.members) / len(panel.members)
        return answer_of(panel, winner, aggregator="majority", confidence=agreement)

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        """Whether one answer has more votes than any other could still get."""
        return not pending or safe_leader(panel, pending) is not None
