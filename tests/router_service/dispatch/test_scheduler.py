"""The schedule: its worked examples, and its laws under everything that can happen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.perf._scheduler_bound import longest_waits_s
from router_service.backends.base import Device, Footprint
from router_service.dispatch._schedule_place import fits_together
from router_service.dispatch.scheduler import Action, Load, Release, Schedule, SchedulerSettings, Start, Work
from router_service.dispatch.simulate import simulate

AT_ONCE = SchedulerSettings(window_s=0)


def work(number: int, model: str, *, run_s: float = 1, load_s: float = 20) -> Work:
    return Work(id=f"w{number}", footprint=Footprint(model=model, turn=model, load_s=load_s), run_s=run_s)


def test_works_of_one_model_run_before_it_is_left() -> None:
    schedule = Schedule([Device(name="gpu")], AT_ONCE)
    assert schedule.submit([work(1, "A"), work(2, "B"), work(3, "A")], now=0) == []
    assert schedule.actions(0) == [Load(device="gpu", model="A", work_id="w1")]
    assert schedule.actions(5) == []
    schedule.loaded("gpu", "A", now=20)
    assert schedule.actions(20) == [Start(device="gpu", work_id="w1")]
    schedule.finished("w1", now=21)
    assert schedule.actions(21) == [Start(device="gpu", work_id="w3")]
    schedule.finished("w3", now=22)
    assert schedule.actions(22) == [Release(device="gpu", model="A")]
    schedule.released("gpu", "A", now=22)
    assert schedule.actions(22) == [Load(device="gpu", model="B", work_id="w2")]


def test_a_model_that_fits_only_where_its_load_failed_does_not_wait_for_ever() -> None:
    schedule = Schedule([Device(name="large", memory_gib=16), Device(name="small", memory_gib=8)], AT_ONCE)
    grown = replace(work(2, "A").footprint, memory_gib=9.0)
    small = replace(work(1, "A"), footprint=replace(grown, memory_gib=4.0))
    schedule.submit([small, replace(work(2, "A"), footprint=grown)], now=0)
    assert schedule.actions(0) == [Load(device="large", model="A", work_id="w1")]
    assert schedule.load_failed("large", "A", now=1) == ["w1", "w2"]


class Driver:
    """Drives a schedule at random, and checks after every report that nothing is lost, doubled or too large."""

    def __init__(self, devices: list[Device], chosen: SchedulerSettings) -> None:
        self.schedule = Schedule(devices, chosen)
        self.devices = {device.name: device for device in devices}
        self.now = 0
        self.works: dict[str, Work] = {}
        self.open: list[Action] = []
        self.there: dict[str, dict[str, Footprint]] = {name: {} for name in self.devices}
        self.done: list[str] = []
        self.failed: list[str] = []
        self.log: list[Action] = []

    def submit(self, works: list[Work]) -> None:
        self.works |= {w.id: w for w in works}
        self.failed += self.schedule.submit(works, now=self.now)

    def ask(self) -> None:
        for action in self.schedule.actions(self.now):
            self.log.append(action)
            self.open.append(action)
            there = self.there[action.device]
            if isinstance(action, Load):
                assert action.model not in there, "loaded twice"
                there[action.model] = self.works[action.work_id].footprint
                assert fits_together(self.devices[action.device], list(there.values()))
            elif isinstance(action, Start):
                self.check_start(action)
            else:
                assert action.model in there
                assert not any(isinstance(a, Start) and self.runs_on(a, action) for a in self.open)

    def runs_on(self, start: Start, other: Load | Release) -> bool:
        return (start.device, self.works[start.work_id].footprint.model) == (other.device, other.model)

    def check_start(self, action: Start) -> None:
        footprint = self.works[action.work_id].footprint
        running = [a for a in self.open if isinstance(a, Start) and a.device == action.device]
        assert action.work_id not in self.done + self.failed
        assert [a.work_id for a in self.open if isinstance(a, Start)].count(action.work_id) == 1
        assert {(self.works[a.work_id].footprint.model, self.works[a.work_id].footprint.turn) for a in running} == {
            (footprint.model, footprint.turn)
        }
        assert len(running) <= max(1, footprint.max_works)
        assert footprint.model in self.there[action.device]
        pending = [a for a in self.open if isinstance(a, Load | Release) and a.device == action.device]
        assert not any(a.model == footprint.model for a in pending)

    def end(self, action: Action, *, is_failure: bool = False) -> None:
        self.open.remove(action)
        if isinstance(action, Start):
            self.done.append(action.work_id)
            self.schedule.finished(action.work_id, now=self.now)
        elif isinstance(action, Release):
            del self.there[action.device][action.model]
            self.schedule.released(action.device, action.model, now=self.now)
        elif is_failure:
            del self.there[action.device][action.model]
            self.failed += self.schedule.load_failed(action.device, action.model, now=self.now)
        else:
            self.schedule.loaded(action.device, action.model, now=self.now)

    def lose(self, device: str) -> None:
        self.open = [action for action in self.open if action.device != device]
        self.there[device] = {}
        self.failed += self.schedule.lost(device, now=self.now)

    def crash(self, device: str, model: str) -> None:
        """The model is gone; its started works are reported."""
        del self.there[device][model]
        self.schedule.crashed(device, model, now=self.now)
        for action in list(self.open):
            if isinstance(action, Start) and self.runs_on(action, Load(device=device, model=model, work_id="")):
                self.end(action)

    def drain(self) -> None:
        """Everything ends well from now on."""
        while True:
            self.ask()
            if self.open:
                self.now += 1
                self.end(self.open[0])
                continue
            wait_s = self.schedule.next_check_s(self.now)
            if wait_s is None:
                return
            assert wait_s > 0
            self.now += wait_s


MODELS = "ABCDE"


def footprints() -> st.SearchStrategy[dict[str, Footprint]]:
    """One per model; some larger than some devices, some of unknown size, some that sleep."""
    return st.fixed_dictionaries(
        {
            model: st.builds(
                Footprint,
                model=st.just(model),
                turn=st.just(model),
                memory_gib=st.sampled_from([None, 1, 2, 3, 5]),
                load_s=st.integers(0, 9),
                wake_s=st.sampled_from([None, 1]),
                max_works=st.integers(1, 3),
            )
            for model in MODELS
        }
    )


def devices_strategy() -> st.SearchStrategy[list[Device]]:
    device = st.tuples(st.sampled_from([None, 2, 4, 6]), st.sampled_from([None, 1, 2]))
    return st.lists(device, min_size=1, max_size=3).map(
        lambda rows: [Device(name=f"d{n}", memory_gib=gib, max_models=most) for n, (gib, most) in enumerate(rows)]
    )


SETTINGS = st.builds(
    SchedulerSettings,
    window_s=st.sampled_from([0, 2]),
    turn_cap=st.sampled_from([0, 1, 2]),
    prefetches=st.booleans(),
    replicates=st.booleans(),
)


def drive(data: st.DataObject, driver: Driver, shapes: dict[str, Footprint]) -> None:
    """Random reports in random order: arrivals, ends, failures, crashes, losses, withdrawals, new devices."""
    lost: list[str] = []
    for step in range(data.draw(st.integers(1, 25), label="steps")):
        driver.ask()
        driver.now += data.draw(st.integers(0, 5))
        kind = data.draw(st.sampled_from(["submit", "end", "end", "end", "fail", "crash", "lose", "add", "withdraw"]))
        if kind == "submit" or not driver.works:
            models = data.draw(st.lists(st.sampled_from(MODELS), min_size=1, max_size=6))
            driver.submit(
                [
                    Work(
                        id=f"{step}-{n}",
                        footprint=replace(shapes[m], turn=data.draw(st.sampled_from("xy"))),
                        run_s=data.draw(st.integers(1, 5)),
                        arrived_s=driver.now,
                    )
                    for n, m in enumerate(models)
                ]
            )
        elif kind in ("end", "fail") and driver.open:
            driver.end(data.draw(st.sampled_from(driver.open)), is_failure=kind == "fail")
        elif kind == "crash" and (ready := ready_models(driver)):
            driver.crash(*data.draw(st.sampled_from(ready)))
        elif kind == "lose" and len(lost) < len(driver.devices):
            lost.append(data.draw(st.sampled_from([name for name in driver.devices if name not in lost])))
            driver.lose(lost[-1])
        elif kind == "add" and lost:
            driver.schedule.added(driver.devices[lost.pop()], now=driver.now)
        elif kind == "withdraw":
            withdraw(driver, data.draw(st.sampled_from(sorted(driver.works))))
    if len(lost) == len(driver.devices):
        driver.schedule.added(driver.devices[lost.pop()], now=driver.now)


def ready_models(driver: Driver) -> list[tuple[str, str]]:
    pending = {(a.device, a.model) for a in driver.open if not isinstance(a, Start)}
    return [(d, m) for d, there in driver.there.items() for m in there if (d, m) not in pending]


def withdraw(driver: Driver, work_id: str) -> None:
    """Where it waits; what runs or is over is left alone."""
    is_running = any(isinstance(a, Start) and a.work_id == work_id for a in driver.open)
    if not is_running and work_id not in driver.done + driver.failed:
        driver.schedule.withdraw(work_id, now=driver.now)
        driver.failed.append(work_id)


@settings(deadline=None)
@given(data=st.data(), devices=devices_strategy(), chosen=SETTINGS, shapes=footprints())
def test_no_work_is_lost_or_doubled_whatever_happens(
    data: st.DataObject, devices: list[Device], chosen: SchedulerSettings, shapes: dict[str, Footprint]
) -> None:
    driver = Driver(devices, chosen)
    drive(data, driver, shapes)
    driver.drain()
    assert sorted(driver.done + driver.failed) == sorted(driver.works)


WAVES = st.lists(st.tuples(st.sampled_from(MODELS), st.integers(1, 9)), min_size=1, max_size=30)


def wave(rows: list[tuple[str, int]], *, load_s: int = 7, names: dict[str, str] | None = None) -> list[Work]:
    """Works that are all there at once; one model at a time fits a device."""
    names = names or {model: model for model in MODELS}
    return [
        Work(
            id=f"{names[model]}{number}",
            footprint=Footprint(model=names[model], turn="", memory_gib=1, load_s=load_s + ord(model)),
            run_s=run_s,
            arrived_s=0,
            queries=frozenset({f"q{number // 3}"}),
        )
        for number, (model, run_s) in enumerate(rows)
    ]


@settings(deadline=None, max_examples=50)
@given(rows=WAVES, prefetches=st.booleans())
def test_one_device_that_fits_one_model_loads_each_once(rows: list[tuple[str, int]], prefetches: bool) -> None:
    chosen = SchedulerSettings(window_s=0, prefetches=prefetches)
    report = simulate([Device(name="gpu", memory_gib=1)], wave(rows), chosen)
    assert report.loads == dict.fromkeys({model for model, _ in rows}, 1)
    loads_s = sum(7 + ord(model) for model in {model for model, _ in rows})
    assert report.makespan_s == loads_s + sum(run_s for _, run_s in rows)


@settings(deadline=None, max_examples=50)
@given(rows=WAVES, count=st.integers(1, 3), room=st.integers(1, 3), window_s=st.sampled_from([0, 1]))
def test_the_same_works_are_done_in_the_same_order_every_time_and_whatever_the_names(
    rows: list[tuple[str, int]], count: int, room: int, window_s: int
) -> None:
    devices = [Device(name=f"gpu{n}", memory_gib=room) for n in range(count)]
    chosen = SchedulerSettings(window_s=window_s)
    names = dict(zip(MODELS, "zyxwv", strict=True))
    first, again = simulate(devices, wave(rows), chosen), simulate(devices, wave(rows), chosen)
    assert first == again
    renamed = simulate(devices, wave(rows, names=names), chosen)
    assert [names[work_id[0]] + work_id[1:] for work_id in first.started] == renamed.started
    assert sorted(first.finished) == sorted(work.id for work in wave(rows))


@settings(deadline=None, max_examples=50)
@given(rows=WAVES, count=st.integers(1, 3), room=st.integers(1, 3))
def test_a_further_device_never_makes_it_much_later(rows: list[tuple[str, int]], count: int, room: int) -> None:
    """Not never later (Graham 1966: list scheduling has such anomalies), but by no more than a load and a run."""
    devices = [Device(name=f"gpu{n}", memory_gib=room) for n in range(count + 1)]
    fewer = simulate(devices[:-1], wave(rows), AT_ONCE).makespan_s
    more = simulate(devices, wave(rows), AT_ONCE).makespan_s
    assert more <= fewer + max(7 + ord(model) for model, _ in rows) + max(run_s for _, run_s in rows)


@settings(deadline=None, max_examples=50)
@given(
    gaps=st.lists(st.tuples(st.sampled_from(MODELS), st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=60),
    count=st.integers(1, 2),
    room=st.integers(1, 3),
    prefetches=st.booleans(),
)
def test_nobody_waits_longer_than_the_rule_allows(
    gaps: list[tuple[str, int, int]], count: int, room: int, prefetches: bool
) -> None:
    chosen = SchedulerSettings(window_s=1, turn_cap=1, prefetches=prefetches)
    now, works = 0, []
    for number, (model, run_s, gap_s) in enumerate(gaps):
        now += gap_s
        footprint = Footprint(model=model, turn="", memory_gib=1, load_s=3 + ord(model) - ord("A"))
        works.append(Work(id=f"w{number}", footprint=footprint, run_s=run_s, arrived_s=now))
    report = simulate([Device(name=f"gpu{n}", memory_gib=room) for n in range(count)], works, chosen)
    ends_s = {span.what: span.end_s for span in report.timeline if span.kind == "run"}
    allowed = longest_waits_s(works, ends_s, chosen)
    assert all(report.waits_s[work.id] <= allowed[work.id] for work in works)


def test_a_busy_model_gives_way_after_its_cap() -> None:
    """A's works never end; B's, which came once, waits two loads of B's and what runs then, not for ever."""
    a = Footprint(model="A", turn="", load_s=10)
    b = Footprint(model="B", turn="", load_s=10)
    works = [Work(id=f"a{n}", footprint=a, run_s=2, arrived_s=2 * n) for n in range(200)]
    works.append(Work(id="b", footprint=b, run_s=1, arrived_s=21))
    capped = simulate([Device(name="gpu")], works, AT_ONCE)
    assert capped.waits_s["b"] <= 10 + 2 * 10 + 2 + 10
    patient = simulate([Device(name="gpu")], works, SchedulerSettings(window_s=0, turn_cap=30))
    assert patient.waits_s["b"] > 300


def test_a_wave_that_came_together_is_grouped_however_long_it_takes() -> None:
    works = [work(n, model, run_s=50, load_s=1) for n, model in enumerate("ABABABAB")]
    assert simulate([Device(name="gpu")], works, AT_ONCE).loads == {"A": 1, "B": 1}


def test_the_next_model_is_loaded_while_one_runs_where_both_fit() -> None:
    works = [replace(w, footprint=replace(w.footprint, memory_gib=1)) for w in (work(n, m) for n, m in enumerate("AB"))]
    works = [replace(w, run_s=30) for w in works]
    ahead = simulate([Device(name="gpu", memory_gib=2)], works, AT_ONCE)
    assert ahead.makespan_s == 20 + 30 + 30
    after = simulate([Device(name="gpu", memory_gib=2)], works, SchedulerSettings(window_s=0, prefetches=False))
    assert after.makespan_s == 20 + 30 + 20 + 30
    assert simulate([Device(name="gpu", memory_gib=1)], works, AT_ONCE).makespan_s == 20 + 30 + 20 + 30


def test_experts_of_the_same_queries_are_placed_apart() -> None:
    """Three models on two devices, recruited together AB 5, AC 1 and BC 1 times: A and B apart leaves one pair."""
    pairs = ["AB"] * 5 + ["AC"] + ["BC"]
    footprints = {m: Footprint(model=m, turn="", memory_gib=1, load_s=20) for m in "ABC"}
    works = [
        Work(id=f"{query}{m}", footprint=footprints[m], run_s=1, queries=frozenset({str(query)}))
        for query, pair in enumerate(pairs)
        for m in pair
    ]
    where = placed_models([Device(name="one", memory_gib=1), Device(name="two", memory_gib=1)], works)
    assert sum(where[a] == where[b] for a, b in pairs) == 1


def test_of_equal_devices_a_model_goes_where_it_meets_its_queries_least() -> None:
    footprints = {m: Footprint(model=m, turn="", memory_gib=1, load_s=20) for m in "ABCD"}
    works = [
        Work(id=f"{m}{query}", footprint=footprints[m], run_s=1, queries=frozenset({f"{pair}{query}"}))
        for m, pair in zip("ABCD", ("AC", "BD", "AC", "BD"), strict=True)
        for query in range(3)
    ]
    where = placed_models([Device(name="one", memory_gib=1), Device(name="two", memory_gib=1)], works)
    assert where["A"] != where["C"] and where["B"] != where["D"]


def placed_models(devices: list[Device], works: list[Work]) -> dict[str, str]:
    """Where each model is loaded, each once."""
    report = simulate(devices, works, SchedulerSettings(window_s=0, replicates=False))
    assert report.load_count == len({w.footprint.model for w in works})
    return {span.what: span.device for span in report.timeline if span.kind == "load"}


def test_a_sleeping_model_is_woken() -> None:
    a, b = (Footprint(model=m, turn="", load_s=20, wake_s=2) for m in "AB")
    works = [
        Work(id=f"w{n}", footprint=footprint, run_s=1, arrived_s=100 * n) for n, footprint in enumerate((a, b, a, b))
    ]
    report = simulate([Device(name="gpu")], works, AT_ONCE)
    assert (report.loads, report.wakes) == ({"A": 1, "B": 1}, {"A": 1, "B": 1})
    assert [report.waits_s[f"w{n}"] for n in range(4)] == [20, 20, 2, 2]


def test_the_model_that_is_used_last_again_leaves() -> None:
    """Room for two, A and B there, C is asked for: B leaves, which nobody waits for, though A was used less lately."""
    shape = Footprint(model="", turn="", memory_gib=1, load_s=10)
    rows = [("A", 0), ("B", 20), ("C", 60), ("A", 60)]
    works = [
        Work(id=f"w{n}", footprint=replace(shape, model=m), run_s=1, arrived_s=at) for n, (m, at) in enumerate(rows)
    ]
    report = simulate([Device(name="gpu", memory_gib=2)], works, AT_ONCE)
    assert [span.what for span in report.timeline if span.kind == "release"] == ["B"]
    assert report.loads == {"A": 1, "B": 1, "C": 1}


def test_a_load_waits_for_company_as_long_as_the_window() -> None:
    schedule = Schedule([Device(name="gpu")], SchedulerSettings(window_s=5))
    schedule.submit([replace(work(1, "A"), arrived_s=10)], now=10)
    assert (schedule.actions(10), schedule.next_check_s(10)) == ([], 5)
    assert schedule.actions(14.5) == []
    assert len(schedule.actions(15)) == 1
    assert schedule.next_check_s(15) is None


def test_a_model_larger_than_every_device_is_refused_with_its_works() -> None:
    schedule = Schedule([Device(name="gpu", memory_gib=8)])
    large = Work(id="w", footprint=Footprint(model="A", turn="", memory_gib=9), run_s=1)
    assert schedule.submit([large], now=0) == ["w"]
    assert (schedule.actions(1), schedule.next_check_s(1)) == ([], None)


def test_a_work_twice_and_a_device_twice_are_refused() -> None:
    schedule = Schedule([Device(name="gpu")])
    schedule.submit([work(1, "A")], now=0)
    with pytest.raises(ValueError, match="work 'w1' was submitted already"):
        schedule.submit([work(1, "A")], now=0)
    with pytest.raises(ValueError, match="device 'gpu' is there already"):
        schedule.added(Device(name="gpu"), now=0)


def test_works_of_one_turn_run_together_and_others_wait_for_them() -> None:
    shape = Footprint(model="A", turn="x", load_s=5, max_works=2)
    turns = ["x", "y", "x", "x"]
    works = [
        Work(id=f"w{n}", footprint=replace(shape, turn=turn), run_s=4, arrived_s=0) for n, turn in enumerate(turns)
    ]
    begins = {s.what: s.begin_s for s in simulate([Device(name="gpu")], works, AT_ONCE).timeline if s.kind == "run"}
    assert begins["w0"] == begins["w2"] == 5
    assert begins["w1"] not in (begins["w0"], begins["w3"])
