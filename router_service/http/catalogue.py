"""The model names a caller may use: `auto`, `auto/<recruiter>`, and every enabled expert."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from router_service.errors import InvalidQuery, UnknownNameError
from router_service.http.base import EngineLike
from router_service.types import Expert, RouteControls

__all__ = ["MODEL_AUTO", "Catalogue"]

MODEL_AUTO = "auto"

_BYPASSED = ("recruiter", "aggregator", "k", "experts_allowed", "experts_denied")


class Catalogue:
    """Reads names off the engine at each call, so that it is never out of date."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine

    @property
    def experts(self) -> dict[str, Expert]:
        """The enabled experts by id, in pool order."""
        return {expert.id: expert for expert in self._engine.pool.experts if expert.is_enabled}

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names that route."""
        return (MODEL_AUTO, *(f"{MODEL_AUTO}/{name}" for name in self._engine.recruiter_names))

    @property
    def names(self) -> tuple[str, ...]:
        """Everything `model` may be."""
        return (*self.aliases, *(name for name in self.experts if name not in self.aliases))

    def resolve(self, model: str, controls: RouteControls) -> RouteControls:
        """`controls` with what the model name decides; every name in them is checked before any work is done.

        Raises `UnknownNameError` for a name that is not registered, `InvalidQuery` where two names contradict.
        """
        self._check_names(controls)
        if model == MODEL_AUTO:
            return controls
        if model in self.aliases:
            return _with_recruiter(controls, model)
        if model in self.experts:
            return _bypass(controls, model)
        raise UnknownNameError("model", model, self.names)

    def _check_names(self, controls: RouteControls) -> None:
        if controls.recruiter is not None:
            _require("recruiter", [controls.recruiter], self._engine.recruiter_names)
        if controls.aggregator is not None:
            _require("aggregator", [controls.aggregator], self._engine.aggregator_names)
        _require("expert", [*controls.experts_allowed, *controls.experts_denied], self.experts)


def _require(kind: str, names: Sequence[str], allowed: Iterable[str]) -> None:
    known = set(allowed) if names else set()
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)


def _with_recruiter(controls: RouteControls, model: str) -> RouteControls:
    recruiter = model.removeprefix(f"{MODEL_AUTO}/")
    if controls.recruiter not in (None, recruiter):
        raise InvalidQuery(
            f"model {model!r} and enlist.recruiter {controls.recruiter!r} name different recruiters; send one of them"
        )
    return replace(controls, recruiter=recruiter)


def _bypass(controls: RouteControls, expert_id: str) -> RouteControls:
    sent = [f"enlist.{name}" for name in _BYPASSED if getattr(controls, name)]
    if sent:
        raise InvalidQuery(
            f"model {expert_id!r} is one expert and bypasses routing, so {', '.join(sent)} would have no effect; "
            f"leave it out, or use model {MODEL_AUTO!r} with enlist.experts_allowed"
        )
    return replace(controls, expert=expert_id)
