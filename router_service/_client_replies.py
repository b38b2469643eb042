"""What the SDK gets back: answers, routes and models as values, and streams taken apart line by line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router_service._client_errors import ApiConnectionError, ErrorFacts, error_of
from router_service.types import (
    Completion,
    CompletionError,
    Elimination,
    Recruit,
    SkillAnnotation,
    ToolCall,
    Usage,
)

__all__ = [
    "FOREIGN",
    "ChatResponse",
    "ExpertReport",
    "ModelInfo",
    "RouteExplanation",
    "StreamReader",
    "chat_response",
    "models_of",
    "route_of",
]


FOREIGN = (ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What reading a reply raises that is not this service's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A name that `model` may be: one that routes, or one expert."""

    id: str
    owned_by: str
    routes: bool
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertReport:
    """What one expert contributed: its usage over all samples, its slowest completion, whether it holds the answer."""

    expert_id: str
    samples: int
    p_correct: float | None = None
    usage: Usage = Usage()
    latency_s: float | None = None
    holds_answer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatResponse:
    """An answer with how it came about. `completions` have no text: the service sends the answer's alone.

    `usage.cost_usd` and `confidence` are None where unknown; `overhead_ms` is the service's own time. `aggregator` made
    the answer, `aggregator_asked` was wanted, `aggregator_usage` is what its own calls spent, and `notes` say what else
    there is to know of it. `calls_saved` counts completions that could no longer change it.
    """

    query_id: str
    model: str
    text: str
    extracted: str | None = None
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    annotation: SkillAnnotation
    recruiter: str
    recruits: tuple[Recruit, ...] = ()
    completions: tuple[Completion, ...] = ()
    expert_reports: tuple[ExpertReport, ...] = ()
    aggregator: str = ""
    aggregator_asked: str | None = None
    aggregator_usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    supporters: tuple[str, ...] = ()
    agreement: float = 0.0
    confidence: float | None = None
    calls_saved: int = 0
    fallback_reason: str | None = None
    usage: Usage = Usage()
    overhead_ms: float | None = None
    request_id: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts asked, in order of recruiting."""
        return tuple(recruit.expert_id for recruit in self.recruits)

    @property
    def cost_usd(self) -> float | None:
        """What it cost; None where a price is unknown."""
        return self.usage.cost_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteExplanation:
    """Who would be asked, and why; nobody was."""

    query_id: str
    annotation: SkillAnnotation
    recruiter: str
    aggregator: str | None = None
    recruits: tuple[Recruit, ...] = ()
    scores: Mapping[str, float | None] = field(default_factory=dict)
    eliminated: tuple[Elimination, ...] = ()
    is_fallback: bool = False
    fallback_reason: str | None = None
    estimate: Usage | None = None
    seed: int = 0


def models_of(body: Mapping[str, Any]) -> tuple[ModelInfo, ...]:
    """The models of a list."""
    return tuple(_model(entry) for entry in body["data"])


def _model(entry: Mapping[str, Any]) -> ModelInfo:
    details = entry.get("enlist") or {}
    return ModelInfo(id=entry["id"], owned_by=entry["owned_by"], routes=details.get("kind") == "route", details=details)


def route_of(body: Mapping[str, Any]) -> RouteExplanation:
    """The explanation of a route."""
    return RouteExplanation(
        query_id=body["query_id"],
        annotation=_annotation(body),
        recruiter=body["recruiter"],
        aggregator=body["aggregator"],
        recruits=tuple(_recruit(entry) for entry in body["recruits"]),
        scores=body["scores"],
        eliminated=tuple(Elimination(expert_id=e["id"], reason=e["reason"]) for e in body["eliminated"]),
        is_fallback=body["is_fallback"],
        fallback_reason=body["fallback_reason"],
        estimate=None if body["estimate"] is None else Usage(**body["estimate"]),
        seed=body["seed"],
    )


def chat_response(body: Mapping[str, Any], headers: Mapping[str, str]) -> ChatResponse:
    """The answer in a chat completion and its headers."""
    choice = body["choices"][0]
    message = choice["message"]
    calls = message.get("tool_calls") or []
    report = body["enlist"]
    experts = report["experts"]
    return ChatResponse(
        query_id=report["query_id"],
        model=body["model"],
        text=message["content"] or "",
        extracted=report["extracted"],
        finish_reason=choice["finish_reason"],
        tool_calls=tuple(
            ToolCall(id=c["id"], name=c["function"]["name"], arguments=c["function"]["arguments"]) for c in calls
        ),
        annotation=_annotation(report),
        recruiter=report["recruiter"],
        recruits=tuple(_recruit(expert) for expert in experts),
        completions=tuple(_completion(report, e, sample) for e in experts for sample in e["completions"]),
        expert_reports=tuple(_expert_report(expert) for expert in experts),
        aggregator=report["aggregator"],
        aggregator_asked=report["aggregator_asked"],
        aggregator_usage=Usage(**report["aggregator_usage"]),
        notes=tuple(report["notes"]),
        supporters=tuple(report["supporters"]),
        agreement=report["agreement"],
        confidence=report["confidence"],
        calls_saved=report["calls_saved"],
        fallback_reason=report["fallback_reason"],
        usage=Usage(**report["usage"]),
        overhead_ms=report.get("overhead_ms"),
        request_id=headers.get("x-request-id"),
        warnings=tuple(report.get("warnings", ())),
    )


def _annotation(report: Mapping[str, Any]) -> SkillAnnotation:
    return SkillAnnotation(
        query_id=report["query_id"],
        skills=report["skills"],
        category=report["category"],
        novelty=report["novelty"],
        annotator=report["annotator"],
        nearest=tuple((entry["question_id"], entry["similarity"]) for entry in report.get("nearest", ())),
    )


def _recruit(entry: Mapping[str, Any]) -> Recruit:
    score = entry["score"]
    return Recruit(
        expert_id=entry["id"],
        score=0.0 if score is None else score,
        p_correct=entry["p_correct"],
        samples=entry["samples"],
    )


def _expert_report(entry: Mapping[str, Any]) -> ExpertReport:
    return ExpertReport(
        expert_id=entry["id"],
        samples=entry["samples"],
        p_correct=entry["p_correct"],
        usage=Usage(**entry["usage"]),
        latency_s=entry["latency_s"],
        holds_answer=bool(entry["holds_answer"]),
    )


def _completion(report: Mapping[str, Any], expert: Mapping[str, Any], sample: Mapping[str, Any]) -> Completion:
    error = sample["error"]
    return Completion(
        query_id=report["query_id"],
        expert_id=expert["id"],
        sample=sample["sample"],
        extracted=sample["extracted"],
        finish_reason=sample["finish_reason"],
        usage=Usage(**sample["usage"]),
        latency_s=sample["latency_s"],
        error=None if error is None else CompletionError(code=error["code"], message=error["message"]),
    )


class StreamReader:
    """Takes a stream's lines and gives its text, piece by piece; the whole answer stands in `response` at the end.

    Raises the error that the stream tells of, and `ApiConnectionError` where it ends before its end.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._texts: list[str] = []
        self._calls: list[Mapping[str, Any]] = []
        self._last: Mapping[str, Any] | None = None
        self._is_done = False

    def text_of(self, line: str) -> str:
        """The text in one line of the stream; empty for a heartbeat and for what carries none."""
        if not line.startswith("data:"):
            return ""
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self._is_done = True
            return ""
        try:
            return self._take(json.loads(data))
        except FOREIGN as malformed:
            raise self._broken("the stream holds a line that is not this service's") from malformed

    def _take(self, chunk: Mapping[str, Any]) -> str:
        if "error" in chunk:
            raise error_of(chunk, request_id=self._headers.get("x-request-id"))
        for choice in chunk["choices"]:
            text: str = choice["delta"].get("content") or ""
            self._calls.extend(choice["delta"].get("tool_calls") or ())
            self._texts.append(text)
            if choice["finish_reason"] is not None:
                self._last = chunk
            return text
        return ""

    def require_end(self) -> None:
        """Raise `ApiConnectionError` where the stream is not at its end."""
        if self._last is None or not self._is_done:
            raise self._broken("the stream broke off before its end; what came is not the whole answer")

    def _broken(self, message: str) -> ApiConnectionError:
        return ApiConnectionError(ErrorFacts(message=message, request_id=self._headers.get("x-request-id")))

    @property
    def response(self) -> ChatResponse:
        """The answer, once the stream is at its end."""
        self.require_end()
        assert self._last is not None
        reason = self._last["choices"][0]["finish_reason"]
        message = {"content": "".join(self._texts), "tool_calls": self._calls}
        whole = {**self._last, "choices": [{"message": message, "finish_reason": reason}]}
        try:
            return chat_response(whole, self._headers)
        except FOREIGN as malformed:
            raise self._broken("the stream's end is not this service's; is the base URL right?") from malformed
