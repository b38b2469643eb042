"""Every failure as an OpenAI error body: one table of codes, read off the error tree, and the app's handlers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from router_service.errors import ExpertError, ExpertTimeout, RouterError, UnknownNameError
from router_service.http.encoding import WireJson
from router_service.types import RouteFailure, Usage

__all__ = [
    "ERRORS",
    "ErrorKind",
    "WireError",
    "defect_error",
    "error_response",
    "failure_error",
    "handle_errors",
    "invalid_error",
    "router_error",
]

_log = logging.getLogger(__name__)

_PROBLEMS_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorKind:
    """How a code is answered: HTTP status, OpenAI type, and whether to send the same request once more."""

    status: int
    type: str
    is_retryable: bool = False


def _tree(root: type[RouterError]) -> Iterator[type[RouterError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == RouterError.__module__:
            yield from _tree(child)


def _kind(error: type[RouterError]) -> ErrorKind:
    """Sending a request once more is for the caller to decide where experts worked on it already: a timeout may be
    paid for, and the deadline was the caller's."""
    passes = issubclass(error, ExpertError) and error.is_retryable_by_default
    retryable = passes and not issubclass(error, ExpertTimeout)
    return ErrorKind(status=error.http_status, type=_type(error.http_status), is_retryable=retryable)


def _type(status: int) -> str:
    special = {401: "authentication_error", 402: "insufficient_quota"}
    return special.get(status, "invalid_request_error" if status < 500 else "server_error")


ERRORS: Mapping[str, ErrorKind] = {error.code: _kind(error) for error in _tree(RouterError)} | {
    "invalid_api_key": ErrorKind(status=401, type=_type(401)),
    "model_not_found": ErrorKind(status=404, type=_type(404)),
    "not_found": ErrorKind(status=404, type=_type(404)),
    "method_not_allowed": ErrorKind(status=405, type=_type(405)),
    "request_too_large": ErrorKind(status=413, type=_type(413)),
    "unsupported_media_type": ErrorKind(status=415, type=_type(415)),
    "client_disconnected": ErrorKind(status=499, type=_type(499)),
}
"""Every code that an answer of the door can carry: the error tree's, and the door's own."""

_PARAMS = {"model": "model", "recruiter": "enlist.recruiter", "aggregator": "enlist.aggregator"}
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WireError:
    """An error as the caller sees it."""

    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    is_paid_for: bool = False

    @property
    def kind(self) -> ErrorKind:
        """How it is answered; a code that is not in the table counts as internal."""
        return ERRORS.get(self.code, ERRORS[RouterError.code])

    @property
    def body(self) -> dict[str, Any]:
        """The OpenAI error body."""
        error = {"message": self.message, "type": self.kind.type, "code": self.code, "param": self.param}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Whether and when to try again, as the OpenAI client reads it."""
        headers = {"x-should-retry": str(self.kind.is_retryable and not self.is_paid_for).lower()}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(self.retry_after_s))
        return headers


def failure_error(failure: RouteFailure) -> WireError:
    """A failed query as an error; it waits for the first expert that said when to come back."""
    waits = [c.error.retry_after_s for c in failure.completions if c.error and c.error.retry_after_s is not None]
    param = "messages" if failure.code == "invalid_query" else None
    return WireError(
        code=failure.code,
        message=failure.message,
        param=param,
        retry_after_s=min(waits, default=None),
        is_paid_for=_has_cost(failure.usage),
    )


def _has_cost(usage: Usage) -> bool:
    """True where something was spent, or may have been."""
    return bool(usage.prompt_tokens or usage.completion_tokens) or usage.cost_usd != 0


def error_response(error: WireError, extra: Mapping[str, Any] | None = None) -> WireJson:
    """The whole response; `extra` stands in the body beside the error."""
    return WireJson({**error.body, **(extra or {})}, status_code=error.kind.status, headers=error.headers)


def handle_errors(app: FastAPI) -> None:
    """Answer every foreseen error with an OpenAI error body; `Observer` answers the others."""
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(RouterError, _on_router_error)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_invalid(request: Request, error: Exception) -> WireJson:
    assert isinstance(error, RequestValidationError)
    return error_response(_media_type_error(request, error) or invalid_error(error.errors()))


def _media_type_error(request: Request, error: RequestValidationError) -> WireError | None:
    """A body that was not read as JSON because it was not declared as JSON."""
    declared = request.headers.get("content-type", "")
    if error.body is None or isinstance(error.body, dict | list) or "json" in declared:
        return None
    message = f"content-type is {declared!r}; send the body as JSON with content-type 'application/json'"
    return WireError(code="unsupported_media_type", message=message)


def invalid_error(problems: Any) -> WireError:
    """Validation problems as one error; `param` is the first one's place, the message names every one's."""
    places = [_place(problem) for problem in problems]
    texts = [
        f"{place}: {problem['msg']}" if place else problem["msg"]
        for place, problem in zip(places, problems, strict=True)
    ]
    more = f" (and {len(texts) - _PROBLEMS_SHOWN} more)" if len(texts) > _PROBLEMS_SHOWN else ""
    return WireError(code="invalid_query", message="; ".join(texts[:_PROBLEMS_SHOWN]) + more, param=places[0] or None)


def _place(problem: Mapping[str, Any]) -> str:
    """Where in the body, with dots: `messages.0.content`; an unknown or unsupported parameter counts as a place."""
    place = [str(part) for part in problem["loc"][1:]]
    if problem["type"] == "json_invalid":
        return ""
    if problem["type"] in ("unknown_parameter", "unsupported_parameter", "invalid_text"):
        place.append(str(problem["ctx"]["name"]))
    return ".".join(place)


async def _on_router_error(request: Request, error: Exception) -> WireJson:
    assert isinstance(error, RouterError)
    return error_response(router_error(error))


def router_error(error: RouterError) -> WireError:
    """A raised error of the tree as the caller sees it; an unknown model is OpenAI's `model_not_found`."""
    if isinstance(error, UnknownNameError):
        code = "model_not_found" if error.kind == "model" else error.code
        return WireError(code=code, message=error.message, param=_PARAMS.get(error.kind))
    waits = error.retry_after_s if isinstance(error, ExpertError) else None
    return WireError(code=error.code, message=error.message, retry_after_s=waits)


async def _on_http_error(request: Request, error: Exception) -> WireJson:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "invalid_query")
    response = error_response(WireError(code=code, message=_explain(request, error)))
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


def _explain(request: Request, error: HTTPException) -> str:
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method} is not allowed on {path}; use {allowed}"
    if error.status_code == 404:
        return f"there is no {path}; there are {', '.join(sorted(request.app.openapi()['paths']))}"
    return str(error.detail)


def defect_error(error: Exception, scope: Mapping[str, Any]) -> WireError:
    """An error that nobody foresaw, logged with its trace."""
    request_id = scope.get("state", {}).get("request_id", "")
    _log.error("request %s broke", request_id, exc_info=error)
    return WireError(code=RouterError.code, message=f"this is a defect of the service; its log has it as {request_id}")
