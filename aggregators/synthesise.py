"""Lets one LLM read all drafts and write the answer (Mixture-of-Agents; Symbolic-MoE's aggregator)."""

from __future__ import annotations

from dataclasses import replace

from aggregators.ballot import answer_of, gather_votes, group_votes
from aggregators.base import AGGREGATORS
from aggregators.drafts import lay_out
from aggregators.equivalence import AnswerGroup
from aggregators.extract import extract
from aggregators.judges import best_writer
from aggregators.majority import Majority
from aggregators.prompting import Stage, answer_format, child_query, fill_prompt, prompt_room
from router_service.errors import BudgetExceeded, NoExpertAvailable
from router_service.types import Answer, Ask, Completion, Panel, Usage

__all__ = ["Synthesise"]

_PROMPT = "synthesise_v2"
_STAGE = Stage(name="synthesise", keeps_format=True)


@AGGREGATORS.register("synthesise")
class Synthesise:
    """One call of one expert, the writer, over all drafts; the vote where that is not needed or does not come off.

    A panel whose members all hold the same answer is kept as it is: the call could only spoil it. Tool calls cannot be
    written in prose, so a panel that holds any is voted on. Where the writer fails or may not be asked, the budget does
    not cover it, or no answer can be read out of what it wrote, the majority's answer stands and is marked as such
    (`Answer.aggregator == "majority"`); what the writer spent is in its usage all the same. A text that was streamed
    to the caller already is kept, readable or not.
    """

    keeps_text = False
    order_matters = True

    def __init__(self, *, expert: str | None = None) -> None:
        """`expert` writes; without it the recruit most likely to be right among those that finished."""
        self.expert = expert

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The written answer; its supporters are the members that hold it, or all of them where none does."""
        groups = await gather_votes(panel)
        if len(groups[0].members) == len(panel.members):
            return answer_of(panel, groups[0], aggregator="synthesise", confidence=1.0)
        if any(member.tool_calls for member in panel.members):
            return await Majority().aggregate(panel, ask=ask)
        written = await self._write(panel, ask)
        if written is None or not _is_usable(written, panel):
            voted = await Majority().aggregate(panel, ask=ask)
            return replace(voted, usage=written.usage if written else Usage())
        return await _written_answer(panel, written)

    async def _write(self, panel: Panel, ask: Ask) -> Completion | None:
        writer = self.expert or best_writer(panel)
        parts = {"question": panel.query.text, "answer_format": answer_format(panel.query.task_format)}
        fixed = fill_prompt(_PROMPT, mark="", drafts="", **parts)
        room = prompt_room(panel, writer, stage=_STAGE, fixed=fixed)
        sheet = lay_out(panel, panel.members, stage=_STAGE.name, room_tokens=room)
        text = fill_prompt(_PROMPT, mark=sheet.mark, drafts=sheet.text, **parts)
        try:
            return await ask(writer, child_query(panel, text, stage=_STAGE), is_visible=True)
        except (BudgetExceeded, NoExpertAvailable):
            return None


def _is_usable(written: Completion, panel: Panel) -> bool:
    if not written.succeeded or not written.text.strip():
        return False
    return panel.query.controls.streams or extract(written.text, panel.query.task_format) is not None


async def _written_answer(panel: Panel, written: Completion) -> Answer:
    extracted = extract(written.text, panel.query.task_format)
    agreeing = await _holders(panel, replace(written, extracted=extracted, tool_calls=()))
    supporters = agreeing.supporters if agreeing else tuple(dict.fromkeys(m.expert_id for m in panel.members))
    return Answer(
        text=written.text,
        extracted=extracted,
        aggregator="synthesise",
        supporters=supporters,
        agreement=len(agreeing.members) / len(panel.members) if agreeing else 0.0,
        usage=written.usage,
        finish_reason=written.finish_reason or "stop",
    )


async def _holders(panel: Panel, written: Completion) -> AnswerGroup | None:
    """The members that hold the written answer, or None where none does."""
    for group in await group_votes((*panel.members, written), panel.query.task_format.kind):
        if written in group.members and len(group.members) > 1:
            return AnswerGroup(key=group.key, members=group.members[:-1])
    return None
