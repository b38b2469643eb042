"""What runs on a node for one device: it holds the wrapped backend, and does jobs whose results are fetched."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from typing import Any

from router_service.backends.base import BACKENDS, Backend, DeviceLost, ResidentBackend, ScoringBackend
from router_service.dispatch._closing import closing
from router_service.dispatch._ray_places import Place
from router_service.dispatch._ray_plain import as_resident
from router_service.errors import ConfigError, ExpertError, ExpertUnavailable, RouterError
from router_service.types import Completion, CompletionError, Expert, ExpertBatch, Query, TextScore, TokenDelta

__all__ = [
    "CheckedBackend",
    "CompleteJob",
    "DeviceHost",
    "HostFacts",
    "Job",
    "LoadJob",
    "MakeBackend",
    "NamedBackend",
    "Piece",
    "ReleaseJob",
    "Report",
    "ScoreJob",
    "installed_version",
]

Piece = Completion | TokenDelta | TextScore
MakeBackend = Callable[[Place], Backend]
"""Makes the wrapped backend for a device, in any process; must survive pickling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedBackend:
    """A registered backend with its options, made where it is called.

    One whose constructor takes `devices` (a list of {name, memory_gib, gpus}) is told of the one it is made for, all
    of its GPUs together: those that Ray shows the process, or the first ones where it shows none (a process that only
    checks and estimates).
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, place: Place) -> Backend:
        """A new one."""
        options = dict(self.options)
        if "devices" in inspect.signature(BACKENDS.factory(self.name)).parameters:
            shown = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
            gpus = shown[: place.gpus] if len(shown) >= place.gpus else list(map(str, range(place.gpus)))
            device = {"name": place.device.name, "memory_gib": place.device.memory_gib, "gpus": ",".join(gpus)}
            options["devices"] = [{key: value for key, value in device.items() if value}]
        return BACKENDS.create(self.name, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBackend:
    """A backend that has checked the experts it may be asked for: from that an engine knows which adapters to expect
    when it begins with the first of them."""

    make: MakeBackend
    experts: tuple[Expert, ...]

    def __call__(self, place: Place) -> Backend:
        """A new one. What is wrong with an expert on this node alone shows when that is loaded."""
        backend = self.make(place)
        for expert in self.experts:
            with suppress(RouterError):
                backend.check(expert)
        return backend


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadJob:
    """Have the expert's model resident."""

    expert: Expert


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseJob:
    """Give a model's memory back."""

    model: str
    sleeps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteJob:
    """Answer a batch; its pieces are what the backend yields."""

    expert: Expert
    batch: ExpertBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreJob:
    """Read texts, see `ScoringBackend`; its pieces are their scores, in order."""

    expert: Expert
    texts: tuple[tuple[Query, str], ...]


_STOPPED_KEPT = 1000
"""Jobs that are remembered as stopped: calls that overtake one another were made at about the same time."""
_STOPPED = CompletionError(code=ExpertUnavailable.code, message="the job was stopped", is_retryable=True)

Job = LoadJob | ReleaseJob | CompleteJob | ScoreJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a job brought since the last report, whether it is over, and how it failed.

    `lost` says that the device itself broke; `failure` is any other end that is not well.
    """

    pieces: tuple[Piece, ...] = ()
    is_over: bool = False
    failure: CompletionError | None = None
    lost: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Which process holds a device, and which version of this package it runs."""

    pid: int
    version: str


@dataclass(slots=True)
class _Running:
    """A job under way: `first` is the number of the first piece that is still kept."""

    task: asyncio.Task[None] | None = None
    pieces: list[Piece] = field(default_factory=list)
    first: int = 0
    end: Report | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.news.set()

    def finish(self, end: Report) -> None:
        self.end = end
        self.news.set()

    def since(self, received: int) -> Report:
        """The pieces from number `received` on; those before it are dropped, their receiver has them."""
        del self.pieces[: max(0, received - self.first)]
        self.first = max(self.first, received)
        self.news.clear()
        report = Report(pieces=tuple(self.pieces))
        if self.end is None:
            return report
        return replace(self.end, pieces=report.pieces, is_over=True)


class DeviceHost:
    """One device's wrapped backend, made in this process; every method may be called while others run.

    A job is begun under an id of the caller's, and its pieces are kept until the caller says how many it has
    received: a call that is lost on the way can be made again, and nothing comes twice or not at all.
    """

    def __init__(self, make: MakeBackend, place: Place) -> None:
        self._backend: ResidentBackend = as_resident(partial(make, place))
        devices = self._backend.devices()
        if not devices:
            raise ConfigError(f"{type(self._backend).__name__} finds no device on this node that it could use")
        self._device = devices[0].name
        self._jobs: dict[str, _Running] = {}
        self._stopped: deque[str] = deque(maxlen=_STOPPED_KEPT)

    async def facts(self) -> HostFacts:
        """Who is here; answered as soon as the backend is made."""
        return HostFacts(pid=os.getpid(), version=installed_version())

    async def begin(self, job_id: str, job: Job) -> None:
        """Begin a job; one of that id that is there already goes on, one that was stopped stays so: Ray lets a small
        call overtake one with a large batch."""
        if job_id not in self._jobs and job_id not in self._stopped:
            running = self._jobs[job_id] = _Running()
            running.task = asyncio.create_task(self._run(running, job), name=f"job {job_id}")

    async def report(self, job_id: str, received: int, wait_s: float) -> Report:
        """What the job brought after the first `received` pieces; waits up to `wait_s` for something to report."""
        running = self._jobs.get(job_id)
        if running is None:
            return Report(is_over=True, failure=_STOPPED)
        report = running.since(received)
        if report.pieces or report.is_over:
            return report
        try:
            await asyncio.wait_for(running.news.wait(), wait_s)
        except TimeoutError:
            return report
        return running.since(received)

    async def stop(self, job_id: str) -> None:
        """End a job, if it still runs, and forget it; returns when it has ended."""
        self._stopped.append(job_id)
        running = self._jobs.pop(job_id, None)
        if running is not None and running.task is not None:
            running.task.cancel()
            await asyncio.wait([running.task])

    async def close(self) -> None:
        """End all jobs and free what the backend holds."""
        for job_id in list(self._jobs):
            await self.stop(job_id)
        await self._backend.aclose()

    async def _run(self, running: _Running, job: Job) -> None:
        try:
            async with aclosing(self._pieces(job)) as pieces:
                async for piece in pieces:
                    running.put(piece)
            running.finish(Report())
        except DeviceLost as lost:
            running.finish(Report(lost=lost.message))
        except Exception as broke:
            running.finish(Report(failure=_failure_of(broke)))
        except asyncio.CancelledError:
            running.finish(Report(failure=_STOPPED))
            raise

    async def _pieces(self, job: Job) -> AsyncGenerator[Piece, None]:
        if isinstance(job, LoadJob):
            await self._backend.load(job.expert, device=self._device)
        elif isinstance(job, ReleaseJob):
            await self._backend.release(job.model, device=self._device, sleeps=job.sleeps)
        elif isinstance(job, ScoreJob):
            assert isinstance(self._backend, ScoringBackend)
            for score in await self._backend.score(job.expert, job.texts):
                yield score
        else:
            batch = replace(job.batch, device=self._device)
            async with closing(self._backend.complete(job.expert, batch)) as pieces:
                async for piece in pieces:
                    yield piece


def installed_version() -> str:
    """The version of this package here; empty where it runs without being installed."""
    try:
        return metadata.version("enlist")
    except metadata.PackageNotFoundError:
        return ""


def _failure_of(error: Exception) -> CompletionError:
    """An exception as data, since not every one survives the way to another process."""
    if isinstance(error, ExpertError):
        return CompletionError(
            code=error.code, message=error.message, is_retryable=error.retryable, retry_after_s=error.retry_after_s
        )
    if isinstance(error, RouterError):
        return CompletionError(code=error.code, message=error.message)
    return CompletionError(code=ExpertError.code, message=f"{type(error).__name__}: {error}")
