"""Who may be asked, with numbers in every refusal, and the error where nobody may."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from router_service.errors import BudgetExceeded, NoExpertAvailable
from router_service.recruit.eligibility import eligible, explain_empty
from router_service.types import Budget, ImagePart, Message, RouteDecision, Sampling, TextPart
from tests.router_service.recruit.pools import expert, request


def only(item, *experts):
    kept, eliminated = eligible(item.query, experts)
    return [e.id for e in kept], {e.expert_id: e for e in eliminated}


def test_nothing_rules_out_an_ordinary_query():
    assert only(request(), expert("a"), expert("b", usd_per_mtok=None)) == (["a", "b"], {})


def test_switched_off_denied_and_not_allowed():
    pool = [expert("off", is_enabled=False), expert("a"), expert("b"), expert("c")]
    kept, gone = only(request(experts_allowed=("a", "b", "off"), experts_denied=("b",)), *pool)
    assert kept == ["a"]
    assert {i: e.code for i, e in gone.items()} == {"off": "disabled", "b": "denied", "c": "not_allowed"}
    assert only(request(), *pool)[1].keys() == {"off"}


def test_a_context_window_that_is_too_small_says_both_numbers():
    kept, gone = only(request(text="word " * 1000), expert("small", context_window=1024), expert("big"))
    assert kept == ["big"] and gone["small"].code == "context"
    assert re.search(r"takes about \d,\d{3} tokens, and its context window holds 1,024", gone["small"].reason)


def test_a_persona_takes_room_too():
    pool = [expert("plain", context_window=60), expert("wordy", context_window=60, persona="Be kind. " * 30)]
    assert only(request(), *pool)[0] == ["plain"]


def test_an_image_needs_an_expert_that_sees():
    item = request()
    parts = (TextPart(text="What is this?"), ImagePart(url="http://x/y.png"))
    seeing = replace(item, query=replace(item.query, messages=(Message(role="user", content=parts),)))
    kept, gone = only(seeing, expert("blind"), expert("eyes", modalities=frozenset({"text", "image"})))
    assert kept == ["eyes"] and gone["blind"].reason == "does not read image; it reads text"


def test_under_a_budget_in_usd_a_price_must_be_known_and_small_enough():
    item = request(budget=Budget(max_cost_usd=2e-4))
    pool = [expert("cheap"), expert("dear", usd_per_mtok=30.0), expert("secret", usd_per_mtok=None)]
    kept, gone = only(item, *pool)
    assert kept == ["cheap"]
    assert gone["dear"].code == "over_budget" and gone["dear"].cost_usd == pytest.approx(0.003)
    assert "0.003 USD" in gone["dear"].reason and "0.0002 USD" in gone["dear"].reason
    assert gone["secret"].code == "price_unknown"
    shorter = replace(item, query=replace(item.query, sampling=Sampling(max_tokens=5)))
    assert only(shorter, *pool)[0] == ["cheap", "dear"]


def test_free_experts_fit_a_budget_of_nothing():
    item = request(budget=Budget(max_cost_usd=0.0))
    assert only(item, expert("free", usd_per_mtok=0.0), expert("paid"))[0] == ["free"]


@pytest.mark.parametrize("k", [0, -1])
def test_asking_for_no_experts_is_refused(k):
    kept, gone = only(request(k=k), expert("a"))
    assert not kept and f"k = {k}" in gone["a"].reason


# --- the error -----------------------------------------------------------------------------------------------------


def error_of(item, *experts):
    _, eliminated = eligible(item.query, experts)
    decision = RouteDecision(query_id=item.query.id, recruits=(), recruiter="x", eliminated=eliminated)
    return explain_empty(decision, item.query)


def test_a_budget_below_the_cheapest_names_it_and_its_cost():
    item = request(budget=Budget(max_cost_usd=1e-6))
    error = error_of(item, expert("dear", usd_per_mtok=50.0), expert("cheap"), expert("off", is_enabled=False))
    assert isinstance(error, BudgetExceeded)
    assert "1e-06" in error.message and "'cheap'" in error.message and "0.0001 USD" in error.message
    assert "raise max_cost_usd" in error.message


def test_unknown_prices_alone_are_named():
    error = error_of(request(budget=Budget(max_cost_usd=1.0)), expert("b", usd_per_mtok=None))
    assert isinstance(error, BudgetExceeded) and "price of b is unknown" in error.message


@pytest.mark.parametrize("limit", ["max_completions", "max_output_tokens"])
def test_budgets_of_nothing_are_named(limit):
    error = error_of(request(budget=Budget(**{limit: 0})), expert("a"))
    assert isinstance(error, BudgetExceeded) and f"{limit} is 0" in error.message


def test_other_reasons_are_grouped():
    pool = [expert(f"e{i}", is_enabled=False) for i in range(8)]
    error = error_of(request(), *pool)
    assert isinstance(error, NoExpertAvailable)
    assert "e0, e1, e2, e3, e4 …: is switched off in the pool file" in error.message


def test_an_empty_pool_says_so():
    assert "pool has no expert" in error_of(request()).message
