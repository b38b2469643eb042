"""Where no LLM is needed, or its word is of no use: the members' own vote stands, and the answer says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aggregators.ballot import answer_of
from aggregators.equivalence import AnswerGroup, canonical, held_answer
from aggregators.majority import Majority
from router_service.types import Answer, Ask, Panel, Usage

__all__ = ["chosen_answer", "kept_without_a_call", "needs_no_call", "vote_stands"]


def needs_no_call(panel: Panel) -> bool:
    """Whether the panel is kept or voted on without asking anybody: nobody finished, all plainly say the same, or there
    are tool calls. Quick, for plans: numbers that are the same only by their formulas count as different here.
    """
    task_format = panel.query.task_format
    if any(member.tool_calls for member in panel.members):
        return True
    held = {
        None if (answer := held_answer(member, task_format)) is None else canonical(answer, task_format.kind)
        for member in panel.members
    }
    return len(held) < 2


async def kept_without_a_call(
    panel: Panel, groups: Sequence[AnswerGroup], *, ask: Ask, aggregator: str
) -> Answer | None:
    """The answer where none needs be asked for: that of a unanimous panel, which a call could only spoil, and the
    vote's where there are tool calls, which cannot be written in prose. None elsewhere."""
    if len(groups[0].members) == len(panel.members):
        return answer_of(panel, groups[0], aggregator=aggregator, confidence=1.0)
    if any(member.tool_calls for member in panel.members):
        voted = await Majority().aggregate(panel, ask=ask)
        return replace(voted, notes=("tool calls were proposed, which are voted on",))
    return None


def chosen_answer(
    panel: Panel, group: AnswerGroup, *, aggregator: str, usage: Usage | None = None, notes: Sequence[str] = ()
) -> Answer:
    """The answer of the group that a judge chose, unchanged, with what the judging spent."""
    answer = answer_of(panel, group, aggregator=aggregator)
    return replace(answer, usage=usage or Usage(), notes=tuple(notes))


async def vote_stands(
    panel: Panel, *, ask: Ask, because: str, usage: Usage | None = None, notes: Sequence[str] = ()
) -> Answer:
    """The majority's answer in the place of an LLM's, with the reason in the notes and what was spent all the same."""
    voted = await Majority().aggregate(panel, ask=ask)
    return replace(voted, usage=usage or Usage(), notes=(*notes, f"the majority's answer stands, for {because}"))
