"""The recruiters' laws where a recruiter itself rules experts out: by a budget of parameters, by limits, by licence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.eligibility import eligible
from tests.router_service.recruit.pools import pools, recruiter, requests

CASES = [
    ("category_map", {"budget_total": 12.0}),
    ("category_map", {"budget_active": 6.0}),
    ("category_map", {"budget_total": 12.0, "margin": 0.05}),
    ("subset_select", {"energy_j": 12.0, "latency_s": 8.0}),
    ("predicted_loss", {"limits": {"parameters_b": 7.0, "cost_usd": 5e-4}, "weights": {"latency_s": 0.2}}),
    ("predicted_loss", {"licences": ["mit"]}),
]
SIZES = (3.0, 9.0, 5.0, 7.0, 1.0, 4.0)


@st.composite
def sized_pools(draw):
    """Pools in which every expert has a size, a licence and a price."""
    pool = draw(pools())
    experts = tuple(
        replace(
            e,
            parameters_b=size,
            energy_j=size,
            latency_s=size,
            licence="mit" if size < 6 else "other",
            prices=e.prices or pool.experts[0].prices,
        )
        for e, size in zip(pool.experts, SIZES, strict=False)
    )
    if any(e.prices is None for e in experts):
        experts = tuple(replace(e, prices=None) for e in experts)
    return replace(pool, experts=experts)


def fitted(name, pool, options):
    """The recruiter, or None where nobody fits within the limits or a price that it needs is unknown."""
    try:
        return recruiter(name, pool, **options)
    except ConfigError as problem:
        assert "no expert" in problem.message or "unknown" in problem.message
        return None


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_laws_hold_with_experts_ruled_out(name, options, data):
    pool = data.draw(sized_pools())
    items = data.draw(st.lists(requests(pool), min_size=1, max_size=5))
    ready = fitted(name, pool, options)
    if ready is None:
        return
    together = ready.recruit(items)
    assert together == [ready.recruit([item])[0] for item in items]
    assert ready.recruit(items[::-1]) == together[::-1]
    for item, decision in zip(items, together, strict=True):
        allowed = {e.id for e in eligible(item.query, pool.experts)[0]}
        out = {e.expert_id: e.code for e in decision.eliminated}
        asked = {r.expert_id for r in decision.recruits}
        assert asked <= allowed - out.keys() and set(decision.scores) == allowed - out.keys()
        assert len(out) == len(decision.eliminated)
        assert asked or out.keys() >= allowed


@pytest.mark.parametrize(("name", "options"), CASES)
@settings(max_examples=15, deadline=None)
@given(st.data(), st.floats(0, 2), st.floats(0, 2))
def test_more_budget_never_means_fewer_with_experts_ruled_out(name, options, data, first, second):
    pool = data.draw(sized_pools())
    item = data.draw(requests(pool))
    ready = fitted(name, pool, options)
    if ready is None:
        return
    counts = []
    for amount in sorted([first, second]):
        budget = replace(item.query.budget, max_cost_usd=amount * 1e-3)
        (decision,) = ready.recruit([replace(item, query=replace(item.query, budget=budget))])
        counts.append(sum(recruit.samples for recruit in decision.recruits))
    assert counts[0] <= counts[1]
