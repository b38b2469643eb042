"""The arithmetic that votes share: the members gathered by answer, and the answer made of the group that won."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aggregators.equivalence import AnswerGroup, group_answers, held_answer
from router_service.errors import AggregationError
from router_service.types import Answer, AnswerKind, Completion, Panel

__all__ = ["answer_of", "gather_votes", "group_votes", "no_answer"]


async def group_votes(members: Sequence[Completion], kind: AnswerKind) -> tuple[AnswerGroup, ...]:
    """`group_answers` for the event loop: numbers go to a worker thread, for comparing formulas can take its time."""
    if kind is AnswerKind.NUMBER:
        return await asyncio.to_thread(group_answers, members, kind)
    return group_answers(members, kind)


async def gather_votes(panel: Panel) -> tuple[AnswerGroup, ...]:
    """The panel's members by answer, earliest group first; raises `AggregationError` where none holds an answer."""
    groups = await group_votes(panel.members, panel.query.task_format.kind)
    if not groups:
        raise no_answer(panel)
    return groups


def answer_of(panel: Panel, group: AnswerGroup, *, aggregator: str, confidence: float | None = None) -> Answer:
    """The answer of the group that won: the text of its earliest member; agreement counts every member of the panel."""
    extracted = held_answer(group.first, panel.query.task_format)
    return Answer(
        text=group.first.text or extracted or "",
        extracted=extracted,
        aggregator=aggregator,
        supporters=group.supporters,
        agreement=len(group.members) / len(panel.members),
        confidence=confidence,
        tool_calls=group.first.tool_calls,
        finish_reason=_finish_reason(group.first),
    )


def _finish_reason(completion: Completion) -> str:
    return completion.finish_reason or ("tool_calls" if completion.tool_calls else "stop")


def no_answer(panel: Panel) -> AggregationError:
    """The error of a panel in which nobody holds an answer: how many finished, how many failed, and why."""
    failed = [completion for completion in panel.completions if not completion.succeeded]
    kind = panel.query.task_format.kind.value
    causes = ", ".join(sorted({_cause(completion) for completion in failed}))
    return AggregationError(
        f"query {panel.query.id!r}: none of {len(panel.completions)} completions holds an answer of kind {kind!r} "
        f"({len(panel.members)} finished without one, {len(failed)} failed{': ' + causes if causes else ''}); "
        f"recruit other experts, or ask for an answer of another kind"
    )


def _cause(completion: Completion) -> str:
    return f"{completion.expert_id} {completion.error.code if completion.error else 'unknown'}"
