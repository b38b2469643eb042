"""The ledger: a query's budget is reserved before its calls go out and settled by what they really used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from router_service.errors import BudgetExceeded
from router_service.types import Budget, Usage

__all__ = ["DeadlinesFrom", "Ledger", "Reservation", "Shortfall"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Which limit of a budget something does not fit into; `needed` is None where its cost is unknown."""

    limit: str
    allowed: float
    spent: float = 0.0
    reserved: float = 0.0
    needed: float | None

    def __str__(self) -> str:
        left = max(0.0, self.allowed - self.spent - self.reserved)
        if self.needed is None:
            return f"{self.limit}: {left:g} left, and what is needed is unknown" if left else f"{self.limit}: none left"
        return f"{self.limit}: {left:g} left, {self.needed:g} needed"

    def error(self) -> BudgetExceeded:
        """What reserving it raises."""
        if self.needed is None:
            return BudgetExceeded(
                f"the budget limits {self.limit} to {self.allowed:g}, but the cost of this call is unknown; "
                f"give the expert prices in the pool, or leave {self.limit} out"
            )
        return BudgetExceeded(
            f"the budget's {self.limit} is {self.allowed:g}: {self.spent:g} spent, {self.reserved:g} reserved, "
            f"{self.needed:g} more needed; raise {self.limit}, or ask fewer or cheaper experts"
        )


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
            lack = self._lack(estimate)
            if lack is None:
                self._open.add(reservation)
        if lack is not None:
            raise lack.error()
        return reservation

    def shortfall(self, estimate: Usage) -> Shortfall | None:
        """What does not fit of several calls as a whole, time to make them included; None where all of it fits."""
        if self.remaining_s() == 0:
            allowed_s = self.budget.deadline_s or 0.0
            return Shortfall(limit="deadline_s", allowed=allowed_s, spent=allowed_s, needed=None)
        with self._lock:
            return self._lack(estimate)

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

    def _lack(self, estimate: Usage) -> Shortfall | None:
        if not self.has_limits:
            return None
        limits, spent, reserved = self.budget, self._charged, self._reserved()
        fields: tuple[tuple[str, float | None, str], ...] = (
            ("max_completions", limits.max_completions, "completions"),
            ("max_output_tokens", limits.max_output_tokens, "completion_tokens"),
            ("max_cost_usd", limits.max_cost_usd, "cost_usd"),
        )
        for name, limit, spends in fields:
            if limit is None:
                continue
            taken, held = getattr(spent, spends) or 0.0, getattr(reserved, spends) or 0.0
            needed = getattr(estimate, spends)
            if needed is None or taken + held + needed > limit * (1 + _ROUNDING):
                return Shortfall(limit=name, allowed=limit, spent=taken, reserved=held, needed=needed)
        return None


def _left(limit: Number | None, taken: Number) -> Number | None:
    return None if limit is None else max(limit - taken, limit * 0)
