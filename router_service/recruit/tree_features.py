"""What a decision tree over queries looks at: principal components of the embedding, the length, the category."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router_service.recruit.embedded import Vectors32
from router_service.recruit.strength import Floats

__all__ = ["TreeFeatures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeFeatures:
    """`mean` (dimension,) and `axes` (components, dimension) of the fit questions' embeddings, and their categories.

    Features stand in this order: the components, the logarithm of 1 + the letters of the text, and for each category 1
    where it is the query's.
    """

    mean: Floats
    axes: Floats
    categories: tuple[str, ...]

    @classmethod
    def learn(cls, vectors: Vectors32, categories: Sequence[str | None], *, components: int) -> TreeFeatures:
        """The features of these fit questions; fewer components where the questions do not span so many."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        count = min(components, len(vectors) - 1, vectors.shape[1])
        _, _, axes = np.linalg.svd(vectors - mean, full_matrices=False)
        known = tuple(sorted({category for category in categories if category is not None}))
        return cls(mean=mean, axes=np.ascontiguousarray(axes[: max(0, count)]), categories=known)

    @property
    def length_column(self) -> int:
        """The column of the text's length."""
        return len(self.axes)

    def rows(self, vectors: Vectors32, lengths: Sequence[int], categories: Sequence[str | None]) -> Vectors32:
        """The features of queries, shape (queries, features); float32, the precision trees are grown in."""
        found = np.zeros((len(vectors), len(self.axes) + 1 + len(self.categories)), dtype=np.float32)
        found[:, : len(self.axes)] = np.einsum("bd,cd->bc", vectors - self.mean, self.axes)
        column_of = {category: len(self.axes) + 1 + number for number, category in enumerate(self.categories)}
        for row, (length, category) in enumerate(zip(lengths, categories, strict=True)):
            found[row, self.length_column] = math.log1p(length)
            if category in column_of:
                found[row, column_of[category]] = 1.0
        return found

    def condition(self, column: int, threshold: float, *, is_below: bool) -> str:
        """In words, what holds on one side of a split."""
        if column < self.length_column:
            return f"component {column + 1} of its embedding is {'at most' if is_below else 'above'} {threshold:.3f}"
        if column == self.length_column:
            return f"it has {'at most' if is_below else 'more than'} {math.floor(math.expm1(threshold)):,} letters"
        return f"its category is {'not ' if is_below else ''}{self.categories[column - self.length_column - 1]!r}"
