"""What the bench of the scheduler measures: waves against the bound and a naive server, waits, growth, examples."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from eval.perf._scheduler_bound import longest_waits_s, lower_bound_s
from eval.perf._scheduler_traces import Trace, offline_traces, online_trace
from eval.perf.timing import machine, today
from router_service.backends.base import Device, Footprint
from router_service.dispatch.scheduler import SchedulerSettings, Work
from router_service.dispatch.simulate import first_come_first_served, per_question, simulate

__all__ = ["Growth", "OnlineResult", "SchedulerBench", "SchedulerReport", "WaveResult", "examples", "measure"]

_AT_ONCE = SchedulerSettings(window_s=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerBench:
    """How much is measured; growth is (experts, requests)."""

    traces: int = 200
    online_traces: int = 20
    online_queries: int = 1000
    growth: tuple[tuple[int, int], ...] = ((10, 1_000), (100, 10_000), (1_000, 100_000))
    growth_devices: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveResult:
    """One wave: makespans in seconds, loads, and how the wave was drawn."""

    trace: int
    devices: int
    models: int
    works: int
    models_per_device: int
    run_over_load: float
    makespan_s: float
    bound_s: float
    fcfs_makespan_s: float
    loads: int
    fcfs_loads: int
    wall_s: float

    @property
    def over_bound(self) -> float:
        """Makespan over the lower bound, at least 1."""
        return self.makespan_s / self.bound_s


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineResult:
    """One online trace: waits in seconds, the most that a wait took of what the fairness rule allows, loads."""

    trace: int
    devices: int
    models: int
    longest_wait_s: float
    fcfs_longest_wait_s: float
    median_wait_s: float
    fcfs_median_wait_s: float
    wait_over_allowed: float
    loads: int
    fcfs_loads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Planning and the simulator's clock together, for so many works of one request each."""

    experts: int
    requests: int
    online: bool
    wall_s: float
    us_per_event: float
    loads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerReport:
    """All figures."""

    waves: list[WaveResult]
    online: list[OnlineResult]
    growth: list[Growth]
    golden: Mapping[str, float]
    bench: SchedulerBench
    machine: Mapping[str, object] = field(default_factory=machine)
    date: str = field(default_factory=today)

    def as_json(self) -> dict[str, object]:
        """The summary's fields first, then every row."""
        ratios = [wave.over_bound for wave in self.waves]
        return {
            "makespan_over_bound_median": statistics.median(ratios),
            "makespan_over_bound_max": max(ratios),
            "waves_over_1_10": sum(ratio > 1.10 for ratio in ratios),
            "waves_over_1_25": sum(ratio > 1.25 for ratio in ratios),
            "fcfs_makespan_over_ours_median": statistics.median(w.fcfs_makespan_s / w.makespan_s for w in self.waves),
            "fcfs_loads_over_ours_median": statistics.median(w.fcfs_loads / w.loads for w in self.waves),
            "loads_over_models_median": statistics.median(w.loads / w.models for w in self.waves),
            "wait_over_allowed_max": max((o.wait_over_allowed for o in self.online), default=0.0),
            "fcfs_longest_wait_over_ours_median": statistics.median(
                [o.fcfs_longest_wait_s / o.longest_wait_s for o in self.online] or [0.0]
            ),
            "golden": dict(self.golden),
            "growth": [asdict(row) for row in self.growth],
            "online": [asdict(row) for row in self.online],
            "waves": [{**asdict(row), "over_bound": row.over_bound} for row in self.waves],
            "bench": asdict(self.bench),
            "machine": dict(self.machine),
            "date": self.date,
        }


def measure(bench: SchedulerBench, *, progress: Callable[[str], None] = lambda text: None) -> SchedulerReport:
    """Run everything; the waves are the same for the same seed, and so is all but the times it takes."""
    waves = []
    for trace in offline_traces(bench.traces, seed=bench.seed):
        waves.append(_wave(trace))
        if len(waves) % 20 == 0:
            progress(f"{len(waves)} of {bench.traces} waves")
    online = [_online(online_trace(bench.seed + n, queries=bench.online_queries)) for n in range(bench.online_traces)]
    growth = []
    for experts, requests in bench.growth:
        for is_online in (False, True):
            growth.append(_growth(bench, experts, requests, is_online=is_online))
            progress(f"growth: {growth[-1]}")
    return SchedulerReport(waves=waves, online=online, growth=growth, golden=examples(), bench=bench)


def _wave(trace: Trace) -> WaveResult:
    begun = time.perf_counter()
    report = simulate(trace.devices, trace.works, _AT_ONCE)
    wall_s = time.perf_counter() - begun
    fcfs = first_come_first_served(trace.devices, _in_order_of_queries(trace.works))
    return WaveResult(
        trace=trace.seed,
        devices=len(trace.devices),
        models=trace.models,
        works=len(trace.works),
        models_per_device=trace.models_per_device,
        run_over_load=trace.run_over_load,
        makespan_s=report.makespan_s,
        bound_s=lower_bound_s(trace.devices, trace.works),
        fcfs_makespan_s=fcfs.makespan_s,
        loads=report.load_count,
        fcfs_loads=fcfs.load_count,
        wall_s=wall_s,
    )


def _in_order_of_queries(works: tuple[Work, ...]) -> list[Work]:
    """As they would come without grouping by model: by the first query each answers for."""
    return sorted(works, key=lambda work: min(int(query.removeprefix("q")) for query in work.queries))


def _online(trace: Trace) -> OnlineResult:
    settings = SchedulerSettings()
    report = simulate(trace.devices, trace.works, settings)
    ends_s = {span.what: span.end_s for span in report.timeline if span.kind == "run"}
    allowed = longest_waits_s(trace.works, ends_s, settings)
    fcfs = first_come_first_served(trace.devices, trace.works)
    return OnlineResult(
        trace=trace.seed,
        devices=len(trace.devices),
        models=trace.models,
        longest_wait_s=max(report.waits_s.values()),
        fcfs_longest_wait_s=max(fcfs.waits_s.values()),
        median_wait_s=statistics.median(report.waits_s.values()),
        fcfs_median_wait_s=statistics.median(fcfs.waits_s.values()),
        wait_over_allowed=max(wait_s / allowed[work_id] for work_id, wait_s in report.waits_s.items()),
        loads=report.load_count + report.wakes.total(),
        fcfs_loads=fcfs.load_count,
    )


def _growth(bench: SchedulerBench, experts: int, requests: int, *, is_online: bool) -> Growth:
    """Works of one request each, Zipf 1, two models to a device; online at 60 % of what the devices could run."""
    rng = random.Random(f"{bench.seed}/{experts}/{requests}")
    devices = [Device(name=f"gpu{n}", memory_gib=80) for n in range(bench.growth_devices)]
    footprints = [
        Footprint(model=f"model-{n:04}", turn="", memory_gib=40, load_s=rng.uniform(5, 40)) for n in range(experts)
    ]
    drawn = rng.choices(footprints, [1 / (rank + 1) for rank in range(experts)], k=requests)
    works, now = [], 0.0
    for number, footprint in enumerate(drawn):
        now += rng.expovariate(0.6 * len(devices)) if is_online else 0.0
        queries = frozenset({f"q{number // 3}"})
        run_s = rng.uniform(0.5, 1.5)
        works.append(Work(id=str(number), footprint=footprint, run_s=run_s, arrived_s=now, queries=queries))
    begun = time.perf_counter()
    report = simulate(devices, works)
    wall_s = time.perf_counter() - begun
    return Growth(
        experts=experts,
        requests=requests,
        online=is_online,
        wall_s=wall_s,
        us_per_event=wall_s / report.events * 1e6,
        loads=report.load_count,
    )


def examples() -> dict[str, float]:
    """Worked by hand: A B A C B A at 20 s a load and 1 s a request is 126 s in order and 66 s grouped; six questions
    with draws BBB, BBC, AAA, BCC, ABB, BBA load 10 models one by one, 3 grouped; a hot model of 900 requests beside
    one of 100 takes 900 + load alone, (1000 + 3 loads) / 2 with a copy (load 100)."""
    one = [Device(name="gpu")]
    letters = [_request(number, model, 20) for number, model in enumerate("ABACBA")]
    draws = ("BBB", "BBC", "AAA", "BCC", "ABB", "BBA")
    questions = [
        _request(f"{number}/{place}", model, 20, query=str(number))
        for number, drawn in enumerate(draws)
        for place, model in enumerate(drawn)
    ]
    two = [Device(name=name, memory_gib=1) for name in ("one", "two")]
    hot = [_request(number, "A" if number < 900 else "B", 100, gib=1) for number in range(1000)]
    alone = SchedulerSettings(window_s=0, replicates=False)
    return {
        "in_order_s": first_come_first_served(one, letters).makespan_s,
        "grouped_s": simulate(one, letters, _AT_ONCE).makespan_s,
        "in_order_loads": first_come_first_served(one, letters).load_count,
        "grouped_loads": simulate(one, letters, _AT_ONCE).load_count,
        "six_questions_naive_loads": per_question(one, questions).load_count,
        "six_questions_grouped_loads": simulate(one, questions, _AT_ONCE).load_count,
        "hot_model_alone_s": simulate(two, hot, alone).makespan_s,
        "hot_model_copied_s": simulate(two, hot, _AT_ONCE).makespan_s,
    }


def _request(number: object, model: str, load_s: int, *, gib: float | None = None, query: str | None = None) -> Work:
    footprint = Footprint(model=model, turn=model, memory_gib=gib, load_s=load_s)
    return Work(id=f"w{number}", footprint=footprint, run_s=1, arrived_s=0, queries=frozenset({query or f"q{number}"}))
