"""Remembered completions are the ones that would come again, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.reuse import ReusingBackend
from router_service.types import Assignment, Completion, CompletionError, Expert, ExpertBatch, Sampling, user_query
from tests.router_service.parts import FakeBackend, completion

GREEDY = Expert(id="greedy", model="m", backend="fake", sampling=Sampling(temperature=0))
SAMPLED = Expert(id="sampled", model="m", backend="fake", sampling=Sampling(temperature=0.7))


def asks(text: str, *, query_id: str = "q", **fields: int) -> Assignment:
    return Assignment(query=user_query(query_id, text), **fields)


async def said(backend: ReusingBackend, expert: Expert, *assignments: Assignment) -> list[Completion]:
    batch = ExpertBatch(expert_id=expert.id, assignments=assignments)
    return [event async for event in backend.complete(expert, batch) if isinstance(event, Completion)]


async def test_a_greedy_expert_is_asked_each_question_once() -> None:
    inner = FakeBackend()
    backend = ReusingBackend(inner)
    first = await said(backend, GREEDY, asks("one", seed=1), asks("two", query_id="r", seed=1))
    again = await said(backend, GREEDY, asks("one", query_id="s", seed=2, samples=2), asks("three", query_id="t"))
    assert backend.asked == 3 and len(inner.asked) == 3
    assert [(c.query_id, c.sample) for c in again] == [("s", 0), ("s", 1), ("t", 0)]
    assert again[0].text == again[1].text == first[0].text


async def test_a_sampled_expert_is_asked_again_for_another_seed_or_sample() -> None:
    backend = ReusingBackend(FakeBackend())
    await said(backend, SAMPLED, asks("one", seed=1))
    await said(backend, SAMPLED, asks("one", seed=1))
    assert backend.asked == 1
    await said(backend, SAMPLED, asks("one", seed=2))
    assert backend.asked == 2


async def test_experts_do_not_share_what_they_said() -> None:
    backend = ReusingBackend(FakeBackend())
    await said(backend, GREEDY, asks("one"))
    await said(backend, replace(GREEDY, id="other"), asks("one"))
    await said(backend, replace(GREEDY, sampling=Sampling(temperature=0, max_tokens=1)), asks("one"))
    assert backend.asked == 3


async def test_failures_are_asked_again() -> None:
    def fails(expert, assignment, sample) -> Completion:
        error = CompletionError(code="expert_timeout", message="late")
        return replace(completion(expert, assignment, sample, ""), error=error)

    backend = ReusingBackend(FakeBackend(reply=fails))
    await said(backend, GREEDY, asks("one"))
    await said(backend, GREEDY, asks("one"))
    assert backend.asked == 2


@pytest.mark.parametrize("is_so", [True, False])
@pytest.mark.parametrize("trait", ["is_batched", "extracts_answers"])
def test_the_runner_treats_it_as_the_inner_one(trait: str, is_so: bool) -> None:
    inner = FakeBackend()
    setattr(inner, trait, is_so)
    assert getattr(ReusingBackend(inner), trait) is is_so
