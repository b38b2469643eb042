"""What the `enlist` field says of each expert: what it was asked, said, spent, and whether it holds the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aggregators.equivalence import canonical
from router_service.types import Answer, AnswerKind, Completion, RouteDecision, Usage

__all__ = ["expert_reports", "spent"]


def expert_reports(
    decision: RouteDecision | None, completions: Sequence[Completion], *, answer: Answer | None, kind: AnswerKind
) -> list[dict[str, Any]]:
    """One entry per expert, in order of recruiting; whoever gave a completion unrecruited comes last.

    `latency_s` is an expert's slowest completion; `holds_answer` is None where there is no answer.
    """
    recruits = {recruit.expert_id: recruit for recruit in (decision.recruits if decision is not None else ())}
    entries = []
    for expert_id in dict.fromkeys([*recruits, *(completion.expert_id for completion in completions)]):
        own = [completion for completion in completions if completion.expert_id == expert_id]
        holding = [_holds(completion, own, answer=answer, kind=kind) for completion in own]
        recruit = recruits.get(expert_id)
        entries.append(
            {
                "id": expert_id,
                "samples": recruit.samples if recruit else len(own),
                "score": recruit.score if recruit else None,
                "p_correct": recruit.p_correct if recruit else None,
                "holds_answer": None if answer is None else any(holding),
                "usage": spent(sum((completion.usage for completion in own), Usage())),
                "latency_s": max((completion.latency_s for completion in own), default=None),
                "completions": [_completion(c, holds_answer=h) for c, h in zip(own, holding, strict=True)],
            }
        )
    return entries


def spent(usage: Usage) -> dict[str, Any]:
    """What was spent; `cost_usd` is None where a price is unknown."""
    return {
        "completions": usage.completions,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
    }


def _completion(completion: Completion, *, holds_answer: bool | None) -> dict[str, Any]:
    error = completion.error
    return {
        "sample": completion.sample,
        "status": _status(completion),
        "extracted": completion.extracted,
        "holds_answer": holds_answer,
        "finish_reason": completion.finish_reason,
        "latency_s": completion.latency_s,
        "usage": spent(completion.usage),
        "error": None if error is None else {"code": error.code, "message": error.message},
    }


def _status(completion: Completion) -> str:
    """`not_needed`: stopped, or never asked for, because it could no longer change the answer."""
    if completion.succeeded:
        return "finished"
    return "failed" if completion.was_needed else "not_needed"


def _holds(
    completion: Completion, own: Sequence[Completion], *, answer: Answer | None, kind: AnswerKind
) -> bool | None:
    """Whether a completion holds the answer; None where it failed, or there is no answer.

    The aggregator has compared answers with more care than is cheap to repeat: the one completion of a supporter holds
    the answer, whatever its words; only several of one expert are told apart here. Where an answer was written that
    nobody holds, its supporters are those it was made of.
    """
    if answer is None or not completion.succeeded:
        return None
    if completion.expert_id not in answer.supporters or not answer.agreement:
        return False
    rivals = [other for other in own if other.succeeded]
    return len(rivals) == 1 or _key(completion, kind) == _key(answer, kind)


def _key(said: Completion | Answer, kind: AnswerKind) -> object:
    if said.tool_calls:
        return [(call.name, canonical(call.arguments, AnswerKind.JSON)) for call in said.tool_calls]
    return canonical(said.extracted if said.extracted is not None else said.text, kind)
