"""What of a request had no effect, as only its route can tell: whoever recruited or annotated does not read it."""

from __future__ import annotations

import inspect

from router_service.recruit.base import RECRUITERS
from router_service.types import DecisionMade, Query, RouteDecision, RouteFailure, RouteResponse, SkillAnnotation

__all__ = ["caveats_of"]

_READS_SKILLS = "recorded"


def caveats_of(query: Query, end: RouteResponse | RouteFailure | DecisionMade) -> tuple[str, ...]:
    """One sentence for each control of the query that was not used, with the reason."""
    caveats = (_unused_k(query, end.decision), _unused_skills(query, end.annotation))
    return tuple(caveat for caveat in caveats if caveat is not None)


def _unused_k(query: Query, decision: RouteDecision | None) -> str | None:
    if query.controls.k is None or decision is None or _takes_k(decision.recruiter):
        return None
    return f"enlist.k is ignored: recruiter '{decision.recruiter}' decides itself how many completions it asks for"


def _takes_k(recruiter: str) -> bool:
    """True also for a recruiter that is not registered: nothing is known against it."""
    is_known = recruiter in RECRUITERS.names()
    return not is_known or "k" in inspect.signature(RECRUITERS.factory(recruiter)).parameters


def _unused_skills(query: Query, annotation: SkillAnnotation | None) -> str | None:
    if "skills" not in query.metadata or annotation is None or annotation.annotator == _READS_SKILLS:
        return None
    return f"enlist.skills is ignored: annotator '{annotation.annotator}' does not read it, '{_READS_SKILLS}' does"
