"""Symbolic-MoE's own scene on made-up time: 16 experts on one GPU, 198 questions, three experts each."""

from __future__ import annotations

import random
from dataclasses import dataclass

from router_service.backends.base import Device, Footprint
from router_service.dispatch.scheduler import SchedulerSettings, Work
from router_service.dispatch.simulate import per_question, simulate

__all__ = ["SimulatedSpeedup", "paper_scene", "simulated_speedup"]

_EXPERTS, _QUESTIONS, _K = 16, 198, 3
_NAIVE_S, _GROUPED_S = 196.92, 25.76
"""Seconds a question (Symbolic-MoE, arXiv:2503.05641, efficiency on GPQA): loading per question, and grouped."""

_RUN_S = (_GROUPED_S * _QUESTIONS - _EXPERTS * _NAIVE_S / _K) / (_QUESTIONS * _K - _EXPERTS)
_LOAD_S = _NAIVE_S / _K - _RUN_S
"""What one request and one load take for both figures to come out: 3 (load + run) = 196.92 a question, and 16 loads
and 594 runs = 198 * 25.76 in all. About 7.0 s and 58.6 s. So grouping saves the paper's 7.6 times here by construction
where no model is loaded twice; what loading ahead saves beyond that is the scheduler's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSpeedup:
    """How much faster the wave is than the loop over questions, one model in memory at a time, and with room for the
    next one beside it; with the loads of each."""

    grouped: float
    grouped_prefetch: float
    naive_loads: int
    grouped_loads: int


def paper_scene(seed: int = 0) -> list[Work]:
    """One work of one request per question and expert, three different experts a question, drawn with a mild skew."""
    rng = random.Random(seed)
    works = []
    for question in range(_QUESTIONS):
        left = list(range(_EXPERTS))
        for _ in range(_K):
            expert = rng.choices(left, [1 / (number + 4) for number in left])[0]
            left.remove(expert)
            footprint = Footprint(model=f"m{expert}", turn=f"m{expert}", memory_gib=40.0, load_s=_LOAD_S)
            name = f"q{question}"
            works.append(Work(id=f"{name}/{expert}", footprint=footprint, run_s=_RUN_S, queries=frozenset({name})))
    return works


def simulated_speedup(seed: int = 0) -> SimulatedSpeedup:
    """The paper's scene by the scheduler that serves, against the loop over questions."""
    works = paper_scene(seed)
    small, large = (Device(name="gpu", memory_gib=gib) for gib in (40.0, 80.0))
    naive = per_question([small], works)
    alone = simulate([small], works, SchedulerSettings(prefetches=False))
    ahead = simulate([large], works, SchedulerSettings())
    return SimulatedSpeedup(
        grouped=naive.makespan_s / alone.makespan_s,
        grouped_prefetch=naive.makespan_s / ahead.makespan_s,
        naive_loads=naive.load_count,
        grouped_loads=alone.load_count,
    )
