"""Batch lines in OpenAI's shape: the REST door's schema reads them and its report answers them, clocks left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from router_service._batch_lines import BatchLine, ChatParser
from router_service._batch_output import is_retryable, request_id, route_of
from router_service.errors import InvalidQuery
from router_service.http.base import EngineLike
from router_service.http.catalogue import Catalogue
from router_service.http.errors import failure_error, invalid_error
from router_service.http.queries import controls_of, query_of
from router_service.http.reports import chat_body, report_of
from router_service.http.schemas import ChatRequest
from router_service.store.base import FinishedEntry
from router_service.types import AnswerKind, Query, RouteFailure, RouteResponse

__all__ = ["chat_line", "chat_parser"]

_NO_TIME = 0
"""Stands for `created`: a batch run again must give the same bytes."""


def chat_parser(engine: EngineLike) -> ChatParser:
    """Reads chat bodies for this engine: its model names, recruiters and aggregators are the allowed ones."""
    catalogue = Catalogue(engine)

    def parse(query_id: str, body: Mapping[str, Any]) -> Query:
        try:
            request = ChatRequest.model_validate(body)
        except ValidationError as invalid:
            problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in invalid.errors()]
            raise InvalidQuery(f"body is not a chat request: {invalid_error(problems).message}") from None
        return query_of(request, catalogue.resolve(request.model, controls_of(request)), query_id)

    return parse


def chat_line(line: BatchLine, end: RouteResponse | RouteFailure) -> FinishedEntry:
    """The record of a line that was run: HTTP status and body as the REST door would have answered."""
    kind = line.query.task_format.kind if line.query is not None else AnswerKind.FREE
    report = _without_times(report_of(end, kind=kind))
    if isinstance(end, RouteResponse):
        status = 200
        body = chat_body(end, model=line.model or "", created=_NO_TIME, report=report)
        body["id"] = f"chatcmpl-{request_id(line)}"
    else:
        error = failure_error(end)
        status, body = error.kind.status, {**error.body, "enlist": report}
    output = {
        "id": request_id(line),
        "custom_id": line.id,
        "response": {"status_code": status, "request_id": request_id(line), "body": body},
        "error": None,
    }
    return FinishedEntry(
        number=line.number,
        output=output,
        has_failed=status != 200,
        usage=end.usage,
        is_retryable=is_retryable(end),
        route=route_of(end.decision),
    )


def _without_times(report: dict[str, Any]) -> dict[str, Any]:
    for expert in report["experts"]:
        for entry in (expert, *expert["completions"]):
            entry.pop("latency_s")
    return report
