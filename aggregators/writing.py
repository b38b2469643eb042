"""Turns what an LLM wrote over the drafts into the answer, and tells who of the panel holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aggregators.ballot import group_votes
from aggregators.briefs import Reply
from aggregators.equivalence import AnswerGroup
from aggregators.extract import extract
from aggregators.limits import within_limit
from router_service.types import Answer, AnswerKind, Completion, Panel, Usage

__all__ = ["problem_of", "read", "written_answer"]

_COMPARABLE = frozenset({AnswerKind.CHOICE, AnswerKind.NUMBER, AnswerKind.LITERAL})


def read(completion: Completion, panel: Panel) -> Completion:
    """The completion with the answer that can be read out of it, as an expert's own would have."""
    return replace(completion, extracted=extract(completion.text, panel.query.task_format), tool_calls=())


def problem_of(reply: Reply, panel: Panel) -> str | None:
    """Why a written reply cannot be the answer, in plain words; None where it can.

    A text that was streamed to the caller already is kept, readable or not.
    """
    if reply.problem is not None or reply.completion is None:
        return reply.problem
    is_shown = panel.query.controls.streams
    if is_shown or extract(reply.text, panel.query.task_format) is not None:
        return None
    return f"no answer can be read out of what {reply.completion.expert_id} wrote"


async def written_answer(
    panel: Panel, written: Completion, *, aggregator: str, usage: Usage, notes: Sequence[str] = ()
) -> Answer:
    """The written text as the answer, no longer than the query allows; its supporters are the members that hold it, or
    all of them where none does."""
    written = within_limit(written, panel.query)
    said = read(written, panel)
    agreeing = await _holders(panel, said)
    supporters = agreeing.supporters if agreeing else tuple(dict.fromkeys(m.expert_id for m in panel.members))
    if agreeing is None and panel.query.task_format.kind in _COMPARABLE:
        notes = (*notes, "the written answer is that of no draft")
    return Answer(
        text=written.text,
        extracted=said.extracted,
        aggregator=aggregator,
        supporters=supporters,
        agreement=len(agreeing.members) / len(panel.members) if agreeing else 0.0,
        usage=usage,
        finish_reason=written.finish_reason or "stop",
        notes=tuple(notes),
    )


async def _holders(panel: Panel, written: Completion) -> AnswerGroup | None:
    """The members that hold the written answer, or None where none does."""
    for group in await group_votes((*panel.members, written), panel.query.task_format.kind):
        if written in group.members and len(group.members) > 1:
            return AnswerGroup(key=group.key, members=group.members[:-1])
    return None
