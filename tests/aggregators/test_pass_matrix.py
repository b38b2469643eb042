"""Choosing by a pass matrix: exact posteriors, the heuristics it is compared with, and the laws they obey."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from aggregators.pass_matrix import (
    b4_choice,
    b4_posterior,
    codet_choice,
    codet_score,
    maxpass_choice,
    mbr_exec_choice,
    pass_groups,
)
from router_service.errors import AggregationError
from tests.experts_registry.golden import golden

MATRICES = st.tuples(st.integers(1, 5), st.integers(0, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


def written(row: tuple[bool, ...]) -> str:
    return "".join(str(int(cell)) for cell in row)


def test_b4_is_exact_on_the_worked_example() -> None:
    case = golden("b4")
    posterior = b4_posterior(case["E"], alpha=case["alpha"], beta0=case["beta0"])
    assert {written(g.row): score for g, score in posterior.items()} == {
        row: Fraction(text) for row, text in case["posterior"].items()
    }
    assert b4_choice(case["E"], alpha=case["alpha"], beta0=case["beta0"]) == tuple(case["choice"])


def test_the_heuristics_choose_as_in_the_worked_example() -> None:
    case = golden("b4")
    scores = {written(group.row): codet_score(group) for group in pass_groups(case["E"])}
    assert scores == pytest.approx(case["codet"], abs=1e-10)
    assert codet_choice(case["E"]) == tuple(case["codet_choice"])
    assert maxpass_choice(case["E"]) == tuple(case["maxpass_choice"])
    assert mbr_exec_choice(case["E"]) == tuple(case["mbr_exec_choice"])


@pytest.mark.parametrize("choose", [b4_choice, codet_choice, maxpass_choice, mbr_exec_choice])
@settings(deadline=None)
@given(matrix=MATRICES, data=st.data())
def test_the_order_of_candidates_and_checks_does_not_matter(choose, matrix, data) -> None:
    rows = data.draw(st.permutations(range(len(matrix))))
    columns = data.draw(st.permutations(range(len(matrix[0]))))
    shuffled = [[matrix[row][column] for column in columns] for row in rows]
    assert {rows[position] for position in choose(shuffled)} == set(choose(matrix))


@settings(deadline=None)
@given(matrix=MATRICES)
def test_who_is_chosen_is_chosen_with_all_who_behave_alike(matrix) -> None:
    chosen = set(b4_choice(matrix, alpha=3, beta0=5))
    assert chosen
    assert all(set(group.members) <= chosen or not chosen & set(group.members) for group in pass_groups(matrix))


def integral(density) -> float:
    return quad(density, 0, 1, epsabs=0, epsrel=1e-9)[0]


def likelihood(matrix, right_rows, right_checks, *, alpha: int, beta0: int) -> float:
    """P(matrix, who is right) with the four rates integrated out numerically; 0 where a right candidate's row is not
    what the checks say, or a wrong one's is."""
    n, m = len(matrix), len(matrix[0])
    for i in range(n):
        if (tuple(matrix[i]) == right_checks) != (i in right_rows):
            return 0.0
    others = [i for i in range(n) if i not in right_rows]
    on_right = [matrix[i][j] for i in others for j in range(m) if right_checks[j]]
    on_wrong = [matrix[i][j] for i in others for j in range(m) if not right_checks[j]]
    x, y = len(right_rows), sum(right_checks)
    k1, n1, k0, n0 = sum(on_right), len(on_right), sum(on_wrong), len(on_wrong)
    return (
        integral(lambda t: alpha * t ** (alpha - 1) * t**x * (1 - t) ** (n - x))
        * integral(lambda t: alpha * t ** (alpha - 1) * t**y * (1 - t) ** (m - y))
        * integral(lambda t: t**k1 * (1 - t) ** (n1 - k1))
        * integral(lambda t: beta0 * (1 - t) ** (beta0 - 1) * t**k0 * (1 - t) ** (n0 - k0))
    )


@settings(max_examples=15, deadline=None)
@given(
    matrix=st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
        lambda shape: st.lists(
            st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        )
    ),
    alpha=st.integers(1, 12),
    beta0=st.integers(1, 12),
)
def test_b4_is_the_posterior_of_every_way_to_be_right(matrix, alpha, beta0) -> None:
    n, m = len(matrix), len(matrix[0])
    brute = {}
    for size in range(1, n + 1):
        for right_rows in itertools.combinations(range(n), size):
            for right_checks in itertools.product((False, True), repeat=m):
                weight = likelihood(matrix, right_rows, right_checks, alpha=alpha, beta0=beta0)
                if weight:
                    brute[right_rows] = weight / (alpha * alpha * beta0)
    exact = {group.members: float(score) for group, score in b4_posterior(matrix, alpha=alpha, beta0=beta0).items()}
    assert exact == pytest.approx(brute, rel=1e-6)


def test_one_candidate_that_passes_all_is_chosen() -> None:
    [score] = b4_posterior([[1, 1, 1]], alpha=10, beta0=10).values()
    assert score == Fraction(1, 11) * Fraction(1, 13) * 1 * Fraction(1, 10)
    assert b4_choice([[1, 1, 1]]) == (0,)


@pytest.mark.parametrize("choose", [b4_choice, codet_choice, maxpass_choice, mbr_exec_choice])
def test_without_checks_nobody_is_better_than_another(choose) -> None:
    assert choose([[], [], []]) == (0, 1, 2)


def test_large_priors_stay_exact_and_quick() -> None:
    matrix = [[(i * j) % 7 < 3 for j in range(60)] for i in range(40)]
    posterior = b4_posterior(matrix, alpha=1_000, beta0=1_000_000)
    assert all(score > 0 for score in posterior.values())
    log = {g: math.log(s.numerator) - math.log(s.denominator) for g, s in posterior.items()}
    winner = max(log, key=lambda group: log[group])
    assert set(b4_choice(matrix, alpha=1_000, beta0=1_000_000)) == set(winner.members)


def test_level_groups_are_all_chosen() -> None:
    assert codet_choice([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]) == (
        0,
        1,
        3,
        4,
        5,
    )


@pytest.mark.parametrize(("matrix", "said"), [([], "no rows"), ([[1], [1, 0]], r"have \[1, 2\] checks")])
def test_what_is_no_matrix_is_refused(matrix, said) -> None:
    with pytest.raises(AggregationError, match=said):
        b4_choice(matrix)


def test_priors_are_whole_and_positive() -> None:
    with pytest.raises(AggregationError, match="alpha 0 and beta0 5"):
        b4_choice([[1]], alpha=0, beta0=5)
