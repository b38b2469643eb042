"""Experts on a real Ray cluster of three nodes in one machine: nodes and processes are killed while they work."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from router_service.backends.base import Backend
from router_service.backends.transformers import Transformers
from router_service.config import ClusterConfig, PartConfig
from router_service.dispatch._ray_annotator import RayAnnotator, spread_with_ray_data
from router_service.dispatch._ray_cluster import RayCluster
from router_service.dispatch._ray_host import NamedBackend
from router_service.dispatch._ray_places import Place
from router_service.dispatch.planner import SampleKey, keys_of
from router_service.dispatch.ray import RayBackend
from router_service.dispatch.runner import PanelReady
from router_service.types import Completion, Expert, ExpertBatch, Question, Sampling, TokenDelta, user_query
from skills.base import ANNOTATORS
from tests.router_service.backends.real_engine import real_python
from tests.router_service.dispatch.fakes import batch_of, expert, plan, runner_of, said
from tests.router_service.dispatch.ray_nursery import FewerNodes, MakeTallied, add_node, asked, pids, ray_cluster

pytestmark = pytest.mark.slow

LINES = 500
EXPERTS = "ABC"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def joined(cluster: Any) -> RayCluster:
    return RayCluster(cluster.address)


Texts = dict[str, list[str]]


class Run:
    """Asks experts, and keeps which completions were heard so far; all must succeed."""

    def __init__(self, backend: RayBackend, *, attempts: int = 3) -> None:
        experts = [expert(name, max_attempts=attempts) for name in EXPERTS]
        self.heard: set[SampleKey] = set()
        self._runner = runner_of(backend, experts, max_assignments=25)

    async def texts(self, draws: dict[str, str]) -> Texts:
        """What every member of every panel said."""
        found: Texts = {}
        async with aclosing(self._runner.run(plan(draws), {})) as events:
            async for event in events:
                if isinstance(event, Completion):
                    assert event.succeeded, event.error
                    key = (event.query_id, event.expert_id, event.sample)
                    assert key not in self.heard
                    self.heard.add(key)
                elif isinstance(event, PanelReady):
                    found[event.query_id] = [completion.text for completion in event.completions]
        await self._runner.aclose()
        return found


async def texts_of(backend: RayBackend, draws: dict[str, str]) -> Texts:
    return await Run(backend).texts(draws)


def lines(count: int = LINES) -> dict[str, str]:
    """Two of three experts for each query, in turn."""
    return {f"q{i}": EXPERTS[i % 3] + EXPERTS[(i + 1) % 3] for i in range(count)}


async def soon(condition: Any, *, within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_node_that_is_killed_costs_nothing_that_was_kept(
    cluster: Any, joined: RayCluster, tmp_path: Path
) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir(), stormy.mkdir()
    expected = await texts_of(RayBackend(MakeTallied(folder=calm, seconds=0.01), cluster=joined), lines())
    assert set(asked(calm).values()) == {1}

    run = Run(RayBackend(MakeTallied(folder=stormy, seconds=0.01), cluster=joined))
    task = asyncio.create_task(run.texts(lines()))
    await soon(lambda: len(pids(stormy)) == 3 and asked(stormy).total() > 200)
    kept = set(run.heard)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    try:
        assert await task == expected
    finally:
        add_node(cluster)
    twice = {key for key, times in asked(stormy).items() if times > 1}
    assert len(asked(stormy)) == 2 * LINES
    assert max(asked(stormy).values()) <= 2
    assert not twice & kept, "what was heard is not asked again"
    print(f"\nnode killed: {len(expected)} lines complete, {len(kept)} kept before, {len(twice)} begun twice")


async def test_processes_that_are_killed_cost_tries_and_no_answers(joined: RayCluster, tmp_path: Path) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir(), stormy.mkdir()
    expected = await texts_of(RayBackend(MakeTallied(folder=calm, seconds=0.01), cluster=joined), lines())

    draw, kills = random.Random(4), 50
    run = Run(RayBackend(MakeTallied(folder=stormy, seconds=0.01), cluster=joined), attempts=100)
    task = asyncio.create_task(run.texts(lines()))
    kept: dict[SampleKey, int] = {}
    killed: set[int] = set()
    while len(killed) < kills:
        target = (len(killed) + draw.random()) * 2 * LINES / kills
        await soon(lambda target=target: task.done() or asked(stormy).total() > target)
        await soon(lambda: task.done() or set(pids(stormy)) - killed)
        if task.done():
            break
        heard, times = set(run.heard), asked(stormy)
        kept = {key: times[key] for key in heard} | kept
        victim = draw.choice(sorted(set(pids(stormy)) - killed))
        killed.add(victim)
        with suppress(ProcessLookupError):  # the run may end at this very moment
            os.kill(victim, signal.SIGKILL)
    assert await task == expected
    times = asked(stormy)
    assert {key: times[key] for key in kept} == kept, "what was heard is not asked again"
    twice = [key for key, count in times.items() if count > 1]
    assert len(killed) > kills / 2
    print(f"\n{len(killed)} kills: {LINES} lines complete by {len(pids(stormy))} processes, {len(twice)} begun twice")


async def test_two_nodes_do_twice_the_work_of_one(joined: RayCluster, tmp_path: Path) -> None:
    """The work is waiting (20 ms a completion), since this machine may have fewer cores than the cluster has nodes."""
    took_s = {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        backend = RayBackend(MakeTallied(folder=folder, seconds=0.02), cluster=FewerNodes(joined, count))
        for place in backend.devices():  # the processes' start is not what is measured
            for name in EXPERTS:
                await backend.load(expert(name), device=place.name)
        began = time.perf_counter()
        await texts_of(backend, lines(250))
        took_s[count] = time.perf_counter() - began
    ratio = took_s[1] / took_s[2]
    print(f"\n1 node {took_s[1]:.2f} s, 2 nodes {took_s[2]:.2f} s, throughput ratio {ratio:.2f}")
    assert ratio > 1.6


class ShowsGpus(Backend):
    """Answers with the GPUs that its process was given."""

    is_batched = True

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion, None]:
        for key in keys_of(batch):
            yield said(key, os.environ.get("CUDA_VISIBLE_DEVICES", "none"))


def make_shows_gpus(place: Place) -> Backend:
    return ShowsGpus()


async def test_every_gpu_device_has_gpus_of_its_own(cluster: Any, joined: RayCluster) -> None:
    node = add_node(cluster, num_gpus=4)
    try:
        for size in (1, 2):
            backend = RayBackend(make_shows_gpus, cluster=joined, settings=ClusterConfig(gpus_per_device=size))
            await soon(lambda backend=backend, size=size: len(backend.devices()) == 4 // size)
            shown = []
            for device in backend.devices():
                await backend.load(expert("A"), device=device.name)
                batch = batch_of("A", user_query("q", "which?"))
                async for piece in backend.complete(expert("A"), on(batch, device.name)):
                    shown.append(piece.text.split(","))
            await backend.aclose()
            assert {len(gpus) for gpus in shown} == {size}
            assert sorted(gpu for gpus in shown for gpu in gpus) == ["0", "1", "2", "3"]
    finally:
        cluster.remove_node(node)


def on(batch: ExpertBatch, device: str) -> ExpertBatch:
    return ExpertBatch(expert_id=batch.expert_id, assignments=batch.assignments, device=device)


def small_model(backend: str) -> tuple[Expert, ExpertBatch]:
    model = Expert(
        id="small",
        model="builtin:smollm2-135m-instruct",
        backend=backend,
        context_window=1024,
        sampling=Sampling(temperature=0.0, max_tokens=12),
    )
    return model, batch_of("small", *(user_query(f"q{i}", f"What is {i} plus {i}?") for i in range(3)))


async def answers(pieces: AsyncIterator[Completion | TokenDelta]) -> dict[str, str]:
    said_ = [piece async for piece in pieces if isinstance(piece, Completion)]
    assert all(completion.succeeded for completion in said_), said_
    return {completion.query_id: completion.text for completion in said_}


async def answers_there(joined: RayCluster, wrapped: NamedBackend) -> dict[str, str]:
    there = RayBackend(wrapped, cluster=FewerNodes(joined, 1))
    try:
        device = there.devices()[0].name
        model, asked_ = small_model(wrapped.name)
        there.check(model)
        await there.load(model, device=device)
        return await answers(there.complete(model, on(asked_, device)))
    finally:
        await there.aclose()


async def test_a_real_model_says_there_what_it_says_here(joined: RayCluster) -> None:
    here = Transformers(threads=1)
    expected = await answers(here.complete(*small_model("transformers")))
    await here.aclose()
    found = await answers_there(joined, NamedBackend(name="transformers", options={"threads": 1}))
    assert found == expected != {}


async def test_a_vllm_engine_runs_there(joined: RayCluster) -> None:
    found = await answers_there(joined, NamedBackend(name="vllm", options={"python": real_python(), "threads": 1}))
    assert sorted(found) == ["q0", "q1", "q2"]
    assert all(found.values())


async def test_ray_data_annotates_as_is_done_here(joined: RayCluster) -> None:
    part = PartConfig(name="embedding", options={"embedder": "hashing"})
    questions = [
        Question(id=f"f{i}", text=f"{word} {i}", skills=(word,), category=word)
        for i, word in enumerate(("sums", "places", "dates") * 5)
    ]
    here = ANNOTATORS.create(part.name, part.options).fit(questions)
    queries = [user_query(f"q{i}", f"sums and dates of {i * 7 % 13} places") for i in range(600)]
    spread = RecordingSpread()
    there = RayAnnotator(here, part, from_queries=1, spread=spread)
    assert await there.annotate(queries, ask=nobody) == await here.annotate(queries, ask=nobody)
    assert spread.brought == 600


class RecordingSpread:
    """Ray Data, counted."""

    def __init__(self) -> None:
        self.brought = 0

    def __call__(self, recipe: Any, queries: Sequence[Any]) -> Iterator[Any]:
        for pair in spread_with_ray_data(recipe, queries):
            self.brought += 1
            yield pair


async def nobody(*_: Any, **__: Any) -> None:
    raise AssertionError("nobody may be asked")
