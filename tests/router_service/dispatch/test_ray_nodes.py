"""What a connection to Ray makes of what Ray says; Ray itself is a fake one."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from router_service.dispatch._ray_cluster import HostSilent, RayCluster, _RayHost

exceptions = pytest.importorskip("ray.exceptions", reason='pip install "enlist[ray]" to run this test')


class FakeRay:
    """One node with GPUs, whose memory is known after a while."""

    def nodes(self) -> list[dict[str, Any]]:
        entry = {"NodeID": "a" * 56, "Alive": True, "NodeManagerAddress": "192.0.2.1"}
        return [entry | {"Resources": {"CPU": 4.0, "GPU": 1.0}}]

    def wait(self, refs: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return list(refs), []

    def get(self, ref: Any) -> float:
        time.sleep(0.05)
        return 80.0


def test_several_threads_may_look_for_nodes_at_once() -> None:
    cluster = RayCluster.__new__(RayCluster)
    vars(cluster).update(_ray=FakeRay(), _nodes=(), _seen_s=0.0, _gpu_memory={}, _lock=threading.Lock())
    vars(cluster).update(_probes={"a" * 56: ("ref", time.monotonic())})
    with ThreadPoolExecutor(4) as threads:
        seen = [look.result() for look in [threads.submit(cluster.nodes, anew=True) for _ in range(4)]]
    assert [node.gpu_memory_gib for [node] in seen] == [80.0] * 4


def test_an_answer_that_is_lost_on_the_way_is_asked_for_again() -> None:
    class Actor:
        class report:
            @staticmethod
            async def remote(*arguments: object) -> object:
                raise exceptions.ObjectReconstructionFailedError("0" * 56, None, "")

    with pytest.raises(HostSilent):
        asyncio.run(_RayHost(None, Actor()).call("report"))
