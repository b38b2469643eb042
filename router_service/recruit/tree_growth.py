"""Grows a tree of queries: split where experts' leads differ, and pruned of what cross-validation does not want."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.embedded import Vectors32
from router_service.recruit.strength import Floats

__all__ = ["GrownTree", "expert_leads", "grow_tree"]

_FOLDS = 5
_SEED = 0
_LEAF = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownTree:
    """`nodes` are rows of (feature, left child, right child, leaf number), feature -1 for a leaf; a query goes left
    where its feature is at most the node's threshold. The root is node 0."""

    nodes: NDArray[np.int64]
    thresholds: Floats

    @classmethod
    def root(cls) -> GrownTree:
        """The tree of depth 0."""
        return cls(nodes=np.array([[_LEAF, 0, 0, 0]]), thresholds=np.zeros(1))

    @property
    def n_leaves(self) -> int:
        """The number of leaves."""
        return int((self.nodes[:, 0] == _LEAF).sum())

    def leaves(self, rows: Vectors32) -> NDArray[np.int64]:
        """The leaf of each row of features."""
        place = np.zeros(len(rows), dtype=np.int64)
        while True:
            feature = self.nodes[place, 0]
            active = np.flatnonzero(feature != _LEAF)
            if not len(active):
                return np.asarray(self.nodes[place, 3])
            here = place[active]
            is_left = rows[active, feature[active]] <= self.thresholds[here]
            place[active] = np.where(is_left, self.nodes[here, 1], self.nodes[here, 2])

    def path(self, row: Vectors32) -> list[tuple[int, float, bool]]:
        """The splits that one row of features, shape (1, features), passes: feature, threshold, is it on the left."""
        place, steps = 0, []
        while self.nodes[place, 0] != _LEAF:
            feature, left, right, _ = (int(value) for value in self.nodes[place])
            is_left = bool(row[0, feature] <= self.thresholds[place])
            steps.append((feature, float(self.thresholds[place]), is_left))
            place = left if is_left else right
        return steps


def expert_leads(grades: Floats) -> Floats:
    """Grades (questions, experts) less the mean of whoever was asked, NaN where not: what tells experts apart, easy
    questions from hard ones does not."""
    is_asked = ~np.isnan(grades)
    means = np.where(is_asked, grades, 0.0).sum(axis=1) / np.maximum(is_asked.sum(axis=1), 1)
    return np.asarray(grades - means[:, None])


def grow_tree(rows: Vectors32, grades: Floats, *, min_leaf: int, max_depth: int) -> GrownTree:
    """The tree of these questions' features (questions, features) and grades (questions, experts).

    It is grown to the full on the experts' leads by squared error (CART), then pruned by cost complexity, the price of
    a split being the greatest whose cross-validated error is within one standard error, question by question, of the
    least (Breiman et al., "Classification and Regression Trees", section 3.4).
    """
    is_answered = ~np.isnan(grades).all(axis=1)
    rows, leads = rows[is_answered], expert_leads(grades[is_answered])
    if max_depth == 0 or len(rows) < 2 * min_leaf or grades.shape[1] < 2:
        return GrownTree.root()
    made = _Maker(rows, leads, min_leaf=min_leaf, max_depth=max_depth)
    prices = made.prices()
    errors = np.array([made.errors(price) for price in prices])
    best = errors.mean(axis=1).argmin()
    for price, own in zip(prices[::-1], errors[::-1], strict=True):
        excess = own - errors[best]
        if excess.mean() <= excess.std() / np.sqrt(len(excess)):
            return _as_arrays(made.fitted(slice(None), price))
    raise AssertionError("the best price is within 0 of itself")


class _Maker:
    """Makes trees of one set of questions at different prices of a split."""

    def __init__(self, rows: Vectors32, leads: Floats, *, min_leaf: int, max_depth: int) -> None:
        self._rows = rows
        self._leads = leads
        known = ~np.isnan(leads)
        means = np.where(known, leads, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        self._filled = np.where(known, leads, means)  # who was not asked is as good as ever, and moves no split
        self._limits = {"min_samples_leaf": min_leaf, "max_depth": max_depth, "random_state": _SEED}
        self._fold_of = np.random.default_rng(_SEED).permutation(len(rows)) % _FOLDS

    def fitted(self, chosen: Any, price: float) -> Any:
        """The tree of the chosen questions at this price."""
        from sklearn.tree import DecisionTreeRegressor

        model = DecisionTreeRegressor(**self._limits, ccp_alpha=price)
        return model.fit(self._rows[chosen], self._filled[chosen])

    def prices(self) -> Floats:
        """One price for each tree that pruning passes through, from the full one to the root alone."""
        from sklearn.tree import DecisionTreeRegressor

        path = DecisionTreeRegressor(**self._limits).cost_complexity_pruning_path(self._rows, self._filled)
        steps = np.maximum(path.ccp_alphas, 0.0)
        return np.append(np.sqrt(steps[:-1] * steps[1:]), 2 * steps[-1] + 1e-9)

    def errors(self, price: float) -> Floats:
        """The squared error of each question's leads, mean over the experts asked, by the trees that did not see it."""
        found = np.zeros(len(self._rows))
        for fold in range(_FOLDS):
            is_held = self._fold_of == fold
            if is_held.any() and not is_held.all():
                guess = self.fitted(~is_held, price).predict(self._rows[is_held])
                found[is_held] = np.nanmean((self._leads[is_held] - guess) ** 2, axis=1)
        return found


def _as_arrays(model: Any) -> GrownTree:
    tree = model.tree_
    is_leaf = tree.children_left < 0
    numbers = np.where(is_leaf, np.cumsum(is_leaf) - 1, 0)
    features = np.where(is_leaf, _LEAF, tree.feature)
    children = [np.where(is_leaf, 0, side) for side in (tree.children_left, tree.children_right)]
    nodes = np.stack([features, *children, numbers], axis=1).astype(np.int64)
    return GrownTree(nodes=nodes, thresholds=np.where(is_leaf, 0.0, tree.threshold).astype(np.float64))
