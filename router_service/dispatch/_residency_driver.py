"""Drives one backend by its schedule: begins what the schedule says, and tells it what came of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

from router_service.backends.base import Device, DeviceLost, Footprint, ResidentBackend
from router_service.dispatch._residency_experience import Experience
from router_service.dispatch._residency_moves import Ended, Moves
from router_service.dispatch._residency_tickets import Request, Ticket
from router_service.dispatch.gates import Line
from router_service.dispatch.scheduler import Action, Load, Release, Schedule, SchedulerSettings, Start, Work
from router_service.errors import ExpertError, ExpertUnavailable
from router_service.types import Expert

__all__ = ["Driver"]

_log = logging.getLogger(__name__)


class Driver:
    """One backend's devices, on one event loop at a time. While it has anything to do it holds a place in `line`.

    All state changes between two awaits of one loop. Loads and releases are tasks of the driver and not of the call
    that is waiting, so that a caller may go away at any time.
    """

    def __init__(
        self,
        backend: ResidentBackend,
        *,
        settings: SchedulerSettings,
        line: Line,
        clock: Callable[[], float],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._backend = backend
        self._line = line
        self._clock = clock
        self._devices: dict[str, Device] = {}
        self._schedule = Schedule((), settings)
        self._experience = Experience()
        self._numbers = itertools.count()
        self._waiting: dict[str, Ticket] = {}
        self._running: dict[str, Ticket] = {}
        self._moves = Moves()
        self._loads: dict[tuple[str, str], int] = {}
        self._server: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._has_started = False

    def footprint(self, expert: Expert) -> Footprint:
        """What the expert's model takes, as far as was learned."""
        return self._experience.informed(self._backend.footprint(expert))

    def samples_beside(self, device: str) -> int:
        """Samples that run on the device just now."""
        return sum(ticket.request.samples for ticket in self._running.values() if ticket.device == device)

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[str]:
        """Wait until the expert's model is on a device, and keep it there; the device's name. Raises `DeviceLost` where
        it was lost again meanwhile, and `ExpertUnavailable` where the model cannot be had."""
        ticket = self._enter(request)
        tokens = 0.0
        try:
            device = await ticket.place
            if not self._runs(ticket):
                raise DeviceLost(device, "before the call could begin")
            yield device
            tokens = request.tokens
        except DeviceLost as lost:
            if self._runs(ticket):
                self._lose(lost.device, lost.message)
            raise
        except ExpertUnavailable as error:
            if error.retryable and self._runs(ticket):
                self._crash(ticket)
            raise
        finally:
            self._leave(ticket, tokens)

    async def aclose(self) -> None:
        """End loads and releases; who waits is told that nothing will come. What is loaded is the backend's to free."""
        for ticket in self._waiting.values() if not self.loop.is_closed() else ():
            ticket.refuse("the engine was closed while the call waited for its model", retryable=False)
        self._waiting.clear()
        self._running.clear()
        tasks = self._moves.give_up()
        tasks += [self._server] if self._server is not None else []
        if self.loop is asyncio.get_running_loop():
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def move_to(self, line: Line) -> None:
        """Go on with another event loop after the first was closed; what was under way there has ended with it."""
        now = self._clock()
        for work_id in self._running:
            self._schedule.finished(work_id, now=now)
        for work_id in self._waiting:
            self._schedule.withdraw(work_id, now=now)
        for action in self._moves.under_way:
            if isinstance(action, Load):
                self._schedule.load_failed(action.device, action.model, now=now)
            else:
                self._schedule.released(action.device, action.model, now=now)
        self._running.clear()
        self._waiting.clear()
        self._moves.give_up()
        self._experience.interrupted()
        self.loop, self._line, self._news = asyncio.get_running_loop(), line, asyncio.Event()
        self._server = None

    # --- calls come and go -----------------------------------------------------------------------------------------

    def _enter(self, request: Request) -> Ticket:
        self._see_devices()
        footprint = self.footprint(request.expert)
        ticket = Ticket(
            id=f"{request.expert.id} {next(self._numbers)}",
            request=request,
            footprint=footprint,
            place=self.loop.create_future(),
        )
        work = Work(
            id=ticket.id,
            footprint=footprint,
            run_s=request.tokens / footprint.tokens_per_s,
            arrived_s=request.arrived_s,
            queries=request.queries,
        )
        if self._schedule.submit([work], now=self._clock()):
            ticket.refuse(self._no_device(request.expert, footprint), retryable=not self._devices)
            return ticket
        self._waiting[ticket.id] = ticket
        self._tell()
        return ticket

    def _leave(self, ticket: Ticket, tokens: float) -> None:
        now = self._clock()
        if self._waiting.pop(ticket.id, None) is not None:
            self._schedule.withdraw(ticket.id, now=now)
        if self._running.pop(ticket.id, None) is not None:
            self._schedule.finished(ticket.id, now=now)
        if ticket.device is not None:
            self._experience.ended(ticket.device, ticket.footprint.model, tokens=tokens, now=now)
        self._tell()

    def _runs(self, ticket: Ticket) -> bool:
        """Whether it runs, and its device was not lost meanwhile."""
        return ticket.id in self._running

    def _no_device(self, expert: Expert, footprint: Footprint) -> str:
        if not self._devices:
            return f"expert {expert.id!r}: backend {expert.backend!r} has no device left; start one, or ask another"
        largest = max(self._devices.values(), key=lambda device: device.memory_gib or 0.0)
        return (
            f"expert {expert.id!r} needs {footprint.memory_gib or 0.0:g} GiB (memory_gib), and the largest device of "
            f"backend {expert.backend!r}, {largest.name!r}, has {largest.memory_gib or 0.0:g} GiB; choose a smaller or "
            "quantised model, or spread it over several devices where the backend can"
        )

    # --- devices ---------------------------------------------------------------------------------------------------

    def _see_devices(self) -> None:
        """Take note of devices that came, and of those that went while nothing ran there."""
        now = self._clock()
        there = {device.name: device for device in self._backend.devices()}
        in_use = {ticket.device for ticket in self._running.values()}
        for name in [name for name in self._devices if name not in there and name not in in_use]:
            self._lose(name, "it is no longer there")
        for name, device in there.items():
            if name not in self._devices:
                self._devices[name] = device
                self._schedule.added(device, now=now)

    def _lose(self, device: str, message: str) -> None:
        """A device is gone: who ran there asks again, and who waits for it alone is told."""
        if self._devices.pop(device, None) is None:
            return
        _log.warning("device %s is lost: %s", device, message)
        for task in self._moves.give_up(device):
            task.cancel()
        now = self._clock()
        stranded = self._schedule.lost(device, now=now)
        for ticket in [ticket for ticket in self._running.values() if ticket.device == device]:
            del self._running[ticket.id]
            self._schedule.withdraw(ticket.id, now=now)
        self._refuse(stranded, f"device {device!r} was lost ({message}), and no other can hold the model")
        self._tell()

    def _crash(self, ticket: Ticket) -> None:
        """A model is gone by itself, with all that ran on it; only the first to say so is heard."""
        place = (ticket.device or "", ticket.footprint.model)
        if self._loads.get(place) == ticket.load:
            self._loads[place] += 1
            self._schedule.crashed(*place, now=self._clock())

    def _refuse(self, work_ids: list[str], message: str, *, retryable: bool = True) -> None:
        for work_id in work_ids:
            ticket = self._waiting.pop(work_id, None)
            if ticket is not None:
                ticket.refuse(f"expert {ticket.request.expert.id!r}: {message}", retryable=retryable)

    # --- what the schedule says ------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Something changed: have the schedule asked, once everybody who is about to come has come."""
        if not self._is_idle and (self._server is None or self._server.done()):
            self._server = self.loop.create_task(self._serve(), name="drive devices")
        self._news.set()

    @property
    def _is_idle(self) -> bool:
        return not (self._waiting or self._running or self._moves)

    async def _serve(self) -> None:
        try:
            while not self._is_idle:
                async with self._line.place():
                    await self._work()
        except Exception as defect:
            for ticket in self._waiting.values():
                ticket.refuse(f"the scheduler broke ({type(defect).__name__}: {defect})", retryable=False)
            raise

    async def _work(self) -> None:
        """Begin what is to be begun until nothing is left, or until another engine wants its turn after this one."""
        self._has_started = False
        while not self._is_idle:
            gives_way = self._has_started and self._line.is_wanted
            if gives_way and not self._running:
                return
            self._news.clear()
            wait_s = None if gives_way else self._begin()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    def _begin(self) -> float | None:
        """Begin all that can be; returns the seconds after which there may be more."""
        now = self._clock()
        for action in self._schedule.actions(now):
            self._act(action)
        return self._schedule.next_check_s(now)

    def _act(self, action: Action) -> None:
        if isinstance(action, Start):
            self._start(action)
        elif isinstance(action, Load):
            expert = self._waiting[action.work_id].request.expert
            load = self._backend.load(expert, device=action.device)
            self._moves.begin(action, load, self._moved(action, partial(self._loaded, action, self._clock())))
        else:
            release = self._backend.release(action.model, device=action.device, sleeps=action.sleeps)
            self._moves.begin(action, release, self._moved(action, partial(self._released, action)))

    def _start(self, start: Start) -> None:
        ticket = self._waiting.pop(start.work_id)
        self._running[ticket.id] = ticket
        ticket.device = start.device
        ticket.load = self._loads.setdefault((start.device, ticket.footprint.model), 0)
        self._has_started = True
        self._experience.began(start.device, ticket.footprint.model, now=self._clock())
        if not ticket.place.done():
            ticket.place.set_result(start.device)

    def _moved(self, action: Load | Release, then: Callable[[BaseException | None], None]) -> Ended:
        """What to do when a load or release ended in whatever way."""

        def ended(error: BaseException | None) -> None:
            if isinstance(error, DeviceLost):
                self._lose(action.device, error.message)
            else:
                then(error)
            self._tell()

        return ended

    def _loaded(self, load: Load, began: float, error: BaseException | None) -> None:
        now = self._clock()
        if error is None:
            self._experience.loaded(load.model, now - began, woke=load.wakes)
            self._schedule.loaded(load.device, load.model, now=now)
            return
        stranded = self._schedule.load_failed(load.device, load.model, now=now)
        if isinstance(error, ExpertError):
            why, retryable = error.message, error.retryable
        else:
            why, retryable = f"{type(error).__name__}: {error}".rstrip(": "), isinstance(error, asyncio.CancelledError)
        self._refuse(stranded, f"its model cannot be loaded on {load.device!r}: {why}", retryable=retryable)

    def _released(self, release: Release, error: BaseException | None) -> None:
        if error is not None:
            _log.warning("releasing %s on %s failed: %r", release.model, release.device, error)
        self._schedule.released(release.device, release.model, now=self._clock())
