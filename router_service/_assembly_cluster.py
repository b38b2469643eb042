"""An engine's parts that run on a Ray cluster: the backends that hold models, and annotators for large windows."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from router_service.backends.base import BACKENDS, Backend, ResidentBackend
from router_service.config import ClusterConfig, EngineConfig
from router_service.errors import ConfigError
from skills.base import Annotator

if TYPE_CHECKING:
    from router_service.dispatch._ray_cluster import Cluster

__all__ = ["cluster_backends", "spread_annotator"]


def cluster_backends(
    names: Iterable[str],
    options: Mapping[str, Mapping[str, Any]],
    settings: ClusterConfig,
    *,
    cluster: Cluster | None = None,
) -> dict[str, Backend]:
    """Those of the named backends that run on the cluster; `cluster` replaces the one the settings name.

    Raises `ConfigError` where none of them holds a model, where the cluster cannot be joined, and where several would
    have to share its GPUs; `UnknownNameError` for a backend that is not registered.
    """
    from router_service.dispatch._ray_cluster import RayCluster
    from router_service.dispatch._ray_host import NamedBackend
    from router_service.dispatch._ray_places import uses_gpus
    from router_service.dispatch.ray import RayBackend

    names = list(names)
    for name in settings.backends or ():
        BACKENDS.factory(name)
    chosen = [name for name in names if _runs_there(name, settings)]
    if not chosen:
        raise ConfigError(
            f"nothing of this pool would run on the cluster: {_listed(names)} hold no models themselves. Leave the "
            "cluster out, or name the backends that are to run there in cluster.backends"
        )
    cluster = cluster or RayCluster(settings.address)
    if len(chosen) > 1 and uses_gpus(cluster.nodes(), settings):
        raise ConfigError(
            f"the backends {_listed(chosen)} would have to share the cluster's GPUs, and a GPU is held by one of them; "
            "name one in cluster.backends, and the others run here"
        )
    return {
        name: RayBackend(NamedBackend(name=name, options=options.get(name) or {}), cluster=cluster, settings=settings)
        for name in chosen
    }


def spread_annotator(annotator: Annotator, config: EngineConfig) -> Annotator:
    """The annotator, with large windows annotated on the configured cluster where it can be told what to do there.

    Ray Data needs a driver inside the cluster, so a ray:// address leaves everything here.
    """
    settings = config.cluster
    if settings is None or settings.annotate_from is None or settings.address.startswith("ray://"):
        return annotator
    from router_service.dispatch._ray_annotator import RayAnnotator, annotates_alone, spread_with_ray_data

    if not annotates_alone(annotator):
        return annotator
    return RayAnnotator(annotator, config.annotator, from_queries=settings.annotate_from, spread=spread_with_ray_data)


def _runs_there(name: str, settings: ClusterConfig) -> bool:
    if settings.backends is not None:
        return name in settings.backends
    factory = BACKENDS.factory(name)
    return inspect.isclass(factory) and issubclass(factory, ResidentBackend)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
