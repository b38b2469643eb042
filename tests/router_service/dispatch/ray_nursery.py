"""A real Ray cluster of several nodes in one machine, and an echoing backend that notes on disk what it was asked."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from router_service.backends.base import Backend
from router_service.dispatch._ray_cluster import Cluster, Host
from router_service.dispatch._ray_host import MakeBackend
from router_service.dispatch._ray_places import Node, Place
from router_service.dispatch.planner import SampleKey, keys_of
from router_service.types import Completion, Expert, ExpertBatch
from tests.router_service.dispatch.fakes import said

_NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
_QUIET_AND_QUICK = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""A dead node is noticed in some three seconds instead of Ray's twelve or more."""


@contextmanager
def ray_cluster(nodes: int, **head: int) -> Iterator[Any]:
    """A cluster of nodes that have 2 CPUs each by name, whatever this machine has; the first is the head."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _QUIET_AND_QUICK.items():
            patch.setenv(name, value)
        ray = pytest.importorskip("ray", reason='pip install "enlist[ray]" to run this test')
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**_NODE, **head}, shutdown_at_exit=True)
        try:
            for _ in range(nodes - 1):
                add_node(cluster)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def add_node(cluster: Any, **resources: int) -> Any:
    """A further node."""
    return cluster.add_node(**{**_NODE, **resources})


class FewerNodes:
    """A cluster of which only so many nodes are used; `hidden` nodes are not among them."""

    def __init__(self, cluster: Cluster, count: int, *, hidden: frozenset[str] = frozenset()) -> None:
        self._cluster = cluster
        self._count = count
        self._hidden = hidden

    def nodes(self, *, anew: bool = False) -> tuple[Node, ...]:
        return tuple(node for node in self._cluster.nodes(anew=anew) if node.id not in self._hidden)[: self._count]

    async def start(self, place: Place, make: MakeBackend) -> Host:
        return await self._cluster.start(place, make)


@dataclass(frozen=True, kw_only=True)
class MakeTallied:
    """Makes `Tallied` in any process."""

    folder: Path
    seconds: float = 0.0

    def __call__(self, place: Place) -> Backend:
        return Tallied(self.folder, seconds=self.seconds)


class Tallied(Backend):
    """Waits a while over each completion, and notes every one that it is asked for, by the process that it runs in."""

    is_batched = True

    def __init__(self, folder: Path, *, seconds: float = 0.0) -> None:
        self._folder = folder
        self._seconds = seconds

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion, None]:
        for key in keys_of(batch):
            with (self._folder / f"{os.getpid()}.asked").open("a") as file:
                file.write("\t".join(map(str, key)) + "\n")
            await asyncio.sleep(self._seconds)
            yield said(key, f"{key[1]} on {key[0]} #{key[2]}")


def asked(folder: Path) -> Counter[SampleKey]:
    """How often each completion was asked for, over all processes."""
    lines = [line.split("\t") for path in folder.glob("*.asked") for line in path.read_text().splitlines()]
    return Counter((query_id, expert_id, int(sample)) for query_id, expert_id, sample in lines)


def pids(folder: Path) -> list[int]:
    """The processes that were asked, the latest last."""
    paths = sorted(folder.glob("*.asked"), key=lambda path: path.stat().st_mtime_ns)
    return [int(path.stem) for path in paths]
