"""Speculative Verdict's arithmetic: the worked example, the score's laws, and the stand-in for likelihoods."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.plausibility import most_plausible, peer_scores, stand_in_nll
from router_service.errors import ConfigError
from tests.experts_registry.golden import golden

law = settings(max_examples=50, deadline=None)
tables = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.floats(0, 9), min_size=n, max_size=n), min_size=n, max_size=n)
)


def test_the_worked_example():
    fixture = golden("speculative_verdict")
    scores = peer_scores(list(fixture["nll"].values()))
    assert scores == pytest.approx(fixture["s"])
    assert [position + 1 for position in most_plausible(scores, 2)] == fixture["top2"]


def test_one_sided_a_peer_that_likes_a_draft_better_than_its_own_costs_nothing():
    nll = [[0.2, 0.1], [0.5, 0.3]]
    assert peer_scores(nll) == pytest.approx([0.2, 0.3])
    assert peer_scores(nll, is_one_sided=True) == pytest.approx([0.0, 0.3])


@law
@given(tables)
def test_one_sided_scores_are_never_larger_and_what_everyone_likes_as_its_own_scores_nothing(nll):
    two, one = peer_scores(nll), peer_scores(nll, is_one_sided=True)
    assert all(0 <= b <= a for a, b in zip(two, one, strict=True))
    diagonal = [row[i] for i, row in enumerate(nll)]
    assert peer_scores([diagonal for _ in nll]) == [0.0] * len(nll)


@law
@given(st.lists(st.sampled_from([0.0, 1.0, 1.0 + 1e-13, 2.0]), max_size=6), st.integers(0, 6), st.integers(0, 99))
def test_the_best_are_kept_and_ties_go_by_the_seed(scores, number, seed):
    kept = most_plausible(scores, number, seed=seed)
    assert len(kept) == min(number, len(scores)) == len(set(kept))
    left = [scores[i] for i in range(len(scores)) if i not in kept]
    assert all(scores[i] <= other + 1e-12 for i in kept for other in left)
    assert kept == most_plausible(scores, number, seed=seed)


def test_every_tied_draft_is_kept_by_some_seed():
    assert {most_plausible([1.0, 1.0, 1.0], 1, seed=seed)[0] for seed in range(40)} == {0, 1, 2}


def test_a_table_that_is_not_square_is_refused():
    with pytest.raises(ConfigError, match="3 by 3; the rows have 2, 3, 3"):
        peer_scores([[1, 2], [1, 2, 3], [1, 2, 3]])


def test_the_stand_in_counts_the_peers_that_differ():
    assert peer_scores(stand_in_nll([0, 0, 1, -1, -1])) == [3.0, 3.0, 4.0, 4.0, 4.0]
