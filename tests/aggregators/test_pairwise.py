"""Ranking by comparisons in pairs: the two policies differ, order settles nothing, and one pass is cheap."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregators.pairwise import bubble_winner, compare_all, max_logits, max_wins, shared_ranks
from router_service.errors import AggregationError
from tests.experts_registry.golden import golden

LOGITS = st.integers(-6, 6).map(lambda tenths: tenths / 10)
SQUARES = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(LOGITS, min_size=n, max_size=n), min_size=n, max_size=n)
)


def test_logits_and_ranks_of_the_worked_example() -> None:
    case = golden("llm_blender")
    scores = max_logits(case["C"])
    assert scores == pytest.approx(case["max_logits"], abs=5e-5)
    assert shared_ranks(scores) == tuple(case["ranks"])


def test_wins_find_the_worked_example_level_where_logits_do_not() -> None:
    wins = max_wins(golden("llm_blender")["C"])
    assert wins == (2, 2, 2)
    assert shared_ranks(wins) == (1, 1, 1)


def test_level_scores_share_the_better_rank() -> None:
    assert shared_ranks((0.5, 2.0, 0.5, -1.0)) == (2, 1, 2, 4)


@given(comparisons=SQUARES, data=st.data())
def test_the_order_of_candidates_does_not_matter(comparisons, data) -> None:
    order = data.draw(st.permutations(range(len(comparisons))))
    shuffled = [[comparisons[i][j] for j in order] for i in order]
    for policy in (max_logits, max_wins):
        ranks = shared_ranks(policy(comparisons))
        assert shared_ranks(policy(shuffled)) == tuple(ranks[i] for i in order)


@given(comparisons=SQUARES)
def test_every_comparison_counts_once_and_the_diagonal_never(comparisons) -> None:
    n = len(comparisons)
    assert sum(max_logits(comparisons)) == pytest.approx(0, abs=1e-9)
    decided = sum(comparisons[i][j] != 0 for i in range(n) for j in range(n) if i != j)
    assert sum(max_wins(comparisons)) == decided
    marked = [[9.0 if i == j else cell for j, cell in enumerate(row)] for i, row in enumerate(comparisons)]
    assert (max_logits(marked), max_wins(marked)) == (max_logits(comparisons), max_wins(comparisons))


@given(strengths=st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_one_pass_finds_the_best_of_a_consistent_judge(strengths) -> None:
    asked = []

    async def compare(i, j):
        asked.append((i, j))
        return float(strengths[i] - strengths[j])

    assert asyncio.run(bubble_winner(len(strengths), compare)) == strengths.index(max(strengths))
    assert len(asked) == 2 * (len(strengths) - 1)


def judge_of(matrix):
    async def compare(i, j):
        return matrix[i][j]

    return compare


@given(comparisons=SQUARES)
def test_every_pair_is_compared_in_both_orders(comparisons) -> None:
    n = len(comparisons)
    expected = [[0.0 if i == j else comparisons[i][j] for j in range(n)] for i in range(n)]
    assert asyncio.run(compare_all(n, judge_of(comparisons))) == expected


async def test_one_pass_weighs_both_orders_against_a_judge_that_favours_the_left() -> None:
    biased = [[0, 2.0], [3.0, 0]]
    assert await bubble_winner(2, judge_of(biased)) == 1
    assert max_wins(biased) == (1, 1)


@pytest.mark.parametrize("comparisons", [[], [[0, 1]], [[0, 1], [0]]])
async def test_what_is_not_square_is_refused(comparisons) -> None:
    with pytest.raises(AggregationError, match="square"):
        max_logits(comparisons)
    with pytest.raises(AggregationError, match="no candidate"):
        await bubble_winner(0, judge_of(comparisons))
