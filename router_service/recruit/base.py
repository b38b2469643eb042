"""The recruiter's contract: annotated queries in, decisions out; pure, whole batches at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from router_service.plugins import Registry
from router_service.types import Ask, Completion, Expert, FitData, Query, Recruit, RouteDecision, SkillAnnotation

__all__ = [
    "RECRUITERS",
    "ConsultingRecruiter",
    "ExplainingRecruiter",
    "FitData",
    "RecruitRequest",
    "Recruiter",
    "SavableRecruiter",
    "SequentialRecruiter",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecruitRequest:
    """One query to recruit for; `seed` is the query's own, `completions` are there when asked again.

    `query.budget` is what is left of the query's budget after its annotation and the completions so far. `advice` is
    what a consulted LLM said (`ConsultingRecruiter`), None where nobody was asked or the asking failed.
    """

    query: Query
    annotation: SkillAnnotation
    seed: int = 0
    completions: tuple[Completion, ...] = ()
    advice: str | None = None


@runtime_checkable
class Recruiter(Protocol):
    """Chooses experts. `k` completions per query unless the query's controls say otherwise; never over its budget.

    A recruiter that goes by embeddings has a true attribute `needs_embeddings`: it is fitted with embedded annotations,
    and decides without one (another annotator, say) by a fallback that its decision names. Options are attributes of
    the same names, as in scikit-learn.
    """

    needs_annotation: bool

    def fit(self, data: FitData) -> Recruiter:
        """Learn; returns itself. Recruiting before it raises `NotFittedError`."""
        ...

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        """One decision per request, in order. A decision without recruits says why in `eliminated`."""
        ...


@runtime_checkable
class SavableRecruiter(Recruiter, Protocol):
    """A recruiter that keeps what it learned in a file, as every built-in one does."""

    def save(self, path: str | Path) -> None:
        """Write what was learned to one file; raises `NotFittedError` before `fit`."""
        ...

    def load(self, path: str | Path, *, experts: Sequence[Expert]) -> Recruiter:
        """Take the state that `save` wrote, for a pool of the same experts; returns itself. `ConfigError` where the
        file is missing, damaged, of another format, or was fitted with other options or experts."""
        ...


@runtime_checkable
class SequentialRecruiter(Recruiter, Protocol):
    """A recruiter that looks at the completions so far before it asks for more.

    One that decides some queries in one shot may say so by `is_final(decision: RouteDecision) -> bool`: the tokens of a
    single expert can then be shown as they come.
    """

    def extend(self, requests: Sequence[RecruitRequest]) -> list[tuple[Recruit, ...]]:
        """Further recruits per request, in order; an empty tuple ends the asking for that query."""
        ...


@runtime_checkable
class ConsultingRecruiter(Recruiter, Protocol):
    """A recruiter that has an LLM read the queries first; deciding itself stays pure."""

    async def consult(self, requests: Sequence[RecruitRequest], *, ask: Ask) -> list[RecruitRequest]:
        """The requests, in order, with `advice` where it could be had; `ask` is budgeted like an annotator's."""
        ...


@runtime_checkable
class ExplainingRecruiter(Recruiter, Protocol):
    """A recruiter that can say what its decisions rest on; `enlist route --explain` prints it."""

    def explain(self, request: RecruitRequest) -> list[str]:
        """Lines for people on why `recruit` decides the request as it does; pure. `NotFittedError` before `fit`."""
        ...


RECRUITERS: Registry[Recruiter] = Registry("recruiter", "router_service.recruit")
