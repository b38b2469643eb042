"""How long recruiting takes once queries are annotated: one alone (median, 99th percentile), and all at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router_service.recruit.base import Recruiter, RecruitRequest
from router_service.types import RouteDecision

__all__ = ["DecisionTimes", "time_decisions"]

_SINGLES = 300
_WARM_UP = 10
_LEAST = 50
_PATIENCE_S = 3.0
"""A recruiter that takes its time is timed on fewer queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTimes:
    """Milliseconds for one query alone, queries a second in one batch, and the batch's decisions."""

    median_ms: float
    p99_ms: float
    decisions_per_s: float
    decisions: tuple[RouteDecision, ...]


def time_decisions(
    recruiter: Recruiter, requests: Sequence[RecruitRequest], *, singles: int = _SINGLES
) -> DecisionTimes:
    """Decide all requests at once, then up to `singles` of them, spread evenly, one by one; raises what deciding does.

    Wall-clock times of this process: comparable within one run on one machine, no more.
    """
    for request in requests[:_WARM_UP]:
        recruiter.recruit([request])
    started = time.perf_counter()
    decisions = recruiter.recruit(requests)
    batch_s = time.perf_counter() - started
    times_s: list[float] = []
    ends = time.perf_counter() + _PATIENCE_S
    for request in requests[:: max(1, -(-len(requests) // singles))]:
        if len(times_s) >= _LEAST and time.perf_counter() > ends:
            break
        started = time.perf_counter()
        recruiter.recruit([request])
        times_s.append(time.perf_counter() - started)
    return DecisionTimes(
        median_ms=1000 * float(np.median(times_s)),
        p99_ms=1000 * float(np.percentile(times_s, 99)),
        decisions_per_s=len(requests) / max(batch_s, 1e-9),
        decisions=tuple(decisions),
    )
