"""Where a command's experts run: in this process, or on the nodes of a Ray cluster."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from router_service.config import EngineConfig

__all__ = ["AddressOption", "EngineOption", "RunsOn", "on_engine"]


class RunsOn(enum.StrEnum):
    """What `--engine` takes."""

    LOCAL = "local"
    RAY = "ray"


EngineOption = Annotated[
    RunsOn | None,
    typer.Option(
        "--engine", help="Where experts that hold models run; 'local' unless the configuration names a cluster."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster: auto, host:port, ray://host:port, or local for a new one here.",
        show_default=False,
    ),
]


def on_engine(config: EngineConfig, engine: RunsOn | None, address: str | None) -> EngineConfig:
    """The configuration with its experts where the options say; raises `ConfigError` for an address without a cluster.

    `local` takes no notice of a configured cluster, `ray` takes the configured one or the defaults.
    """
    from router_service.config import ClusterConfig
    from router_service.errors import ConfigError

    cluster = config.cluster
    if engine is RunsOn.LOCAL:
        cluster = None
    elif engine is RunsOn.RAY:
        cluster = cluster or ClusterConfig()
    if address is not None:
        if cluster is None:
            raise ConfigError(f"the address {address!r} is that of a Ray cluster; give --engine ray with it")
        cluster = cluster.model_copy(update={"address": address})
    return config.model_copy(update={"cluster": cluster})
