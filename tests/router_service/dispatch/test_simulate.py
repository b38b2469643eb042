"""The simulator and the naive servers it compares with: the worked examples, failures and losses put in."""

from __future__ import annotations

import pytest

from router_service.backends.base import Device, Footprint
from router_service.dispatch.scheduler import SchedulerSettings, Work
from router_service.dispatch.simulate import (
    DeviceLoss,
    LoadFailure,
    first_come_first_served,
    per_question,
    simulate,
)

AT_ONCE = SchedulerSettings(window_s=0)
GPU = Device(name="gpu")


def works_of(models: str, *, load_s: int = 20, wake_s: int | None = None, gib: float | None = None) -> list[Work]:
    return [
        Work(
            id=f"w{number}",
            footprint=Footprint(model=model, turn=model, load_s=load_s, wake_s=wake_s, memory_gib=gib),
            run_s=1,
            arrived_s=0,
        )
        for number, model in enumerate(models)
    ]


def test_grouping_takes_three_loads_and_66_seconds_where_order_of_arrival_takes_six_and_126() -> None:
    works = works_of("ABACBA")
    grouped, in_order = simulate([GPU], works, AT_ONCE), first_come_first_served([GPU], works)
    assert (grouped.makespan_s, grouped.load_count) == (66, 3)
    assert (in_order.makespan_s, in_order.load_count) == (126, 6)
    assert isinstance(grouped.makespan_s, int)
    assert grouped.started == ["w0", "w2", "w5", "w1", "w4", "w3"]


def test_six_questions_take_three_loads_grouped_and_ten_one_by_one() -> None:
    draws = ["BBB", "BBC", "AAA", "BCC", "ABB", "BBA"]
    works = [
        Work(
            id=f"{question}-{model}",
            footprint=Footprint(model=model, turn=model, load_s=20),
            run_s=drawn.count(model),
            queries=frozenset({str(question)}),
        )
        for question, drawn in enumerate(draws)
        for model in sorted(set(drawn))
    ]
    assert sum(work.run_s for work in works) == 18
    grouped, naive = simulate([GPU], works, AT_ONCE), per_question([GPU], works)
    assert (grouped.load_count, naive.load_count) == (3, 10)
    assert (grouped.makespan_s, naive.makespan_s) == (3 * 20 + 18, 10 * 20 + 18)


@pytest.mark.parametrize(("load_s", "makespan_s"), [(0, 500), (100, 650), (390, 1085), (900, 1800)])
def test_a_hot_model_is_copied_where_that_saves_more_than_its_load(load_s: int, makespan_s: int) -> None:
    """Loads of 900 and 100 on two devices: with a copy (900 + 100 + 3 loads) / 2, without 900 and one load."""
    works = works_of("A" * 900 + "B" * 100, load_s=load_s, gib=1)
    devices = [Device(name="one", memory_gib=1), Device(name="two", memory_gib=1)]
    report = simulate(devices, works, AT_ONCE)
    assert report.makespan_s == makespan_s
    assert report.loads["A"] == (2 if load_s < 800 else 1)


def test_a_load_that_fails_goes_to_another_device_and_fails_the_works_when_none_is_left() -> None:
    devices = [Device(name="one"), Device(name="two")]
    once = simulate(devices, works_of("AAB"), AT_ONCE, load_failures=[LoadFailure(device="one", model="A")])
    assert (sorted(once.finished), once.failed) == (["w0", "w1", "w2"], [])
    failures = [LoadFailure(device=name, model="A") for name in ("one", "two")]
    twice = simulate(devices, works_of("AAB"), AT_ONCE, load_failures=failures)
    assert (sorted(twice.failed), twice.finished) == (["w0", "w1"], ["w2"])


def test_a_lost_devices_work_is_done_elsewhere_once() -> None:
    devices = [Device(name="one"), Device(name="two")]
    report = simulate(
        devices, works_of("AAAABBBB", load_s=3), AT_ONCE, device_losses=[DeviceLoss(device="one", at_s=5)]
    )
    assert sorted(report.finished) == [f"w{number}" for number in range(8)]
    assert len(report.started) == 9
    assert [(s.kind, s.is_done) for s in report.device_timeline("one")][-1] == ("run", False)


def test_with_no_device_left_the_works_fail_until_one_is_back() -> None:
    loss = DeviceLoss(device="gpu", at_s=22)
    assert len(simulate([GPU], works_of("AB"), AT_ONCE, device_losses=[loss]).failed) == 1
    late = [*works_of("A"), Work(id="late", footprint=Footprint(model="A", turn="A", load_s=1), run_s=1, arrived_s=50)]
    back = simulate([GPU], late, AT_ONCE, device_losses=[DeviceLoss(device="gpu", at_s=10, back_s=40)])
    assert (back.finished, back.failed) == (["late"], ["w0"])
