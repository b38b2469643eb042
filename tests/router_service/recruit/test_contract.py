"""The laws that every registered recruiter obeys; a new one is covered by being registered."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts_registry.estimate import estimate_usage, max_output_tokens
from router_service.errors import BudgetExceeded, ConfigError, NoExpertAvailable, NotFittedError
from router_service.recruit.base import RECRUITERS, FitData, RecruitRequest, SavableRecruiter
from router_service.recruit.eligibility import BUDGET_CODES, eligible, explain_empty
from router_service.types import Budget, RouteDecision
from tests.router_service.recruit.pools import (
    SKILLS,
    each,
    expert,
    fit_data,
    pools,
    profile,
    recruiter,
    request,
    requests,
    vector,
)

NAMES = RECRUITERS.names()


def has(name: str, flag: str) -> bool:
    """What a recruiter says of itself (`RosterRecruiter`'s class attributes)."""
    return bool(getattr(RECRUITERS.factory(name), flag, False))


law = settings(max_examples=25, deadline=None)


def completions(decision: RouteDecision) -> int:
    return sum(recruit.samples for recruit in decision.recruits)


def options_of(name: str) -> set[str]:
    return set(inspect.signature(RECRUITERS.factory(name)).parameters)


def decide(name: str, data: FitData, item: RecruitRequest) -> RouteDecision:
    (decision,) = recruiter(name, data).recruit([item])
    return decision


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data())
def test_only_eligible_experts_are_recruited_and_nobody_is_forgotten(name, data):
    pool = data.draw(pools())
    item = data.draw(requests(pool))
    decision = decide(name, pool, item)
    allowed, _ = eligible(item.query, pool.experts)
    ids = {e.id for e in allowed}
    assert {r.expert_id for r in decision.recruits} <= ids
    assert len({r.expert_id for r in decision.recruits}) == len(decision.recruits)
    assert all(r.samples >= 1 for r in decision.recruits)
    assert set(decision.scores) <= ids
    assert all(r.score == decision.scores[r.expert_id] for r in decision.recruits)
    assert not {e.expert_id for e in decision.eliminated} & ids or name == "named"
    assert (decision.query_id, decision.recruiter, decision.seed) == (item.query.id, name, item.seed)
    assert decision.is_fallback == (decision.fallback_reason is not None)
    if not decision.recruits:
        assert decision.eliminated and all(e.reason for e in decision.eliminated)
        error = explain_empty(decision, item.query)
        assert isinstance(error, BudgetExceeded | NoExpertAvailable)
    if ids and name != "named":
        assert decision.recruits


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data())
def test_never_over_budget(name, data):
    pool = data.draw(pools())
    item = data.draw(requests(pool))
    decision = decide(name, pool, item)
    budget, by_id = item.query.budget, {e.id: e for e in pool.experts}
    usages = [estimate_usage(by_id[r.expert_id], item.query, r.samples) for r in decision.recruits]
    if budget.max_completions is not None:
        assert completions(decision) <= budget.max_completions
    if budget.max_output_tokens is not None:
        assert sum(u.completion_tokens for u in usages) <= budget.max_output_tokens
    if budget.max_cost_usd is not None:
        assert math.fsum(u.cost_usd for u in usages) <= budget.max_cost_usd * (1 + 1e-9)
    assert decision.estimate is not None
    assert decision.estimate.completions == completions(decision)
    assert decision.estimate.completion_tokens == sum(u.completion_tokens for u in usages)
    if usages and None not in [u.cost_usd for u in usages]:
        assert decision.estimate.cost_usd == pytest.approx(sum(u.cost_usd for u in usages))


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data(), st.sampled_from(["max_completions", "max_cost_usd", "max_output_tokens"]))
def test_more_budget_never_means_fewer_experts(name, data, limit):
    """Counted with multiplicity: an expert drawn twice counts twice."""
    pool = data.draw(pools())
    item = data.draw(requests(pool))
    amounts = st.floats(0, 2) if limit == "max_cost_usd" else st.integers(0, 1000)
    less, more = sorted([data.draw(amounts), data.draw(amounts)])
    counts = []
    for amount in (less, more):
        budget = replace(item.query.budget, **{limit: amount})
        asked = replace(item, query=replace(item.query, budget=budget))
        counts.append(completions(decide(name, pool, asked)))
    assert counts[0] <= counts[1]


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data())
def test_the_batch_does_not_matter(name, data):
    pool = data.draw(pools())
    items = data.draw(st.lists(requests(pool), max_size=6))
    fitted = recruiter(name, pool)
    together = fitted.recruit(items)
    assert together == [fitted.recruit([item])[0] for item in items]
    assert fitted.recruit(items[::-1]) == together[::-1]
    assert recruiter(name, pool).recruit(items) == together


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data())
def test_renaming_experts_changes_nothing(name, data):
    pool = data.draw(pools())
    item = data.draw(requests(pool))
    ids = [e.id for e in pool.experts]
    names = dict(zip(ids, data.draw(st.permutations([f"x{i}" for i in range(len(ids))])), strict=True))

    def renamed(expert_id):
        return names[expert_id]

    other_pool = replace(
        pool,
        experts=tuple(replace(e, id=renamed(e.id)) for e in pool.experts),
        profiles={renamed(i): replace(p, expert_id=renamed(i)) for i, p in pool.profiles.items()},
        outcomes=tuple(replace(o, expert_id=renamed(o.expert_id)) for o in pool.outcomes),
    )
    controls = item.query.controls
    other_controls = replace(
        controls,
        expert=controls.expert and renamed(controls.expert),
        experts_allowed=tuple(map(renamed, controls.experts_allowed)),
        experts_denied=tuple(map(renamed, controls.experts_denied)),
    )
    before = decide(name, pool, item)
    after = decide(name, other_pool, replace(item, query=replace(item.query, controls=other_controls)))
    assert after.recruits == tuple(replace(r, expert_id=renamed(r.expert_id)) for r in before.recruits)
    assert after.scores == {renamed(i): score for i, score in before.scores.items()}


@pytest.mark.parametrize("name", each([name for name in NAMES if not has(name, "scores_jointly")]))
@law
@given(st.data())
def test_removing_an_expert_changes_no_other_score(name, data):
    pool = data.draw(pools())
    item = data.draw(requests(pool))
    gone = data.draw(st.sampled_from(pool.experts[1:]))
    fewer = replace(
        pool,
        experts=tuple(e for e in pool.experts if e is not gone),
        outcomes=tuple(o for o in pool.outcomes if o.expert_id != gone.id),
    )
    before, after = decide(name, pool, item), decide(name, fewer, item)
    assert {i: s for i, s in before.scores.items() if i != gone.id} == dict(after.scores) or name == "named"
    p_before = {r.expert_id: r.p_correct for r in before.recruits}
    assert all(p_before.get(r.expert_id, r.p_correct) == r.p_correct for r in after.recruits)


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(st.data())
def test_p_correct_is_a_probability_where_there_is_a_profile(name, data):
    pool = data.draw(pools())
    for recruit in decide(name, pool, data.draw(requests(pool))).recruits:
        if recruit.expert_id in pool.profiles:
            assert recruit.p_correct is not None and 0 < recruit.p_correct < 1
        else:
            assert recruit.p_correct is None


@pytest.mark.parametrize("name", each(NAMES))
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_k_is_honoured(name, k):
    """The defect of the released annotator, whose `k` is never passed on, must not come back in any recruiter."""
    experts = [expert(f"e{i}") for i in range(9)]
    pool = fit_data(experts, {e.id: profile(e.id, dict.fromkeys(SKILLS, i)) for i, e in enumerate(experts)})
    expected = {"best_single": 1, "named": 1, "all": 9}.get(name, k)
    embedding = vector("one")
    asked = completions(decide(name, pool, request(SKILLS, k=k, expert="e3", embedding=embedding)))
    assert asked == expected or (has(name, "sizes_panel") and 1 <= asked <= expected)
    if "k" in options_of(name):
        (decision,) = recruiter(name, pool, k=k).recruit([request(SKILLS, embedding=embedding)])
        assert completions(decision) == k or (has(name, "sizes_panel") and 1 <= completions(decision) <= k)


@pytest.mark.parametrize("name", each(NAMES))
@law
@given(data=st.data())
def test_what_is_saved_decides_alike(name, data, tmp_path_factory):
    pool = data.draw(pools())
    items = data.draw(st.lists(requests(pool), max_size=4))
    fitted = recruiter(name, pool)
    path = tmp_path_factory.mktemp("saved") / "fitted.npz"
    fitted.save(path)
    loaded = RECRUITERS.create(name)
    assert loaded.load(path, experts=pool.experts) is loaded
    assert loaded.recruit(items) == fitted.recruit(items)
    with pytest.raises(ConfigError, match=r"other experts.*fit again"):
        RECRUITERS.create(name).load(path, experts=pool.experts[1:])
    damaged = path.with_name("damaged.npz")
    damaged.write_bytes(path.read_bytes()[:-200])
    for bad in (damaged, path.with_name("absent.npz")):
        with pytest.raises(ConfigError, match="fit the recruiter"):
            RECRUITERS.create(name).load(bad, experts=pool.experts)


@pytest.mark.parametrize("name", each(NAMES))
def test_nothing_is_saved_before_it_is_fitted(name, tmp_path):
    with pytest.raises(NotFittedError, match=name):
        RECRUITERS.create(name).save(tmp_path / "fitted.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", each(NAMES))
def test_it_keeps_the_protocol(name):
    made = RECRUITERS.create(name)
    assert isinstance(made, SavableRecruiter) and isinstance(made.needs_annotation, bool)
    with pytest.raises(NotFittedError, match=name):
        made.recruit([request()])
    pool = fit_data([expert("a")], {"a": profile("a", {})})
    assert made.fit(pool) is made
    assert made.recruit([]) == []


@pytest.mark.parametrize("name", each(NAMES))
def test_without_profiles_it_works_or_says_what_is_missing(name):
    pool = fit_data([expert("a"), expert("b")], {})
    try:
        fitted = recruiter(name, pool)
    except ConfigError as problem:
        assert "enlist profile" in problem.message and name in problem.message
    else:
        assert fitted.recruit([request(expert="a")])[0].recruits


@pytest.mark.parametrize("name", each(NAMES))
def test_wrong_options_are_refused(name):
    with pytest.raises(ConfigError, match="no option 'kk'"):
        RECRUITERS.create(name, {"kk": 3})
    if "k" in options_of(name):
        for k in (0, 65):
            with pytest.raises(ConfigError, match=f"k is {k}; .* 1 to 64"):
                RECRUITERS.create(name, {"k": k})


def test_every_budget_kind_of_elimination_goes_away_with_the_budget():
    pool = [expert("a"), expert("b", usd_per_mtok=None)]
    for budget in (Budget(max_completions=0), Budget(max_output_tokens=0), Budget(max_cost_usd=0.0)):
        item = request(budget=budget)
        nobody, eliminated = eligible(item.query, pool)
        assert not nobody and {e.code for e in eliminated} <= BUDGET_CODES
    assert len(eligible(request().query, pool)[0]) == 2


def test_longest_completions_fit_the_token_budget():
    item = request(budget=Budget(max_output_tokens=30))
    assert max_output_tokens(expert("a"), item.query) == 30
