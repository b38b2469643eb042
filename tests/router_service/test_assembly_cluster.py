"""Which parts of an engine go to a cluster, and what is refused before anything is asked."""

from __future__ import annotations

import pytest

from experts_registry.pool import Pool
from router_service._assembly_cluster import cluster_backends, spread_annotator
from router_service._cli_cluster import RunsOn, on_engine
from router_service.assembly import make_backends
from router_service.backends.base import BACKENDS
from router_service.backends.echo import Echo
from router_service.config import ClusterConfig, EngineConfig, PartConfig
from router_service.dispatch._ray_annotator import RayAnnotator
from router_service.dispatch.ray import RayBackend
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import Expert
from skills.base import ANNOTATORS
from tests.router_service.dispatch.fake_cluster import FakeCluster, node

GPUS = FakeCluster(node(1, gpus=2, gpu_memory_gib=80.0))
CPUS = FakeCluster(node(1, memory_gib=32.0))


def test_backends_that_hold_models_go_there_and_others_stay() -> None:
    there = cluster_backends(["echo", "transformers", "openai"], {}, ClusterConfig(), cluster=CPUS)
    assert list(there) == ["transformers"]
    assert isinstance(there["transformers"], RayBackend)


def test_the_configuration_may_name_them() -> None:
    there = cluster_backends(["echo", "transformers"], {}, ClusterConfig(backends=("echo",)), cluster=CPUS)
    assert list(there) == ["echo"]


def test_a_wrapped_backend_has_its_options_and_its_limits() -> None:
    options = {"transformers": {"max_resident_bases": 2}}
    there = cluster_backends(["transformers"], options, ClusterConfig(), cluster=CPUS)["transformers"]
    assert isinstance(there, RayBackend)
    assert [(device.memory_gib, device.max_models) for device in there.devices()] == [(32.0, 2)]
    with pytest.raises(ConfigError, match="'max_resident_base'"):
        cluster_backends(["transformers"], {"transformers": {"max_resident_base": 2}}, ClusterConfig(), cluster=CPUS)


def test_a_group_of_gpus_is_one_device_of_the_wrapped_backend() -> None:
    there = cluster_backends(["vllm"], {}, ClusterConfig(gpus_per_device=2), cluster=GPUS)["vllm"]
    assert isinstance(there, RayBackend)
    [device] = there.devices()
    assert device.memory_gib == 160.0
    wrapped = there._template
    assert [each.name for each in wrapped.devices()] == [device.name]
    assert [each.memory_gib for each in wrapped.devices()] == [160.0]


def test_a_pool_with_nothing_for_a_cluster_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'openai' hold no models themselves.*cluster\.backends"):
        cluster_backends(["openai"], {}, ClusterConfig(), cluster=CPUS)


def test_two_engines_are_not_put_on_one_gpu() -> None:
    with pytest.raises(ConfigError, match=r"'transformers', 'vllm' would have to share"):
        cluster_backends(["transformers", "vllm"], {}, ClusterConfig(), cluster=GPUS)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'vllm'"):
        cluster_backends(["vllm"], {}, ClusterConfig(backends=("vlm",)), cluster=CPUS)


def test_without_a_cluster_everything_is_here() -> None:
    pool = Pool(name="mixed", experts=(Expert(id="a", model="m", backend="echo"),))
    backends = make_backends(pool, {"transformers": {}})
    assert list(backends) == ["transformers", "echo"]
    assert isinstance(backends["echo"], Echo)
    assert not any(isinstance(backend, RayBackend) for backend in backends.values())


def test_backends_that_hold_models_are_the_resident_ones() -> None:
    assert {"transformers", "vllm"} <= set(BACKENDS.names())


@pytest.mark.parametrize(
    ("cluster", "annotator", "spreads"),
    [
        (ClusterConfig(), "embedding", True),
        (None, "embedding", False),
        (ClusterConfig(annotate_from=None), "embedding", False),
        (ClusterConfig(address="ray://head:10001"), "embedding", False),
        (ClusterConfig(), "blank", False),
    ],
)
def test_who_is_annotated_elsewhere(cluster: ClusterConfig | None, annotator: str, spreads: bool) -> None:
    options = {"embedder": "hashing"} if annotator == "embedding" else {}
    made = ANNOTATORS.create(annotator, options)
    config = EngineConfig(annotator=PartConfig(name=annotator, options=options), cluster=cluster)
    assert isinstance(spread_annotator(made, config), RayAnnotator) is spreads


def test_the_command_line_says_where() -> None:
    plain, clustered = EngineConfig(), EngineConfig(cluster=ClusterConfig(address="head:6379", gpus_per_device=2))
    assert on_engine(plain, None, None).cluster is None
    assert on_engine(plain, RunsOn.RAY, None).cluster == ClusterConfig()
    assert on_engine(plain, RunsOn.RAY, "head:6379").cluster == ClusterConfig(address="head:6379")
    assert on_engine(clustered, None, None) == clustered
    assert on_engine(clustered, RunsOn.LOCAL, None).cluster is None
    moved = on_engine(clustered, RunsOn.RAY, "ray://other:10001").cluster
    assert moved == ClusterConfig(address="ray://other:10001", gpus_per_device=2)
    assert on_engine(clustered, None, "other:6379").cluster == ClusterConfig(address="other:6379", gpus_per_device=2)


@pytest.mark.parametrize("engine", [None, RunsOn.LOCAL])
def test_an_address_needs_a_cluster(engine: RunsOn | None) -> None:
    with pytest.raises(ConfigError, match="give --engine ray"):
        on_engine(EngineConfig(), engine, "head:6379")
