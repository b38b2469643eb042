"""The ledger's laws: what is reserved and spent together never passes a limit, whoever asks at the same time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.dispatch.ledger import Ledger, Reservation
from router_service.errors import BudgetExceeded
from router_service.types import Budget, Usage

USAGES = st.builds(
    Usage,
    completions=st.integers(0, 4),
    completion_tokens=st.integers(0, 500),
    prompt_tokens=st.integers(0, 500),
    cost_usd=st.floats(0, 0.5),
)
BUDGETS = st.builds(
    Budget,
    max_completions=st.none() | st.integers(0, 8),
    max_output_tokens=st.none() | st.integers(0, 1500),
    max_cost_usd=st.none() | st.floats(0, 2),
)


def is_within(usage: Usage, budget: Budget, tolerance: float = 1e-6) -> bool:
    pairs = (
        (usage.completions, budget.max_completions),
        (usage.completion_tokens, budget.max_output_tokens),
        (usage.cost_usd, budget.max_cost_usd),
    )
    return all(limit is None or used <= limit * (1 + tolerance) for used, limit in pairs)


def try_to_reserve(ledger: Ledger, estimate: Usage) -> Reservation | None:
    try:
        return ledger.reserve(estimate)
    except BudgetExceeded:
        return None


@given(BUDGETS, st.lists(st.tuples(USAGES, st.sampled_from(["keep", "settle", "unused"])), max_size=12))
def test_spent_and_reserved_stay_within_the_limits(budget: Budget, steps: list[tuple[Usage, str]]) -> None:
    ledger, reserved, spent = Ledger(budget), Usage(), Usage()
    for estimate, fate in steps:
        reservation = try_to_reserve(ledger, estimate)
        if reservation is None:
            assert not is_within(spent + reserved + estimate, budget, tolerance=0)
        elif fate == "keep":
            reserved += estimate
        elif fate == "settle":
            ledger.settle(reservation, estimate)
            spent += estimate
        else:
            ledger.settle(reservation, Usage())
        assert is_within(spent + reserved, budget)
        left = ledger.remaining()
        assert all(getattr(left, name) is None or getattr(left, name) >= 0 for name in Budget.__slots__)
    assert ledger.spent == spent


@given(BUDGETS, st.lists(USAGES, min_size=1, max_size=20))
def test_concurrent_tasks_never_pass_a_limit(budget: Budget, estimates: list[Usage]) -> None:
    ledger = Ledger(budget)

    async def work(estimate: Usage) -> Usage:
        reservation = try_to_reserve(ledger, estimate)
        if reservation is None:
            return Usage()
        await asyncio.sleep(0)
        ledger.settle(reservation, estimate)
        return estimate

    async def race() -> list[Usage]:
        return await asyncio.gather(*(work(estimate) for estimate in estimates))

    assert is_within(sum(asyncio.run(race()), Usage()), budget)
    assert is_within(ledger.spent, budget)


def test_concurrent_threads_get_exactly_what_there_is() -> None:
    ledger = Ledger(Budget(max_completions=100, max_cost_usd=10.0))
    one = Usage(completions=1, cost_usd=0.05)

    def work(_: int) -> bool:
        reservation = try_to_reserve(ledger, one)
        if reservation is not None:
            ledger.settle(reservation, one)
        return reservation is not None

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(400))) == 100
    assert ledger.spent.completions == 100
    assert ledger.spent.cost_usd == pytest.approx(5.0)


def test_the_refusal_names_limit_spent_reserved_and_needed() -> None:
    ledger = Ledger(Budget(max_completions=4))
    ledger.settle(ledger.reserve(Usage(completions=1)), Usage(completions=1))
    ledger.reserve(Usage(completions=2))
    with pytest.raises(BudgetExceeded, match=r"max_completions is 4: 1 spent, 2 reserved, 3 more needed"):
        ledger.reserve(Usage(completions=3))


def test_a_refused_reservation_leaves_nothing_behind() -> None:
    ledger = Ledger(Budget(max_completions=2, max_output_tokens=10))
    assert try_to_reserve(ledger, Usage(completions=2, completion_tokens=11)) is None
    assert try_to_reserve(ledger, Usage(completions=2, completion_tokens=10)) is not None


def test_an_unknown_cost_does_not_fit_under_a_limit_in_usd() -> None:
    with pytest.raises(BudgetExceeded, match="unknown"):
        Ledger(Budget(max_cost_usd=100.0)).reserve(Usage(completions=1, cost_usd=None))
    assert Ledger(Budget(max_completions=1)).reserve(Usage(completions=1, cost_usd=None))


def test_a_cost_that_turns_out_unknown_is_charged_as_estimated() -> None:
    ledger = Ledger(Budget(max_cost_usd=1.0))
    ledger.settle(ledger.reserve(Usage(cost_usd=0.7)), Usage(completions=1, cost_usd=None))
    assert ledger.spent.cost_usd is None
    assert try_to_reserve(ledger, Usage(cost_usd=0.4)) is None
    assert try_to_reserve(ledger, Usage(cost_usd=0.3)) is not None


def test_what_is_charged_counts_and_what_is_known_is_reported() -> None:
    ledger = Ledger(Budget(max_completions=3, max_output_tokens=100, max_cost_usd=1.0))
    estimate = Usage(completions=1, completion_tokens=70, cost_usd=0.7)
    ledger.settle(ledger.reserve(estimate), Usage(completions=1, cost_usd=None), charged=estimate)
    assert ledger.spent == Usage(completions=1, cost_usd=None)
    assert try_to_reserve(ledger, Usage(completion_tokens=31)) is None
    assert ledger.remaining() == Budget(
        max_completions=2, max_output_tokens=30, max_cost_usd=pytest.approx(0.3), deadline_s=None
    )
    ledger.reserve(Usage(completions=1, completion_tokens=30))
    assert (ledger.remaining().max_completions, ledger.remaining().max_output_tokens) == (1, 0)


def test_nothing_is_left_of_a_budget_that_was_overrun() -> None:
    ledger = Ledger(Budget(max_output_tokens=100))
    ledger.settle(ledger.reserve(Usage(completion_tokens=10)), Usage(completion_tokens=120))
    assert ledger.remaining() == Budget(max_output_tokens=0)


def test_three_thirds_fit_into_a_whole() -> None:
    ledger = Ledger(Budget(max_cost_usd=0.3))
    assert all(try_to_reserve(ledger, Usage(cost_usd=0.1)) for _ in range(3))


def test_more_than_estimated_is_booked_and_stops_the_next() -> None:
    ledger = Ledger(Budget(max_output_tokens=100))
    ledger.settle(ledger.reserve(Usage(completion_tokens=10)), Usage(completion_tokens=120))
    assert ledger.spent.completion_tokens == 120
    assert try_to_reserve(ledger, Usage(completion_tokens=1)) is None


def test_a_reservation_is_settled_once() -> None:
    ledger = Ledger(Budget())
    reservation = ledger.reserve(Usage(completions=1))
    ledger.settle(reservation, Usage(completions=1))
    with pytest.raises(ValueError, match="only once"):
        ledger.settle(reservation, Usage(completions=1))
    assert ledger.spent.completions == 1


def test_the_deadline_runs_from_the_making() -> None:
    now = [100.0]
    ledger = Ledger(Budget(deadline_s=5.0), clock=lambda: now[0])
    now[0] += 3
    ledger.stop_clock()
    assert ledger.remaining_s() == 2.0
    now[0] += 3
    assert ledger.remaining_s() == 0.0
    assert Ledger(Budget()).remaining_s() is None


def test_a_deadline_from_the_first_call_counts_the_stages_and_not_the_waiting() -> None:
    now = [100.0]
    ledger = Ledger(Budget(deadline_s=5.0), deadline_from="first_call", clock=lambda: now[0])
    now[0] += 60
    assert (ledger.remaining_s(), ledger.is_running) == (5.0, False)
    ledger.start_clock()
    now[0] += 2
    ledger.start_clock()
    now[0] += 1
    assert (ledger.remaining_s(), ledger.is_running) == (2.0, True)
    ledger.stop_clock()
    now[0] += 60
    ledger.stop_clock()
    assert ledger.remaining_s() == 2.0
    ledger.start_clock()
    now[0] += 3
    assert ledger.remaining_s() == 0.0
