"""Experts on a cluster: devices, hosts, what dies and what is lost; the cluster is a fake one in this process."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.backends.base import (
    Backend,
    Device,
    DeviceLost,
    Footprint,
    ResidentBackend,
    ScoringBackend,
    TextScore,
)
from router_service.config import ClusterConfig
from router_service.dispatch._ray_cluster import HostFailed, RayCluster
from router_service.dispatch._ray_host import CheckedBackend, DeviceHost, LoadJob, MakeBackend, NamedBackend
from router_service.dispatch._ray_places import Place, places_on, uses_gpus
from router_service.dispatch.planner import keys_of
from router_service.dispatch.ray import RayBackend
from router_service.errors import ConfigError, ExpertRefused, ExpertUnavailable
from router_service.types import Completion, Expert, ExpertBatch, Query, TokenDelta
from tests.router_service.backends.cases import Case
from tests.router_service.backends.test_contract import (  # noqa: F401  (the contract, over the fixture `case` here)
    test_an_unknown_option_of_an_expert_is_refused,
    test_calls_at_once_do_not_mix,
    test_closing_ends_it_and_it_serves_again,
    test_every_sample_comes_exactly_once,
    test_it_can_be_closed_twice_and_unused,
    test_one_seed_one_answer,
    test_the_deltas_of_a_stream_are_its_text,
    test_the_runner_gets_along_with_it,
)
from tests.router_service.dispatch.fake_cluster import FakeCluster, FakeHost, node
from tests.router_service.dispatch.fakes import batch_of, collect, expert, panels, plan, query, runner_of, said, until
from tests.router_service.dispatch.ray_nursery import MakeTallied, asked

ECHO = NamedBackend(name="echo")


class OnFirstDevice(RayBackend):
    """Places a batch that names no device on the first one: what the contract's plain calls need."""

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        batch = replace(batch, device=batch.device or self.devices()[0].name)
        async with aclosing(super().complete(expert, batch)) as pieces:
            async for piece in pieces:
                yield piece


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    backend = OnFirstDevice(ECHO, cluster=FakeCluster(node(1), node(2)))
    yield Case(backend=backend, expert=Expert(id="E", model="m", backend="echo"))
    await backend.aclose()


@dataclass(frozen=True)
class Scripted:
    """Makes a resident backend that misbehaves as one word says."""

    fault: str = ""

    def __call__(self, place: Place) -> Backend:
        return _Scripted(self.fault)


class _Scripted(ResidentBackend):
    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.log: list[str] = []
        self.checked: list[str] = []

    def check(self, expert: Expert) -> None:
        self.checked.append(expert.id)
        if self.fault == "check fails":
            raise ConfigError("no such adapter here")

    def devices(self) -> tuple[Device, ...]:
        return () if self.fault == "no device" else (Device(name="cuda:0"),)

    def resides(self, expert: Expert) -> bool:
        return expert.address is None

    def footprint(self, expert: Expert) -> Footprint:
        return Footprint(model=expert.model, turn=expert.model, memory_gib=2.0, max_works=4)

    async def load(self, expert: Expert, *, device: str) -> None:
        self.log.append(f"load {expert.model} {device}")
        if self.fault == "load hangs":
            await asyncio.sleep(60)
        if self.fault == "load breaks":
            raise ExpertUnavailable("out of memory", expert_id=expert.id, retryable=False)
        if self.fault == "load is misconfigured":
            raise ConfigError("no such folder: /models/x")

    async def release(self, model: str, *, device: str, sleeps: bool = False) -> None:
        self.log.append(f"release {model} {device} {sleeps}")

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        self.log.append(f"complete {expert.id} {batch.device}")
        for number, key in enumerate(keys_of(batch)):
            if number == 1 and self.fault == "driver breaks":
                raise DeviceLost("cuda:0", "CUDA error: an uncorrectable ECC error was found")
            if number == 1 and self.fault == "refuses":
                raise ExpertRefused("not that", expert_id=expert.id)
            if number == 1 and self.fault == "has a bug":
                raise KeyError("oops")
            yield said(key)
        if self.fault == "never ends":
            try:
                await asyncio.sleep(60)
            finally:
                self.log.append("ended")

    async def aclose(self) -> None:
        if self.fault == "cannot close":
            raise KeyError("oops")


class _Scoring(_Scripted):
    async def score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        return [TextScore(logprob_sum=-1.0, tokens=len(text)) for _, text in texts]


async def backend_of(fault: str = "", *nodes: int) -> tuple[RayBackend, FakeCluster, str]:
    """A backend with expert E's model loaded on the first device."""
    cluster = FakeCluster(*(node(number) for number in nodes or (1, 2)))
    backend = RayBackend(Scripted(fault), cluster=cluster)
    device = backend.devices()[0].name
    await backend.load(expert("E"), device=device)
    return backend, cluster, device


async def complete(backend: RayBackend, device: str, count: int = 3) -> list[Completion | TokenDelta]:
    batch = replace(batch_of("E", *(query(f"q{i}") for i in range(count))), device=device)
    async with aclosing(backend.complete(expert("E"), batch)) as pieces:
        return [piece async for piece in pieces]


def inside(cluster: FakeCluster, number: int = 0) -> _Scripted:
    backend = cluster.hosts[number].inside._backend
    assert isinstance(backend, _Scripted)
    return backend


# --- devices ---------------------------------------------------------------------------------------------------------


def test_a_node_without_gpus_is_one_device_with_its_memory() -> None:
    [place] = places_on([node(1, memory_gib=32.0)], ClusterConfig(), gpus=False)
    assert place.device == Device(name="192.0.2.1-00000001/cpu0", memory_gib=32.0)
    assert (place.cpus, place.gpus) == (1.0, 0)


def test_gpus_are_devices_alone_or_in_groups() -> None:
    nodes = [node(1, gpus=4, gpu_memory_gib=80.0), node(2)]
    each = places_on(nodes, ClusterConfig(), gpus=True)
    assert [place.device.name for place in each] == [f"192.0.2.1-00000001/gpu{i}" for i in range(4)]
    assert {(place.gpus, place.device.memory_gib) for place in each} == {(1, 80.0)}
    pairs = places_on(nodes, ClusterConfig(gpus_per_device=2, gpu_memory_gib=70.0), gpus=True)
    assert [(place.gpus, place.device.memory_gib) for place in pairs] == [(2, 140.0)] * 2


def test_a_node_can_be_several_devices() -> None:
    places = places_on([node(1, memory_gib=32.0)], ClusterConfig(cpu_devices_per_node=4), gpus=False)
    assert [(place.device.memory_gib, place.cpus) for place in places] == [(8.0, 0.5)] * 4


@given(
    st.lists(st.tuples(st.integers(0, 16), st.integers(0, 8)), max_size=5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
)
def test_no_node_is_asked_for_more_than_it_has(sizes: list[tuple[int, int]], size: int, count: int, gpus: bool) -> None:
    nodes = [node(number, cpus=float(cpus), gpus=gpus) for number, (cpus, gpus) in enumerate(sizes)]
    places = places_on(nodes, ClusterConfig(gpus_per_device=size, cpu_devices_per_node=count), gpus=gpus)
    assert len({place.device.name for place in places}) == len(places)
    for each in nodes:
        claimed = [place for place in places if place.node_id == each.id]
        assert sum(place.gpus for place in claimed) <= each.gpus
        assert sum(place.cpus for place in claimed) <= each.cpus


def test_gpus_count_alone_where_there_is_one_unless_told_otherwise() -> None:
    mixed = [node(1, gpus=1), node(2)]
    assert uses_gpus(mixed, ClusterConfig())
    assert not uses_gpus(mixed, ClusterConfig(devices="cpu"))
    assert not uses_gpus([node(2)], ClusterConfig())


def test_a_lost_gpu_does_not_turn_its_models_to_processors() -> None:
    cluster = FakeCluster(node(1, gpus=1), node(2))
    backend = RayBackend(Scripted(), cluster=cluster)
    assert [device.name for device in backend.devices()] == ["192.0.2.1-00000001/gpu0"]
    cluster.kill_node(node(1).id)
    assert backend.devices() == ()


def test_nodes_come_and_go() -> None:
    cluster = FakeCluster(node(1))
    backend = RayBackend(Scripted(), cluster=cluster)
    before = {device.name for device in backend.devices()}
    cluster.there[node(2).id] = node(2)
    assert {device.name for device in backend.devices()} > before


# --- jobs ------------------------------------------------------------------------------------------------------------


async def test_the_wrapped_backend_works_on_its_own_device() -> None:
    backend, cluster, device = await backend_of()
    assert len(await complete(backend, device)) == 3
    await backend.release("model-E", device=device, sleeps=True)
    assert inside(cluster).log == ["load model-E cuda:0", "complete E cuda:0", "release model-E cuda:0 True"]
    assert backend.footprint(expert("E")).max_works == 4
    await backend.aclose()
    assert cluster.living == []


async def test_a_host_has_checked_all_experts_before_it_loads_the_first() -> None:
    cluster = FakeCluster(node(1))
    backend = RayBackend(Scripted(), cluster=cluster)
    backend.check(expert("E"))
    backend.check(expert("F"))
    await backend.load(expert("F"), device=backend.devices()[0].name)
    assert inside(cluster).checked == ["E", "F"]


async def test_a_host_starts_though_an_expert_fails_its_check_there() -> None:
    make = CheckedBackend(make=Scripted("check fails"), experts=(expert("E"), expert("F")))
    made = make(places_on([node(1)], ClusterConfig(), gpus=False)[0])
    assert isinstance(made, _Scripted)
    assert made.checked == ["E", "F"]


async def test_one_host_holds_all_models_of_a_device() -> None:
    backend, cluster, device = await backend_of()
    await asyncio.gather(*(backend.load(expert(name), device=device) for name in "FGH"))
    assert len(cluster.hosts) == 1
    await backend.load(expert("E"), device=backend.devices()[1].name)
    assert [host.place.device.name for host in cluster.hosts] == [device.name for device in backend.devices()]


async def test_closing_the_iterator_ends_the_work_there() -> None:
    backend, cluster, device = await backend_of("never ends")
    batch = replace(batch_of("E", query("q")), device=device)
    async with aclosing(backend.complete(expert("E"), batch)) as pieces:
        await anext(pieces)
    assert inside(cluster).log[-1] == "ended"
    assert cluster.hosts[0].inside._jobs == {}


async def test_cancelling_a_load_ends_it_there() -> None:
    cluster = FakeCluster(node(1))
    backend = RayBackend(Scripted("load hangs"), cluster=cluster)
    load = asyncio.create_task(backend.load(expert("E"), device=backend.devices()[0].name))
    await until(lambda: bool(cluster.hosts and inside(cluster).log))
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert cluster.hosts[0].inside._jobs == {}


@pytest.mark.parametrize(
    ("fault", "error", "retryable", "said"),
    [
        ("load breaks", ExpertUnavailable, False, "out of memory"),
        ("load is misconfigured", ExpertUnavailable, False, "no such folder"),
    ],
)
async def test_a_load_that_fails_there_fails_here(
    fault: str, error: type[ExpertUnavailable], retryable: bool, said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        await backend_of(fault)
    assert raised.value.retryable is retryable


async def test_what_a_call_raises_there_is_raised_here_after_what_it_brought() -> None:
    for fault, error, said_ in (("refuses", ExpertRefused, "not that"), ("has a bug", Exception, "KeyError: 'oops'")):
        backend, _, device = await backend_of(fault)
        batch = replace(batch_of("E", query("q0"), query("q1")), device=device)
        brought = []
        with pytest.raises(error, match=said_):
            async with aclosing(backend.complete(expert("E"), batch)) as pieces:
                async for piece in pieces:
                    brought.append(piece)
        assert len(brought) == 1


async def test_a_host_that_cannot_start_says_why() -> None:
    cluster = FakeCluster(node(1))
    cluster.refuses = "ModuleNotFoundError: No module named 'vllm'"
    backend = RayBackend(Scripted(), cluster=cluster)
    with pytest.raises(ExpertUnavailable, match=r"nothing could be started on .*No module named 'vllm'"):
        await backend.load(expert("E"), device=backend.devices()[0].name)


def test_a_backend_that_finds_no_device_on_its_node_says_so() -> None:
    with pytest.raises(ConfigError, match="finds no device"):
        DeviceHost(Scripted("no device"), places_on([node(1)], ClusterConfig(), gpus=False)[0])


async def test_a_batch_that_names_no_device_is_refused() -> None:
    backend, _, _ = await backend_of()
    with pytest.raises(ExpertUnavailable, match="names no device"):
        await anext(backend.complete(expert("E"), batch_of("E", query("q"))))


async def test_texts_are_scored_where_the_model_is_by_what_can_score() -> None:
    plain, *_ = await backend_of()
    assert not isinstance(plain, ScoringBackend)
    cluster = FakeCluster(node(1), node(2))
    backend = RayBackend(Scoring(), cluster=cluster)
    assert isinstance(backend, ScoringBackend)
    await backend.load(expert("E"), device=backend.devices()[1].name)
    scores = await backend.score(expert("E"), [(query("q"), "abc"), (query("r"), ""), (query("r"), "abcd")])
    assert [score.tokens for score in scores] == [3, 0, 4]
    assert [host.place.device.name for host in cluster.hosts] == [backend.devices()[1].name]
    cluster.kill_node(node(2).id)
    with pytest.raises(DeviceLost):
        await backend.score(expert("E"), [(query("q"), "abc")])
    assert len(await backend.score(expert("E"), [(query("q"), "abc")])) == 1
    cluster.kill_node(node(1).id)
    with pytest.raises(ExpertUnavailable, match="no device now"):
        await backend.score(expert("E"), [(query("q"), "abc")])


class Scoring:
    """Makes a backend that scores a text by its length."""

    def __call__(self, place: Place) -> Backend:
        return _Scoring("")


async def test_an_expert_that_needs_no_device_is_asked_from_here() -> None:
    cluster = FakeCluster(node(1))
    backend = RayBackend(Scripted(), cluster=cluster)
    elsewhere = replace(expert("E"), address="http://192.0.2.7:8000/v1")
    runner = runner_of(backend, [elsewhere])
    done = panels(await collect(runner, plan({"q0": "E", "q1": "E"})))
    assert all(completion.succeeded for panel in done.values() for completion in panel)
    assert cluster.hosts == []


# --- what dies -------------------------------------------------------------------------------------------------------


async def test_a_host_that_dies_alone_is_an_expert_unavailable_and_is_begun_anew() -> None:
    backend, cluster, device = await backend_of("never ends")
    call = asyncio.create_task(complete(backend, device))
    await until(lambda: inside(cluster).log[-1].startswith("complete"))
    cluster.hosts[0].kill()
    with pytest.raises(ExpertUnavailable, match="died") as raised:
        await call
    assert raised.value.retryable
    assert device in {each.name for each in backend.devices()}
    await backend.load(expert("E"), device=device)
    assert len(cluster.living) == 1


async def test_a_host_that_died_while_nobody_looked_is_begun_anew_with_the_model() -> None:
    backend, cluster, device = await backend_of()
    cluster.hosts[0].kill()
    assert len(await complete(backend, device)) == 3
    assert inside(cluster, 1).log == ["load model-E cuda:0", "complete E cuda:0"]


async def test_a_dead_node_is_a_lost_device_and_is_not_offered_again() -> None:
    backend, cluster, device = await backend_of("never ends")
    call = asyncio.create_task(complete(backend, device))
    await until(lambda: inside(cluster).log[-1].startswith("complete"))
    cluster.kill_node(node(1).id)
    with pytest.raises(DeviceLost, match="dead") as raised:
        await call
    assert raised.value.device == device
    assert device not in {each.name for each in backend.devices()}
    with pytest.raises(DeviceLost):
        await backend.load(expert("E"), device=device)
    await backend.release("model-E", device=device)


async def test_a_device_that_breaks_on_its_node_is_lost_under_the_clusters_name() -> None:
    backend, _, device = await backend_of("driver breaks")
    with pytest.raises(DeviceLost, match="ECC") as raised:
        await complete(backend, device)
    assert raised.value.device == device


async def test_a_device_that_stays_silent_is_given_up_and_offered_again_later() -> None:
    silent: set[str] = set()
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    cluster = FakeCluster(node(1), disturb=lambda method: "unsent" if method in silent else "")
    backend = RayBackend(Scripted(), cluster=cluster, settings=ClusterConfig(silence_s=1.0), clock=clock)
    device = backend.devices()[0].name
    await backend.load(expert("E"), device=device)
    silent.add("report")
    with pytest.raises(DeviceLost, match="does not answer"):
        await complete(backend, device)
    assert backend.devices() == ()
    assert cluster.living == []
    now += 60
    assert [each.name for each in backend.devices()] == [device]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_comes_twice_or_not_at_all_over_a_bad_connection(seed: int) -> None:
    draw = random.Random(seed)
    troubles = ["", "", "unsent", "unheard"]
    cluster = FakeCluster(node(1), disturb=lambda method: "" if method == "stop" else draw.choice(troubles))

    async def run() -> list[Completion | TokenDelta]:
        backend = RayBackend(Scripted(), cluster=cluster, pause_s=0.0)
        device = backend.devices()[0].name
        await backend.load(expert("E"), device=device)
        return await complete(backend, device, count=20)

    pieces = asyncio.run(run())
    assert [piece.query_id for piece in pieces] == [f"q{i}" for i in range(20)]
    assert [line for line in inside(cluster).log if line.startswith("complete")] == ["complete E cuda:0"]


async def test_a_job_that_is_stopped_before_it_begins_does_not_begin() -> None:
    inside = DeviceHost(Scripted("never ends"), places_on([node(1)], ClusterConfig(), gpus=False)[0])
    await inside.stop("late")  # a call of a few bytes overtakes one with a large batch
    await inside.begin("late", LoadJob(expert=expert("E")))
    await asyncio.sleep(0)
    assert inside._jobs == {}
    assert (await inside.report("late", 0, 1.0)).is_over


def test_a_device_serves_one_event_loop_after_the_other() -> None:
    backend = RayBackend(Scripted(), cluster=SlowlyStarting(node(1)))
    device = backend.devices()[0].name

    async def load_two_and_close() -> None:
        await asyncio.gather(*(backend.load(expert(name), device=device) for name in "EF"))
        await backend.aclose()

    for _ in range(2):
        asyncio.run(load_two_and_close())


class SlowlyStarting(FakeCluster):
    """Its hosts take a moment, so that others want them meanwhile."""

    async def start(self, place: Place, make: MakeBackend) -> FakeHost:
        await asyncio.sleep(0.01)
        return await super().start(place, make)


class Collapsing(FakeCluster):
    """Its nodes die while a host starts there."""

    async def start(self, place: Place, make: MakeBackend) -> FakeHost:
        self.kill_node(place.node_id)
        raise HostFailed("the actor died because its node has died")


async def test_a_host_that_dies_as_its_load_ends_is_an_expert_unavailable() -> None:
    cluster = FakeCluster(node(1))
    backend = RayBackend(Scripted(), cluster=cluster)
    device = backend.devices()[0].name

    def dies(method: str) -> str:
        if method == "stop":  # the load has ended well; another call is first to notice
            cluster.hosts[0].kill()
            backend._drop(backend._held[device])
        return ""

    cluster._disturb = dies
    with pytest.raises(ExpertUnavailable, match="died") as raised:
        await complete(backend, device)
    assert raised.value.retryable


async def test_all_calls_on_a_device_that_breaks_hear_that_it_is_lost_and_its_process_ends() -> None:
    backend, cluster, device = await backend_of("driver breaks", 1)
    inside(cluster).fault = "never ends"
    other = asyncio.create_task(complete(backend, device))
    await until(lambda: inside(cluster).log[-1].startswith("complete"))
    inside(cluster).fault = "driver breaks"
    with pytest.raises(DeviceLost, match="ECC"):
        await complete(backend, device)
    with pytest.raises(DeviceLost) as raised:
        await other
    assert raised.value.device == device
    assert cluster.living == [], "what broke under it is not offered again with the device"


async def test_a_node_that_dies_while_a_host_starts_is_a_lost_device() -> None:
    backend = RayBackend(Scripted(), cluster=Collapsing(node(1)))
    with pytest.raises(DeviceLost, match="node has died"):
        await backend.load(expert("E"), device=backend.devices()[0].name)


async def test_closing_ends_the_process_of_a_backend_that_cannot_be_closed() -> None:
    backend, cluster, _ = await backend_of()
    await backend.load(expert("F"), device=backend.devices()[1].name)
    inside(cluster).fault = "cannot close"
    await backend.aclose()
    assert cluster.living == []


# --- with the runner -------------------------------------------------------------------------------------------------


async def test_the_rest_of_a_lost_nodes_work_is_done_elsewhere_once(tmp_path: Path) -> None:
    cluster = FakeCluster(node(1), node(2))
    backend = RayBackend(MakeTallied(folder=tmp_path, seconds=0.001), cluster=cluster)
    runner = runner_of(backend, [expert("A"), expert("B")], max_assignments=8)
    run = asyncio.create_task(collect(runner, plan({f"q{i}": "AB" for i in range(40)})))
    await until(lambda: asked(tmp_path).total() > 20)
    victim = next(host for host in cluster.hosts if host.inside._jobs)
    cluster.kill_node(victim.place.node_id)
    done = panels(await run)
    await runner.aclose()
    assert len(done) == 40
    assert all(completion.succeeded for panel in done.values() for completion in panel)
    again = [key for key, times in asked(tmp_path).items() if times > 1]
    assert len(again) <= 2, "only what was being said when the node died may be asked again"
    assert max(asked(tmp_path).values()) <= 2


async def test_crashing_hosts_cost_tries_and_no_answers(tmp_path: Path) -> None:
    cluster = FakeCluster(node(1), node(2))
    backend = RayBackend(MakeTallied(folder=tmp_path, seconds=0.001), cluster=cluster)
    runner = runner_of(
        backend, [expert("A", max_attempts=6), expert("B", max_attempts=6)], max_assignments=8, backoff_initial_s=0.0
    )
    run = asyncio.create_task(collect(runner, plan({f"q{i}": "AB" for i in range(60)})))
    for kills in range(1, 4):
        await until(lambda kills=kills: asked(tmp_path).total() > 25 * kills)
        next(host for host in cluster.living if host.inside._jobs).kill()
    done = panels(await run)
    await runner.aclose()
    assert len(done) == 60
    assert all(completion.succeeded for panel in done.values() for completion in panel)
    assert asked(tmp_path).total() <= 120 + 3 * 2


# --- joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "allowed: auto, local, host:port"),
        ("host:port", "allowed: auto, local, host:port"),
        ("127.0.0.1:1", "no Ray cluster listens at '127.0.0.1:1'"),
        ("ray://127.0.0.1:1", "no Ray cluster listens at 'ray://127.0.0.1:1'"),
    ],
)
def test_an_address_where_no_cluster_listens_is_an_error_at_once(address: str, said: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=said):
        RayCluster(address)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'pip install "enlist\[ray\]"'):
        RayCluster("auto")
