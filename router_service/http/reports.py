"""From the vocabulary to the wire: response bodies, the `enlist` field, headers, and the explanation of a route."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from router_service.types import (
    Answer,
    Completion,
    DecisionMade,
    RouteControls,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    SkillAnnotation,
    ToolCall,
    Usage,
)

__all__ = [
    "chat_body",
    "decision_headers",
    "finish_reason",
    "headers_of",
    "known_headers",
    "report_of",
    "route_body",
    "tool_calls_of",
    "usage_of",
]

_UNKNOWN = "unknown"
_HEADER_SAFE = string.punctuation.replace("%", "") + " "


def chat_body(
    response: RouteResponse, *, model: str, created: int, overhead_s: float, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """The OpenAI chat completion; `model` is the requested name, the experts' names stand in `enlist`."""
    answer = response.answer
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message |= {"content": answer.text or None, "tool_calls": tool_calls_of(answer.tool_calls)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer)}
    return {
        "id": response.query_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage_of(response.usage),
        "enlist": report_of(response, overhead_s=overhead_s, warnings=warnings),
    }


def finish_reason(answer: Answer) -> str:
    """Why the answer ends; one that proposes tool calls ends in them."""
    return "tool_calls" if answer.tool_calls else answer.finish_reason


def tool_calls_of(calls: Iterable[ToolCall]) -> list[dict[str, Any]]:
    """Proposed calls as OpenAI writes them."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def usage_of(usage: Usage) -> dict[str, int]:
    """Tokens of everything done for the request, as OpenAI writes them."""
    total = usage.prompt_tokens + usage.completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": total,
    }


def report_of(
    end: RouteResponse | RouteFailure, *, overhead_s: float | None = None, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """The `enlist` field: who was asked and what came of it. A failure says what was finished before it.

    `warnings` stands in it where there are any.
    """
    report: dict[str, Any] = {"query_id": end.query_id}
    if end.annotation is not None:
        report |= _annotation(end.annotation)
    if end.decision is not None:
        report |= _decision(end.decision)
    report["experts"] = _experts(end.decision, end.completions)
    if isinstance(end, RouteResponse):
        report |= _answer(end.answer)
    report |= {"usage": _spent(end.usage), "cost_usd": end.usage.cost_usd}
    if overhead_s is not None:
        report["overhead_ms"] = round(1000 * overhead_s, 3)
    if warnings:
        report["warnings"] = list(warnings)
    return report


def route_body(made: DecisionMade, *, model: str) -> dict[str, Any]:
    """The explanation of a route: skills, scores, who would be asked, who was left out and why."""
    decision = made.decision
    return {
        "object": "route",
        "query_id": made.query_id,
        "model": model,
        **_annotation(made.annotation),
        "nearest": [{"question_id": name, "similarity": value} for name, value in made.annotation.nearest],
        **_decision(decision),
        "aggregator": decision.aggregator,
        "recruits": [
            {"id": r.expert_id, "score": r.score, "p_correct": r.p_correct, "samples": r.samples}
            for r in decision.recruits
        ],
        "scores": dict(decision.scores),
        "eliminated": [{"id": left.expert_id, "reason": left.reason} for left in decision.eliminated],
        "estimate": None if decision.estimate is None else _spent(decision.estimate),
    }


def _annotation(annotation: SkillAnnotation) -> dict[str, Any]:
    return {
        "skills": dict(annotation.skills),
        "category": annotation.category,
        "novelty": annotation.novelty,
        "annotator": annotation.annotator,
    }


def _decision(decision: RouteDecision) -> dict[str, Any]:
    return {
        "recruiter": decision.recruiter,
        "is_fallback": decision.is_fallback,
        "fallback_reason": decision.fallback_reason,
        "seed": decision.seed,
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "aggregator": answer.aggregator,
        "extracted": answer.extracted,
        "supporters": list(answer.supporters),
        "agreement": answer.agreement,
        "confidence": answer.confidence,
    }


def _experts(decision: RouteDecision | None, completions: Sequence[Completion]) -> list[dict[str, Any]]:
    """One entry per expert, in order of recruiting; whoever gave a completion unrecruited comes last."""
    recruits = {recruit.expert_id: recruit for recruit in (decision.recruits if decision is not None else ())}
    entries = []
    for expert_id in dict.fromkeys([*recruits, *(completion.expert_id for completion in completions)]):
        own = [completion for completion in completions if completion.expert_id == expert_id]
        recruit = recruits.get(expert_id)
        entries.append(
            {
                "id": expert_id,
                "samples": recruit.samples if recruit else len(own),
                "score": recruit.score if recruit else None,
                "p_correct": recruit.p_correct if recruit else None,
                "completions": [_completion(completion) for completion in own],
            }
        )
    return entries


def _completion(completion: Completion) -> dict[str, Any]:
    error = completion.error
    return {
        "sample": completion.sample,
        "extracted": completion.extracted,
        "finish_reason": completion.finish_reason,
        "latency_s": completion.latency_s,
        "usage": _spent(completion.usage),
        "error": None if error is None else {"code": error.code, "message": error.message},
    }


def _spent(usage: Usage) -> dict[str, Any]:
    return {
        "completions": usage.completions,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
    }


# --- headers -------------------------------------------------------------------------------------------------------


def known_headers(controls: RouteControls, warnings: Sequence[str]) -> dict[str, str]:
    """What is certain before any work: the caller's own choices, and what of the request is ignored."""
    headers = {
        "x-enlist-experts": controls.expert,
        "x-enlist-recruiter": controls.recruiter,
        "x-enlist-aggregator": controls.aggregator,
        "x-enlist-warnings": "; ".join(warnings) or None,
    }
    return {name: _header(value) for name, value in headers.items() if value is not None}


def decision_headers(decision: RouteDecision | None) -> dict[str, str]:
    """Who was recruited, by whom."""
    if decision is None:
        return {}
    experts = ",".join(recruit.expert_id for recruit in decision.recruits)
    return {"x-enlist-experts": _header(experts), "x-enlist-recruiter": _header(decision.recruiter)}


def headers_of(response: RouteResponse, *, overhead_s: float) -> Mapping[str, str]:
    """What every answered request says of itself; the plain overhead name is what gateways' dashboards know."""
    overhead_ms = f"{1000 * overhead_s:.3f}"
    return {
        **decision_headers(response.decision),
        "x-enlist-aggregator": _header(response.answer.aggregator),
        "x-enlist-confidence": _number(response.answer.confidence, ".4f"),
        "x-enlist-cost-usd": _number(response.usage.cost_usd, ".9g"),
        "x-enlist-overhead-duration-ms": overhead_ms,
        "overhead-duration-ms": overhead_ms,
    }


def _number(value: float | None, digits: str) -> str:
    return _UNKNOWN if value is None else format(value, digits)


def _header(value: str) -> str:
    """The text with everything percent-encoded that does not belong into a header."""
    return quote(value, safe=_HEADER_SAFE)
