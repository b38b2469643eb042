"""Least predicted loss under weights, flags, limits and licences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router_service.errors import ConfigError, NoExpertAvailable
from router_service.recruit.base import FitData
from router_service.recruit.eligibility import explain_empty
from router_service.types import Outcome, Prices, SkillAnnotation, Tally
from tests.router_service.recruit.pools import expert, profile, recruiter, request, vector

EAST, WEST = (1.0, 0.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0)
SIZES = {"small": 1.0, "mid": 4.0, "odd": 7.0, "big": 10.0}
RATES = {"small": 10, "mid": 40, "odd": 42, "big": 55}
"""Right answers of 100, the same everywhere: losses .90, .60, .58, .45 as in Tryage's worked example."""


def tryage_pool(**fields):
    """Experts whose success is the same whatever the embedding; amounts by `fields`, by expert."""
    experts, outcomes, annotations, profiles = [], [], {}, {}
    for expert_id, size in SIZES.items():
        own = {"parameters_b": size, **{name: values.get(expert_id) for name, values in fields.items()}}
        experts.append(expert(expert_id, **own))
        profiles[expert_id] = profile(expert_id, {}, overall=Tally(wins=RATES[expert_id], trials=100))
    for number in range(10):  # fewer than a regression takes: the rate is what is predicted
        annotations[f"q{number}"] = SkillAnnotation(query_id="?", embedding=vector(f"q{number}"))
        outcomes += [
            Outcome(dataset="d", split="fit", question_id=f"q{number}", expert_id=e.id, correct=float(number % 2))
            for e in experts
        ]
    return FitData(experts=tuple(experts), profiles=profiles, outcomes=tuple(outcomes), annotations=annotations)


def decide(data, item=None, **options):
    (decision,) = recruiter("predicted_loss", data, **options).recruit([item or request(embedding=vector("one"))])
    return decision


def first(data, item=None, **options):
    return decide(data, item, **options).recruits[0].expert_id


def flagged(text):
    return request(text=text, embedding=vector("one"))


def test_weights_draw_the_front_and_never_the_odd_one():
    data = tryage_pool()
    assert first(data) == "big"
    assert first(data, weights={"parameters_b": 0.2}) == "big"
    assert first(data, weights={"parameters_b": 0.35}) == "mid"
    assert first(data, weights={"parameters_b": 1.1}) == "small"
    swept = {first(data, weights={"parameters_b": float(weight)}) for weight in np.linspace(0, 2, 41)}
    assert swept == {"big", "mid", "small"}


def test_a_limit_chooses_the_odd_one():
    data = tryage_pool()
    assert first(data, limits={"parameters_b": 7.0}) == "odd"
    decision = decide(data, limits={"parameters_b": 6.9})
    assert decision.recruits[0].expert_id == "mid"
    assert {e.expert_id: e.code for e in decision.eliminated} == {"odd": "over_limit", "big": "over_limit"}
    assert "its parameters_b is 7, and the limit 6.9" in decision.eliminated[0].reason


def test_scores_are_the_objective_and_chances_the_prediction():
    decision = decide(tryage_pool(), weights={"parameters_b": 0.5}, k=4)
    chances = {r.expert_id: r.p_correct for r in decision.recruits}
    for expert_id, score in decision.scores.items():
        assert score == pytest.approx(-(1 - chances[expert_id] + 0.5 * SIZES[expert_id] / 10.0))


def test_larger_weights_never_choose_larger_experts():
    data = tryage_pool()
    sizes = [SIZES[first(data, weights={"parameters_b": float(w)})] for w in np.linspace(0, 2, 21)]
    assert sizes == sorted(sizes, reverse=True)


# --- flags ---------------------------------------------------------------------------------------------------------


def test_a_flag_in_the_text_or_the_metadata_adds_its_weight():
    data = tryage_pool()
    assert first(data, flagged("Why? [Flag: smaller model]")) == "mid"
    item = flagged("Why?")
    meta = replace(item, query=replace(item.query, metadata={"flags": "Smaller Model"}))
    assert first(data, meta) == "mid" and first(data, item) == "big"
    mine = {"tiny": {"parameters_b": 2.0}}
    assert first(data, flagged("[Flag: TINY]"), flags=mine) == "small"
    assert first(data, flagged("[Flag: smaller model]"), flags=mine) == "big"


def test_one_flagged_query_leaves_the_others_of_its_batch_alone():
    fitted = recruiter("predicted_loss", tryage_pool())
    decisions = fitted.recruit([flagged("Why?"), flagged("Why? [Flag: smaller model]"), flagged("Why?")])
    assert [d.recruits[0].expert_id for d in decisions] == ["big", "mid", "big"]


def test_a_strange_flag_is_left_out_and_said():
    decision = decide(tryage_pool(), flagged("[Flag: tasty model]"))
    assert decision.recruits[0].expert_id == "big"
    assert "'tasty model'" in decision.fallback_reason and "smaller model" in decision.fallback_reason


@pytest.mark.parametrize(
    ("field", "amounts", "flag", "expected"),
    [
        ("latency_s", {"small": 9.0, "mid": 2.0, "odd": 8.0, "big": 9.0}, "faster model", "mid"),
        ("latency_s", {"small": 9.0, "odd": 2.0}, "faster model", "odd"),  # unknown counts as the slowest
        ("energy_j", {"small": 1.0, "mid": 1.0, "odd": 9.0, "big": 9.0}, "frugal model", "mid"),
        (
            "released",
            {"small": "2024-01-01", "mid": "2025-06-01", "odd": "2025-05-01", "big": "2024-01-01"},
            "recent model",
            "mid",
        ),
        ("latency_s", {}, "faster model", "big"),  # of nobody known: the flag has nothing to weigh
    ],
)
def test_flags_weigh_what_the_pool_file_says(field, amounts, flag, expected):
    assert first(tryage_pool(**{field: amounts}), flagged(f"[Flag: {flag}]")) == expected


def test_the_price_of_the_query_itself_is_weighed_and_limited():
    data = tryage_pool()
    usd = {"small": 1.0, "mid": 1.0, "odd": 4.0, "big": 10.0}
    experts = [replace(e, prices=Prices(input_usd_per_mtok=0.0, output_usd_per_mtok=usd[e.id])) for e in data.experts]
    priced = replace(data, experts=tuple(experts))
    assert first(priced) == "big" and first(priced, flagged("[Flag: cheaper model]")) == "mid"
    decision = decide(priced, limits={"cost_usd": 5e-4})  # 100 tokens at 4 USD a million are 4e-4
    assert decision.recruits[0].expert_id == "odd"
    assert [(e.expert_id, e.code) for e in decision.eliminated] == [("big", "over_limit")]


# --- hard constraints ----------------------------------------------------------------------------------------------


def test_licences_are_looked_at_before_anything_is_weighed():
    data = tryage_pool(licence={"small": "MIT", "mid": "apache-2.0", "odd": "research-only"})
    assert first(data, licences=["mit", "Apache-2.0"]) == "mid"
    decision = decide(data, licences=["mit"])
    reasons = {e.expert_id: e.reason for e in decision.eliminated}
    assert "its licence is unknown" in reasons["big"] and "research-only" in reasons["odd"]


@pytest.mark.parametrize("options", [{"licences": ["gpl-3.0"]}, {"limits": {"parameters_b": 0.5}}])
def test_nobody_left_is_an_explicit_error(options):
    item = request(embedding=vector("one"))
    decision = decide(tryage_pool(), item, **options)
    error = explain_empty(decision, item.query)
    assert not decision.recruits and len(decision.eliminated) == len(SIZES)
    assert isinstance(error, NoExpertAvailable) and ("licence" in error.message or "limit" in error.message)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regressor": "forest"}, "regressor"),
        ({"weights": {"parameter_b": 1.0}}, "weights names 'parameter_b'. Did you mean 'parameters_b'"),
        ({"limits": {"latency_s": -1.0}}, "limits has latency_s = -1.0"),
        ({"flags": {"tiny": {"size": 1.0}}}, "flag 'tiny' names 'size'"),
        ({"weights": {"energy_j": 0.1}}, "that of small, mid, odd, big is unknown; give `energy_j`"),
        ({"limits": {"age_days": 100.0}}, "give `released` in the pool"),
    ],
)
def test_wrong_options_are_named(options, said):
    with pytest.raises(ConfigError) as problem:
        recruiter("predicted_loss", tryage_pool(), **options)
    assert said in problem.value.message


def test_a_release_that_is_no_day_is_named():
    with pytest.raises(ConfigError, match="'mid' was released on 'spring'"):
        recruiter("predicted_loss", tryage_pool(released={"mid": "spring"}))


def test_unknown_prices_are_no_bargain():
    data = tryage_pool()
    unpriced = replace(data, experts=tuple(replace(e, prices=None) for e in data.experts))
    with pytest.raises(ConfigError, match="give `prices` in the pool"):
        recruiter("predicted_loss", unpriced, weights={"cost_usd": 0.1})


# --- regressions ---------------------------------------------------------------------------------------------------


def sided_pool(count=200):
    """One expert that is right where the first number of the embedding is positive, one where it is negative."""
    experts = (expert("eastern", parameters_b=1.0), expert("western", parameters_b=2.0))
    annotations = {f"q{n:03}": SkillAnnotation(query_id="?", embedding=vector(f"q{n:03}")) for n in range(count)}
    outcomes = [
        Outcome(
            dataset="d",
            split="fit",
            question_id=question_id,
            expert_id=expert_id,
            correct=float((annotation.embedding[0] > 0) == (expert_id == "eastern")),
        )
        for question_id, annotation in annotations.items()
        for expert_id in ("eastern", "western")
    ]
    even = Tally(wins=count / 2, trials=count)
    profiles = {e.id: profile(e.id, {}, overall=even) for e in experts}
    return FitData(experts=experts, profiles=profiles, outcomes=tuple(outcomes), annotations=annotations)


@pytest.mark.parametrize("regressor", ["ridge", "logistic"])
def test_the_embedding_decides(regressor, tmp_path):
    fitted = recruiter("predicted_loss", sided_pool(), regressor=regressor)
    items = [request(embedding=EAST), request(embedding=WEST), request()]
    east, west, lost = fitted.recruit(items)
    assert east.recruits[0].expert_id == "eastern" and west.recruits[0].expert_id == "western"
    assert east.recruits[0].p_correct > 0.8
    assert lost.is_fallback and "no embedding" in lost.fallback_reason
    fitted.save(tmp_path / "loss.npz")
    loaded = type(fitted)(regressor=regressor).load(tmp_path / "loss.npz", experts=sided_pool().experts)
    assert loaded.recruit(items) == [east, west, lost]


def test_a_loss_large_enough_outweighs_a_flag():
    fitted = recruiter("predicted_loss", sided_pool(), flags={"smaller model": {"parameters_b": 0.1}})
    (decision,) = fitted.recruit([request(text="[Flag: smaller model]", embedding=WEST)])
    assert decision.recruits[0].expert_id == "western"
