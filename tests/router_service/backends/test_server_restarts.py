"""When a server that keeps dying may be started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router_service.backends._server_restarts import Restarts


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pauses_grow_from_the_second_death_on() -> None:
    clock = Clock()
    restarts = Restarts(most=5, span_s=600, clock=clock)
    pauses = []
    for _ in range(5):
        pauses.append(restarts.pause_s())
        restarts.died("of nothing")
    assert pauses == [0, 0, 1, 2, 4]
    clock.now += 3
    assert restarts.pause_s() == 5


def test_after_too_many_deaths_it_says_so_with_the_last_one() -> None:
    clock = Clock()
    restarts = Restarts(most=1, span_s=60, clock=clock)
    restarts.died("of hunger")
    assert restarts.refusal() is None
    clock.now += 10
    restarts.died("of thirst")
    refusal = restarts.refusal()
    assert refusal is not None
    assert "ended 2 times within 60 s (option max_restarts)" in refusal
    assert "in 50 s at the earliest; the last time of thirst" in refusal
    clock.now += 50
    assert restarts.refusal() is None and restarts.pause_s() == 0


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(0, 5))
def test_never_more_starts_within_the_span_than_allowed(gaps: list[float], most: int) -> None:
    clock = Clock()
    restarts, deaths = Restarts(most=most, span_s=200, clock=clock), []
    for gap in gaps:
        clock.now += gap
        if restarts.refusal() is None:
            clock.now += restarts.pause_s()
            restarts.died("again")
            deaths.append(clock.now)
    assert all(sum(start - 200 < death <= start for death in deaths) <= most + 1 for start in deaths)
