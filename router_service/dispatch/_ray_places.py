"""From the nodes of a cluster to the devices that models are placed on; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router_service.backends.base import Device
from router_service.config import ClusterConfig

__all__ = ["Node", "Place", "places_on", "uses_gpus"]

_CPUS_CLAIMED = 1.0
"""CPUs that a device claims from Ray at most: enough to count as busy, and the rest is left for annotating."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A living node: what Ray may hand out there, and the memory of one of its GPUs where that is known."""

    id: str
    address: str
    cpus: float = 0.0
    gpus: int = 0
    memory_gib: float | None = None
    gpu_memory_gib: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device and what its host claims of its node."""

    device: Device
    node_id: str
    cpus: float
    gpus: int = 0


def uses_gpus(nodes: Sequence[Node], settings: ClusterConfig) -> bool:
    """Whether devices are GPUs here: as configured, else where any node has one."""
    if settings.devices == "auto":
        return any(node.gpus for node in nodes)
    return settings.devices == "gpu"


def places_on(nodes: Sequence[Node], settings: ClusterConfig, *, gpus: bool) -> list[Place]:
    """The devices of all nodes: one per GPU (or group of `gpus_per_device`), or `cpu_devices_per_node` of each node.

    Names hold the node's address and the start of its id, so that a node that comes back is another device.
    """
    return [place for node in nodes for place in (_gpu_places if gpus else _cpu_places)(node, settings)]


def _gpu_places(node: Node, settings: ClusterConfig) -> list[Place]:
    size = settings.gpus_per_device
    count = node.gpus // size
    each_gib = settings.gpu_memory_gib or node.gpu_memory_gib
    return [
        Place(
            device=Device(name=f"{_name(node)}/gpu{number}", memory_gib=None if each_gib is None else each_gib * size),
            node_id=node.id,
            cpus=_claimed(node.cpus / count),
            gpus=size,
        )
        for number in range(count)
    ]


def _cpu_places(node: Node, settings: ClusterConfig) -> list[Place]:
    count = settings.cpu_devices_per_node if node.cpus > 0 else 0
    return [
        Place(
            device=Device(
                name=f"{_name(node)}/cpu{number}",
                memory_gib=None if node.memory_gib is None else node.memory_gib / count,
            ),
            node_id=node.id,
            cpus=_claimed(node.cpus / count),
        )
        for number in range(count)
    ]


def _name(node: Node) -> str:
    return f"{node.address}-{node.id[:8]}"


def _claimed(share: float) -> float:
    """Half of a device's share of the node's CPUs, `_CPUS_CLAIMED` at most; Ray counts in ten-thousandths."""
    return round(min(_CPUS_CLAIMED, share / 2), 4)
