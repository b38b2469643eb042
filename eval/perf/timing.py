"""What benches share: timed calls, medians and percentiles, and the machine that the figures belong to."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Latency", "latency", "machine", "per_second", "timed", "today"]

_VERSIONS = ("numpy", "faiss-cpu", "onnxruntime", "tokenizers")
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of many calls, in milliseconds: by the clock, and what the thread itself worked, which others' load spares."""

    p50_ms: float
    p99_ms: float
    p50_cpu_ms: float
    p99_cpu_ms: float


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call: by the clock, and of this thread's work."""
    clock, worked = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - clock, time.thread_time() - worked


def latency(passes: Sequence[Sequence[tuple[float, float]]]) -> Latency:
    """Percentiles of each pass over the same calls, then the median over the passes."""
    by_clock = [[clock * 1e3 for clock, _ in times] for times in passes]
    worked = [[cpu * 1e3 for _, cpu in times] for times in passes]

    def median(rows: Sequence[Sequence[float]], percent: float) -> float:
        return statistics.median(float(np.percentile(row, percent)) for row in rows)

    return Latency(
        p50_ms=median(by_clock, 50),
        p99_ms=median(by_clock, 99),
        p50_cpu_ms=median(worked, 50),
        p99_cpu_ms=median(worked, 99),
    )


def per_second(count: int, times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """How many a second, by the clock and by this thread's work: medians over repetitions."""
    return (
        count / statistics.median(clock for clock, _ in times),
        count / statistics.median(max(cpu, 1e-9) for _, cpu in times),
    )


def machine() -> dict[str, object]:
    """The kind of machine, never which one: processor, cores, memory, load, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _VERSIONS},
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def today() -> str:
    """The date (UTC), ISO 8601."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _cpu_name() -> str:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
