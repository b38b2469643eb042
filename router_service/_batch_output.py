"""What a finished batch line looks like in the output; no clock in it, so that a second run gives the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from router_service._batch_lines import BatchLine
from router_service.errors import ExpertError
from router_service.store.base import FinishedEntry
from router_service.types import RouteDecision, RouteFailure, RouteResponse, Usage

__all__ = [
    "cancelled_line",
    "is_cancelled",
    "is_retryable",
    "malformed_line",
    "plain_line",
    "read_back",
    "request_id",
    "route_of",
    "spoilt_line",
]

_EXPERT_ERRORS: tuple[type[ExpertError], ...] = (ExpertError, *ExpertError.__subclasses__())
_RETRYABLE_CODES = frozenset(error.code for error in _EXPERT_ERRORS if error.is_retryable_by_default)
_ANSWERED = 200
_CANCELLED = "batch_cancelled"
_WORKERS_LOST = "workers_lost"


def is_retryable(end: RouteResponse | RouteFailure) -> bool:
    """True for a failure that may be gone later: so says its code in the error tree, or a member of a panel that
    failed as a whole."""
    if isinstance(end, RouteResponse):
        return False
    members = [completion.error for completion in end.completions]
    has_passing_error = all(members) and any(error.is_retryable for error in members if error is not None)
    return end.code in _RETRYABLE_CODES or has_passing_error


def read_back(number: int, output: Mapping[str, Any], *, is_retryable: bool) -> FinishedEntry:
    """A record of a finished output, in either shape, as it was when it was written."""
    response = output.get("response")
    report = response["body"]["enlist"] if response else output
    usage = Usage(**{**report["usage"], "cost_usd": report["cost_usd"]}) if "usage" in report else Usage()
    has_failed = output["error"] is not None or (response is not None and response["status_code"] != _ANSWERED)
    return FinishedEntry(
        number=number, output=output, has_failed=has_failed, usage=usage, is_retryable=is_retryable and has_failed
    )


def plain_line(line: BatchLine, end: RouteResponse | RouteFailure) -> FinishedEntry:
    """The record of a plain line: its answer with how it came about, or its error with what it had cost by then."""
    answer = end.answer if isinstance(end, RouteResponse) else None
    error = {"code": end.code, "message": end.message} if isinstance(end, RouteFailure) else None
    usage = end.usage
    output = {
        "id": line.id,
        "answer": answer.text if answer else None,
        "extracted": answer.extracted if answer else None,
        "experts": _expert_ids(end.decision),
        "aggregator": answer.aggregator if answer else None,
        "agreement": answer.agreement if answer else None,
        "confidence": answer.confidence if answer else None,
        "usage": _counts(usage),
        "cost_usd": usage.cost_usd,
        "error": error,
    }
    return FinishedEntry(
        number=line.number,
        output=output,
        has_failed=error is not None,
        usage=usage,
        is_retryable=is_retryable(end),
        route=route_of(end.decision),
    )


def malformed_line(line: BatchLine) -> FinishedEntry:
    """The record of a line that could not be run, in the shape of its neighbours."""
    return _unrun(line, line.problem_code, line.problem or "", is_retryable=False)


def cancelled_line(line: BatchLine) -> FinishedEntry:
    """The record of a line whose batch was cancelled before it was finished."""
    message = f"line {line.number}: the batch was cancelled before this line was finished; run it with --retry-failed"
    return _unrun(line, _CANCELLED, message, is_retryable=True)


def is_cancelled(entry: FinishedEntry) -> bool:
    """True for a record of `cancelled_line`."""
    error = entry.output.get("error")
    return error is not None and error["code"] == _CANCELLED


def spoilt_line(line: BatchLine, *, claims: int) -> FinishedEntry:
    """The record of a line that is given up, because its workers ended while they worked on it."""
    message = (
        f"line {line.number}: {claims} workers ended while they worked on this line, the last times on it alone; see "
        "what it asks for (its length, its images), and run it again with --retry-failed"
    )
    return _unrun(line, _WORKERS_LOST, message, is_retryable=True)


def _unrun(line: BatchLine, code: str, message: str, *, is_retryable: bool) -> FinishedEntry:
    error = {"code": code, "message": message, "line": line.number}
    if line.form == "openai":
        output: dict[str, Any] = {
            "id": request_id(line),
            "custom_id": line.id,
            "response": None,
            "error": error,
        }
    else:
        blank = dict.fromkeys(("answer", "extracted", "experts", "aggregator", "agreement", "confidence"))
        output = {"id": line.id, **blank, "experts": [], "usage": _counts(Usage()), "cost_usd": 0.0, "error": error}
    return FinishedEntry(number=line.number, output=output, has_failed=True, is_retryable=is_retryable)


def route_of(decision: RouteDecision | None) -> dict[str, Any]:
    """How a line was routed, for its record in the store."""
    if decision is None:
        return {}
    return {
        "recruiter": decision.recruiter,
        "recruits": {recruit.expert_id: recruit.samples for recruit in decision.recruits},
        "aggregator": decision.aggregator,
        "fallback": decision.fallback_reason if decision.is_fallback else None,
    }


def request_id(line: BatchLine) -> str:
    """The id of a line's request: made of its number and its own id, so that another run gives it again."""
    # JSON can say half a surrogate pair, and an id may hold one
    named = f"{line.number}/{line.id}".encode("utf-8", "surrogatepass")
    return "batch_req_" + hashlib.sha256(named).hexdigest()[:24]


def _expert_ids(decision: RouteDecision | None) -> list[str]:
    """Who was recruited; an expert asked for two samples stands there twice."""
    return [recruit.expert_id for recruit in (decision.recruits if decision else ()) for _ in range(recruit.samples)]


def _counts(usage: Usage) -> dict[str, int]:
    return {
        "completions": usage.completions,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
