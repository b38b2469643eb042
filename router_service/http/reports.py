"""From the vocabulary to the wire: response bodies, the `enlist` field, headers, and the explanation of a route."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from router_service.http.expert_reports import expert_reports, spent
from router_service.types import (
    Answer,
    AnswerKind,
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


def chat_body(response: RouteResponse, *, model: str, created: int, report: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAI chat completion; `model` is the requested name, the experts' names stand in `report`, the `enlist`
    field."""
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
        "enlist": dict(report),
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
    end: RouteResponse | RouteFailure,
    *,
    kind: AnswerKind = AnswerKind.FREE,
    overhead_s: float | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The `enlist` field: who was asked and what came of it. A failure says what was finished before it.

    `kind` is the kind of answer that was asked for; `warnings` stands in it where there are any.
    """
    report: dict[str, Any] = {"query_id": end.query_id}
    if end.annotation is not None:
        report |= _annotation(end.annotation)
    if end.decision is not None:
        report |= {**_decision(end.decision), "aggregator_asked": end.decision.aggregator}
    answer = end.answer if isinstance(end, RouteResponse) else None
    report["experts"] = expert_reports(end.decision, end.completions, answer=answer, kind=kind)
    report["calls_saved"] = sum(not completion.was_needed for completion in end.completions)
    if answer is not None:
        report |= _answer(answer)
    report |= {"usage": spent(end.usage), "cost_usd": end.usage.cost_usd}
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
        "estimate": None if decision.estimate is None else spent(decision.estimate),
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
        "aggregator_usage": spent(answer.usage),
        "notes": list(answer.notes),
        "extracted": answer.extracted,
        "supporters": list(answer.supporters),
        "agreement": answer.agreement,
        "confidence": answer.confidence,
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
    notes = len(response.answer.notes)
    return {
        **decision_headers(response.decision),
        **({"x-enlist-notes": str(notes)} if notes else {}),
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
