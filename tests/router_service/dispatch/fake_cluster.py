"""A cluster in this process: its nodes die, its hosts crash, and its connections break, as a test says."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

from router_service.dispatch._ray_cluster import HostFailed, HostGone, HostSilent
from router_service.dispatch._ray_host import DeviceHost, MakeBackend
from router_service.dispatch._ray_places import Node, Place


def node(number: int, **fields: Any) -> Node:
    return Node(**{"id": f"{number:08d}ffff", "address": "192.0.2.1", "cpus": 4.0, **fields})


class FakeHost:
    """A `DeviceHost` here; arguments and results go through pickle, as they do on their way to another process."""

    def __init__(self, place: Place, inside: DeviceHost, *, disturb: Callable[[str], str]) -> None:
        self.place = place
        self.inside = inside
        self.calls: list[str] = []
        self.is_dead = False
        self._disturb = disturb
        self._open: set[asyncio.Task[Any]] = set()

    async def call(self, method: str, *arguments: object) -> Any:
        if self.is_dead:
            raise HostGone("the process is not there")
        self.calls.append(method)
        trouble = self._disturb(method)
        if trouble == "unsent":
            raise HostSilent("nothing got through")
        task = asyncio.ensure_future(getattr(self.inside, method)(*pickle.loads(pickle.dumps(arguments))))
        self._open.add(task)
        try:
            answer = await task
        except asyncio.CancelledError:
            if self.is_dead:
                raise HostGone("the process died") from None
            raise
        finally:
            self._open.discard(task)
        if self.is_dead:
            raise HostGone("the process died")
        if trouble == "unheard":
            raise HostSilent("the answer got lost")
        return pickle.loads(pickle.dumps(answer))

    def kill(self) -> None:
        self.is_dead = True
        for task in self._open:
            task.cancel()
        for running in self.inside._jobs.values():
            if running.task is not None:
                running.task.cancel()


class FakeCluster:
    """`disturb(method)` says for each call: "" for nothing, "unsent" or "unheard" for a connection that breaks."""

    def __init__(self, *nodes: Node, disturb: Callable[[str], str] = lambda method: "") -> None:
        self.there = {each.id: each for each in nodes}
        self.hosts: list[FakeHost] = []
        self.refuses: str | None = None
        self._disturb = disturb

    def nodes(self, *, anew: bool = False) -> tuple[Node, ...]:
        return tuple(self.there.values())

    async def start(self, place: Place, make: MakeBackend) -> FakeHost:
        if place.node_id not in self.there:
            raise HostGone("the node is not there")
        if self.refuses is not None:
            raise HostFailed(self.refuses)
        host = FakeHost(place, DeviceHost(make, place), disturb=self._disturb)
        self.hosts.append(host)
        return host

    def kill_node(self, node_id: str) -> None:
        del self.there[node_id]
        for host in self.hosts:
            if host.place.node_id == node_id:
                host.kill()

    @property
    def living(self) -> list[FakeHost]:
        return [host for host in self.hosts if not host.is_dead]
