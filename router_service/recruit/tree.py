"""Recruiter `tree`: a small decision tree over queries, with the experts' success in each of its leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData, RecruitRequest
from router_service.recruit.clusters import cluster_rates
from router_service.recruit.embedded import EmbeddingRecruiter, Vectors32, base_rates, graded_lesson
from router_service.recruit.roster import Case, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.scoring import embedding_rows
from router_service.recruit.strength import CATEGORY_WEIGHT, Floats
from router_service.recruit.tree_features import TreeFeatures
from router_service.recruit.tree_growth import GrownTree, grow_tree
from skills.texts import question_text

__all__ = ["Tree"]


@RECRUITERS.register("tree")
class Tree(EmbeddingRecruiter):
    """Expertise Trees ("Expertise Trees Resolve Knowledge Limitations in Collective Decision-Making": part the contexts
    by a tree, weigh the experts in each leaf, split only where it helps).

    Queries are split by the `components` first principal components of their embeddings, their length and their
    category, so that the experts' leads over each other differ most between the parts. A leaf holds `min_leaf` fit
    questions or more, and of the trees up to `max_depth` deep the simplest is kept that cross-validation cannot tell
    from the best (`grow_tree`). An expert's score is its success in the query's leaf, its overall rate counting for as
    many trials as in a category; it is also its P(correct). Depth 0 is the best single expert.

    Otherwise than the paper, where trees grow online as bandit feedback comes in, this is fitted once on graded
    answers of all experts.
    """

    name: ClassVar[str] = "tree"
    scores_jointly = True
    """The splits are those that part the whole pool best."""

    def __init__(self, *, k: int = 1, components: int = 8, min_leaf: int = 20, max_depth: int = 5) -> None:
        limits = (("components", components, 0), ("min_leaf", min_leaf, 1), ("max_depth", max_depth, 0))
        for option, value, least in limits:
            if value < least:
                raise ConfigError(f"recruiter {self.name!r}: {option} is {value}; it is {least} or more")
        super().__init__(k=k)
        self.components = components
        self.min_leaf = min_leaf
        self.max_depth = max_depth

    def explain(self, request: RecruitRequest) -> list[str]:
        """The splits that the query passes, and how many fit questions are like it in that."""
        self._require_fitted()
        vectors = embedding_rows([request.annotation], self.dimension_).astype(np.float32)
        if np.isnan(vectors).any():
            return []
        row = self._rows([request], vectors)
        tightest = {(column, is_left): threshold for column, threshold, is_left in self.tree_.path(row)}
        said = [
            self.features_.condition(column, threshold, is_below=is_left)
            for (column, is_left), threshold in tightest.items()
        ]
        support = int(self.support_[self.tree_.leaves(row)[0]])
        if not said:
            return [f"no split of the {support} fit questions helps, so experts are judged by all of them"]
        return [f"{'; '.join(said)}: {support} fit questions are like that"]

    def _learn(self, data: FitData, roster: Roster) -> None:
        lesson = graded_lesson(data, name=self.name)
        categories = [data.annotations[question_id].category for question_id in lesson.ids]
        is_worded = all(question_id in data.questions for question_id in lesson.ids)
        lengths = [len(data.questions[question_id].text) if is_worded else 0 for question_id in lesson.ids]
        features = TreeFeatures.learn(lesson.vectors, categories, components=self.components)
        rows = features.rows(lesson.vectors, lengths, categories)
        tree = grow_tree(rows, lesson.grades, min_leaf=self.min_leaf, max_depth=self.max_depth)
        leaves = tree.leaves(rows)
        base = base_rates(roster, lesson.grades)
        self.rates_ = cluster_rates(lesson.grades, leaves, base=base, prior_trials=CATEGORY_WEIGHT).T
        self.support_ = np.bincount(leaves, minlength=tree.n_leaves)
        self._take(features, tree)

    def _take(self, features: TreeFeatures, tree: GrownTree) -> None:
        self.features_, self.tree_ = features, tree
        self.dimension_ = len(features.mean)

    def _learned(self) -> Learned:
        features, tree = self.features_, self.tree_
        arrays = {"mean": features.mean, "axes": features.axes, "nodes": tree.nodes, "thresholds": tree.thresholds}
        return Learned(
            values={"categories": list(features.categories)},
            arrays={**arrays, "rates": self.rates_, "support": self.support_},
        )

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        arrays, categories = learned.arrays, tuple(learned.values["categories"])
        self.rates_, self.support_ = arrays["rates"], arrays["support"]
        features = TreeFeatures(mean=arrays["mean"], axes=arrays["axes"], categories=categories)
        self._take(features, GrownTree(nodes=arrays["nodes"], thresholds=arrays["thresholds"]))

    def _rows(self, requests: Sequence[RecruitRequest], vectors: Vectors32) -> Vectors32:
        """The features of queries; the length, which takes reading the text, only where the tree asks for it."""
        is_asked = bool((self.tree_.nodes[:, 0] == self.features_.length_column).any())
        lengths = [len(question_text(request.query)) if is_asked else 0 for request in requests]
        return self.features_.rows(vectors, lengths, [request.annotation.category for request in requests])

    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        rows = self._rows([case.request for case in cases], vectors)
        scores = np.asarray(self.rates_[self.tree_.leaves(rows)])
        return scores, np.where(roster.table.has_profile, scores, np.nan)
