"""The schedule: its worked examples, and its laws under everything that can happen."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from router_service.backends.base import Device, Footprint
from router_service.dispatch._schedule_place import fits_together
from router_service.dispatch.scheduler import Action, Load, Release, Schedule, SchedulerSettings, Start, Work

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


class Driver:
    """Drives a schedule at random, and checks after every report that nothing is lost, doubled or too large."""

    def __init__(self, devices: list[Device], settings: SchedulerSettings) -> None:
        self.schedule = Schedule(devices, settings)
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


@st.composite
def footprints(draw: st.DrawFn) -> dict[str, Footprint]:
    """One per model; some larger than some devices, some of unknown size, some that sleep."""
    return {
        model: Footprint(
            model=model,
            turn=model,
            memory_gib=draw(st.sampled_from([None, 1, 2, 3, 5])),
            load_s=draw(st.integers(0, 9)),
            wake_s=draw(st.sampled_from([None, 1])),
            max_works=draw(st.integers(1, 3)),
        )
        for model in MODELS
    }


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


@given(data=st.data(), devices=devices_strategy(), settings=SETTINGS, shapes=footprints())
def test_no_work_is_lost_or_doubled_whatever_happens(
    data: st.DataObject, devices: list[Device], settings: SchedulerSettings, shapes: dict[str, Footprint]
) -> None:
    driver = Driver(devices, settings)
    drive(data, driver, shapes)
    driver.drain()
    assert sorted(driver.done + driver.failed) == sorted(driver.works)
