"""The schedule: its worked examples, and its laws under everything that can happen."""

from __future__ import annotations

from router_service.backends.base import Device, Footprint
from router_service.dispatch.scheduler import Load, Release, Schedule, SchedulerSettings, Start, Work

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
