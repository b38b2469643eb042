"""The ledger: a query's budget is reserved before its calls go out and settled by what they really used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from router_service.errors import BudgetExceeded
from router_service.types import Budget, Usage

__all__ = ["DeadlinesFrom", "Ledger", "Reservation"]

DeadlinesFrom = Literal["arrival", "first_call"]
"""When a deadline's clock runs: from the ledger's making, or only from a stage's first call past the waiting line to
the stage's end, so that standing in line behind the rest of a long batch costs no query its time."""

Number = TypeVar("Number", int, float)

_ROUNDING = 1e-9
"""Relative tolerance of the money comparison: sums of prices are floats, and three thirds must fit into one."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reservation:
    """A share of a budget that is set aside; it stays so until the ledger settles it."""

    estimate: Usage


class Ledger:
    """The budget of one query: safe to use from several tasks and threads.

    The deadline runs from its making; `deadline_from="first_call"` lets it run as `start_clock` and `stop_clock` say.
    A call whose cost nobody knows cannot be reserved under a limit in USD. What was spent is reported as it is known;
    against the limits counts what was charged, which is the estimate where nobody knows the amount.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        deadline_from: DeadlinesFrom = "arrival",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self._clock = clock
        self._can_stop = deadline_from == "first_call"
        self._started = None if self._can_stop else clock()
        self._elapsed_s = 0.0
        self._lock = threading.Lock()
        self._open: set[Reservation] = set()
        self._spent = Usage()
        self._charged = Usage()

    @property
    def has_limits(self) -> bool:
        """True where something besides the deadline is limited, so that estimates matter."""
        limits = self.budget
        return (limits.max_completions, limits.max_cost_usd, limits.max_output_tokens) != (None, None, None)

    @property
    def spent(self) -> Usage:
        """What was settled so far; its cost is None as soon as one settled cost was unknown."""
        return self._spent

    def remaining(self) -> Budget:
        """What is left of every limit: neither charged nor reserved, never below 0."""
        with self._lock:
            taken = self._charged + self._reserved()
        limits = self.budget
        return Budget(
            max_completions=_left(limits.max_completions, taken.completions),
            max_cost_usd=_left(limits.max_cost_usd, taken.cost_usd or 0.0),
            max_output_tokens=_left(limits.max_output_tokens, taken.completion_tokens),
            deadline_s=self.remaining_s(),
        )

    def remaining_s(self) -> float | None:
        """Seconds to the deadline, never below 0; None where the budget has none."""
        if self.budget.deadline_s is None:
            return None
        running_s = 0.0 if self._started is None else self._clock() - self._started
        return max(0.0, self.budget.deadline_s - self._elapsed_s - running_s)

    @property
    def is_running(self) -> bool:
        """True while the deadline's clock runs."""
        return self._started is not None

    def start_clock(self) -> None:
        """A call goes out: from now on time counts, if it did not already."""
        with self._lock:
            if self._started is None:
                self._started = self._clock()

    def stop_clock(self) -> None:
        """A stage has ended; a deadline kept from the arrival runs on."""
        with self._lock:
            if self._can_stop and self._started is not None:
                self._elapsed_s += self._clock() - self._started
                self._started = None

    def reserve(self, estimate: Usage) -> Reservation:
        """Set the estimate aside, all of it or nothing; raises `BudgetExceeded` naming limit, spent and needed."""
        reservation = Reservation(estimate=estimate)
        with self._lock:
            self._check(estimate)
            self._open.add(reservation)
        return reservation

    def settle(self, reservation: Reservation, actual: Usage, *, charged: Usage | None = None) -> None:
        """Replace a reservation by what was used, also where that is more; settling twice is a `ValueError`.

        `charged` counts against the limits in the place of `actual`, of which something may be unknown; a cost that is
        unknown there too is charged as estimated.
        """
        charged = charged or actual
        cost = reservation.estimate.cost_usd if charged.cost_usd is None else charged.cost_usd
        with self._lock:
            if reservation not in self._open:
                raise ValueError("this reservation was settled before; each can be settled only once")
            self._open.remove(reservation)
            self._spent += actual
            self._charged += replace(charged, cost_usd=cost or 0.0)

    def _reserved(self) -> Usage:
        """The sum of what is set aside; summed anew each time, as adding and subtracting floats would drift."""
        return sum((reservation.estimate for reservation in self._open), Usage())

    def _check(self, estimate: Usage) -> None:
        if not self.has_limits:
            return
        limits, spent, reserved = self.budget, self._charged, self._reserved()
        _fits(
            "max_completions",
            limits.max_completions,
            spent=spent.completions,
            reserved=reserved.completions,
            needed=estimate.completions,
        )
        _fits(
            "max_output_tokens",
            limits.max_output_tokens,
            spent=spent.completion_tokens,
            reserved=reserved.completion_tokens,
            needed=estimate.completion_tokens,
        )
        if limits.max_cost_usd is None:
            return
        if estimate.cost_usd is None:
            raise BudgetExceeded(
                f"the budget limits max_cost_usd to {limits.max_cost_usd:g}, but the cost of this call is unknown; "
                "give the expert prices in the pool, or leave max_cost_usd out"
            )
        _fits(
            "max_cost_usd",
            limits.max_cost_usd,
            spent=spent.cost_usd or 0.0,
            reserved=reserved.cost_usd or 0.0,
            needed=estimate.cost_usd,
        )


def _left(limit: Number | None, taken: Number) -> Number | None:
    return None if limit is None else max(limit - taken, limit * 0)


def _fits(name: str, limit: float | None, *, spent: float, reserved: float, needed: float) -> None:
    if limit is None or spent + reserved + needed <= limit * (1 + _ROUNDING):
        return
    raise BudgetExceeded(
        f"the budget's {name} is {limit:g}: {spent:g} spent, {reserved:g} reserved, {needed:g} more needed; "
        f"raise {name}, or ask fewer or cheaper experts"
    )
