"""The contract of every registered backend: each sample once, deltas that add up, an end when one is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from router_service.backends.base import BACKENDS
from router_service.dispatch.planner import keys_of
from router_service.dispatch.runner import PanelReady, Runner
from router_service.errors import ConfigError
from router_service.types import Assignment, Completion, Expert, TokenDelta
from tests.router_service.backends.cases import CASES, Case, batch, pieces, plain, questions

REAL_VLLM = "vllm on real weights"
SLOW = {"transformers", REAL_VLLM}
"""Backends that load a real model."""


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in (*BACKENDS.names(), REAL_VLLM)
    ]
)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    name = request.param
    if name == REAL_VLLM:
        expert = Expert(id="E", model="builtin:smollm2-135m-instruct", backend="vllm")
        yield Case(backend=request.getfixturevalue("real_vllm"), expert=expert, is_shared=True)
        return
    async with CASES.get(name, plain)(name, tmp_path) as case:
        yield case
        await case.backend.aclose()


def key(completion: Completion) -> tuple[str, str, int]:
    return completion.query_id, completion.expert_id, completion.sample


async def test_every_sample_comes_exactly_once(case: Case) -> None:
    first, second, third = questions(3)
    asked = (
        Assignment(query=first, samples=3, seed=1),
        Assignment(query=second, first_sample=2, seed=2),
        Assignment(query=third, seed=3),
    )
    case.backend.check(case.expert)
    completions = await pieces(case.backend, case.expert, *asked)
    assert all(isinstance(c, Completion) and c.succeeded for c in completions), completions
    assert sorted(map(key, completions)) == sorted(keys_of(batch(*asked)))
    assert all(c.text and c.usage.completions == 1 and c.latency_s >= 0 for c in completions)


async def test_the_deltas_of_a_stream_are_its_text(case: Case) -> None:
    streamed, silent = questions(2)
    items = await pieces(
        case.backend, case.expert, Assignment(query=streamed, seed=1, streams=True), Assignment(query=silent, seed=1)
    )
    texts = {item.query_id: item.text for item in items if isinstance(item, Completion)}
    told = [item for item in items if isinstance(item, TokenDelta)]
    assert "".join(delta.text for delta in told) == texts[streamed.id] != ""
    assert {delta.query_id for delta in told} == {streamed.id}
    done = next(i for i, item in enumerate(items) if isinstance(item, Completion) and item.query_id == streamed.id)
    assert all(items.index(delta) < done for delta in told)


async def test_one_seed_one_answer(case: Case) -> None:
    [query] = questions(1)
    first = await pieces(case.backend, case.expert, Assignment(query=query, seed=7))
    again = await pieces(case.backend, case.expert, Assignment(query=query, seed=7))
    assert [c.text for c in first] == [c.text for c in again]


async def test_closing_ends_it_and_it_serves_again(case: Case) -> None:
    asked = batch(*(Assignment(query=query, seed=1, streams=True) for query in questions(4)))
    async with asyncio.timeout(60), aclosing(case.backend.complete(case.expert, asked)) as items:
        await anext(items)
    [completion] = await pieces(case.backend, case.expert, Assignment(query=questions(1)[0], seed=1))
    assert completion.succeeded


async def test_calls_at_once_do_not_mix(case: Case) -> None:
    queries = questions(4)
    calls = (pieces(case.backend, case.expert, Assignment(query=query, seed=1)) for query in queries)
    alone = [c for query in queries for c in await pieces(case.backend, case.expert, Assignment(query=query, seed=1))]
    together = [c for items in await asyncio.gather(*calls) for c in items]
    assert [(key(c), c.text) for c in together] == [(key(c), c.text) for c in alone]


async def test_an_unknown_option_of_an_expert_is_refused(case: Case) -> None:
    with pytest.raises(ConfigError, match=r"'suports_m'.*Allowed"):
        case.backend.check(replace(case.expert, options={"suports_m": True}))


async def test_it_can_be_closed_twice_and_unused(case: Case) -> None:
    if case.is_shared:
        pytest.skip("others use it: they would wait for it to load again")
    await case.backend.aclose()
    await case.backend.aclose()


async def test_the_runner_gets_along_with_it(case: Case) -> None:
    runner = Runner(experts={"E": case.expert}, backends={case.expert.backend: case.backend})
    asked = batch(*(Assignment(query=query, samples=2, seed=1) for query in questions(3)))
    async with aclosing(runner.run([asked], {})) as events:
        panels = {e.query_id: e.completions async for e in events if isinstance(e, PanelReady)}
    assert sorted(panels) == ["q0", "q1", "q2"]
    assert all(c.succeeded and c.extracted for panel in panels.values() for c in panel)
