"""Symbolic-MoE against its worked example, its edge rules, and the defects of the released code."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from experts_registry.profiles import fit_profiles
from router_service.errors import ConfigError
from router_service.recruit.allowance import Allowance
from router_service.recruit.base import FitData
from router_service.recruit.draws import draw, global_strength, share_of_total, softmax_weights, trim_weights
from router_service.recruit.symbolic import NO_SKILL, NO_STRENGTH, NOBODY_POSITIVE, Symbolic
from router_service.recruit.symbolic_softmax import SymbolicSoftmax
from router_service.types import Budget, Outcome, Profile, Question
from tests.experts_registry.golden import golden
from tests.router_service.recruit.pools import SKILLS, expert, fit_data, profile, request


def pool_of(nets: dict[str, dict[str, float]]) -> FitData:
    return fit_data([expert(i) for i in nets], {i: profile(i, skills) for i, skills in nets.items()})


def golden_pool(ids: list[str]) -> FitData:
    """The worked example's profiles, fitted from its graded answers."""
    rows = golden("symbolic_moe")["validation"]
    questions = [Question(id=row["qid"], text=row["qid"], skills=tuple(row["skills"])) for row in rows]
    outcomes = [
        Outcome(dataset="g", split="fit", question_id=row["qid"], expert_id=i, correct=float(grade))
        for row in rows
        for i, grade in row["correct"].items()
    ]
    return FitData(experts=tuple(expert(i) for i in ids), profiles=fit_profiles(outcomes, questions))


def exact(value: float) -> Fraction:
    """The fraction with a small denominator that a float stands for, to the last bits."""
    fraction = Fraction(value).limit_denominator(1000)
    assert abs(float(fraction) - value) < 1e-15
    return fraction


def fractions(values: np.ndarray) -> list[Fraction]:
    return [exact(value) for value in values.tolist()]


# --- the worked example --------------------------------------------------------------------------------------------


def test_golden_global_strength():
    expected = golden("symbolic_moe")["global_T0.5"]
    pool = golden_pool(list(expected))
    totals = Symbolic().fit(pool).roster_.table.totals
    assert totals.tolist() == list(golden("symbolic_moe")["totals"].values())
    assert fractions(global_strength(totals)) == [Fraction(text) for text in expected.values()]


@pytest.mark.parametrize("number", range(5))
def test_golden_cases(number):
    case = golden("symbolic_moe")["cases"][number]
    ids = case.get("pool", ["A", "B", "C"])
    fitted = Symbolic().fit(golden_pool(ids))
    item = request(case["skills"])
    (decision,) = fitted.recruit([item])
    (row,) = fitted.draw_probabilities([item])
    assert decision.scores == case["local"]
    assert {i: p for i, p in zip(ids, fractions(row), strict=True) if p} == {
        i: Fraction(str(p)) for i, p in case["p"].items()
    }
    assert decision.is_fallback == ("fallback" in case.get("note", ""))
    if "global" in case:
        strength = global_strength(fitted.roster_.table.totals)
        assert dict(zip(ids, fractions(strength), strict=True)) == {
            i: Fraction(str(share)) for i, share in case["global"].items()
        }


def test_a_smaller_pool_is_an_allowed_list():
    """Leaving an expert out of one query is the same as a pool without it."""
    item = request(["genetics"], experts_allowed=("A", "C"))
    (row,) = Symbolic().fit(golden_pool(["A", "B", "C"])).draw_probabilities([item])
    assert fractions(row) == [Fraction(3, 4), 0, Fraction(1, 4)]


def test_golden_softmax():
    case = golden("symbolic_moe")["paper_variant_softmax_T0.5"]
    fitted = SymbolicSoftmax(trim=0.0).fit(golden_pool(["A", "B", "C"]))
    item = request(case["skills"])
    scores, _ = fitted.roster_.table.strengths([item.annotation])
    strength = share_of_total(fitted.roster_.table.totals)
    np.testing.assert_allclose(scores[0] * strength, list(case["w"].values()), atol=1e-9)
    (row,) = fitted.draw_probabilities([item])
    np.testing.assert_allclose(row, list(case["p"].values()), atol=1e-9)


def test_golden_trim():
    case = golden("symbolic_moe")["trim_5pct"]
    (row,) = trim_weights(np.array([list(case["counts"].values())], dtype=float), 0.05)
    assert [i for i, weight in zip(case["counts"], row, strict=True) if weight] == case["kept"]
    shares = dict(zip(case["counts"], fractions(row / row.sum()), strict=True))
    assert {i: share for i, share in shares.items() if share} == {
        i: Fraction(text) for i, text in case["replacement_p"].items()
    }


def test_golden_chances_of_three_draws():
    """P(B) = 75/76 gives P(BBB) = .96104 and P(exactly one C) = .03844: 4,000 seeded queries come within 5 sigma."""
    fitted = Symbolic().fit(golden_pool(["A", "B", "C"]))
    requests = [request(["genetics", "biology"], seed=seed) for seed in range(4000)]
    panels = Counter(tuple((r.expert_id, r.samples) for r in d.recruits) for d in fitted.recruit(requests))
    for panel, chance in [((("B", 3),), 0.96104), ((("B", 2), ("C", 1)), 0.03844)]:
        sigma = (chance * (1 - chance) / 4000) ** 0.5
        assert abs(panels[panel] / 4000 - chance) < 5 * sigma


def test_golden_weakest_link():
    """Of {algebra, genetics}: by the weaker of the two, B still leads, and A and C tie."""
    item = request(["algebra", "genetics"])
    expected = {"sum": [0.0, 2.0, -2.0], "mean": [0.0, 1.0, -1.0], "min": [-2.0, 0.0, -2.0]}
    for strategy in (Symbolic, SymbolicSoftmax):
        for combine, scores in expected.items():
            fitted = strategy(combine=combine).fit(golden_pool(["A", "B", "C"]))
            assert list(decision_of(fitted, item).scores.values()) == scores
        (row,) = strategy(combine="min").fit(golden_pool(["A", "B", "C"])).draw_probabilities([item])
        assert row.argmax() == 1
    soft = decision_of(Symbolic(combine="softmin").fit(golden_pool(["A", "B", "C"])), item).scores
    assert all(expected["min"][i] <= soft[e] <= expected["mean"][i] for i, e in enumerate("ABC"))


# --- edge rules ----------------------------------------------------------------------------------------------------


def decision_of(fitted, item):
    (decision,) = fitted.recruit([item])
    return decision


def test_a_score_of_exactly_0_is_not_positive():
    """Also where fractions cancel: 0.1 + 0.2 - 0.3 is 0 here."""
    pool = pool_of({"zero": {"algebra": 1, "biology": 1, "chess": -1}, "some": {"algebra": 1}})
    item = request({"algebra": 0.1, "biology": 0.2, "chess": 0.3})
    fitted = Symbolic().fit(pool)
    assert decision_of(fitted, item).scores == {"zero": 0.0, "some": 0.1}
    assert fitted.draw_probabilities([item]).tolist() == [[0.0, 1.0]]


def test_a_total_of_0_beside_positive_ones_has_no_strength():
    """The released arithmetic, kept: with no negative total nothing is shifted, and a total of 0 is strength 0."""
    pool = pool_of({"flat": {"algebra": 2, "chess": -2}, "good": {"algebra": 1, "drama": 2}})
    (row,) = Symbolic().fit(pool).draw_probabilities([request(["algebra"])])
    assert row.tolist() == [0.0, 1.0]


def test_where_only_experts_without_strength_are_positive_scores_decide():
    pool = pool_of(
        {"flat": {"algebra": 3, "chess": -3}, "even": {"algebra": 1, "chess": -1}, "good": {"drama": 4, "algebra": -1}}
    )
    fitted = Symbolic().fit(pool)
    (row,) = fitted.draw_probabilities([request(["algebra"])])
    assert fractions(row) == [Fraction(3, 4), Fraction(1, 4), 0]
    assert decision_of(fitted, request(["algebra"])).fallback_reason == NO_STRENGTH


def test_a_pool_of_totals_0_is_equally_strong():
    assert global_strength(np.zeros(4)).tolist() == [0.25] * 4
    assert share_of_total(np.zeros(2)).tolist() == [0.5, 0.5]


def test_nobody_positive_lifts_everyone_and_says_so():
    pool = pool_of({"a": {"algebra": -2, "drama": 4}, "b": {"algebra": -3, "drama": 4}})
    decision = decision_of(Symbolic().fit(pool), request(["algebra"]))
    assert decision.is_fallback and decision.fallback_reason == NOBODY_POSITIVE


@pytest.mark.parametrize("strategy", [Symbolic, SymbolicSoftmax])
@pytest.mark.parametrize("skills", [[], ["unseen"], {"algebra": 0.0}])
def test_no_known_skill_draws_everyone_alike(strategy, skills):
    pool = pool_of({"a": {"algebra": 5}, "b": {"algebra": -5}, "c": {}, "d": {"drama": 1}})
    fitted = strategy().fit(pool)
    items = [request(skills, seed=seed) for seed in range(2000)]
    assert fitted.draw_probabilities(items[:1]).tolist() == [[0.25] * 4]
    decisions = fitted.recruit(items)
    assert {d.fallback_reason for d in decisions} == {NO_SKILL}
    drawn = Counter(r.expert_id for d in decisions for r in d.recruits for _ in range(r.samples))
    assert drawn.total() == 6000
    assert all(abs(count / 6000 - 0.25) < 0.03 for count in drawn.values())


def test_a_skill_never_seen_contributes_nothing():
    pool = pool_of({"a": {"algebra": 2}, "b": {"drama": 1}})
    fitted = Symbolic().fit(pool)
    assert decision_of(fitted, request(["algebra", "unseen"])).scores == {"a": 2.0, "b": 0.0}


def test_a_skill_that_counts_twice_weighs_twice():
    pool = pool_of({"a": {"algebra": 2, "drama": 1}})
    assert decision_of(Symbolic().fit(pool), request({"algebra": 2.0, "drama": 1.0})).scores == {"a": 5.0}


def test_more_draws_than_positive_experts_are_duplicates():
    pool = pool_of({"a": {"algebra": 2}, "b": {"algebra": -2}})
    (recruit,) = decision_of(Symbolic(k=5).fit(pool), request(["algebra"])).recruits
    assert (recruit.expert_id, recruit.samples) == ("a", 5)


def test_without_replacement_experts_differ_and_the_weightless_come_last():
    pool = pool_of({"a": {"algebra": 2}, "b": {"algebra": -2}, "c": {"algebra": 1}})
    fitted = Symbolic(k=2, replacement=False).fit(pool)
    for seed in range(50):
        recruits = decision_of(fitted, request(["algebra"], seed=seed)).recruits
        assert [(r.expert_id, r.samples) for r in recruits] == [("a", 1), ("c", 1)]
    three = decision_of(fitted, request(["algebra"], k=3)).recruits
    assert [r.expert_id for r in three] == ["a", "c", "b"]
    assert len(decision_of(fitted, request(["algebra"], k=9)).recruits) == 3


def test_recruits_stand_in_order_of_score_then_pool():
    pool = pool_of({"b": {"algebra": 1}, "a": {"algebra": 1}, "c": {"algebra": 2}})
    recruits = decision_of(Symbolic(k=60).fit(pool), request(["algebra"])).recruits
    assert [r.expert_id for r in recruits] == ["c", "b", "a"]
    assert [r.score for r in recruits] == [2.0, 1.0, 1.0]


# --- defects of the released code ------------------------------------------------------------------------------------


def softmax_pool() -> FitData:
    return pool_of({f"e{i}": {"algebra": net} for i, net in enumerate([20, 17, 2, 1])})


def test_trimming_is_applied():
    """The released helper is never called. Here an expert below 5 % is not drawn once in 3,000 draws."""
    items = [request(["algebra"], seed=seed) for seed in range(1000)]
    drawn = {}
    for trim in (0.0, 0.05):
        fitted = SymbolicSoftmax(tau=3.0, trim=trim).fit(softmax_pool())
        (row,) = fitted.draw_probabilities(items[:1])
        drawn[trim] = row
        seen = {r.expert_id for d in fitted.recruit(items) for r in d.recruits}
        assert seen == {f"e{i}" for i, p in enumerate(row) if p > 0}
    below = drawn[0.0] < 0.05
    assert below.tolist() == [False, False, True, True]
    assert drawn[0.05][below].tolist() == [0.0, 0.0]
    kept = drawn[0.0][~below]
    np.testing.assert_allclose(drawn[0.05][~below], kept / kept.sum(), rtol=1e-12)
    assert SymbolicSoftmax().trim == 0.05 and Symbolic().trim == 0.0


def test_trimming_keeps_everyone_where_nobody_holds_enough():
    weights = np.ones((1, 30))
    assert trim_weights(weights, 0.05).tolist() == weights.tolist()


def test_the_released_code_trims_on_request():
    fitted = Symbolic(trim=0.05).fit(softmax_pool())
    (row,) = fitted.draw_probabilities([request(["algebra"])])
    assert (row > 0).tolist() == [True, True, False, False]


def test_tau_is_a_power_on_totals_in_the_code_and_a_temperature_in_the_paper():
    totals = np.array([1.0, 3.0])
    assert fractions(global_strength(totals, tau=0.5)) == [Fraction(1, 10), Fraction(9, 10)]
    assert fractions(global_strength(totals, tau=1.0)) == [Fraction(1, 4), Fraction(3, 4)]
    scores, strength = np.array([[2.0, 2.0]]), share_of_total(totals)
    assert fractions(strength) == [Fraction(1, 4), Fraction(3, 4)]
    (sharp,), (flat,) = softmax_weights(scores, strength, tau=0.5), softmax_weights(scores, strength, tau=5.0)
    assert sharp[1] / sharp[0] == pytest.approx(np.exp(2 * 0.5 / 0.5))
    assert flat[1] / flat[0] == pytest.approx(np.exp(2 * 0.5 / 5.0))


def test_shares_mean_nothing_beside_negative_totals():
    totals = np.array([5.0, -2.0])
    assert share_of_total(totals).tolist() == global_strength(totals).tolist()


def test_seeds_reach_the_draw():
    """The released code draws from a global, unseeded generator."""
    pool = pool_of({f"e{i}": {"algebra": 1} for i in range(6)})
    fitted = Symbolic().fit(pool)
    items = [request(["algebra"], seed=seed) for seed in range(30)]
    first = fitted.recruit(items)
    np.random.seed(1)
    assert fitted.recruit(items) == first
    assert len({d.recruits for d in first}) > 10


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"trim": 1.0}, {"trim": -0.1}, {"combine": "max"}])
@pytest.mark.parametrize("strategy", [Symbolic, SymbolicSoftmax])
def test_senseless_options_are_refused(strategy, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        strategy(**options)


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_draws_leave_room_for_the_rest_of_the_panel():
    """k = 3 within 8 calls' worth of the cheap expert: the dear one, much preferred, is drawn where it fits."""
    experts = [expert("dear", usd_per_mtok=6.0), expert("cheap", usd_per_mtok=1.0)]
    pool = fit_data(
        experts, {"dear": profile("dear", {"algebra": 50}), "cheap": profile("cheap", {"algebra": 1, "drama": 40})}
    )
    one = 100 * 1.0 / 1e6
    for calls, expected in [(3, {"cheap": 3}), (8, {"dear": 1, "cheap": 2}), (18, {"dear": 3})]:
        item = request(["algebra"], seed=1, budget=Budget(max_cost_usd=calls * one))
        decision = decision_of(Symbolic().fit(pool), item)
        assert {r.expert_id: r.samples for r in decision.recruits} == expected


def test_a_budget_that_binds_nobody_changes_no_draw():
    pool = pool_of({f"e{i}": {"algebra": i + 1} for i in range(5)})
    fitted = Symbolic().fit(pool)
    for seed in range(40):
        free = request(["algebra"], seed=seed)
        rich = replace(free, query=replace(free.query, budget=Budget(max_cost_usd=10.0)))
        assert decision_of(fitted, free).recruits == decision_of(fitted, rich).recruits


def test_draws_fall_from_level_to_level():
    allowance = Allowance(completions=2)
    levels = [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert draw(levels, allowance, seed=0, candidates=[0, 1, 2], replacement=True) == [1, 1]
    assert set(draw(levels, allowance, seed=0, candidates=[0, 2], replacement=False)) == {0, 2}
    assert draw(levels, allowance, seed=0, candidates=[], replacement=True) == []


def test_experts_without_a_profile_score_0():
    pool = replace(pool_of({"a": {"algebra": 1}, "b": {"algebra": 2}}), profiles={"a": profile("a", {"algebra": 1})})
    decision = decision_of(Symbolic().fit(pool), request(["algebra"]))
    assert decision.scores == {"a": 1.0, "b": 0.0}
    assert {r.expert_id for r in decision.recruits} == {"a"}


def test_a_profile_of_an_expert_outside_the_pool_is_ignored():
    pool = pool_of({"a": {"algebra": 1}})
    more = replace(pool, profiles={**pool.profiles, "ghost": Profile(expert_id="ghost")})
    assert Symbolic().fit(more).recruit([request(SKILLS)]) == Symbolic().fit(pool).recruit([request(SKILLS)])
