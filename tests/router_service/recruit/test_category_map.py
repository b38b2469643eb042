"""The category map as a recruiter: budgets, the uncertain query, and RouteLLM's recorded outcomes to four digits."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experts_registry.profiles import fit_profiles
from router_service.errors import ConfigError, NoExpertAvailable
from router_service.recruit.base import FitData, RecruitRequest
from router_service.recruit.category_table import category_scores, cheapest_within
from router_service.recruit.category_vote import category_posterior, normalised_entropy
from router_service.recruit.eligibility import explain_empty
from router_service.types import Prices, Profile, Question, SkillAnnotation, Tally, user_query
from tests.experts_registry.golden import golden
from tests.router_service.recruit.pools import expert, fit_data, profile, recruiter, request, vector

TRIALS = 100


def coe_pool(**fields):
    """CoE's worked example as fit data: scores as tallies of 100 trials, the categories as frequent as it says."""
    example = golden("coe")
    profiles = {}
    for expert_id, scores in example["score"].items():
        tallies = {
            c: Tally(wins=TRIALS * score, trials=TRIALS) for c, score in zip(example["categories"], scores, strict=True)
        }
        profiles[expert_id] = Profile(
            expert_id=expert_id, categories=tallies, overall=sum(tallies.values(), start=Tally())
        )
    annotations = {
        f"{category}{n}": SkillAnnotation(query_id="?", category=category)
        for category, weight in zip(example["categories"], example["weights"], strict=True)
        for n in range(round(10 * weight))
    }
    experts = tuple(expert(i, parameters_b=size, **fields) for i, size in example["params_B"].items())
    return FitData(experts=experts, profiles=profiles, annotations=annotations)


def table(fitted):
    """Whom each category of the worked example goes to, asked one by one."""
    asked = fitted.recruit([request(category=c) for c in golden("coe")["categories"]])
    return "".join(decision.recruits[0].expert_id for decision in asked)


@pytest.mark.parametrize(
    ("section", "budget"), [("total_params_budget", "budget_total"), ("avg_active_budget", "budget_active")]
)
def test_the_worked_example_as_decisions(section, budget):
    for billions, (expected, *_) in golden("coe")[section].items():
        assert table(recruiter("category_map", coe_pool(), smoothing=0.0, **{budget: float(billions)})) == expected
    assert table(recruiter("category_map", coe_pool(), smoothing=0.0)) == "LLL"


def test_entropy_is_a_share_of_the_most_there_can_be():
    for case in golden("coe")["entropy"]:
        share = normalised_entropy(np.array([case["p"]]))[0]
        assert share == pytest.approx(case["H_norm"], abs=1e-4)
        assert share * math.log(len(case["p"])) == pytest.approx(case["H"], abs=1e-4)
    assert normalised_entropy(np.array([[1.0]])) == [0.0]


def test_an_even_vote_is_never_above_the_most_there_can_be():
    assert all(normalised_entropy(np.full((1, n), 1 / n))[0] <= 1 for n in range(2, 30))


def two_sided_pool(count=60):
    """Half of the fit questions are maths along one axis, half arts along another, and one expert for each."""
    axes = {"maths": (1.0, 0.0, 0.0, 0.0), "arts": (0.0, 1.0, 0.0, 0.0)}
    annotations = {
        f"{category}{n:02}": SkillAnnotation(query_id="?", category=category, embedding=axis)
        for category, axis in axes.items()
        for n in range(count // 2)
    }
    many = Tally(wins=20, trials=30)
    few = Tally(wins=10, trials=30)
    return FitData(
        experts=(expert("reader", parameters_b=3.0), expert("counter", parameters_b=4.0)),
        profiles={
            "reader": profile("reader", {}, overall=Tally(wins=31, trials=60), arts=many, maths=few),
            "counter": profile("counter", {}, overall=Tally(wins=30, trials=60), arts=few, maths=many),
        },
        annotations=annotations,
    )


def decide(item, data=None, **options):
    (decision,) = recruiter("category_map", data or two_sided_pool(), **options).recruit([item])
    return decision


def asked(item, data=None, **options):
    return [recruit.expert_id for recruit in decide(item, data, **options).recruits]


def test_neighbours_vote_on_the_category_and_an_even_vote_asks_the_generalist():
    assert asked(request(embedding=(1.0, 0.0, 0.0, 0.0))) == ["counter"]
    assert asked(request(embedding=(0.0, 1.0, 0.0, 0.0))) == ["reader"]
    even = request(embedding=(math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0))
    unsure = decide(even)
    assert [r.expert_id for r in unsure.recruits] == ["reader"]
    assert unsure.is_fallback and "entropy" in unsure.fallback_reason
    assert not decide(even, fallback_entropy=1.0).is_fallback


def test_a_category_that_is_not_read_off_neighbours_is_certain():
    item = request(category="arts", embedding=(1.0, 0.0, 0.0, 0.0))
    assert asked(item) == ["reader"]
    voted = replace(item, annotation=replace(item.annotation, nearest=(("arts00", 0.1),)))
    assert asked(voted) == ["counter"]


@pytest.mark.parametrize(
    ("item", "said"),
    [(request(), "nothing says which category"), (request(category="law"), "no fit question is of category 'law'")],
)
def test_an_unknown_category_asks_the_best_on_fit_and_says_so(item, said):
    decision = decide(item)
    assert [r.expert_id for r in decision.recruits] == ["reader"] and said in decision.fallback_reason


def test_posterior_shares_add_up_and_ignore_the_batch():
    known = np.array([vector(f"fit{n}") for n in range(90)], dtype=np.float32)
    labels = np.arange(90) % 5
    vectors = np.array([vector(f"query{n}") for n in range(300)], dtype=np.float32)
    together = category_posterior(known, labels, vectors=vectors, size=5)
    assert together.sum(axis=1) == pytest.approx(1.0)
    alone = [category_posterior(known, labels, vectors=row[None], size=5)[0] for row in vectors]
    assert (together == np.array(alone)).all()


def test_who_is_not_held_is_never_asked_whatever_k():
    data = coe_pool()
    decision = decide(request(category="math", k=4), data, budget_total=34.0, smoothing=0.0)
    assert [r.expert_id for r in decision.recruits] == ["M", "K"]
    assert {e.expert_id: e.code for e in decision.eliminated} == {"S": "not_held", "L": "not_held"}
    item = request(category="math", experts_allowed=("L",))
    nobody = decide(item, data, budget_total=34.0, smoothing=0.0)
    error = explain_empty(nobody, item.query)
    assert (
        not nobody.recruits and isinstance(error, NoExpertAvailable) and "K, M" in error.message.replace("M, K", "K, M")
    )


def test_the_next_best_held_stands_in_for_one_that_may_not_be_asked():
    assert asked(request(category="code", experts_denied=("K",)), coe_pool(), budget_total=34.0) == ["M"]


@pytest.mark.parametrize(
    ("options", "fields", "said"),
    [
        ({"budget_total": 6.0}, {}, "no expert fits.*the smallest, 'S', has 7"),
        ({"budget_active": 6.9}, {}, "no expert fits"),
        ({"margin": 0.1}, {"usd_per_mtok": None, "parameters_b": None}, "prices of S, M, L, K are unknown"),
        ({"budget_total": 50.0}, {"parameters_b": None}, "number of parameters of S, M, L, K is unknown"),
    ],
)
def test_what_cannot_be_fitted_says_why(options, fields, said):
    data = coe_pool()
    changed = [
        replace(
            e,
            prices=None if "usd_per_mtok" in fields else e.prices,
            parameters_b=fields.get("parameters_b", e.parameters_b),
        )
        for e in data.experts
    ]
    with pytest.raises(ConfigError, match=said):
        recruiter("category_map", replace(data, experts=tuple(changed)), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"budget_total": 0.0},
        {"budget_active": -1.0},
        {"fallback_entropy": 1.1},
        {"margin": -0.1},
        {"margin": 0.1, "budget_active": 9.0},
        {"smoothing": -1.0},
    ],
)
def test_wrong_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        recruiter("category_map", coe_pool(), **options)


def test_fit_questions_without_categories_are_refused():
    with pytest.raises(ConfigError, match="no fit question has one"):
        recruiter("category_map", FitData(experts=(expert("a"),), profiles={"a": profile("a", {})}))


def test_a_saved_budget_holds_the_same_experts(tmp_path):
    fitted = recruiter("category_map", coe_pool(), budget_active=15.0, smoothing=0.0)
    fitted.save(tmp_path / "map.npz")
    loaded = type(fitted)(budget_active=15.0, smoothing=0.0).load(tmp_path / "map.npz", experts=coe_pool().experts)
    items = [request(category=c, k=4) for c in ("math", "code", "general", "law")]
    assert loaded.recruit(items) == fitted.recruit(items) and table(loaded) == "MKS"


def test_a_large_pool_is_planned_by_the_integer_program():
    """Too many experts for every subset: what is held still fits, and loses to nobody who would fit alone."""
    sizes = {f"e{n:02}": 1.0 + 7 * n % 23 for n in range(24)}
    rates = {i: {c: (13 * n + 5 * m) % 19 + 1 for m, c in enumerate(("arts", "maths"))} for n, i in enumerate(sizes)}
    profiles = {
        i: profile(
            i, {}, overall=Tally(wins=sum(r.values()), trials=40), **{c: Tally(wins=w, trials=20) for c, w in r.items()}
        )
        for i, r in rates.items()
    }
    data = FitData(
        experts=tuple(expert(i, parameters_b=size) for i, size in sizes.items()),
        profiles=profiles,
        annotations={f"q{n}": SkillAnnotation(query_id="?", category=("arts", "maths")[n % 2]) for n in range(10)},
    )
    fitted = recruiter("category_map", data, budget_total=9.0, smoothing=0.0)
    chosen = [d.recruits[0].expert_id for d in fitted.recruit([request(category="arts"), request(category="maths")])]
    assert sum(sizes[i] for i in set(chosen)) <= 9.0
    value = rates[chosen[0]]["arts"] + rates[chosen[1]]["maths"]
    assert value == max(
        rates[a]["arts"] + rates[b]["maths"] for a in sizes for b in sizes if sum(sizes[i] for i in {a, b}) <= 9.0
    )


def test_smoothing_keeps_a_lucky_trial_from_deciding():
    lucky = profile("lucky", {}, overall=Tally(wins=20, trials=100), arts=Tally(wins=1, trials=1))
    steady = profile("steady", {}, overall=Tally(wins=60, trials=100), arts=Tally(wins=6, trials=10))
    data = fit_data([expert("lucky"), expert("steady")], {"lucky": lucky, "steady": steady})
    assert asked(request(category="arts"), data, smoothing=0.0) == ["lucky"]
    assert asked(request(category="arts"), data) == ["steady"]


# --- RouteLLM's recorded outcomes ----------------------------------------------------------------------------------

DATA = Path(os.environ.get("ENLIST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "routellm"
STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"
PRICES = {STRONG: 24.7, WEAK: 0.24}
"""USD per million tokens, as RouteLLM publishes them."""


@pytest.fixture(scope="module")
def recorded():
    if not DATA.is_dir():
        pytest.skip(f"NO RECORDED OUTCOMES: {DATA} is missing; set ENLIST_DATA to the folder that holds routellm")
    from eval.datasets import load_dataset

    return load_dataset(DATA)


def questions_of(dataset, split):
    return [q for q in dataset.questions if q.benchmark == "mmlu" and q.split == split]


def grades(dataset, questions, model):
    return [outcome.correct for outcome in dataset.outcomes(questions, [model])]


@pytest.fixture(scope="module")
def mmlu_fit(recorded):
    """What is learned from: the rows of even number of each subject, the subject as category."""
    fit = questions_of(recorded, "fit")
    outcomes = recorded.outcomes(fit, [STRONG, WEAK])
    named = [replace(q, category=q.subject) for q in fit]
    experts = [
        replace(e, prices=Prices(input_usd_per_mtok=PRICES[e.id], output_usd_per_mtok=PRICES[e.id]))
        for e in recorded.pool("pair").experts
    ]
    return FitData(
        experts=tuple(experts),
        profiles=fit_profiles(outcomes, named),
        outcomes=outcomes,
        annotations={q.id: SkillAnnotation(query_id=q.id, category=q.category) for q in named},
    )


def curve_point(dataset, chosen):
    """The share of calls to the stronger model, and the accuracy, both to four digits."""
    test = questions_of(dataset, "test")
    right = {model: grades(dataset, test, model) for model in (STRONG, WEAK)}
    share = sum(model == STRONG for model in chosen) / len(test)
    accuracy = sum(right[model][n] for n, model in enumerate(chosen)) / len(test)
    floor, ceiling = (sum(right[model]) / len(test) for model in (WEAK, STRONG))
    mix = floor + share * (ceiling - floor)
    return tuple(round(value, 4) for value in (share, accuracy, mix, accuracy - mix))


THRESHOLDS = {
    0.0: (0.9161, 0.8066, 0.7935, 0.0131),
    0.05: (0.8882, 0.8044, 0.7901, 0.0144),
    0.10: (0.5556, 0.7779, 0.7490, 0.0289),
    0.15: (0.3904, 0.7605, 0.7286, 0.0318),
    0.20: (0.1260, 0.7173, 0.6960, 0.0213),
    0.25: (0.0799, 0.7087, 0.6903, 0.0184),
}
"""Gap above which a subject goes to the stronger model: its share of calls, accuracy, straight-line mix, gain."""


@pytest.mark.parametrize("margin", THRESHOLDS)
def test_recorded_subjects_by_threshold_to_four_digits(recorded, mmlu_fit, margin):
    data = mmlu_fit
    test = questions_of(recorded, "test")
    subjects = sorted({q.subject for q in test})
    scores = category_scores(data.experts, data.profiles, categories=subjects, smoothing=0.0)
    expenses = np.array([PRICES[e.id] for e in data.experts])
    chosen = dict(zip(subjects, cheapest_within(scores, expenses, margin=margin), strict=True))
    by_table = [data.experts[chosen[q.subject]].id for q in test]
    assert curve_point(recorded, by_table) == THRESHOLDS[margin]

    fitted = recruiter("category_map", data, margin=margin, smoothing=0.0)
    asked_for = [
        RecruitRequest(query=user_query(q.id, q.text), annotation=SkillAnnotation(query_id=q.id, category=q.subject))
        for q in test
    ]
    assert [decision.recruits[0].expert_id for decision in fitted.recruit(asked_for)] == by_table


def test_the_thresholds_are_the_golden_ones():
    rows = golden("replay_routellm_mmlu")["threshold_curve"]
    assert {row["gap>"]: (row["gpt4_calls"], row["acc"]) for row in rows} == {
        margin: point[:2] for margin, point in THRESHOLDS.items()
    }


def test_recorded_counts_of_mmlu(recorded):
    expected = golden("replay_routellm_mmlu")
    asked_all = [q for q in recorded.questions if q.benchmark == "mmlu"]
    strong, weak = (np.array(grades(recorded, asked_all, model)) for model in (STRONG, WEAK))
    assert len(asked_all) == expected["n"]
    joint = Counter(zip(strong.tolist(), weak.tolist(), strict=True))
    names = {"both": (1.0, 1.0), "only_gpt4": (1.0, 0.0), "only_mixtral": (0.0, 1.0), "neither": (0.0, 0.0)}
    assert {name: joint[pair] for name, pair in names.items()} == expected["joint"]
    oracle = np.maximum(strong, weak)
    for name, right in (("mixtral", weak), ("gpt4", strong), ("oracle", oracle)):
        assert right.mean() == pytest.approx(expected["acc"][name], abs=1e-9)
        is_test = np.array([q.split == "test" for q in asked_all])
        assert right[is_test].mean() == pytest.approx(expected["test"][name], abs=1e-9)
    subjects = np.array([q.subject for q in asked_all])
    means = {s: (strong[subjects == s].mean(), weak[subjects == s].mean()) for s in sorted(set(subjects.tolist()))}
    assert len(means) == 57
    assert sorted(s for s, (gpt4, mixtral) in means.items() if mixtral > gpt4) == expected["mixtral_better_subjects"]
    assert np.mean([pair[0] for pair in means.values()]) == pytest.approx(expected["macro57"]["gpt4"], abs=1e-9)
    assert np.mean([pair[1] for pair in means.values()]) == pytest.approx(expected["macro57"]["mixtral"], abs=1e-9)


def test_recorded_counts_of_gsm8k(recorded):
    expected = golden("replay_routellm_gsm8k")
    asked_all: list[Question] = [q for q in recorded.questions if q.benchmark == "gsm8k"]
    strong, weak = (np.array(grades(recorded, asked_all, model)) for model in (STRONG, WEAK))
    assert len(asked_all) == expected["n"]
    for name, right in (("mixtral", weak), ("gpt4", strong), ("oracle", np.maximum(strong, weak))):
        assert right.mean() == pytest.approx(expected["acc"][name], abs=1e-9)
