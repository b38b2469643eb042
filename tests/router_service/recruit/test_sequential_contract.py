"""The laws that every registered recruiter obeys that asks in waves; a new one is covered by being registered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts_registry.estimate import estimate_usage
from router_service.errors import NotFittedError
from router_service.recruit.base import RECRUITERS, SequentialRecruiter
from router_service.recruit.eligibility import eligible
from tests.router_service.recruit.pools import each, pools, recruiter, request, requests
from tests.router_service.recruit.waves import FAILS, after, play

NAMES = [name for name in RECRUITERS.names() if hasattr(RECRUITERS.factory(name), "extend")]

law = settings(max_examples=25, deadline=None)
answers = st.sampled_from(["A", "B", "C", None, FAILS])


def worlds(pool):
    return st.fixed_dictionaries({e.id: answers for e in pool.experts})


def test_there_are_some():
    assert NAMES and all(isinstance(RECRUITERS.create(name), SequentialRecruiter) for name in NAMES)


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data())
def test_each_wave_asks_new_experts_that_may_be_asked_and_paid(name, data):
    pool = data.draw(pools())
    item = data.draw(requests(pool))
    by_id = {e.id: e for e in pool.experts}
    waves = play(recruiter(name, pool), item, data.draw(worlds(pool)), pool.experts)
    asked: list[str] = []
    for wave in waves:
        query = replace(item.query, budget=wave.budget)
        allowed, _ = eligible(query, pool.experts)
        assert {r.expert_id for r in wave.recruits} <= {e.id for e in allowed}
        asked += [r.expert_id for r in wave.recruits]
        usages = [estimate_usage(by_id[r.expert_id], query, r.samples) for r in wave.recruits]
        if wave.budget.max_completions is not None:
            assert sum(u.completions for u in usages) <= wave.budget.max_completions
        if wave.budget.max_cost_usd is not None:
            assert sum(u.cost_usd for u in usages) <= wave.budget.max_cost_usd * (1 + 1e-9)
        if wave.budget.max_output_tokens is not None:
            assert sum(u.completion_tokens for u in usages) <= wave.budget.max_output_tokens
        for r in wave.recruits:
            assert (r.p_correct is None) == (r.expert_id not in pool.profiles)
            assert r.p_correct is None or 0 < r.p_correct < 1
    assert len(asked) == len(set(asked))
    assert len(asked) <= (item.query.controls.k or recruiter(name, pool).k or len(pool.experts))


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data())
def test_what_was_not_said_decides_nothing(name, data):
    """Whatever the experts that were not asked would have said, the same ones are asked in the same order."""
    pool = data.draw(pools())
    item = data.draw(requests(pool))
    world = data.draw(worlds(pool))
    fitted = recruiter(name, pool)
    waves = play(fitted, item, world, pool.experts)
    asked = {r.expert_id for wave in waves for r in wave.recruits}
    other = {expert_id: world[expert_id] if expert_id in asked else data.draw(answers) for expert_id in world}
    assert play(fitted, item, other, pool.experts) == waves


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data())
def test_extending_does_not_depend_on_the_batch(name, data):
    pool = data.draw(pools())
    fitted = recruiter(name, pool)
    by_id = {e.id: e for e in pool.experts}
    items = []
    for item in data.draw(st.lists(requests(pool), max_size=5)):
        (decision,) = fitted.recruit([item])
        items.append(after(item, decision.recruits, data.draw(worlds(pool)), by_id))
    together = fitted.extend(items)
    assert together == [fitted.extend([item])[0] for item in items]
    assert fitted.extend(items[::-1]) == together[::-1]


@pytest.mark.parametrize("name", each(NAMES))
def test_extending_needs_a_fit(name):
    with pytest.raises(NotFittedError, match=name):
        RECRUITERS.create(name).extend([request()])
