"""Expertise trees: a planted specialisation is found, noise is not split, and depth 0 is the best single expert."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.scoring import NO_EMBEDDING
from router_service.recruit.tree import Tree
from router_service.recruit.tree_features import TreeFeatures
from router_service.recruit.tree_growth import GrownTree, expert_leads, grow_tree
from tests.router_service.recruit.graded import graded, random_units, unit
from tests.router_service.recruit.pools import request

NUMBER = 160


def planted(is_first):
    """Grades of two experts, each right where the other is wrong, but for a tenth of noise; and one in the middle."""
    noise = np.random.default_rng(1).random((3, len(is_first))) < 0.1
    first, other = np.array(is_first) ^ noise[0], ~np.array(is_first) ^ noise[1]
    even = (np.arange(len(is_first)) % 2 == 0) ^ noise[2]
    return {name: row.astype(float).tolist() for name, row in (("first", first), ("other", other), ("even", even))}


def top(fitted, **asked):
    (decision,) = fitted.recruit([request(**asked)])
    return decision.recruits[0].expert_id


def stretched(number, *, seed=0):
    """Directions that differ along their first axis more than along the others, as topics do."""
    return [unit(3 * first, *rest) for first, *rest in random_units(number, 6, seed=seed)]


def test_a_planted_split_of_the_embedding_is_found():
    vectors = stretched(NUMBER)
    fitted = Tree().fit(graded(vectors, planted([vector[0] > 0.2 for vector in vectors])))
    assert fitted.tree_.n_leaves == 2 and "component 1" in fitted.explain(request(embedding=vectors[0]))[0]
    fresh = stretched(200, seed=9)
    hits = [top(fitted, embedding=vector) == ("first" if vector[0] > 0.2 else "other") for vector in fresh]
    assert np.mean(hits) > 0.93


def test_a_planted_split_by_category_is_found_exactly():
    kinds = [("arts", "law", "maths")[n % 3] for n in range(NUMBER)]
    vectors = random_units(NUMBER, 6)
    fitted = Tree().fit(graded(vectors, planted([kind == "maths" for kind in kinds]), categories=kinds))
    assert fitted.tree_.n_leaves == 2
    for kind in (*set(kinds), None, "unseen"):
        assert top(fitted, embedding=vectors[0], category=kind) == ("first" if kind == "maths" else "other")
    (line,) = fitted.explain(request(embedding=vectors[0], category="maths"))
    assert line == f"its category is 'maths': {kinds.count('maths')} fit questions are like that"
    (decision,) = fitted.recruit([request(embedding=vectors[0], category="maths", k=3)])
    chances = {recruit.expert_id: recruit.p_correct for recruit in decision.recruits}
    assert chances["first"] > 0.7 > chances["even"] > 0.4 > chances["other"]


def test_a_planted_split_by_length_is_found():
    texts = ["why " * (5 + 3 * (n % 30)) for n in range(NUMBER)]
    fitted = Tree().fit(graded(random_units(NUMBER, 6), planted([len(t) > 200 for t in texts]), texts=texts))
    embedding = random_units(1, 6, seed=5)[0]
    assert top(fitted, embedding=embedding, text="why " * 90) == "first"
    assert top(fitted, embedding=embedding, text="why " * 10) == "other"
    assert "letters" in fitted.explain(request(embedding=embedding, text="why?"))[0]


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_split(seed):
    rng = np.random.default_rng(seed)
    grades = {name: (rng.random(NUMBER) < rate).astype(float).tolist() for name, rate in (("a", 0.4), ("b", 0.6))}
    fitted = Tree().fit(graded(random_units(NUMBER, 6, seed=seed), grades))
    assert fitted.tree_.n_leaves <= 2
    if fitted.tree_.n_leaves == 1:
        assert "no split" in fitted.explain(request(embedding=random_units(1, 6)[0]))[0]


def test_easy_and_hard_questions_are_no_reason_to_split():
    """All experts do well here and badly there: that favours nobody."""
    kinds = ["easy", "hard"] * (NUMBER // 2)
    rng = np.random.default_rng(0)
    rates = np.array([0.9 if kind == "easy" else 0.2 for kind in kinds])
    grades = {name: (rng.random(NUMBER) < rates).astype(float).tolist() for name in ("a", "b", "c")}
    assert Tree(components=0).fit(graded(random_units(NUMBER, 6), grades, categories=kinds)).tree_.n_leaves == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.data())
def test_depth_0_is_the_best_single_expert(number, data):
    marks = st.lists(st.sampled_from([0.0, 1.0]), min_size=number, max_size=number)
    grades = {name: data.draw(marks) for name in "abc"}
    fitted = Tree(max_depth=0).fit(graded(random_units(number, 4), grades))
    best = max(grades, key=lambda name: sum(grades[name]))  # the earliest of equals
    assert all(top(fitted, embedding=vector) == best for vector in random_units(3, 4, seed=8))


def test_leaves_agree_with_the_library():
    """At decision time there are arrays only: they must walk as the tree that was grown does."""
    from sklearn.tree import DecisionTreeRegressor

    rows = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    grades = (rows[:, :3] + rows[:, 2:] > 0).astype(float)
    tree = grow_tree(rows, grades, min_leaf=15, max_depth=4)
    assert tree.n_leaves > 3
    assert np.bincount(tree.leaves(rows)).min() >= 15
    assert {len(tree.path(row[None])) for row in rows} <= set(range(1, 5))
    model = DecisionTreeRegressor(min_samples_leaf=15, max_depth=4, random_state=0).fit(rows, expert_leads(grades))
    for price in model.cost_complexity_pruning_path(rows, expert_leads(grades)).ccp_alphas:
        pruned = DecisionTreeRegressor(min_samples_leaf=15, max_depth=4, random_state=0, ccp_alpha=price + 1e-12)
        theirs = pruned.fit(rows, expert_leads(grades)).apply(rows)
        if len(set(theirs.tolist())) == tree.n_leaves:
            assert len(set(zip(theirs.tolist(), tree.leaves(rows).tolist(), strict=True))) == tree.n_leaves
            return
    raise AssertionError("no pruned tree of the library has as many leaves")


def test_leads_are_over_those_asked():
    grades = np.array([[1.0, 0.0, np.nan], [1.0, 1.0, 1.0], [np.nan] * 3])
    np.testing.assert_array_equal(expert_leads(grades)[:2], [[0.5, -0.5, np.nan], [0, 0, 0]])
    assert grow_tree(np.zeros((3, 1), dtype=np.float32), grades, min_leaf=1, max_depth=3).n_leaves == 1


def test_what_was_not_asked_moves_nothing():
    kinds = ["arts", "maths"] * (NUMBER // 2)
    grades = planted([kind == "maths" for kind in kinds])
    gaps = {**grades, "rare": [1.0, 0.0, 0.0, 1.0] + [None] * (NUMBER - 4)}
    fitted = Tree().fit(graded(random_units(NUMBER, 6), gaps, categories=kinds))
    assert fitted.tree_.n_leaves == 2
    assert top(fitted, embedding=random_units(1, 6)[0], category="maths") == "first"


def test_the_root_alone_is_a_tree():
    assert GrownTree.root().leaves(np.zeros((3, 2), dtype=np.float32)).tolist() == [0, 0, 0]
    assert GrownTree.root().path(np.zeros((1, 2), dtype=np.float32)) == []


def test_features_in_words():
    features = TreeFeatures(mean=np.zeros(2), axes=np.eye(2), categories=("maths",))
    assert features.condition(1, 0.25, is_below=True) == "component 2 of its embedding is at most 0.250"
    assert features.condition(2, np.log1p(200.5), is_below=False) == "it has more than 200 letters"
    assert features.condition(3, 0.5, is_below=True) == "its category is not 'maths'"
    row = features.rows(np.array([[0.6, 0.8]], dtype=np.float32), [200], ["maths"])
    np.testing.assert_allclose(row, [[0.6, 0.8, np.log(201), 1.0]], atol=1e-6)


def test_no_embedding_is_the_named_fallback():
    kinds = ["arts", "maths"] * (NUMBER // 2)
    fitted = Tree().fit(graded(random_units(NUMBER, 6), planted([k == "maths" for k in kinds]), categories=kinds))
    (decision,) = fitted.recruit([request(category="maths")])
    assert decision.fallback_reason == NO_EMBEDDING and fitted.explain(request(category="maths")) == []


@pytest.mark.parametrize("options", [{"components": -1}, {"min_leaf": 0}, {"max_depth": -1}])
def test_senseless_options_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"tree.*{name} is"):
        Tree(**options)
