"""Enlist's service: the vocabulary, the engine and its doors. Importing it stays light; the client comes lazily."""

from __future__ import annotations

from typing import Any

from router_service.errors import (
    AggregationError,
    AnswerInvalid,
    BudgetExceeded,
    ConfigError,
    ExpertError,
    ExpertRefused,
    ExpertTimeout,
    ExpertUnavailable,
    InvalidQuery,
    NoExpertAvailable,
    NotFittedError,
    RouterError,
    RoutingError,
    StoreUnavailable,
    UnknownNameError,
)
from router_service.types import (
    Answer,
    AnswerKind,
    Budget,
    Completion,
    Expert,
    Message,
    Outcome,
    Profile,
    Query,
    Question,
    Recruit,
    RouteControls,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    Sampling,
    SkillAnnotation,
    TaskFormat,
    Usage,
    user_query,
)

__version__ = "0.1.0"

_LAZY = {
    "AsyncRouterClient": "router_service.client",
    "RouterClient": "router_service.client",
    "Engine": "router_service.engine",
    "build_engine": "router_service.assembly",
}

__all__ = [
    "AggregationError",
    "Answer",
    "AnswerInvalid",
    "AnswerKind",
    "AsyncRouterClient",
    "Budget",
    "BudgetExceeded",
    "Completion",
    "ConfigError",
    "Engine",
    "Expert",
    "ExpertError",
    "ExpertRefused",
    "ExpertTimeout",
    "ExpertUnavailable",
    "InvalidQuery",
    "Message",
    "NoExpertAvailable",
    "NotFittedError",
    "Outcome",
    "Profile",
    "Query",
    "Question",
    "Recruit",
    "RouteControls",
    "RouteDecision",
    "RouteFailure",
    "RouteResponse",
    "RouterClient",
    "RouterError",
    "RoutingError",
    "Sampling",
    "SkillAnnotation",
    "StoreUnavailable",
    "TaskFormat",
    "UnknownNameError",
    "Usage",
    "build_engine",
    "user_query",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'router_service' has no attribute {name!r}")
