"""Avengers and Avengers-Pro: the worked examples, what the rule comes down to at its ends, the released defects."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.cluster_balance import ClusterBalance, balance_scores
from router_service.recruit.cluster_rank import ClusterRank
from router_service.recruit.clusters import (
    cluster_centres,
    cluster_labels,
    cluster_ranks,
    cluster_rates,
    cluster_weights,
    mean_values,
    rank_scores,
)
from router_service.recruit.embedded import NOTHING_LEARNED, OTHER_EMBEDDING
from router_service.recruit.scoring import NO_EMBEDDING
from tests.experts_registry.golden import golden
from tests.router_service.recruit.graded import graded, random_units, unit
from tests.router_service.recruit.pools import expert, request

EAST, NORTH = (1.0, 0.0), (0.0, 1.0)
released = {"prior_trials": 0.0, "rule": "rank_0.1"}


def decide(fitted, embedding, **controls):
    (decision,) = fitted.recruit([request(embedding=embedding, **controls)])
    return decision


def chosen(fitted, embedding, **controls):
    return [recruit.expert_id for recruit in decide(fitted, embedding, **controls).recruits]


# --- the worked examples ---------------------------------------------------------------------------------------------


def golden_ranks(case):
    ids = sorted(case["ranking"][0])
    return ids, np.array([[order.index(i) for order in case["ranking"]] for i in ids], dtype=float)


@pytest.mark.parametrize("offset", [0.1, 1.0])
def test_golden_avengers(offset):
    case = golden("avengers")
    distances = 1 - np.array([case["q"]]) @ np.array(case["centres"]).T
    np.testing.assert_allclose(distances[0], case["distances"], atol=1e-9)
    weights = cluster_weights(distances, beta=case["beta"], top_k=2)
    np.testing.assert_allclose(weights[0], case["p"], atol=1e-9)
    ids, ranks = golden_ranks(case)
    (scores,) = rank_scores(weights, ranks, offset=offset)
    assert dict(zip(ids, scores, strict=True)) == pytest.approx(case[f"score_offset_{offset:g}"], abs=1e-9)


def test_golden_avengers_from_graded_answers():
    """The same example end to end: two clusters whose accuracies rank the experts as given."""
    case = golden("avengers")
    marks = [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]
    grades = {i: [m for order in case["ranking"] for m in marks[order.index(i)]] for i in "ABC"}
    data = graded([EAST] * 4 + [NORTH] * 4, grades)
    for rule, offset in [("rank_0.1", "0.1"), ("rank_1", "1")]:
        fitted = ClusterRank(clusters=2, top_k=2, beta=case["beta"], rule=rule, prior_trials=0.0).fit(data)
        scores = decide(fitted, tuple(case["q"])).scores
        assert scores == pytest.approx(case[f"score_offset_{offset}"], abs=1e-5)  # embeddings are 32-bit floats


@pytest.mark.parametrize("alpha", ["0", "0.25", "0.5", "0.75", "1"])
def test_golden_balance(alpha):
    case = golden("avengers_pro_balance")
    accuracy, cost = (np.array([[case[kind][i]] for i in case["acc"]]) for kind in ("acc", "cost"))
    found = balance_scores(accuracy, cost, alpha=float(alpha))[:, 0]
    np.testing.assert_allclose(found, list(case["score"][alpha].values()), atol=5e-5)  # given to four digits
    exact = float(alpha) * (accuracy - 0.5) / 0.3 + (1 - float(alpha)) * (1 - cost / 0.02)
    np.testing.assert_allclose(found, exact[:, 0], atol=1e-12)


@pytest.mark.parametrize(("alpha", "winner"), [(0.0, "s"), (0.25, "m"), (0.5, "m"), (1.0, "l")])
def test_the_balance_decides_who_is_recruited(alpha, winner):
    right = {"s": 5, "m": 7, "l": 8}
    grades = {i: [float(n < right[i]) for n in range(10)] for i in right}
    costs = {"s": [0.001] * 10, "m": [0.004] * 10, "l": [0.02] * 10}
    fitted = ClusterBalance(alpha=alpha, clusters=1, prior_trials=0.0).fit(graded([EAST] * 10, grades, costs=costs))
    assert chosen(fitted, NORTH) == [winner]


# --- what it comes down to at its ends -------------------------------------------------------------------------------


@st.composite
def tables(draw, most=12):
    """Graded questions of two to four experts, all asked everything, in three dimensions."""
    number = draw(st.integers(2, most))
    names = [f"e{i}" for i in range(draw(st.integers(2, 4)))]
    grades = {
        name: draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=number, max_size=number)) for name in names
    }
    return random_units(number, 3, seed=draw(st.integers(0, 999))), grades


law = settings(max_examples=20, deadline=None)


@law
@given(tables(), st.sampled_from(["rank_0.1", "rank_1", "accuracy"]), st.sampled_from([0.0, 20.0]))
def test_one_cluster_is_the_best_single_expert(table, rule, prior_trials):
    vectors, grades = table
    fitted = ClusterRank(clusters=1, rule=rule, prior_trials=prior_trials).fit(graded(vectors, grades))
    best = max(grades, key=lambda name: sum(grades[name]))  # the earliest of equals
    assert all(chosen(fitted, vector) == [best] for vector in random_units(3, 3, seed=7))


@law
@given(tables(), st.sampled_from(["rank_0.1", "rank_1", "accuracy"]), st.integers(0, 9))
def test_a_cluster_per_question_is_the_nearest_neighbour(table, rule, seed):
    vectors, grades = table
    options = {"clusters": len(vectors), "top_k": 1, "prior_trials": 0.0, "rule": rule}
    fitted = ClusterRank(**options).fit(graded(vectors, grades))
    (query,) = random_units(1, 3, seed=seed + 5000)
    nearest = int(np.argmax(np.array(vectors) @ np.array(query)))
    best = max(row[nearest] for row in grades.values())
    assert grades[chosen(fitted, query)[0]][nearest] == best


@law
@given(tables(), st.floats(0, 100), st.sampled_from(["rank_0.1", "rank_1", "accuracy"]))
def test_with_one_cluster_looked_at_beta_does_not_matter(table, beta, rule):
    vectors, grades = table
    queries = random_units(3, 3, seed=7)
    scores = [
        [dict(decide(ClusterRank(clusters=4, top_k=1, beta=b, rule=rule).fit(graded(vectors, grades)), q).scores)]
        for b in (6.0, beta)
        for q in queries
    ]
    assert scores[:3] == scores[3:]


@law
@given(tables(), st.data())
def test_a_question_asked_twice_leaves_other_clusters_alone(table, data):
    """On fixed clusters: the copied question's own cluster may rank anew, no other does."""
    vectors, grades = table
    labels = cluster_labels(np.array(vectors, dtype=np.float32), 3)
    row = data.draw(st.integers(0, len(vectors) - 1))
    marks = np.array(list(grades.values())).T
    again = [*range(len(vectors)), row]
    base = np.full(marks.shape[1], 0.5)
    for prior_trials in (0.0, 40.0):
        before = cluster_ranks(cluster_rates(marks, labels, base=base, prior_trials=prior_trials))
        after = cluster_ranks(cluster_rates(marks[again], labels[again], base=base, prior_trials=prior_trials))
        others = np.arange(before.shape[1]) != labels[row]
        np.testing.assert_array_equal(before[:, others], after[:, others])


@law
@given(tables(), st.floats(0, 1), st.floats(0, 1), st.data())
def test_less_alpha_never_costs_more(table, one, other, data):
    vectors, grades = table
    price = {name: data.draw(st.sampled_from([0.0, 0.001, 0.002, 0.01])) for name in grades}
    fit_on = graded(vectors, grades, costs={name: [price[name]] * len(vectors) for name in grades})
    paid = []
    for alpha in sorted([one, other]):
        fitted = ClusterBalance(alpha=alpha, clusters=1, top_k=1).fit(fit_on)
        paid.append(price[chosen(fitted, vectors[0])[0]])
    assert paid[0] <= paid[1]


# --- the released code's defects -------------------------------------------------------------------------------------


def test_an_expert_missing_from_a_cluster_leaves_the_others_in_it():
    """Released: the loop over a cluster's ranking stops at the first model without an entry, and those after it are
    dropped there in silence."""
    data = graded([EAST] * 2 + [NORTH] * 2, {"a": [1, 1, None, None], "b": [0, 1, 0, 1], "c": [0, 0, 1, 1]})
    fitted = ClusterRank(clusters=2, top_k=1, **released).fit(data)
    assert decide(fitted, NORTH).scores == pytest.approx({"a": 0.0, "b": 1 / 1.1, "c": 10.0})
    assert chosen(fitted, NORTH, k=3) == ["c", "b", "a"]
    assert decide(fitted, EAST).scores == pytest.approx({"a": 10.0, "b": 1 / 1.1, "c": 1 / 2.1})


def test_ranks_of_ties_and_gaps():
    values = np.array([[0.5, np.nan], [0.9, 0.1], [0.5, 0.1]])
    np.testing.assert_array_equal(cluster_ranks(values), [[1, np.nan], [0, 0], [2, 1]])


def test_a_mean_over_clusters_leaves_out_those_that_do_not_know():
    weights = np.array([[0.25, 0.75]])
    values = np.array([[0.8, np.nan], [np.nan, np.nan], [0.4, 0.8]])
    np.testing.assert_allclose(mean_values(weights, values), [[0.8, np.nan, 0.7]])


def test_centres_are_unit_length():
    """Released: means of unit vectors, shorter than 1, so that 1 minus the dot product prefers tight clusters."""
    vectors = np.array([EAST, EAST, unit(1, 1), unit(-1, 1)], dtype=np.float32)
    centres = cluster_centres(vectors, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(centres, [EAST, NORTH], atol=1e-6)


def test_an_unknown_cost_is_not_nothing():
    """Released: it counts as 0, and whoever has no price wins wherever cost counts."""
    accuracy = np.array([[0.6], [0.6], [0.6]])
    cost = np.array([[0.01], [np.nan], [0.002]])
    np.testing.assert_allclose(balance_scores(accuracy, cost, alpha=0.0)[:, 0], [0.0, 0.0, 0.8], atol=1e-8)
    grades = {"priceless": [1.0] * 4, "cheap": [1.0] * 4}
    pool = [expert("priceless", usd_per_mtok=None), expert("cheap")]
    fitted = ClusterBalance(alpha=0.5).fit(graded([EAST] * 4, grades, experts=pool))
    assert chosen(fitted, EAST) == ["cheap"]


def test_where_nobody_differs_the_balance_says_nothing():
    same = np.full((2, 1), 0.5)
    np.testing.assert_allclose(balance_scores(same, np.zeros((2, 1)), alpha=0.3), 0.7)
    np.testing.assert_allclose(balance_scores(same, np.full((2, 1), np.nan), alpha=0.3), 0.0, atol=1e-8)


# --- clusters, and what is not known ---------------------------------------------------------------------------------


def test_clusters_are_found_where_there_are_some():
    middles = np.eye(4, dtype=np.float32)
    rng = np.random.default_rng(0)
    vectors = np.repeat(middles, 15, axis=0) + rng.normal(scale=0.05, size=(60, 4)).astype(np.float32)
    labels = cluster_labels(vectors, 4)
    assert [len(set(labels[start : start + 15].tolist())) for start in range(0, 60, 15)] == [1] * 4
    assert len(set(labels.tolist())) == 4
    assert cluster_labels(vectors, 4).tolist() == labels.tolist()
    assert cluster_labels(np.repeat(middles, 3, axis=0), 64).max() == 3


def test_unset_there_are_as_many_clusters_as_the_questions_fill():
    vectors = random_units(90, 3)
    grades = {"a": [1.0] * 90, "b": [0.0] * 90}
    assert len(ClusterRank().fit(graded(vectors, grades)).centres_) == 4
    assert len(ClusterRank().fit(graded(vectors[:10], {i: row[:10] for i, row in grades.items()})).centres_) == 1
    assert len(ClusterRank(clusters=30).fit(graded(vectors, grades)).centres_) == 30


def test_specialists_are_found():
    grades = {"east": [1.0] * 20 + [0.0] * 20, "north": [0.0] * 20 + [1.0] * 20, "both": [1.0, 0.0, 0.0, 1.0] * 10}
    data = graded([EAST] * 20 + [NORTH] * 20, grades)
    for rule in ("rank_0.1", "rank_1", "accuracy"):
        fitted = ClusterRank(k=2, clusters=2, rule=rule).fit(data)
        assert [chosen(fitted, unit(1, 0.1)), chosen(fitted, unit(0.1, 1))] == [["east", "both"], ["north", "both"]]
        p_correct = {r.expert_id: r.p_correct for r in decide(fitted, unit(1, 0.1), k=3).recruits}
        assert p_correct["east"] > 0.7 > p_correct["both"] > 0.4 > p_correct["north"]


@pytest.mark.parametrize("strategy", [ClusterRank, ClusterBalance])
def test_a_fallback_has_its_reason(strategy):
    data = graded([EAST, NORTH], {"a": [0, 0], "b": [1, 1], "c": [None, None]})
    fitted = strategy(k=1, prior_trials=0.0).fit(data)
    none, other, known = decide(fitted, None), decide(fitted, (1.0, 0.0, 0.0)), decide(fitted, EAST)
    assert (none.fallback_reason, other.fallback_reason) == (NO_EMBEDDING, OTHER_EMBEDDING)
    assert [d.recruits[0].expert_id for d in (none, other)] == ["b", "b"] and not known.is_fallback
    assert decide(fitted, EAST, experts_allowed=("c",)).fallback_reason == NOTHING_LEARNED


def test_several_samples_of_a_question_count_as_one():
    data = graded([EAST], {"a": [1.0], "b": [0.0]})
    more = tuple(replace(data.outcomes[1], sample=n, correct=float(n > 0)) for n in range(3))
    fitted = ClusterRank(rule="accuracy", prior_trials=0.0).fit(replace(data, outcomes=(data.outcomes[0], *more)))
    assert decide(fitted, EAST).scores == pytest.approx({"a": 1.0, "b": 2 / 3})


@pytest.mark.parametrize("strategy", [ClusterRank, ClusterBalance])
@pytest.mark.parametrize("options", [{"clusters": 0}, {"top_k": 0}, {"beta": -1.0}, {"prior_trials": -1.0}])
def test_senseless_options_are_refused(strategy, options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{strategy.name}.*{name} is"):
        strategy(**options)


def test_senseless_rules_are_refused():
    with pytest.raises(ConfigError, match="rule is 'rank_2'; it is one of rank_0"):
        ClusterRank(rule="rank_2")
    for alpha in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="alpha"):
            ClusterBalance(alpha=alpha)
