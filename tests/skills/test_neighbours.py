"""Nearest rows: exact, ties by row, the same for one query as for many."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skills.neighbours import Neighbours


def unit_rows(seed: int, count: int, copies: int = 1) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.tile(rows, (copies, 1))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), count=st.integers(1, 12), copies=st.integers(1, 6), k=st.integers(1, 40))
def test_exact_and_the_same_for_singles_whatever_the_ties(seed, count, copies, k):
    rows, queries = unit_rows(seed, count, copies), unit_rows(seed + 1, 30)
    queries[:3] = rows[0]
    index = Neighbours(rows)
    similarities, found = index.search(queries, k)
    exact = np.round(queries.astype(np.float64) @ rows.T.astype(np.float64), 6)
    assert found.shape == (30, min(k, len(rows)))
    for query in range(30):
        assert np.allclose(similarities[query], np.sort(exact[query])[::-1][:k], atol=2e-6)
        one_similarity, one_row = index.search(queries[query : query + 1], k)
        assert np.array_equal(one_row[0], found[query])
        assert np.array_equal(one_similarity[0], similarities[query])
        pairs = list(zip(-similarities[query], found[query], strict=True))
        assert pairs == sorted(pairs)


def test_a_row_finds_itself_with_similarity_one():
    rows = unit_rows(5, 300)
    similarities, found = Neighbours(rows).search(rows, 1)
    assert np.array_equal(found[:, 0], np.arange(300))
    assert (similarities == 1.0).all()


def test_no_rows_and_no_queries():
    empty = Neighbours(np.zeros((0, 8), dtype=np.float32))
    assert empty.search(unit_rows(0, 2), 3)[0].shape == (2, 0)
    assert Neighbours(unit_rows(0, 4)).search(np.zeros((0, 8), dtype=np.float32), 3)[1].shape == (0, 3)
