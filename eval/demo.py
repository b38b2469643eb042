"""The demonstration: profile real local experts, then answer held-out questions by routing and by each one alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eval.grading import grade, question_query
from eval.metrics import bootstrap_interval, paired_difference
from eval.reuse import ReusingBackend
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.assembly import asking_only, build_engine
from router_service.config import EngineConfig, PartConfig
from router_service.types import Question, RouteControls, RouteFailure, RouteResponse

__all__ = ["DemoReport", "DemoRow", "compare", "summarise", "write_report"]

RECRUITED = (("auto", "auto"), ("symbolic", "weighted"), ("symbolic", "majority"), ("fixed", "majority"))
"""(recruiter, aggregator) rows of the table, besides each expert alone; `fixed` asks the k best experts on fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRow:
    """One strategy on the test questions; `per_category` is its accuracy on each, `new_calls` what it asked anew."""

    name: str
    accuracy: float
    ci95: tuple[float, float]
    calls_per_query: float
    per_category: Mapping[str, float]
    grades: tuple[float, ...]
    new_calls: int
    wall_s: float

    def record(self) -> dict[str, object]:
        """The row as JSON, single grades left out."""
        return {key: value for key, value in asdict(self).items() if key != "grades"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """All rows, the expert that is best on fit, and what each panel gains over it: mean, low, high of 95 %."""

    rows: tuple[DemoRow, ...]
    best_single: str
    gains: Mapping[str, tuple[float, float, float]]

    def row(self, name: str) -> DemoRow:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def compare(
    pool: Pool,
    artefact: Artefact,
    questions: Sequence[Question],
    *,
    backends: Mapping[str, ReusingBackend],
    config: EngineConfig,
) -> Iterator[DemoRow]:
    """Answer the questions by routing first (every model loaded from cold), then by the fixed panel and each expert.

    A completion that an earlier row got already is not asked for again: with greedy decoding it would be the same.
    """
    for recruiter, aggregator in RECRUITED:
        parts = {"recruiter": PartConfig(name=recruiter), "aggregator": PartConfig(name=aggregator)}
        strategy = config.model_copy(update=parts)
        label = f"{recruiter} {config.k} + {aggregator}"
        yield _row(label, _Run(pool, artefact, backends, strategy), questions)
    for expert in pool.enabled:
        yield _row(expert.id, _Run(pool, artefact, backends, asking_only(config), expert.id), questions)


def summarise(rows: Sequence[DemoRow], artefact: Artefact) -> DemoReport:
    """Which expert is best on the fit questions, and what each recruited panel gains over it on the test questions."""
    alone = [row for row in rows if row.name in artefact.profiles]
    best = max(alone, key=lambda row: artefact.profiles[row.name].overall.rate())
    gains = {}
    for row in rows:
        if row not in alone:
            difference = paired_difference(row.grades, best.grades)
            gains[row.name] = (difference.mean, difference.low, difference.high)
    return DemoReport(rows=tuple(rows), best_single=best.name, gains=gains)


@dataclass(frozen=True, slots=True)
class _Run:
    """One strategy: an engine's parts, and the expert that alone is to answer, where there is one."""

    pool: Pool
    artefact: Artefact
    backends: Mapping[str, ReusingBackend]
    config: EngineConfig
    expert_id: str | None = None

    async def __call__(self, questions: Sequence[Question]) -> list[RouteResponse | RouteFailure]:
        engine = build_engine(self.config, pool=self.pool, artefact=self.artefact, backends=self.backends)
        controls = RouteControls(expert=self.expert_id, waits_for_all=True)
        return await engine.run([replace(question_query(question), controls=controls) for question in questions])


def _row(name: str, run: _Run, questions: Sequence[Question]) -> DemoRow:
    asked = sum(backend.asked for backend in run.backends.values())
    started = time.perf_counter()
    ends = asyncio.run(run(questions))
    wall_s = time.perf_counter() - started
    grades = [_grade(end, question) for end, question in zip(ends, questions, strict=True)]
    calls = [len(end.completions) for end in ends]
    by_category: dict[str, list[float]] = {}
    for question, value in zip(questions, grades, strict=True):
        by_category.setdefault(question.category or "", []).append(value)
    return DemoRow(
        name=name,
        accuracy=sum(grades) / len(grades),
        ci95=bootstrap_interval(grades),
        calls_per_query=sum(calls) / len(calls),
        per_category={category: sum(values) / len(values) for category, values in sorted(by_category.items())},
        grades=tuple(grades),
        new_calls=sum(backend.asked for backend in run.backends.values()) - asked,
        wall_s=wall_s,
    )


def _grade(end: RouteResponse | RouteFailure, question: Question) -> float:
    return 0.0 if isinstance(end, RouteFailure) else grade(end.answer.extracted, question)


def write_report(path: Path, report: DemoReport) -> None:
    """The report as JSON, so that figures in the docs can be traced to a file."""
    record = {
        "best_single": report.best_single,
        "gains_over_best_single": {name: list(gain) for name, gain in report.gains.items()},
        "rows": [row.record() for row in report.rows],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
