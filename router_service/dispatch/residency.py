"""Residency: calls of embedded engines wait here until their model is on a device, by one schedule per backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from experts_registry.estimate import estimate_usage
from router_service.backends.base import Backend, ResidentBackend
from router_service.config import DispatchConfig
from router_service.dispatch._residency_driver import Driver
from router_service.dispatch._residency_tickets import Request
from router_service.dispatch.gates import Gates
from router_service.dispatch.planner import in_parts
from router_service.dispatch.scheduler import SchedulerSettings
from router_service.errors import ExpertUnavailable
from router_service.types import Expert, ExpertBatch

__all__ = ["Residency", "Turn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Leave to call the backend now: on this device (None where the backend has none to choose from).

    `samples` counts those of the call and of the others that run beside it on its device.
    """

    device: str | None = None
    samples: int = 1


class Residency:
    """Gives calls their turns, over all runs of a runner: at a server by the expert's limit, at a plain embedded engine
    one after the other, at a `ResidentBackend` as its schedule says.

    Each resident backend has a schedule of its own for the devices it names: two backends that name the same GPU do
    not know of each other there, and take turns only as `max_parallel_batched` makes them. What is loaded stays so
    from one event loop to the next, as long as only one runs at a time.
    """

    def __init__(self, settings: DispatchConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._gates = Gates(settings.max_parallel_batched)
        self._drivers: dict[ResidentBackend, list[Driver]] = {}
        self._is_closed = False

    def parts_of(self, expert: Expert, backend: Backend, batch: ExpertBatch) -> list[ExpertBatch]:
        """The calls a batch is made in: one per assignment for a server, one in all for an embedded engine, and
        several of at most `max_assignments` where it can work on them at the same time."""
        if not _takes_batches(backend, expert):
            return in_parts(batch, 1)
        if not isinstance(backend, ResidentBackend) or len(batch.assignments) <= self._settings.max_assignments:
            return [batch]
        is_divisible = len(backend.devices()) > 1 or backend.footprint(expert).max_works > 1
        return in_parts(batch, self._settings.max_assignments) if is_divisible else [batch]

    @asynccontextmanager
    async def turn(
        self, expert: Expert, backend: Backend, batch: ExpertBatch, *, arrived_s: float | None = None
    ) -> AsyncIterator[Turn]:
        """Wait until the batch may go out. `arrived_s` is when it first asked, by the runner's clock, where its turn
        was lost with a device.

        Raises `ExpertUnavailable` where the model cannot be had on any device. What the block raises is noticed: a
        `DeviceLost` takes the device out, a retryable `ExpertUnavailable` means that the model crashed and has to be
        loaded again.
        """
        samples = sum(assignment.samples for assignment in batch.assignments)
        if not isinstance(backend, ResidentBackend) or not backend.resides(expert):
            is_batched = _takes_batches(backend, expert)
            async with self._gates.slot(expert, is_batched=is_batched):
                yield Turn(samples=samples if is_batched else 1)
            return
        async with AsyncExitStack() as held:
            if not backend.is_batched:
                await held.enter_async_context(self._gates.slot(expert, is_batched=False))
            self._require_open(expert)
            request = Request(
                expert=expert,
                samples=samples,
                tokens=_tokens(expert, batch),
                queries=frozenset(a.query.parent_id or a.query.id for a in batch.assignments),
                arrived_s=self._clock() if arrived_s is None else arrived_s,
            )
            driver = self._driver(backend)
            device = await held.enter_async_context(driver.turn(request))
            yield Turn(device=device, samples=driver.samples_beside(device))

    async def aclose(self) -> None:
        """End what waits and what loads; no call of a resident backend gets a turn after that."""
        self._is_closed = True
        drivers = [driver for several in self._drivers.values() for driver in several]
        self._drivers.clear()
        await asyncio.gather(*(driver.aclose() for driver in drivers))

    def _require_open(self, expert: Expert) -> None:
        if self._is_closed:
            message = f"expert {expert.id!r} cannot be asked: the engine was closed; build another one"
            raise ExpertUnavailable(message, expert_id=expert.id, retryable=False)

    def _driver(self, backend: ResidentBackend) -> Driver:
        """The backend's driver on this event loop; one whose loop was closed goes on here, with what it has loaded."""
        drivers = self._drivers.setdefault(backend, [])
        loop = asyncio.get_running_loop()
        own = next((driver for driver in drivers if driver.loop is loop), None)
        if own is not None:
            return own
        orphan = next((driver for driver in drivers if driver.loop.is_closed()), None)
        if orphan is not None:
            orphan.move_to(self._gates.engines())
            return orphan
        given = self._settings
        settings = SchedulerSettings(
            window_s=given.window_s,
            turn_cap=given.turn_cap,
            prefetches=given.prefetches,
            replicates=given.replicates,
        )
        driver = Driver(backend, settings=settings, line=self._gates.engines(), clock=self._clock)
        drivers.append(driver)
        return driver


def _takes_batches(backend: Backend, expert: Expert) -> bool:
    """Whether the expert's batches go out whole: not where it stands behind a server."""
    return backend.is_batched and (not isinstance(backend, ResidentBackend) or backend.resides(expert))


def _tokens(expert: Expert, batch: ExpertBatch) -> float:
    """Tokens that the batch takes at most, prompts and answers."""
    estimates = (estimate_usage(expert, a.query, a.samples) for a in batch.assignments)
    return float(sum(usage.prompt_tokens + usage.completion_tokens for usage in estimates))
