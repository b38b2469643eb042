"""The connection to a Ray cluster: its nodes, and hosts for devices on them; the only module that starts actors."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from router_service.dispatch._ray_host import DeviceHost, HostFacts, MakeBackend
from router_service.dispatch._ray_places import Node, Place
from router_service.errors import ConfigError

__all__ = ["Cluster", "Host", "HostFailed", "HostGone", "HostSilent", "RayCluster", "gpu_memory_gib"]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""For how long the list of nodes counts as fresh."""
_KNOCK_S = 5.0
_PROBE_S = 30.0
_START_S = 120.0
"""How long a host may take to start: a process, its imports, and room on its node."""
_AT_ONCE = 1000
_GIB = 2.0**30


class HostGone(Exception):
    """A host's process ended."""


class HostSilent(Exception):
    """A host cannot be reached just now; it may still run."""


class HostFailed(Exception):
    """A host could not be started."""


class Host(Protocol):
    """A `DeviceHost` in a process of its own."""

    async def call(self, method: str, *arguments: object) -> Any:
        """Call a method; raises `HostGone`, `HostSilent`, or what only a defect raises."""
        ...

    def kill(self) -> None:
        """End the process at once."""
        ...


class Cluster(Protocol):
    """What a backend needs of a cluster."""

    def nodes(self, *, anew: bool = False) -> tuple[Node, ...]:
        """The living nodes, in a fixed order; `anew` where a second-old list will not do."""
        ...

    async def start(self, place: Place, make: MakeBackend) -> Host:
        """A host for a device; raises `HostFailed` with the reason, `HostGone` where the node is gone."""
        ...


class RayCluster:
    """A Ray cluster, joined as a driver or (ray://) as a client. Actors end with the process that made this."""

    def __init__(self, address: str = "auto") -> None:
        """Join the cluster; `address` is `auto` (the one that runs here, or RAY_ADDRESS), `host:port`,
        `ray://host:port`, or `local` for a new one on this machine. In a process that has joined one already, that
        one is used.

        Raises `ConfigError` where Ray is missing, nobody listens at the address, or Ray refuses.
        """
        self._ray = _joined(address)
        self._nodes: tuple[Node, ...] = ()
        self._seen_s = -_LOOK_S
        self._gpu_memory: dict[str, float | None] = {}
        self._probes: dict[str, tuple[Any, float]] = {}
        self._lock = threading.Lock()
        self.nodes()
        self._hear_probes(wait_s=_PROBE_S)
        self.nodes(anew=True)

    def nodes(self, *, anew: bool = False) -> tuple[Node, ...]:
        """See `Cluster.nodes`; a node with GPUs is one of them as soon as it said how much memory they have."""
        with self._lock:  # asked by several threads: a backend looks in one of its own whether a node still lives
            if anew or time.monotonic() - self._seen_s > _LOOK_S:
                self._look()
            return self._nodes

    def _look(self) -> None:
        alive = [entry for entry in self._ray.nodes() if entry["Alive"]]
        for entry in alive:
            if entry["Resources"].get("GPU"):
                self._probe(entry["NodeID"])
        self._hear_probes(wait_s=0.0)
        known = [entry for entry in alive if entry["NodeID"] not in self._probes]
        self._nodes = tuple(sorted((self._node(entry) for entry in known), key=lambda node: node.id))
        self._seen_s = time.monotonic()

    async def start(self, place: Place, make: MakeBackend) -> Host:
        """See `Cluster.start`."""
        from ray import exceptions
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "num_cpus": place.cpus,
            "num_gpus": place.gpus,
            "max_concurrency": _AT_ONCE,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(place.node_id, soft=False),
        }
        host = _RayHost(self._ray, self._ray.remote(DeviceHost).options(**options).remote(make, place))
        try:
            async with asyncio.timeout(_START_S):
                facts: HostFacts = await host.facts()
        except BaseException as broke:
            host.kill()
            if isinstance(broke, TimeoutError):
                free = f"{place.cpus:g} CPUs and {place.gpus} GPUs" if place.gpus else f"{place.cpus:g} CPUs"
                raise HostFailed(f"no process started within {_START_S:g} s; is {free} of the node free?") from None
            if isinstance(broke, exceptions.ActorUnschedulableError):
                raise HostGone(_first_line(broke)) from None
            if isinstance(broke, exceptions.RayActorError):
                raise HostFailed(_reason(broke)) from None
            raise
        _log.debug("%s is held by process %d (version %s)", place.device.name, facts.pid, facts.version)
        return host

    def _node(self, entry: dict[str, Any]) -> Node:
        resources = entry["Resources"]
        memory = resources.get("memory")
        return Node(
            id=entry["NodeID"],
            address=entry["NodeManagerAddress"],
            cpus=float(resources.get("CPU", 0.0)),
            gpus=int(resources.get("GPU", 0)),
            memory_gib=None if memory is None else memory / _GIB,
            gpu_memory_gib=self._gpu_memory.get(entry["NodeID"]),
        )

    def _probe(self, node_id: str) -> None:
        """Ask a node that is new how much memory its GPUs have."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if node_id not in self._gpu_memory and node_id not in self._probes:
            where = NodeAffinitySchedulingStrategy(node_id, soft=False)
            probe = self._ray.remote(gpu_memory_gib).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
            self._probes[node_id] = (probe.remote(), time.monotonic())

    def _hear_probes(self, *, wait_s: float) -> None:
        """Note what the nodes said by now; one that says nothing in time has GPUs of unknown memory."""
        if not self._probes:
            return
        refs = [ref for ref, _ in self._probes.values()]
        done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=wait_s)
        for node_id, (ref, since) in list(self._probes.items()):
            if ref in done or time.monotonic() - since > _PROBE_S:
                del self._probes[node_id]
                self._gpu_memory[node_id] = self._said(ref) if ref in done else None

    def _said(self, ref: Any) -> float | None:
        try:
            memory_gib: float | None = self._ray.get(ref)
        except Exception as unknown:  # the node may just have died
            _log.debug("a node did not say how much memory its GPUs have: %s", unknown)
            return None
        return memory_gib


class _RayHost:
    """A host in a Ray actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor

    async def facts(self) -> HostFacts:
        """The host's facts; raises what Ray raises."""
        facts: HostFacts = await self._actor.facts.remote()
        return facts

    async def call(self, method: str, *arguments: object) -> Any:
        """See `Host.call`."""
        from ray import exceptions

        try:
            return await getattr(self._actor, method).remote(*arguments)
        except (exceptions.ActorUnavailableError, exceptions.ObjectLostError) as silent:
            raise HostSilent(_first_line(silent)) from None  # a large answer may get lost with the node that kept it
        except exceptions.RayActorError as gone:
            raise HostGone(_reason(gone)) from None

    def kill(self) -> None:
        """See `Host.kill`."""
        try:
            self._ray.kill(self._actor, no_restart=True)
        except Exception as gone:  # it ended by itself, or the cluster did
            _log.debug("an actor was gone already: %s", gone)


def gpu_memory_gib() -> float | None:
    """The memory of the smallest GPU of this machine in GiB, as `nvidia-smi` says it; None where it cannot."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S / 2, check=True).stdout
        return min(float(line) for line in said.splitlines() if line.strip()) / 1024.0
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _joined(address: str) -> Any:
    """Ray, connected to the cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as missing:
        raise ConfigError(f'a Ray cluster needs the package ray: pip install "enlist[ray]" ({missing})') from None
    if ray.is_initialized():
        return ray
    _knock(address)
    try:
        ray.init(
            address=address,
            namespace=f"enlist-{uuid.uuid4().hex[:12]}",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (Exception, SystemExit) as refused:  # Ray exits where a cluster's head does not answer
        raise ConfigError(
            f"cannot join the Ray cluster at {address!r}: {_first_line(refused)}. Start one with `ray start --head`, "
            "or give the address of one: host:6379, or ray://host:10001 from outside"
        ) from None
    _silence(sys.modules.get("ray._private.worker"))
    return ray


def _knock(address: str, *, connect: Callable[..., socket.socket] = socket.create_connection) -> None:
    """Raise `ConfigError` where nobody listens at the address: Ray itself would try for minutes, and then exit."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address in ("auto", "local"):
        return
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not (separator and host and port.isdigit()):
        raise ConfigError(
            f"the address of a Ray cluster is {address!r}; allowed: auto, local, host:port, ray://host:port"
        )
    try:
        connect((host.strip("[]"), int(port)), _KNOCK_S).close()
    except OSError as refused:
        raise ConfigError(
            f"no Ray cluster listens at {address!r} ({refused}); start one there with `ray start --head`, or correct "
            "the address (6379 is the usual port, 10001 for ray://)"
        ) from None


def _silence(worker: Any) -> None:
    """Keep what Ray prints of its nodes off our standard output, which may be somebody's JSON; what it means for the
    experts is said by us. Where a later Ray has no such switch, it prints."""
    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__


def _reason(error: BaseException) -> str:
    """Why an actor died: the last line of what was raised in it, else what Ray says first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = [line for line in lines if "Error: " in line]
    return raised[-1] if raised else (lines[0] if lines else type(error).__name__)
