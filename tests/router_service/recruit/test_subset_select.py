"""Whom to keep within energy, latency and memory: MoE²'s worked example, brute force, and its two claims."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.base import FitData
from router_service.recruit.subset_search import SubsetProblem, best_subset, largest_subsets, subset_value
from router_service.types import Outcome, Profile, SkillAnnotation, Tally
from tests.experts_registry.golden import golden
from tests.router_service.recruit.pools import expert, fit_data, pools, profile, recruiter, request, requests

TRIALS = 1_000_000
"""So many that the shrinking of rates, which the worked example does not know, moves nothing."""
CATEGORIES = ("math", "code")


def example_problem(energy, delay):
    moe2 = golden("moe2")
    experts = list(moe2["acc"])
    return SubsetProblem(
        scores=np.array([moe2["acc"][e] for e in experts]).T,
        weights=np.array(moe2["w"]),
        shares=np.array(
            [
                [moe2["energy"][e] / energy for e in experts],
                [0.0 if moe2["delay"][e] <= delay else math.inf for e in experts],
            ]
        ),
    )


def named(members):
    return [f"e{member + 1}" for member in members]


def test_the_worked_example():
    for case in golden("moe2")["optimum"]:
        found = best_subset(example_problem(case["E"], case["D"]))
        assert named(found.members) == case["set"] and found.value == pytest.approx(case["f"], abs=1e-9)


def test_the_largest_sets_of_the_worked_example():
    found = [named(members) for members in largest_subsets(example_problem(7, 3))]
    assert sorted(found) == golden("moe2")["maximal_feasible_E7_D3"]


def example_pool():
    moe2 = golden("moe2")
    profiles = {}
    for expert_id, rates in moe2["acc"].items():
        tallies = {c: Tally(wins=TRIALS * rate, trials=TRIALS) for c, rate in zip(CATEGORIES, rates, strict=True)}
        profiles[expert_id] = Profile(
            expert_id=expert_id, categories=tallies, overall=sum(tallies.values(), start=Tally())
        )
    experts = tuple(
        expert(i, energy_j=moe2["energy"][i], latency_s=moe2["delay"][i], memory_gib=1.0) for i in moe2["acc"]
    )
    annotations = {
        f"q{n}": SkillAnnotation(query_id="?", category=c) for n, c in enumerate(["math"] * 3 + ["code"] * 2)
    }
    return FitData(experts=experts, profiles=profiles, annotations=annotations)


def panels(data, **options):
    fitted = recruiter("subset_select", data, **options)
    return ["".join(r.expert_id for r in d.recruits) for d in fitted.recruit([request(category=c) for c in CATEGORIES])]


def test_the_worked_example_as_decisions():
    data = example_pool()
    assert panels(data, energy_j=9, latency_s=3) == ["e1", "e4"]
    assert panels(data, energy_j=8, latency_s=4) == panels(data, energy_j=14) == panels(data) == ["e1", "e2"]
    assert panels(data, energy_j=7, latency_s=3) == ["e1", "e1"]
    assert panels(data, energy_j=7, latency_s=3, k=4) == ["e1e3", "e1e3"]  # what room is left is filled
    assert panels(data, memory_gib=1.0) == ["e1", "e1"]


def test_who_is_not_kept_is_eliminated_by_the_limits():
    (decision,) = recruiter("subset_select", example_pool(), energy_j=9.0, latency_s=3.0).recruit([request(k=4)])
    assert {e.expert_id: e.code for e in decision.eliminated} == {"e2": "not_held", "e3": "not_held"}
    assert "energy" in decision.eliminated[0].reason and "e1, e4" in decision.eliminated[0].reason


def test_a_limit_on_one_category_goes_by_what_was_recorded_there():
    data = example_pool()
    slow = [
        Outcome(dataset="d", split="fit", question_id=q, expert_id="e2", latency_s=seconds)
        for q, seconds in [("q0", 9.0), ("q1", 11.0), ("q3", 1.0), ("q4", 1.0)]
    ]
    timed = replace(data, outcomes=tuple(slow))
    assert panels(timed, category_latency_s={"math": 9.9}) == ["e1", "e4"]
    assert panels(timed, category_latency_s={"math": 10.0}) == ["e1", "e2"]
    assert panels(timed, category_latency_s={"code": 3.0}) == ["e1", "e2"]
    assert panels(data, category_latency_s={"code": 3.0}) == ["e1", "e4"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"energy_j": 0.0}, "energy_j is 0"),
        ({"category_latency_s": {"math": -1.0}}, "category_latency_s of 'math' is -1"),
        ({"energy_j": 1.0}, "no expert with a profile keeps to energy_j = 1.0"),
    ],
)
def test_what_cannot_be_kept_says_why(options, said):
    with pytest.raises(ConfigError, match=said):
        recruiter("subset_select", example_pool(), **options)


@pytest.mark.parametrize("option", ["energy_j", "latency_s", "memory_gib"])
def test_an_unknown_amount_is_an_error_that_names_the_expert(option):
    data = example_pool()
    data = replace(data, experts=(*data.experts[:3], replace(data.experts[3], **{option: None})))
    with pytest.raises(ConfigError, match=f"limit on {option}, and that of e4 is unknown"):
        recruiter("subset_select", data, **{option: 5.0})


# --- laws ----------------------------------------------------------------------------------------------------------


@st.composite
def problems(draw, most=12):
    experts, categories = draw(st.integers(1, most)), draw(st.integers(1, 4))
    grid = st.lists(st.integers(0, 6), min_size=experts, max_size=experts)
    scores = np.array(draw(st.lists(grid, min_size=categories, max_size=categories))) / 6
    loads = st.lists(
        st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 0.6, 1.0, 1.5, math.inf]), min_size=experts, max_size=experts
    )
    shares = np.array(draw(st.lists(loads, min_size=1, max_size=3)))
    counts = np.array(draw(st.lists(st.integers(1, 5), min_size=categories, max_size=categories)), dtype=float)
    return SubsetProblem(scores=scores, weights=counts / counts.sum(), shares=shares)


def brute_force(problem):
    best = None
    for size in range(1, problem.shares.shape[1] + 1):
        for members in itertools.combinations(range(problem.shares.shape[1]), size):
            if problem.fits(members):
                load = math.fsum(problem.shares[:, members].ravel())
                key = (-round(subset_value(problem, members), 8), size, round(load, 8), members)
                best = key if best is None else min(best, key)
    return best


@settings(max_examples=60, deadline=None)
@given(problems())
def test_branch_and_bound_is_brute_force(problem):
    expected, found = brute_force(problem), best_subset(problem)
    if expected is None:
        assert found.members == ()
    else:
        assert found.members == expected[3]
        assert found.value == pytest.approx(-expected[0], abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(problems(most=6))
def test_a_largest_set_is_always_best(problem):
    """As values only grow with the set, only the largest ones that fit matter."""
    values = [subset_value(problem, members) for members in largest_subsets(problem)]
    assert max(values, default=-math.inf) == pytest.approx(best_subset(problem).value)


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(1, 3))
def test_higher_limits_are_worth_no_less(problem, factor):
    assert best_subset(replace(problem, shares=problem.shares / factor)).value >= best_subset(problem).value - 1e-9


@given(problems(most=7), st.data())
def test_the_best_members_value_is_monotone_and_submodular(problem, data):
    """Claim 2 under the best gate: an expert more never hurts, and helps a larger set no more than a smaller one."""
    experts = range(problem.shares.shape[1])
    large = data.draw(st.sets(st.sampled_from(experts), min_size=1))
    small = data.draw(st.sets(st.sampled_from(sorted(large)), min_size=1))
    one = data.draw(st.sampled_from(experts))

    def gain(members):
        return subset_value(problem, sorted({*members, one})) - subset_value(problem, sorted(members))

    assert gain(large) >= 0 and gain(small) >= gain(large) - 1e-12


def mixture_value(problem, members, shares):
    """The value where the members' scores are mixed by fixed shares, normalised over the members."""
    weights = np.array([shares[m] for m in members])
    return float(problem.weights @ (problem.scores[:, members] @ (weights / weights.sum())))


def test_a_fixed_mixture_is_not_monotone():
    """Claim 2 fails for it: the same experts, and one bad one more is worth less."""
    problem = SubsetProblem(scores=np.array([[0.9, 0.1]]), weights=np.ones(1), shares=np.zeros((1, 2)))
    assert mixture_value(problem, [0, 1], [0.5, 0.5]) < mixture_value(problem, [0], [0.5, 0.5])
    assert subset_value(problem, [0, 1]) == subset_value(problem, [0])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_was_fitted_for_all_holds_for_any_subset(data):
    """Claim 1, with one head per expert: restricting the fitted gate is fitting it on the subset alone."""
    pool = data.draw(pools())
    item = data.draw(requests(pool))
    ids = [e.id for e in pool.experts]
    kept = {ids[0], *data.draw(st.sets(st.sampled_from(ids)))}  # the first one has a profile
    fewer = replace(
        pool,
        experts=tuple(e for e in pool.experts if e.id in kept),
        outcomes=tuple(o for o in pool.outcomes if o.expert_id in kept),
    )
    controls = replace(item.query.controls, experts_allowed=(), experts_denied=())
    free = replace(item, query=replace(item.query, controls=controls))
    denied = replace(controls, experts_denied=tuple(i for i in ids if i not in kept))
    (restricted,) = recruiter("subset_select", pool).recruit(
        [replace(free, query=replace(free.query, controls=denied))]
    )
    (refitted,) = recruiter("subset_select", fewer).recruit([free])
    assert restricted.recruits == refitted.recruits and restricted.scores == refitted.scores


def test_a_gate_that_only_learned_who_wins_does_not_hold_for_a_subset():
    """Claim 1 fails for a hard gate over all: second and third never win, so it cannot order them."""
    scores = np.array([[0.9, 0.2, 0.8], [0.9, 0.8, 0.2]])
    wins = np.eye(3)[scores.argmax(axis=1)]
    assert wins[:, 1:].argmax(axis=1).tolist() != scores[:, 1:].argmax(axis=1).tolist()


def test_loads_and_laws_hold_with_room_for_the_unprofiled(tmp_path):
    data = fit_data(
        [expert("a", energy_j=4.0), expert("new", energy_j=1.0)],
        {"a": profile("a", {}, overall=Tally(wins=1, trials=4))},
    )
    fitted = recruiter("subset_select", data, energy_j=5.0, k=2)
    fitted.save(tmp_path / "kept.npz")
    loaded = type(fitted)(energy_j=5.0, k=2).load(tmp_path / "kept.npz", experts=data.experts)
    (decision,) = loaded.recruit([request()])
    assert decision == fitted.recruit([request()])[0]
    assert [r.expert_id for r in decision.recruits] == ["a", "new"]
