"""Escalating under a help budget: who gets help, how often, and what the states are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router_service.errors import ConfigError, UnknownNameError
from router_service.recruit.base import FitData
from router_service.recruit.escalate import OTHER_DRAFTS
from router_service.types import Budget, stable_seed
from tests.router_service.recruit.pools import recruiter, request
from tests.router_service.recruit.waves import FAILS, play, recorded_pool

KINDS = ["easy", "hard"] * 60
CHEAP = ["A" if kind == "easy" else "B" for kind in KINDS]
"""Right on what is easy, and on nothing else; the strong one is right on everything, and the middling one on 90."""
COSTS = {"strong": 1.0, "middling": 0.5, "cheap": 0.1}


def a_pool(costs=COSTS, logprobs=None) -> FitData:
    pool = recorded_pool(
        {"strong": ["A"] * 120, "middling": ["A"] * 90 + ["C"] * 30, "cheap": CHEAP},
        ["A"] * 120,
        categories=KINDS,
        costs=costs,
    )
    if logprobs is None:
        return pool
    return replace(pool, outcomes=tuple(replace(o, logprob=logprobs(o)) for o in pool.outcomes))


def asked(fitted, answers=(), **fields) -> list[list[str]]:
    world = {**dict.fromkeys(fitted.roster_.ids, "A"), **dict(answers)}
    waves = play(fitted, request(**fields), world, fitted.roster_.experts)
    return [[r.expert_id for r in wave.recruits] for wave in waves]


def test_help_goes_where_it_gains_most():
    fitted = recruiter("escalate", a_pool())
    assert asked(fitted, category="easy") == [["cheap"]]
    assert asked(fitted, category="hard") == [["cheap"], ["strong"]]
    assert fitted.policy_.usage == pytest.approx(0.5)


def test_a_category_never_seen_gets_help_by_what_holds_on_the_whole():
    assert asked(recruiter("escalate", a_pool(), help_budget=1.0), category="new") == [["cheap"], ["strong"]]
    assert asked(recruiter("escalate", a_pool(), help_budget=0.0), category="new") == [["cheap"]]


@pytest.mark.parametrize("budget", [0.0, 0.2, 0.5, 0.7, 1.0])
def test_usage_keeps_to_the_budget_and_mixing_uses_it_up(budget):
    """Expected on the fit questions, and as drawn by seed over many queries like them."""
    plain, mixed = (recruiter("escalate", a_pool(), help_budget=budget, mix=mix) for mix in (False, True))
    assert plain.policy_.usage <= budget + 1e-9
    queries = [request(category=kind, seed=stable_seed(i)) for i, kind in enumerate(KINDS * 20)]
    for fitted, most in ((plain, plain.policy_.usage), (mixed, budget)):
        helped = sum(len(play(fitted, q, dict.fromkeys(COSTS, "A"), fitted.roster_.experts)) > 1 for q in queries)
        assert helped / len(queries) == pytest.approx(most, abs=0.03)


def test_more_budget_never_means_less_help_or_success():
    policies = [recruiter("escalate", a_pool(), help_budget=b / 10).policy_ for b in range(12)]
    assert [p.usage for p in policies] == sorted(p.usage for p in policies)
    assert [p.success for p in policies] == sorted(p.success for p in policies)
    assert [p.penalty for p in policies] == sorted((p.penalty for p in policies), reverse=True)


def test_disagreeing_drafts_get_help():
    fitted = recruiter("escalate", a_pool(), drafts=2, help_budget=0.7, k=3)
    assert asked(fitted) == [["middling", "cheap"]]
    assert asked(fitted, {"cheap": "B"}, category="hard") == [["middling", "cheap"], ["strong"]]
    pattern = {name for name in fitted.policy_.helps if name.startswith("0|1/2")}
    assert pattern and not any(name.startswith("0|2/2") for name in fitted.policy_.helps)


def test_an_unsure_draft_gets_help():
    """The cheap expert's likelihood tells its right answers from its wrong ones; the category is not known."""
    pool = a_pool(logprobs=lambda o: {"A": -0.1, "B": -3.0}.get(o.extracted, -1.0))
    pool = replace(pool, annotations={i: replace(a, category=None) for i, a in pool.annotations.items()})
    fitted = recruiter("escalate", pool)
    assert {name.split("|")[1] for name in fitted.policy_.helps} == {"1/1 0"}
    assert fitted.policy_.usage == pytest.approx(0.5)


def test_several_helpers_come_one_after_the_other():
    fitted = recruiter("escalate", a_pool(), helpers=2, help_budget=2.0, k=3)
    assert fitted.helpers_ == [0, 1]
    assert asked(fitted, {"strong": FAILS}, category="hard")[:2] == [["cheap"], ["strong"]]
    assert len(asked(recruiter("escalate", a_pool(), helpers=2, help_budget=2.0, k=2), category="hard")) == 2


def test_failed_drafts_get_help_whatever_the_budget():
    fitted = recruiter("escalate", a_pool(), help_budget=0.0)
    assert asked(fitted, {"cheap": FAILS}, category="easy") == [["cheap"], ["strong"]]
    assert asked(fitted, dict.fromkeys(COSTS, FAILS), k=3) == [["cheap"], ["strong"], ["middling"]]


def test_the_first_one_may_be_named():
    fitted = recruiter("escalate", a_pool(), first="middling")
    assert asked(fitted, category="hard")[0] == ["middling"]
    with pytest.raises(UnknownNameError, match="Did you mean 'middling'"):
        recruiter("escalate", a_pool(), first="midling")


def test_where_nobody_knows_a_cost_the_weakest_drafts():
    pool = a_pool(costs={})
    pool = replace(pool, experts=tuple(replace(e, prices=None) for e in pool.experts))
    assert asked(recruiter("escalate", pool), category="easy") == [["cheap"]]


def test_others_draft_where_the_usual_ones_may_not_and_the_decision_says_so():
    fitted = recruiter("escalate", a_pool())
    (usual, other) = fitted.recruit([request(), request(experts_denied=("cheap",))])
    assert (usual.fallback_reason, other.fallback_reason) == (None, OTHER_DRAFTS)
    assert [r.expert_id for r in other.recruits] == ["middling"]
    assert usual.aggregator == "weighted"


def test_a_budget_for_one_call_asks_no_help():
    fitted = recruiter("escalate", a_pool())
    assert asked(fitted, category="hard", budget=Budget(max_completions=1)) == [["cheap"]]


def test_what_is_saved_helps_alike(tmp_path):
    pool = a_pool()
    fitted = recruiter("escalate", pool, drafts=2, k=3, mix=True)
    fitted.save(tmp_path / "e.npz")
    loaded = type(fitted)(drafts=2, k=3, mix=True).load(tmp_path / "e.npz", experts=pool.experts)
    assert loaded.policy_ == fitted.policy_
    for kind in ("easy", "hard", None):
        for said in ("A", "B", None):
            answers = {"cheap": said}
            assert asked(loaded, answers, category=kind) == asked(fitted, answers, category=kind)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"help_budget": -0.1}, "help_budget is -0.1"), ({"drafts": 0}, "drafts is 0"), ({"helpers": 0}, "helpers 0")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        recruiter("escalate", a_pool(), **options)
