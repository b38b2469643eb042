"""The bench of routing as one document: figures, the aims they are held to, the machine and the date."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace

from eval.perf.decisions import DecisionSpeed, decision_speeds, growth
from eval.perf.embedding import EmbeddingCost, embedding_costs
from eval.perf.scene import Scale, Scene
from eval.perf.timing import machine, today
from router_service.config import EngineConfig
from router_service.recruit.base import RECRUITERS

__all__ = ["Aim", "RoutingBench", "RoutingReport", "measure"]

FORMAT = "enlist-perf-routing/1"
RECRUIT_PER_S = 20_000.0
"""Questions a second, recruiting alone, 32 experts and 1,200 skills, one core."""
DECISION_P99_MS = 1.0
COLD_OVER_EMBEDDING = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingBench:
    """What to measure; an empty list of recruiters is every registered one."""

    scale: Scale = field(default_factory=Scale)
    growth_experts: tuple[int, ...] = (16, 64, 256, 1000)
    growth_fit_questions: int = 300
    growth_queries: int = 512
    recruiters: tuple[str, ...] = ()
    embedders: tuple[str, ...] = ("minilm_onnx", "wordllama", "hashing")
    texts: int = 64
    repeats: int = 5
    max_fit_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """One figure against what it is to reach."""

    what: str
    of: str
    value: float
    value_cpu: float
    """The same by the work of this process alone, which other load on the machine spares."""
    limit: float
    is_met: bool
    is_met_cpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingReport:
    """All figures of one run; `as_json` is the document that is written."""

    bench: RoutingBench
    recruiters: tuple[DecisionSpeed, ...]
    growth: tuple[DecisionSpeed, ...]
    embedders: tuple[EmbeddingCost, ...]
    machine: dict[str, object]
    date: str

    @property
    def aims(self) -> tuple[Aim, ...]:
        """Every recruiter's speed and the cold decision of the built-in embedder, each against its aim."""
        found = []
        for speed in self.recruiters:
            if speed.recruit_per_s is not None and speed.recruit_per_cpu_s is not None:
                pair = (speed.recruit_per_s, speed.recruit_per_cpu_s)
                found.append(_aim("recruit_per_s", speed.recruiter, pair, at_least=RECRUIT_PER_S))
            if speed.decision_p99_ms is not None and speed.decision_p99_cpu_ms is not None:
                pair = (speed.decision_p99_ms, speed.decision_p99_cpu_ms)
                found.append(_aim("decision_p99_ms", speed.recruiter, pair, at_most=DECISION_P99_MS))
        for cost in self.embedders:
            ratio, ratio_cpu = cost.cold_over_embedding, cost.cold_over_embedding_cpu
            if cost.embedder == "minilm_onnx" and ratio is not None and ratio_cpu is not None:
                found.append(
                    _aim("cold_over_embedding", cost.embedder, (ratio, ratio_cpu), at_most=COLD_OVER_EMBEDDING)
                )
        return tuple(found)

    def as_json(self) -> dict[str, object]:
        """Plain values, for one JSON document."""
        return {
            "format": FORMAT,
            "date": self.date,
            "machine": self.machine,
            "scale": asdict(self.bench.scale),
            "aims": _rows(self.aims),
            "recruiters": _rows(self.recruiters),
            "growth": _rows(self.growth),
            "embedders": _rows(self.embedders),
        }


def measure(bench: RoutingBench, *, progress: Callable[[str], None] = lambda _: None) -> RoutingReport:
    """Run the whole bench; `progress` is told what is under way."""
    names = bench.recruiters or RECRUITERS.names()
    about = machine()  # the load before the bench makes its own
    progress(f"decisions of {len(names)} recruiters among {bench.scale.experts} experts")
    scene = Scene(bench.scale)
    speeds = decision_speeds(scene, names, repeats=bench.repeats)
    progress(f"embedding with {', '.join(bench.embedders)}")
    default = EngineConfig().recruiter.name
    costs = embedding_costs(
        bench.embedders, scene, recruiter=default, texts=bench.texts, repeats=max(1, bench.repeats // 2)
    )
    progress(f"growth over {', '.join(map(str, bench.growth_experts))} experts")
    small = replace(bench.scale, fit_questions=bench.growth_fit_questions, queries=bench.growth_queries)
    grown = growth(
        bench.growth_experts, names, scale=small, repeats=max(1, bench.repeats // 2), max_fit_s=bench.max_fit_s
    )
    return RoutingReport(
        bench=bench,
        recruiters=tuple(speeds),
        growth=tuple(grown),
        embedders=tuple(costs),
        machine=about,
        date=today(),
    )


def _aim(
    what: str, of: str, values: tuple[float, float], *, at_least: float = -math.inf, at_most: float = math.inf
) -> Aim:
    """The aim with one of the two limits; `values` are by the clock and by this process's work."""
    by_clock, by_work = values
    return Aim(
        what=what,
        of=of,
        value=by_clock,
        value_cpu=by_work,
        limit=at_most if math.isfinite(at_most) else at_least,
        is_met=at_least <= by_clock <= at_most,
        is_met_cpu=at_least <= by_work <= at_most,
    )


def _rows(values: Iterable[Aim | DecisionSpeed | EmbeddingCost]) -> list[dict[str, object]]:
    return [asdict(value) for value in values]
