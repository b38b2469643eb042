"""When a verdict is asked for, and of whom; the arithmetic is in `tests/aggregators/test_plausibility.py`."""

from __future__ import annotations

import pytest

from router_service.errors import ConfigError
from router_service.types import Budget
from tests.router_service.recruit.pools import recruiter, request
from tests.router_service.recruit.waves import FAILS, play, recorded_pool

RATES = {"a": 9, "b": 8, "c": 7, "d": 6, "e": 5, "f": 4}


def a_pool(costs=None):
    return recorded_pool({name: ["A"] * n + ["B"] * (10 - n) for name, n in RATES.items()}, ["A"] * 10, costs=costs)


def waves_of(answers, *, budget=None, costs=None, k=None, **options):
    pool = a_pool(costs)
    world = {**dict.fromkeys(RATES, "A"), **answers}
    fitted = recruiter("consensus_select", pool, **options)
    waves = play(fitted, request(k=k, budget=budget, seed=3), world, pool.experts)
    return [[r.expert_id for r in wave.recruits] for wave in waves]


def test_drafts_that_agree_are_enough():
    assert waves_of({}) == [["a", "b"]]
    assert waves_of({}, k=6) == [["a", "b", "c", "d", "e"]]


def test_drafts_that_differ_call_for_the_strongest_that_was_not_asked():
    assert waves_of({"b": "B"}) == [["a", "b"], ["c"]]
    assert waves_of({"b": None}) == [["a", "b"], ["c"]]
    assert waves_of({"b": "B"}, k=4, verdicts=2) == [["a", "b"], ["c", "d"]]
    assert waves_of(dict.fromkeys("ab", None)) == [["a", "b"], ["c"]]


def test_three_of_five_that_agree_are_enough_and_two_are_not():
    assert waves_of({"d": "B", "e": "C"}, k=6) == [["a", "b", "c", "d", "e"]]
    assert waves_of({"c": "D", "d": "B", "e": "C"}, k=6) == [["a", "b", "c", "d", "e"], ["f"]]
    assert waves_of({"d": "B", "e": "C"}, k=6, keep=4) == [["a", "b", "c", "d", "e"], ["f"]]


def test_a_failed_draft_leaves_the_other_with_nobody_to_agree_with():
    assert waves_of({"b": FAILS}) == [["a", "b"], ["c"]]
    assert waves_of({"a": FAILS, "b": FAILS}) == [["a", "b"], ["c"]]


def test_the_cheapest_draft_and_the_strongest_give_the_verdict():
    costs = dict(zip(RATES, (6.0, 5.0, 4.0, 3.0, 2.0, 1.0), strict=True))
    assert waves_of({"e": "B"}, drafts="cheapest", costs=costs) == [["e", "f"], ["a"]]


def test_a_budget_keeps_room_for_the_verdict():
    assert waves_of({"b": "B"}, k=6, budget=Budget(max_completions=3)) == [["a", "b"], ["c"]]


@pytest.mark.parametrize("options", [{"verdicts": 0}, {"keep": 1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match=r"verdicts is .* and keep is"):
        recruiter("consensus_select", a_pool(), **options)
