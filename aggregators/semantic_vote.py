"""Semantic vote: free-form answers are gathered by meaning, the largest group wins, its most typical text speaks."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aggregators.ballot import answer_of, gather_votes
from aggregators.base import AGGREGATORS
from aggregators.differences import ordinary_words
from aggregators.equivalence import AnswerGroup, held_answer
from aggregators.semantics import DEFAULT_THRESHOLD, cluster, same_meanings, similarities
from router_service.errors import ConfigError, NotFittedError
from router_service.types import Answer, AnswerKind, Ask, Completion, EmbedTexts, FitData, Panel, TaskFormat

__all__ = ["SemanticVote"]

_NAME = "semantic_vote"
_MAX_EMBEDDED_CHARS = 4000
"""Of a longer answer its beginning is embedded; embedders read no more anyway."""


@AGGREGATORS.register(_NAME)
class SemanticVote:
    """A plurality vote for free-form answers that are the same in meaning, not only in words.

    Answers are one where, in this order: they have the same key (`equivalence.canonical`: equal quantities, equal
    words), are equal formulas (math-verify, where installed), or have embeddings at least `threshold` near and nothing
    decisive in which they differ (`semantics`). Embeddings come from the embedder of the annotator that the engine is
    set up with; without one (`FitData.embed` is None) the first two levels are all there is. Answers of any other kind
    than free are voted on as `majority` does.

    The text is that of the group's medoid, the member whose embedding is nearest to the others' on average, the
    earliest where level or where there are no embeddings. Confidence is the agreement.
    """

    keeps_text = True
    needs_embedder = True

    def __init__(self, *, threshold: float = DEFAULT_THRESHOLD) -> None:
        """`threshold` is the cosine from which two answers may be one."""
        if not 0.0 < threshold <= 1.0:
            raise ConfigError(f"aggregator {_NAME!r}: threshold is {threshold}; it is a cosine, above 0 up to 1")
        self.threshold = threshold
        self.embed_: EmbedTexts | None = None
        self._is_fitted = False

    def fit(self, data: FitData) -> SemanticVote:
        """Take the embedder, where there is one; returns itself."""
        self.embed_, self._is_fitted = data.embed, True
        return self

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer of the largest group; a tie goes to the one that came earliest."""
        if not self._is_fitted:
            raise NotFittedError(f"aggregator {_NAME!r} is not fitted; `fit` gives it the embedder of its fit data")
        groups = await gather_votes(panel)
        if panel.query.task_format.kind is AnswerKind.FREE and len(groups) > 1:
            groups = await asyncio.to_thread(self._gathered, panel, groups)
        winner = max(groups, key=lambda group: len(group.members))
        return answer_of(panel, winner, aggregator=_NAME, confidence=len(winner.members) / len(panel.members))

    def _gathered(self, panel: Panel, groups: Sequence[AnswerGroup]) -> tuple[AnswerGroup, ...]:
        """The groups of equal answers joined by meaning, each with its medoid in front; tool calls stay by themselves.

        The earliest group comes first.
        """
        spoken = [group for group in groups if not group.first.tool_calls]
        texts = [_said(group.first) for group in spoken]
        near, meanings = None, frozenset[tuple[int, int]]()
        if self.embed_ is not None and len(texts) > 1:
            near = similarities(self.embed_([text[:_MAX_EMBEDDED_CHARS] for text in texts]))
            ordinary = ordinary_words([*texts, panel.query.text])
            meanings = same_meanings(texts, near, embed=self.embed_, threshold=self.threshold, ordinary=ordinary)
        found = cluster(texts, meanings, near)
        place_of = {id(member): place for place, member in enumerate(panel.members)}
        joined = [_merged([(place, spoken[place]) for place in places], near, place_of) for places in found]
        joined += [group for group in groups if group.first.tool_calls]
        return tuple(sorted(joined, key=lambda group: min(place_of[id(member)] for member in group.members)))


def _merged(
    parts: Sequence[tuple[int, AnswerGroup]], near: NDArray[np.float64] | None, place_of: Mapping[int, int]
) -> AnswerGroup:
    """One group of several: the medoid's first member in front, the others in the panel's order behind it."""
    sizes = {place: len(group.members) for place, group in parts}

    def nearness(place: int) -> float:
        return 0.0 if near is None else math.fsum(size * near[place, other] for other, size in sizes.items())

    def rank(part: tuple[int, AnswerGroup]) -> tuple[float, int]:
        return -nearness(part[0]), place_of[id(part[1].first)]

    medoid = min(parts, key=rank)[1]
    members = sorted((m for _, group in parts for m in group.members), key=lambda m: place_of[id(m)])
    others = tuple(member for member in members if member is not medoid.first)
    return AnswerGroup(key=medoid.key, members=(medoid.first, *others))


def _said(completion: Completion) -> str:
    return held_answer(completion, TaskFormat()) or ""
