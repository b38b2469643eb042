"""The recruiter's contract: annotated queries in, decisions out; pure, whole batches at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from router_service.plugins import Registry
from router_service.types import Completion, Expert, Outcome, Profile, Query, Recruit, RouteDecision, SkillAnnotation

__all__ = ["RECRUITERS", "FitData", "RecruitRequest", "Recruiter", "SequentialRecruiter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitData:
    """All a recruiter may learn from: the pool, its profiles, and the graded outcomes with their annotations.

    `annotations` is keyed by question id. A recruiter takes what it needs and says clearly what is missing.
    """

    experts: tuple[Expert, ...]
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = ()
    annotations: Mapping[str, SkillAnnotation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecruitRequest:
    """One query to recruit for; `seed` is the query's own, `completions` are there when asked again.

    `query.budget` is what is left of the query's budget after its annotation and the completions so far.
    """

    query: Query
    annotation: SkillAnnotation
    seed: int = 0
    completions: tuple[Completion, ...] = ()


@runtime_checkable
class Recruiter(Protocol):
    """Chooses experts. `k` completions per query unless the query's controls say otherwise; never over its budget."""

    needs_annotation: bool

    def fit(self, data: FitData) -> Recruiter:
        """Learn; returns itself. Recruiting before it raises `NotFittedError`."""
        ...

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        """One decision per request, in order. A decision without recruits says why in `eliminated`."""
        ...


@runtime_checkable
class SequentialRecruiter(Recruiter, Protocol):
    """A recruiter that looks at the completions so far before it asks for more."""

    def extend(self, requests: Sequence[RecruitRequest]) -> list[tuple[Recruit, ...]]:
        """Further recruits per request, in order; an empty tuple ends the asking for that query."""
        ...


RECRUITERS: Registry[Recruiter] = Registry("recruiter", "router_service.recruit")
