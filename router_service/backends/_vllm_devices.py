"""Where vLLM engines can be: the groups of GPUs that the options name, the GPUs that are visible, or the processor."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from router_service.errors import ConfigError, nearest_name

__all__ = ["EngineDevice", "find_devices", "given_devices", "visible_gpus"]

_KEYS: Final = ("gpus", "memory_gib", "name")
_NVIDIA_SMI: Final = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
_NVIDIA_SMI_S: Final = 20.0
_CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDevice:
    """One place for engines: `gpus` as CUDA numbers or names them, none for the processor; `memory_gib` of all of them
    together (each GPU's share of it is the same), None where nobody says."""

    name: str
    memory_gib: float | None = None
    gpus: tuple[str, ...] = ()

    @property
    def is_processor(self) -> bool:
        """True where engines run without GPUs."""
        return not self.gpus


def given_devices(entries: Sequence[Mapping[str, Any]], *, backend: str = "vllm") -> tuple[EngineDevice, ...]:
    """The devices of a backend's option `devices`; raises `ConfigError` for one that makes no sense.

    An entry has a `name`, and perhaps `memory_gib` (a number) and `gpus` ("0" or "0,1"; none is the processor).
    """
    found = [_given_device(entry, backend) for entry in entries]
    names = [device.name for device in found]
    if not found or len(set(names)) < len(names):
        raise ConfigError(
            f"backend {backend!r}: option 'devices' names {names or 'none'}; give at least one, each once"
        )
    return tuple(found)


def _given_device(entry: Mapping[str, Any], backend: str) -> EngineDevice:
    owner = f"backend {backend!r}: option 'devices': the entry {dict(entry)!r}"
    for key in entry:
        if key not in _KEYS:
            near = nearest_name(str(key), _KEYS)
            guess = f" Did you mean {near!r}?" if near else ""
            raise ConfigError(f"{owner} has no key {key!r}.{guess} Allowed: {', '.join(_KEYS)}.")
    name, memory = entry.get("name"), entry.get("memory_gib")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{owner} needs a name")
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int | float) or memory <= 0):
        raise ConfigError(f"{owner}: memory_gib is {memory!r}; give a number above 0")
    gpus = tuple(part.strip() for part in str(entry.get("gpus", "")).split(",") if part.strip())
    return EngineDevice(name=name, memory_gib=None if memory is None else float(memory), gpus=gpus)


def find_devices(environment: Mapping[str, str] | None = None) -> tuple[EngineDevice, ...]:
    """One device per visible GPU; without any, the processor with the memory this process may use."""
    gpus = visible_gpus(environment)
    if gpus:
        return tuple(EngineDevice(name=f"gpu{gpu}", memory_gib=gib, gpus=(gpu,)) for gpu, gib in gpus.items())
    return (EngineDevice(name="cpu", memory_gib=_memory_gib()),)


def visible_gpus(environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Memory in GiB of each GPU by its number, as `nvidia-smi` tells them, but for those that CUDA_VISIBLE_DEVICES
    leaves out; empty where there is no such program or it knows of none."""
    environment = os.environ if environment is None else environment
    try:
        told = subprocess.run(
            _NVIDIA_SMI, capture_output=True, text=True, check=True, timeout=_NVIDIA_SMI_S, env=dict(environment)
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines() if line.count(",") == 2]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    allowed = None if visible is None else [part.strip() for part in visible.split(",")]
    return {
        index: float(mebibytes) / 1024
        for index, uuid, mebibytes in rows
        if allowed is None or index in allowed or any(name and uuid.startswith(name) for name in allowed)
    }


def _memory_gib() -> float:
    """Memory of the machine, or of the container this runs in."""
    known = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in _CGROUP_LIMITS:
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            known.append(int(text))
    return min(known) / _GIB
