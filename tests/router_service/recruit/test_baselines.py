"""What is special about the recruiters that do not look at skills."""

from __future__ import annotations

from collections import Counter

import pytest

from router_service.errors import NoExpertAvailable
from router_service.recruit.eligibility import explain_empty
from router_service.types import Budget, Tally
from tests.router_service.recruit.pools import LONGEST, expert, fit_data, profile, recruiter, request

RATES = {"weak": 2, "good": 8, "best": 9, "also_good": 8}


def pool(**fields):
    experts = [expert(i, **fields.get(i, {})) for i in [*RATES, "new"]]
    return fit_data(experts, {i: profile(i, {}, overall=Tally(wins=w, trials=10)) for i, w in RATES.items()})


def ids(name, item, data=None, **options):
    (decision,) = recruiter(name, data or pool(), **options).recruit([item])
    return [r.expert_id for r in decision.recruits]


def test_best_single_is_the_best_eligible():
    assert ids("best_single", request()) == ["best"]
    assert ids("best_single", request(experts_denied=("best",))) == ["good"]
    assert ids("best_single", request(k=3)) == ["best"]


def test_fixed_takes_the_k_best_ties_to_the_earlier_and_the_unprofiled_last():
    assert ids("fixed", request()) == ["best", "good", "also_good"]
    assert ids("fixed", request(), k=5) == ["best", "good", "also_good", "weak", "new"]
    assert ids("fixed", request(k=1)) == ["best"]


def test_few_trials_do_not_beat_many():
    data = fit_data(
        [expert("lucky"), expert("proven")],
        {
            "lucky": profile("lucky", {}, overall=Tally(wins=1, trials=1)),
            "proven": profile("proven", {}, overall=Tally(wins=90, trials=100)),
        },
    )
    assert ids("best_single", request(), data) == ["proven"]


def test_fixed_spends_a_budget_on_as_many_as_it_covers():
    data = pool(best={"usd_per_mtok": 5.0})
    for calls, expected in [(3, {"good", "also_good", "weak"}), (7, {"best", "good", "also_good"})]:
        item = request(budget=Budget(max_cost_usd=calls * LONGEST / 1e6), experts_denied=("new",))
        assert set(ids("fixed", item, data)) == expected


def test_all_asks_everyone_and_the_best_under_a_budget():
    assert set(ids("all", request(k=1))) == {*RATES, "new"}
    assert ids("all", request(budget=Budget(max_completions=2))) == ["best", "good"]
    assert ids("all", request(), fit_data([expert("a"), expert("b")], {})) == ["a", "b"]


def test_random_is_uniform_without_replacement():
    fitted = recruiter("random", pool(), k=2)
    decisions = fitted.recruit([request(seed=seed) for seed in range(2000)])
    counts = Counter(r.expert_id for d in decisions for r in d.recruits)
    assert all(len(d.recruits) == 2 and {r.samples for r in d.recruits} == {1} for d in decisions)
    assert set(counts) == {*RATES, "new"} and all(abs(c / 2000 - 2 / 5) < 0.05 for c in counts.values())


def test_named_asks_the_one_it_is_told_to():
    assert ids("named", request(expert="weak", k=3)) == ["weak"]


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({}, "controls.expert"),
        ({"expert": "wek"}, "Did you mean 'weak'"),
        ({"expert": "weak", "experts_denied": ("weak",)}, "weak: the query denies it"),
    ],
)
def test_named_says_why_it_asks_nobody(controls, said):
    item = request(**controls)
    (decision,) = recruiter("named", pool()).recruit([item])
    error = explain_empty(decision, item.query)
    assert not decision.recruits and isinstance(error, NoExpertAvailable) and said in error.message
