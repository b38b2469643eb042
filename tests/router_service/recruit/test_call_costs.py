"""What calls cost: recorded where it was, else tokens at the expert's prices, else unknown, and never nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from router_service.prompt_tokens import estimate_tokens
from router_service.recruit.base import FitData
from router_service.recruit.call_costs import group_costs, typical_costs
from router_service.types import Outcome, Prices, Question, user_query
from tests.router_service.recruit.pools import expert

PRICED = replace(expert("a"), prices=Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=10.0), max_output_tokens=50)


def outcome(question_id="q", expert_id="a", **fields):
    return Outcome(dataset="d", split="fit", question_id=question_id, expert_id=expert_id, **fields)


def typical(*outcomes, experts=(PRICED,), texts=()):
    questions = {text: Question(id=text, text=text) for text in texts}
    return typical_costs(FitData(experts=experts, outcomes=outcomes, questions=questions)).tolist()


def test_a_recorded_cost_goes_before_the_price():
    assert typical(outcome(cost_usd=0.5, prompt_tokens=100), outcome(cost_usd=0.1), outcome()) == pytest.approx([0.3])
    assert typical(outcome(cost_usd=0.0)) == [0.0]


def test_tokens_are_its_own_then_everybody_s_then_the_longest():
    own = outcome(prompt_tokens=1000, completion_tokens=20)
    other = outcome(expert_id="b", prompt_tokens=3000, completion_tokens=40)
    assert typical(own, other) == pytest.approx([0.0012])
    assert typical(other) == pytest.approx([0.0034])
    texts = ("short", "a good deal longer than that")
    prompt = sum(estimate_tokens(user_query("", text)) for text in texts) / 2
    assert typical(outcome(), texts=texts) == pytest.approx([(round(prompt) + 50 * 10) / 1e6])
    assert typical(experts=(replace(PRICED, max_output_tokens=None),)) == pytest.approx([1024 * 10 / 1e6])


def test_without_price_or_record_it_is_unknown():
    (cost,) = typical(outcome(prompt_tokens=1000, completion_tokens=20), experts=(replace(PRICED, prices=None),))
    assert math.isnan(cost)


def test_groups_have_their_own_cost_where_one_was_recorded():
    outcomes = (outcome("x", cost_usd=0.1), outcome("x", sample=1, cost_usd=0.3), outcome("y", cost_usd=0.8))
    data = FitData(experts=(PRICED, expert("b", usd_per_mtok=None)), outcomes=outcomes)
    costs = group_costs(data, {"x": 0, "y": 1, "z": 2}, 3)
    assert costs[0].tolist() == pytest.approx([0.2, 0.8, 0.4])
    assert all(math.isnan(cost) for cost in costs[1])
