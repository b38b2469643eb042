"""What a call of the SDK can raise: the service's error tree mirrored, and what can go wrong on the way to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "ApiAggregationError",
    "ApiAnswerInvalid",
    "ApiAuthenticationError",
    "ApiBudgetExceeded",
    "ApiConfigError",
    "ApiConnectionError",
    "ApiError",
    "ApiExpertError",
    "ApiExpertRefused",
    "ApiExpertTimeout",
    "ApiExpertUnavailable",
    "ApiInvalidQuery",
    "ApiNoExpertAvailable",
    "ApiNotFittedError",
    "ApiRoutingError",
    "ApiStoreUnavailable",
    "ApiUnknownNameError",
    "ErrorFacts",
    "error_of",
]

_INTERNAL = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFacts:
    """What the service said of a failure."""

    message: str
    code: str | None = None
    status: int | None = None
    request_id: str | None = None
    param: str | None = None


class ApiError(Exception):
    """The service answered with an error. Every class has the code of its counterpart in the service's error tree.

    `status` is the HTTP status (None where the failure came inside an open stream), `param` the field to blame.
    """

    default_code: ClassVar[str] = "internal_error"

    def __init__(self, facts: ErrorFacts) -> None:
        tail = f" (request {facts.request_id})" if facts.request_id else ""
        super().__init__(f"{facts.message}{tail}")
        self.message = facts.message
        self.code = facts.code or self.default_code
        self.status = facts.status
        self.request_id = facts.request_id
        self.param = facts.param


class ApiConfigError(ApiError):
    """The service's configuration is not usable as it stands."""

    default_code = "config_error"


class ApiUnknownNameError(ApiError):
    """A model, recruiter, aggregator or expert that is not registered; the message names the nearest one."""

    default_code = "unknown_name"


class ApiInvalidQuery(ApiError):
    """The request cannot be answered as sent; `param` names the field."""

    default_code = "invalid_query"


class ApiRoutingError(ApiError):
    """No decision could be made for the query."""

    default_code = "routing_error"


class ApiNoExpertAvailable(ApiRoutingError):
    """Every expert was eliminated; the message says by what."""

    default_code = "no_expert_available"


class ApiBudgetExceeded(ApiError):
    """The budget does not cover what the query needs."""

    default_code = "budget_exceeded"


class ApiExpertError(ApiError):
    """A call to an expert failed."""

    default_code = "expert_error"


class ApiExpertTimeout(ApiExpertError):
    """An expert did not answer in time."""

    default_code = "expert_timeout"


class ApiExpertUnavailable(ApiExpertError):
    """An expert could not be reached, or asked to come back later."""

    default_code = "expert_unavailable"


class ApiExpertRefused(ApiExpertError):
    """An expert understood the call and will not serve it."""

    default_code = "expert_refused"


class ApiAggregationError(ApiError):
    """No answer could be made from the completions."""

    default_code = "aggregation_error"


class ApiAnswerInvalid(ApiAggregationError):
    """The answer breaks the JSON schema or the tools of the request, and could not be mended."""

    default_code = "answer_invalid"


class ApiStoreUnavailable(ApiError):
    """Where the service keeps jobs and results cannot be read or written now."""

    default_code = "store_unavailable"


class ApiNotFittedError(ApiError):
    """A part of the service was used before it was fitted."""

    default_code = "not_fitted"


class ApiAuthenticationError(ApiError):
    """The key is missing or not valid."""

    default_code = "invalid_api_key"


class ApiConnectionError(ApiError):
    """The service was not reached, took too long, or closed the connection before the end."""

    default_code = "connection_error"


def _classes(root: type[ApiError]) -> Iterator[type[ApiError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == __name__:
            yield from _classes(child)


_BY_CODE = {error.default_code: error for error in _classes(ApiError)} | {"model_not_found": ApiUnknownNameError}


def error_of(body: Any, *, status: int | None = None, request_id: str | None = None) -> ApiError:
    """The error that an error body tells of; a body of another shape (a proxy's, say) is judged by its status."""
    error = body.get("error") if isinstance(body, Mapping) else None
    said: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    code = said.get("code") if isinstance(said.get("code"), str) else None
    message = said.get("message") or f"the service answered with HTTP status {status}"
    facts = ErrorFacts(message=str(message), code=code, status=status, request_id=request_id, param=said.get("param"))
    return _BY_CODE.get(code or "", _by_status(status))(facts)


def _by_status(status: int | None) -> type[ApiError]:
    if status in (401, 403):
        return ApiAuthenticationError
    return ApiError if status is None or status >= _INTERNAL else ApiInvalidQuery
