"""The bench of the scheduler at a small size, its bound (which no schedule may beat) and its worked examples."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.perf import scheduler
from eval.perf._scheduler_bound import longest_waits_s, lower_bound_s
from eval.perf._scheduler_report import SchedulerBench, SchedulerReport, examples, measure
from eval.perf._scheduler_traces import offline_traces, online_trace
from router_service.backends.base import Device, Footprint
from router_service.dispatch.scheduler import SchedulerSettings, Work
from router_service.dispatch.simulate import simulate

BENCH = SchedulerBench(traces=12, online_traces=2, online_queries=60, growth=((4, 60),), growth_devices=2)
AT_ONCE = SchedulerSettings(window_s=0)


@pytest.fixture(scope="module")
def report() -> SchedulerReport:
    return measure(BENCH)


def test_every_wave_is_at_or_above_its_bound_and_better_than_served_in_order(report: SchedulerReport) -> None:
    assert len(report.waves) == BENCH.traces
    for wave in report.waves:
        assert wave.over_bound >= 1 - 1e-9
        assert wave.models <= wave.loads <= wave.fcfs_loads
        assert wave.makespan_s <= wave.fcfs_makespan_s


def test_the_aims_are_met_on_the_first_waves(report: SchedulerReport) -> None:
    figures = report.as_json()
    assert float(str(figures["makespan_over_bound_median"])) <= 1.10
    assert float(str(figures["makespan_over_bound_max"])) <= 1.25
    assert 0 < float(str(figures["wait_over_allowed_max"])) <= 1


def test_the_worked_examples_are_as_by_hand() -> None:
    assert examples() == {
        "in_order_s": 126,
        "grouped_s": 66,
        "in_order_loads": 6,
        "grouped_loads": 3,
        "six_questions_naive_loads": 10,
        "six_questions_grouped_loads": 3,
        "hot_model_alone_s": 1000,
        "hot_model_copied_s": 650,
    }


def test_the_command_writes_figures_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--json", str(tmp_path / "new" / "s.json"), "--plot", str(tmp_path / "s.svg")]
    scheduler.main(arguments, bench=SchedulerBench(traces=2, online_traces=1, online_queries=9, growth=()))
    written = json.loads((tmp_path / "new" / "s.json").read_text())
    assert len(written["waves"]) == 2 and written["growth"] == [] and written["date"]
    assert (tmp_path / "s.svg").read_text().lstrip().startswith("<?xml")
    assert "met    makespan_over_bound_median" in capsys.readouterr().out


def test_traces_are_the_same_every_time_and_differ() -> None:
    first, again = offline_traces(6), offline_traces(6)
    assert first == again
    assert first != offline_traces(6, seed=1)
    assert len({(len(trace.devices), trace.models, len(trace.works)) for trace in first}) == 6
    assert online_trace(3, queries=20) == online_trace(3, queries=20)


def test_a_wave_serves_every_request_of_its_queries() -> None:
    for trace in offline_traces(4):
        asked = [(work.footprint.model, query) for work in trace.works for query in work.queries]
        assert len(asked) == len(set(asked))


ROWS = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(1, 6)), min_size=1, max_size=5)


def works_of(rows: list[tuple[str, int]], *, gib: dict[str, int]) -> list[Work]:
    footprints = {
        m: Footprint(model=m, turn="", memory_gib=gib[m], load_s=load) for m, load in (("A", 1), ("B", 4), ("C", 9))
    }
    return [Work(id=f"w{n}", footprint=footprints[m], run_s=run_s, arrived_s=0) for n, (m, run_s) in enumerate(rows)]


@settings(deadline=None)
@given(
    rows=ROWS,
    count=st.integers(1, 2),
    gib=st.fixed_dictionaries({m: st.integers(1, 4) for m in "ABC"}),
)
def test_no_order_on_any_devices_beats_the_bound(rows: list[tuple[str, int]], count: int, gib: dict[str, int]) -> None:
    devices = [Device(name=f"gpu{n}", memory_gib=4) for n in range(count)]
    works = works_of(rows, gib=gib)
    best_s = min(
        max(best_of_one_device([w for w, at in zip(works, where, strict=True) if at == n]) for n in range(count))
        for where in itertools.product(range(count), repeat=len(works))
    )
    bound_s = lower_bound_s(devices, works)
    assert bound_s <= best_s + 1e-6
    assert simulate(devices, works, AT_ONCE).makespan_s >= bound_s - 1e-6


def best_of_one_device(works: list[Work]) -> float:
    """The least makespan over all orders of its models: one load after the other, runs behind their loads, memory kept
    from the begin of a load to the end of its runs (4 GiB in all)."""
    models = sorted({work.footprint.model for work in works})
    return min((_in_order(works, order) for order in itertools.permutations(models)), default=0.0)


def _in_order(works: list[Work], order: tuple[str, ...]) -> float:
    load_free, run_free, held = 0.0, 0.0, [(0.0, 0)]
    for model in order:
        mine = [work for work in works if work.footprint.model == model]
        size = mine[0].footprint.memory_gib or 0
        while sum(gib for end, gib in held if end > load_free) + size > 4:
            load_free = min(end for end, _ in held if end > load_free)
        load_free += mine[0].footprint.load_s
        run_free = max(run_free, load_free) + sum(work.run_s for work in mine)
        held.append((run_free, int(size)))
    return run_free


def test_the_bound_where_it_is_known() -> None:
    """One device, one model at a time: loads and runs in a row. Prefetched: the first load, then the runs. Three equal
    models on two devices: one device loads two of them."""
    alone = {"A": 4, "B": 4, "C": 4}
    one, two = [Device(name="gpu", memory_gib=4)], [Device(name=name, memory_gib=4) for name in ("one", "two")]
    assert lower_bound_s(one, works_of([("A", 5), ("B", 6)], gib=alone)) == pytest.approx(1 + 5 + 4 + 6)
    small = {"A": 1, "B": 1, "C": 1}
    assert lower_bound_s(one, works_of([("A", 5), ("B", 6)], gib=small)) == pytest.approx(1 + 11)
    equal = [
        Work(id=m, footprint=Footprint(model=m, turn="", memory_gib=4, load_s=10), run_s=1, arrived_s=0) for m in "ABC"
    ]
    assert lower_bound_s(two, equal) == pytest.approx(22)
    assert lower_bound_s(one, []) == 0
    with pytest.raises(ValueError, match="equal devices of known memory"):
        lower_bound_s([Device(name="gpu")], equal)


def test_what_the_rule_allows_by_hand() -> None:
    """B comes while A runs: senior is A's run of 8 (not ended) and B's own 1, loads 10 and 10, two models."""
    a, b = (Footprint(model=m, turn="", load_s=10) for m in "AB")
    works = [Work(id="a", footprint=a, run_s=8, arrived_s=0), Work(id="b", footprint=b, run_s=1, arrived_s=12)]
    allowed = longest_waits_s(works, {"a": 18, "b": 29}, SchedulerSettings(window_s=1, turn_cap=2))
    assert allowed["b"] == 1 + (1 + 1 / 2) * 9 + 3 * (3 * 10 + 8)
