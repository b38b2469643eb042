"""The error tree: every failure a user can meet, with a stable code, an HTTP status and what to do next.

    RouterError                     internal_error            500
    ├── ConfigError                 config_error              500
    ├── UnknownNameError            unknown_name              404
    ├── InvalidQuery                invalid_query             400
    ├── RoutingError                routing_error             503
    │   └── NoExpertAvailable       no_expert_available       503
    ├── BudgetExceeded              budget_exceeded           402
    ├── ExpertError                 expert_error              502
    │   ├── ExpertTimeout           expert_timeout            504
    │   ├── ExpertUnavailable       expert_unavailable        503
    │   └── ExpertRefused           expert_refused            502
    ├── AggregationError            aggregation_error         502
    │   └── AnswerInvalid           answer_invalid            502
    ├── StoreUnavailable            store_unavailable         503
    └── NotFittedError              not_fitted                500

A failure of one query is data (`RouteFailure` carries the code and the message); only a broken set-up raises.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "AggregationError",
    "AnswerInvalid",
    "BudgetExceeded",
    "ConfigError",
    "ExpertError",
    "ExpertRefused",
    "ExpertTimeout",
    "ExpertUnavailable",
    "InvalidQuery",
    "NoExpertAvailable",
    "NotFittedError",
    "RouterError",
    "RoutingError",
    "StoreUnavailable",
    "UnknownNameError",
    "nearest_name",
]

_NAMES_SHOWN = 20


def nearest_name(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most like `name`, or None where nothing is near (difflib ratio below 0.6)."""
    by_lower = {candidate.lower(): candidate for candidate in allowed}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


class RouterError(Exception):
    """Base of every error raised here; `code` is stable, `http_status` is what the REST door answers."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500

    @property
    def message(self) -> str:
        """What is wrong with which value, what is allowed, and the next step."""
        return str(self)


class ConfigError(RouterError):
    """A configuration file, pool file, option or installation is not usable as it stands."""

    code = "config_error"


class UnknownNameError(RouterError):
    """A name that is not registered; the message suggests the nearest one and lists what is allowed."""

    code = "unknown_name"
    http_status = 404

    def __init__(self, kind: str, name: str, allowed: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.allowed = tuple(sorted(allowed))
        self.nearest = nearest_name(name, self.allowed)
        super().__init__(self._text())

    def _text(self) -> str:
        guess = f" Did you mean {self.nearest!r}?" if self.nearest else ""
        shown = ", ".join(self.allowed[:_NAMES_SHOWN]) or "none is registered"
        more = len(self.allowed) - _NAMES_SHOWN
        tail = f" and {more} more" if more > 0 else ""
        return f"unknown {self.kind} {self.name!r}.{guess} Allowed: {shown}{tail}."


class InvalidQuery(RouterError):
    """The question itself cannot be answered as sent (empty, too long, a malformed part or line)."""

    code = "invalid_query"
    http_status = 400


class RoutingError(RouterError):
    """No decision could be made for the query."""

    code = "routing_error"
    http_status = 503


class NoExpertAvailable(RoutingError):
    """Every expert of the pool was eliminated; the message says by what."""

    code = "no_expert_available"


class BudgetExceeded(RouterError):
    """The budget does not cover what the query needs."""

    code = "budget_exceeded"
    http_status = 402


class ExpertError(RouterError):
    """A call to one expert failed; `retryable` says whether the same call may succeed later."""

    code = "expert_error"
    http_status = 502

    def __init__(
        self, message: str, *, expert_id: str, retryable: bool | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.expert_id = expert_id
        self.retryable = self.is_retryable_by_default if retryable is None else retryable
        self.retry_after_s = retry_after_s

    is_retryable_by_default: ClassVar[bool] = False


class ExpertTimeout(ExpertError):
    """The expert did not answer in time."""

    code = "expert_timeout"
    http_status = 504
    is_retryable_by_default = True


class ExpertUnavailable(ExpertError):
    """The expert could not be reached, loaded or kept alive, or asked us to come back later."""

    code = "expert_unavailable"
    http_status = 503
    is_retryable_by_default = True


class ExpertRefused(ExpertError):
    """The expert understood the call and will not serve it (bad key, bad request, content policy)."""

    code = "expert_refused"


class AggregationError(RouterError):
    """No answer could be made from the completions (all failed, or none held an answer)."""

    code = "aggregation_error"
    http_status = 502


class AnswerInvalid(AggregationError):
    """The answer breaks what the query demands of it (its JSON schema, its tools) and could not be mended; the message
    names the place and the reason."""

    code = "answer_invalid"


class StoreUnavailable(RouterError):
    """Where jobs and their results are kept cannot be read or written now (not reached, disk full, damaged)."""

    code = "store_unavailable"
    http_status = 503


class NotFittedError(RouterError):
    """An estimator was used before `fit` or `load`."""

    code = "not_fitted"
