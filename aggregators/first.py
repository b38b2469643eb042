"""Takes the first completion that came through, in order of recruiting: no vote, the best recruit speaks alone."""

from __future__ import annotations

from collections.abc import Sequence

from aggregators.ballot import answer_of, group_votes, no_answer
from aggregators.base import AGGREGATORS
from aggregators.equivalence import vote_key
from aggregators.settling import come_later
from router_service.types import Answer, Ask, Panel

__all__ = ["First"]


@AGGREGATORS.register("first")
class First:
    """The earliest member that holds an answer, whatever the others say; its order therefore matters.

    Where no answer can be read out of any member, the earliest text is passed on as it is, with an agreement of 0 and
    nothing extracted: whoever asked may still make sense of it.
    """

    keeps_text = True
    order_matters = True

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The first member's answer; raises `AggregationError` where no member said anything."""
        groups = await group_votes(panel.members, panel.query.task_format.kind)
        if groups:
            return answer_of(panel, groups[0], aggregator="first")
        for member in panel.members:
            if member.text.strip():
                return Answer(
                    text=member.text,
                    aggregator="first",
                    supporters=(member.expert_id,),
                    finish_reason=member.finish_reason or "stop",
                )
        raise no_answer(panel)

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        """Whether the first answer is there, and all that is still out stands behind it."""
        if not pending:
            return True
        kind = panel.query.task_format.kind
        answered = next((member for member in panel.members if vote_key(member, kind) is not None), None)
        return answered is not None and come_later(panel, answered, pending)
