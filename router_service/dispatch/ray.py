"""Many machines: a backend whose models are held by processes on a cluster's nodes, one process for each device."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from weakref import WeakValueDictionary

from router_service import errors
from router_service.backends.base import Device, DeviceLost, Footprint, ResidentBackend, ScoringBackend
from router_service.config import ClusterConfig
from router_service.dispatch._closing import closing
from router_service.dispatch._ray_cluster import Cluster, Host, HostFailed, HostGone, HostSilent
from router_service.dispatch._ray_host import (
    CheckedBackend,
    CompleteJob,
    Job,
    LoadJob,
    MakeBackend,
    Piece,
    ReleaseJob,
    Report,
    ScoreJob,
)
from router_service.dispatch._ray_places import Place, places_on, uses_gpus
from router_service.dispatch._ray_plain import as_resident
from router_service.errors import ExpertError, ExpertUnavailable
from router_service.types import Completion, CompletionError, Expert, ExpertBatch, Query, TextScore, TokenDelta

__all__ = ["RayBackend"]

_log = logging.getLogger(__name__)

_WAIT_S = 10.0
"""How long a host holds a question for news open."""
_REJOIN_S = 60.0
"""A device that was given up, of a node that still counts as alive, is offered again after this time."""

_NOWHERE = Place(device=Device(name="nowhere"), node_id="", cpus=0.0)
"""What the wrapped backend is made for here while the cluster has no device yet."""

_FAILURES = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ExpertError)
}


@dataclass(eq=False, slots=True)
class _Held:
    """A device with its host, and the models that were loaded there."""

    place: Place
    host: Host
    models: set[str] = field(default_factory=set)


class RayBackend(ResidentBackend):
    """Runs another backend on the devices of a cluster.

    A device is a GPU (or a group of them) or a node without one. Whatever is loaded there first starts a host: an
    actor that claims the device from Ray and holds the wrapped backend, which works there as it would on a machine of
    its own, several models at once, asleep ones included. Where models go is the scheduler's to say. A host that dies
    alone is an `ExpertUnavailable` for what ran on it, a node that dies a `DeviceLost`.
    """

    def __init__(
        self,
        make: MakeBackend,
        *,
        cluster: Cluster,
        settings: ClusterConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause_s: float = 0.2,
    ) -> None:
        """`make` makes the wrapped backend, here for its checks and footprints and on every node that it runs on.
        A host that does not answer is asked again after `pause_s`."""
        self._make = make
        self._cluster = cluster
        self._settings = settings or ClusterConfig()
        self._clock = clock
        self._pause_s = pause_s
        self._gpus = False
        self._places = self._offered()
        self._template = as_resident(partial(make, next(iter(self._places.values()), _NOWHERE)))
        self._max_models = next((device.max_models for device in self._template.devices()), None)
        self.extracts_answers = self._template.extracts_answers  # type: ignore[misc]  # what it wraps decides
        if isinstance(self._template, ScoringBackend):  # so that this is one exactly where what it wraps is one
            self.score = self._score
        self._checked: dict[str, Expert] = {}
        self._held: dict[str, _Held] = {}
        self._given_up: dict[str, float] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # one outlives no event loop
        self._jobs = (f"{uuid.uuid4().hex[:8]}-{number}" for number in itertools.count())

    # --- what the scheduler asks ------------------------------------------------------------------------------------

    def devices(self) -> tuple[Device, ...]:
        """What the cluster offers now, without what was given up for lost. Where GPUs were seen once, only GPUs count:
        a model that needs one must not land beside it."""
        places = self._offered()
        for name in [name for name, since in self._given_up.items() if self._clock() - since > _REJOIN_S]:
            del self._given_up[name]
        self._places = {name: place for name, place in places.items() if name not in self._given_up}
        return tuple(replace(place.device, max_models=self._max_models) for place in self._places.values())

    def footprint(self, expert: Expert) -> Footprint:
        """What the wrapped backend says."""
        return self._template.footprint(expert)

    def resides(self, expert: Expert) -> bool:
        """What the wrapped backend says; an expert that needs no device is asked from here."""
        return self._template.resides(expert)

    def check(self, expert: Expert) -> None:
        """What the wrapped backend says here; files and packages are to be the same on every node."""
        self._template.check(expert)
        self._checked[expert.id] = expert

    async def load(self, expert: Expert, *, device: str) -> None:
        """See `ResidentBackend.load`; the first load on a device starts its host."""
        await self._loaded(expert, device)

    async def release(self, model: str, *, device: str, sleeps: bool = False) -> None:
        """See `ResidentBackend.release`; a host stays for the next model."""
        held = self._held.get(device)
        if held is None or model not in held.models:
            return
        held.models.discard(model)
        with suppress(ExpertError, DeviceLost):  # a host that is gone holds nothing any more
            await self._do(held, ReleaseJob(model=model, sleeps=sleeps), owner=model)

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        """See `Backend.complete`. Where the host died meanwhile, the model is loaded into a new one first."""
        if not self.resides(expert):
            async with closing(self._template.complete(expert, batch)) as here:
                async for item in here:
                    yield item
            return
        if batch.device is None:
            raise ExpertUnavailable(
                f"expert {expert.id!r} runs on a cluster, and its batch names no device of it",
                expert_id=expert.id,
                retryable=False,
            )
        held = await self._with_model(expert, batch.device)
        job = CompleteJob(expert=expert, batch=batch)
        async with aclosing(self._pieces(held, job, owner=expert.id)) as pieces:
            async for piece in pieces:
                assert not isinstance(piece, TextScore)
                yield piece

    async def _score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        """See `ScoringBackend.score`; done where the model is, else on the first device, whose host fetches it."""
        model = self.footprint(expert).model
        there = [name for name, held in self._held.items() if model in held.models]
        device = next(iter([*there, *(device.name for device in self.devices())]), None)
        if device is None:
            message = f"expert {expert.id!r} cannot score: the cluster has no device now; start a node, or ask later"
            raise ExpertUnavailable(message, expert_id=expert.id, retryable=True)
        held = await self._host_for(expert, device)
        job = ScoreJob(expert=expert, texts=tuple(texts))
        async with aclosing(self._pieces(held, job, owner=expert.id)) as pieces:
            return [piece async for piece in pieces if isinstance(piece, TextScore)]

    async def aclose(self) -> None:
        """End all hosts, and with them what they hold."""
        everybody = list(self._held.values())
        self._held.clear()
        await asyncio.gather(*(_close(held.host) for held in everybody))
        await self._template.aclose()

    def _offered(self) -> dict[str, Place]:
        nodes = self._cluster.nodes()
        self._gpus = self._gpus or uses_gpus(nodes, self._settings)
        return {place.device.name: place for place in places_on(nodes, self._settings, gpus=self._gpus)}

    # --- hosts ------------------------------------------------------------------------------------------------------

    async def _host_for(self, expert: Expert, device: str) -> _Held:
        lock = self._locks.setdefault(device, asyncio.Lock())
        async with lock:
            if device in self._held:
                return self._held[device]
            place = self._places.get(device)
            if place is None:
                raise self._lost(device, "it is not among the cluster's devices any more")
            try:
                make = CheckedBackend(make=self._make, experts=tuple(self._checked.values()))
                host = await self._cluster.start(place, make)
            except HostGone as gone:
                raise self._lost(device, str(gone)) from None
            except HostFailed as failed:
                if not await asyncio.to_thread(self._is_alive, place.node_id):
                    raise self._lost(device, f"its node is dead ({failed})") from None
                raise ExpertUnavailable(
                    f"expert {expert.id!r}: nothing could be started on {device}: {failed}",
                    expert_id=expert.id,
                    retryable=False,
                ) from None
            self._held[device] = held = _Held(place, host)
            return held

    async def _with_model(self, expert: Expert, device: str) -> _Held:
        """The device's host with the expert's model, loaded anew where the host died while nobody looked."""
        held = self._held.get(device)
        if held is not None and self.footprint(expert).model in held.models:
            with suppress(ExpertUnavailable):
                await self._call(held, expert.id, "facts")
                return held
        return await self._loaded(expert, device)

    async def _loaded(self, expert: Expert, device: str) -> _Held:
        """Load the expert's model; the device's host."""
        held = await self._host_for(expert, device)
        await self._do(held, LoadJob(expert=expert), owner=expert.id)
        held.models.add(self.footprint(expert).model)
        return held

    async def _do(self, held: _Held, job: Job, *, owner: str) -> None:
        """Have the host do a job that brings nothing."""
        async with aclosing(self._pieces(held, job, owner=owner)) as pieces:
            async for _ in pieces:
                pass

    async def _pieces(self, held: _Held, job: Job, *, owner: str) -> AsyncGenerator[Piece, None]:
        """Have the host do a job for `owner`, an expert or a model; each piece once, however often the connection
        breaks. Closing it ends the job there."""
        job_id, received = next(self._jobs), 0
        try:
            await self._call(held, owner, "begin", job_id, job)
            while True:
                report = await self._call(held, owner, "report", job_id, received, _WAIT_S)
                assert isinstance(report, Report)
                received += len(report.pieces)
                for piece in report.pieces:
                    yield piece
                if report.lost is not None:
                    lost = self._lost(held.place.device.name, report.lost)
                    self._drop(held)  # what broke under a process stays broken there
                    raise lost
                if report.failure is not None:
                    raise _error_of(report.failure, owner)
                if report.is_over:
                    return
        finally:
            if self._held.get(held.place.device.name) is held:
                await _quietly(held.host.call("stop", job_id))

    async def _call(self, held: _Held, owner: str, method: str, *arguments: object) -> object:
        """Call the host, again while it is silent; raises `DeviceLost` or `ExpertUnavailable` where it is gone."""
        device = held.place.device.name
        silent_since: float | None = None
        while True:
            try:
                return await held.host.call(method, *arguments)
            except HostGone as gone:
                self._drop(held)
                if device in self._given_up:  # another call on it was first to notice
                    raise DeviceLost(device, str(gone)) from None
                if not await asyncio.to_thread(self._is_alive, held.place.node_id):
                    raise self._lost(device, f"its node is dead ({gone})") from None
                message = f"the process that held {owner!r} on {device} died: {gone}"
                raise ExpertUnavailable(message, expert_id=owner, retryable=True) from None
            except HostSilent as silent:
                now = self._clock()
                silent_since = now if silent_since is None else silent_since
                is_alive = await asyncio.to_thread(self._is_alive, held.place.node_id)
                if not is_alive or now - silent_since > self._settings.silence_s:
                    lost = self._lost(device, f"it does not answer ({silent})")
                    self._drop(held)
                    raise lost from None
            await asyncio.sleep(self._pause_s)

    def _is_alive(self, node_id: str) -> bool:
        return any(node.id == node_id for node in self._cluster.nodes(anew=True))

    def _drop(self, held: _Held) -> None:
        """Forget a host that is gone, once; what it may still hold ends with it."""
        if self._held.get(held.place.device.name) is held:
            del self._held[held.place.device.name]
            held.host.kill()

    def _lost(self, device: str, why: str) -> DeviceLost:
        """Take a device out of what is offered."""
        if device not in self._given_up:
            _log.warning("device %s is lost: %s; what was not finished there is done elsewhere", device, why)
        self._given_up[device] = self._clock()
        self._places.pop(device, None)
        return DeviceLost(device, why)


async def _close(host: Host) -> None:
    try:
        await _quietly(host.call("close"))
    except Exception as broke:  # the process ends all the same, and what it holds with it
        _log.warning("a process on the cluster could not be closed, and is ended: %s: %s", type(broke).__name__, broke)
    finally:
        host.kill()


async def _quietly(call: Awaitable[object]) -> None:
    """Await a last call to a host that may be gone; nobody hears how it ended."""
    with suppress(HostGone, HostSilent, TimeoutError):
        await asyncio.wait_for(call, _WAIT_S)


def _error_of(failure: CompletionError, expert_id: str) -> ExpertError:
    """What failed on a node, raised here."""
    kind = _FAILURES.get(failure.code)
    if kind is None:  # a broken set-up there: another try would fail alike
        return ExpertUnavailable(failure.message, expert_id=expert_id, retryable=False)
    return kind(
        failure.message, expert_id=expert_id, retryable=failure.is_retryable, retry_after_s=failure.retry_after_s
    )
