"""Exact nearest rows by cosine similarity (FAISS finds, numpy confirms): the same for one query as for a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skills.base import Vectors

__all__ = ["Neighbours"]

_SPARE = 8
_DECIMALS = 6
_SLACK = 1e-5
"""Float noise between FAISS's kernels: candidates this near the last place are looked at too."""
_QUERIES_PER_BLOCK = 256


class Neighbours:
    """A flat inner-product index over unit rows.

    FAISS uses other kernels for large batches than for small ones, so that equal or nearly equal similarities could
    come out in another order. Therefore some more candidates are fetched, their similarities computed row by row and
    rounded to 6 decimals, and ties go to the earlier row.
    """

    def __init__(self, rows: Vectors) -> None:
        import faiss

        self.rows = np.ascontiguousarray(rows, dtype=np.float32)
        self._index: Any = faiss.IndexFlatIP(self.rows.shape[1])
        self._index.add(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def search(self, vectors: Vectors, k: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The `min(k, len(self))` nearest rows of each vector: similarities in [-1, 1] and row numbers, best first."""
        k = min(k, len(self))
        if k == 0 or len(vectors) == 0:
            return np.zeros((len(vectors), k)), np.zeros((len(vectors), k), dtype=np.int64)
        if len(vectors) <= _QUERIES_PER_BLOCK:
            return self._search_block(vectors, k)
        blocks = [
            self._search_block(vectors[start : start + _QUERIES_PER_BLOCK], k)
            for start in range(0, len(vectors), _QUERIES_PER_BLOCK)
        ]
        return np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks])

    def _search_block(self, vectors: Vectors, k: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        width = min(len(self), k + _SPARE)
        while True:
            similarities, rows = self._candidates(vectors, width)
            if width == len(self) or bool((similarities[:, -1] < similarities[:, k - 1] - _SLACK).all()):
                return similarities[:, :k], rows[:, :k]
            width = min(len(self), 2 * width)

    def _candidates(self, vectors: Vectors, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        _, rows = self._index.search(np.ascontiguousarray(vectors, dtype=np.float32), width)
        similarities = np.einsum("nkd,nd->nk", self.rows[rows], vectors).astype(np.float64)
        similarities = np.minimum(np.maximum(np.round(similarities, _DECIMALS), -1.0), 1.0)
        order = np.lexsort((rows, -similarities), axis=1)
        of_each = np.arange(len(rows))[:, None]  # plain indexing: for one query the numpy helpers cost more than all
        return similarities[of_each, order], rows[of_each, order]
