"""The annotator for skills that are known already: read from the query's metadata and snapped to the fitted ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from router_service.errors import ConfigError
from router_service.types import Ask, Query, Question, SkillAnnotation
from skills.annotators.embedding import Embedding
from skills.base import ANNOTATORS, Embedder, Vectors
from skills.index import SkillIndex

__all__ = ["Recorded"]


@ANNOTATORS.register("recorded")
@dataclass(kw_only=True)
class Recorded:
    """Skills from `metadata["skills"]`, a JSON list of names, each snapped to the nearest fitted skill.

    A skill's weight is how many recorded names snapped to it. Metadata without the key, or with something else than a
    JSON list of texts, gives no skills: checking what callers send is the doors' task, and one query must not fail a
    batch.
    """

    annotates_alone: ClassVar[bool] = True
    """It never calls `ask`, so that equal ones can work on other machines."""
    embedder: Embedder | str = "minilm_onnx"
    """Used for names that are no fitted skill; an `Embedder`, or the name of a registered one."""
    floor: float = 0.0
    """Cosine similarity below which a name snaps to no skill."""
    embeds: bool = False
    """Whether queries are embedded too, for what recruits by embeddings: embedding, category, novelty and nearest
    questions are then those of the annotator `embedding`."""
    questions_: Embedding | None = field(init=False, default=None, repr=False)
    index_: SkillIndex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not -1.0 <= self.floor <= 1.0:
            raise ConfigError(f"recorded annotator: floor={self.floor}; a cosine similarity lies between -1 and 1")
        self.index_ = SkillIndex(self.embedder)

    def fit(self, questions: Sequence[Question]) -> Recorded:
        """Learn which skills there are: all that the questions name. `ConfigError` where none names any."""
        self.index_.fit_questions(questions)
        if self.embeds:
            self.questions_ = Embedding(embedder=self.index_.embedder).fit(questions)
        return self

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The texts' vectors as annotations carry them: shape (texts, dimension)."""
        return self.index_.embedder.embed(texts)

    @property
    def embedder_fingerprint(self) -> str:
        """The fingerprint of the embedder whose vectors annotations carry."""
        return self.index_.embedder.fingerprint

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        """One annotation per query, in order; never calls `ask`."""
        names = [_recorded_names(query) for query in queries]
        found = await asyncio.to_thread(self.index_.weights_of_each, names, self.floor)
        bare = [SkillAnnotation(query_id=query.id) for query in queries]
        embedded = bare if self.questions_ is None else await self.questions_.annotate(queries, ask=ask)
        return [
            replace(annotation, skills=skills, annotator="recorded")
            for annotation, skills in zip(embedded, found, strict=True)
        ]

    def save(self, path: str | Path) -> None:
        """Write the fitted skills to one file; with `embeds` the questions to another beside it."""
        self.index_.save(path)
        if self.questions_ is not None:
            self.questions_.save(_questions_path(path))

    def load(self, path: str | Path) -> Recorded:
        """Take the state that `save` wrote; returns itself."""
        self.index_.load(path)
        if self.embeds:
            self.questions_ = Embedding(embedder=self.index_.embedder).load(_questions_path(path))
        return self


def _questions_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".questions.npz")


def _recorded_names(query: Query) -> list[str]:
    try:
        names = json.loads(query.metadata.get("skills", "[]"))
    except (ValueError, TypeError, RecursionError):
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    return [name for name in names if name.strip()]
