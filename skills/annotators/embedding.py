"""The annotator without an LLM: a query needs what the most similar fitted questions needed."""

from __future__ import annotations

import asyncio
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError, NotFittedError
from router_service.types import Ask, Query, Question, SkillAnnotation
from skills.base import ANNOTATORS, Embedder, Vectors
from skills.cached_embedder import open_embedder
from skills.neighbours import Neighbours
from skills.texts import question_text

__all__ = ["Embedding"]

KIND = ArtefactKind("embedding_annotator", 1)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of one fitted question."""

    id: str
    skills: tuple[str, ...]
    category: str | None


@ANNOTATORS.register("embedding")
@dataclass(kw_only=True)
class Embedding:
    """Nearest fitted questions by cosine similarity; each lends its skills and its category, the nearest the most.

    A neighbour's weight is a softmax over the neighbours' similarities: `exp(similarity / temperature)`, normalised to
    1 over those at or above the floor; a skill's weight is the sum over the neighbours that have it, so it lies in
    [0, 1]. Novelty is 1 minus the similarity of the nearest question, in [0, 1]. Order of the fitted questions does not
    matter: equally near ones are taken by id.
    """

    annotates_alone: ClassVar[bool] = True
    """It never calls `ask`, so that equal ones can work on other machines."""
    embedder: Embedder | str = "minilm_onnx"
    """An `Embedder`, or the name of a registered one."""
    neighbours: int = 8
    """How many fitted questions are looked at."""
    temperature: float = 0.1
    """Of the softmax: small trusts the nearest question alone, large all of them alike."""
    floor: float = 0.0
    """Cosine similarity below which a fitted question says nothing; where none is left, there are no skills."""
    max_skills: int = 10
    """The heaviest skills are kept, the rest dropped; equal weights by name."""
    questions_: tuple[_Seen, ...] | None = field(init=False, default=None, repr=False)
    _index: Neighbours | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.max_skills < 1 or self.temperature <= 0.0 or not -1.0 <= self.floor <= 1.0:
            raise ConfigError(
                f"embedding annotator: neighbours={self.neighbours}, max_skills={self.max_skills}, "
                f"temperature={self.temperature}, floor={self.floor}; needed: neighbours and max_skills 1 or more, "
                "temperature above 0, floor in [-1, 1]"
            )
        self._embedder = open_embedder(self.embedder)

    def fit(self, questions: Sequence[Question]) -> Embedding:
        """Embed and keep the questions; `ConfigError` where there is none."""
        if not questions:
            raise ConfigError("the embedding annotator needs at least one question to fit on; none was given")
        ordered = sorted(questions, key=lambda question: (question.id, question.text, question.skills))
        vectors = self._embedder.embed([question.text for question in ordered])
        self.questions_ = tuple(_Seen(q.id, tuple(dict.fromkeys(q.skills)), q.category) for q in ordered)
        self._index = Neighbours(vectors)
        return self

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        """One annotation per query, in order: one embedding call and one search for all; never calls `ask`."""
        self._fitted()
        return await asyncio.to_thread(self._annotate, queries) if queries else []

    def annotations(self, queries: Sequence[Query], vectors: Vectors) -> list[SkillAnnotation]:
        """What `annotate` makes of queries whose texts are embedded already: `vectors` has a row for each."""
        seen, index = self._fitted()
        similarities, rows = index.search(vectors, self.neighbours)
        return [
            self._annotation(query.id, vector, near=near, found=[seen[row] for row in found])
            for query, vector, near, found in zip(queries, vectors, similarities, rows.tolist(), strict=True)
        ]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The texts' vectors as annotations carry them: shape (texts, dimension)."""
        return self._embedder.embed(texts)

    @property
    def embedder_fingerprint(self) -> str:
        """The fingerprint of the embedder whose vectors annotations carry."""
        return self._embedder.fingerprint

    def save(self, path: str | Path) -> None:
        """Write the fitted questions' ids, skills, categories and vectors to one file."""
        seen, index = self._fitted()
        questions = [[question.id, list(question.skills), question.category] for question in seen]
        fields = {"questions": questions, "embedder": self._embedder.fingerprint}
        KIND.save(path, fields, {"vectors": index.rows})

    def load(self, path: str | Path) -> Embedding:
        """Take the state that `save` wrote; returns itself. Loads the embedder too, so that what it lacks shows now."""
        artefact = KIND.load(path)
        artefact.check_embedder(self._embedder.fingerprint)
        self._embedder.embed(["ready"])
        self.questions_ = tuple(_Seen(key, tuple(skills), group) for key, skills, group in artefact.fields["questions"])
        self._index = Neighbours(artefact.arrays["vectors"])
        return self

    def _fitted(self) -> tuple[tuple[_Seen, ...], Neighbours]:
        if self.questions_ is None or self._index is None:
            raise NotFittedError("the embedding annotator is not fitted; call fit(questions) or load(path) first")
        return self.questions_, self._index

    def _annotate(self, queries: Sequence[Query]) -> list[SkillAnnotation]:
        return self.annotations(queries, self._embedder.embed([question_text(query) for query in queries]))

    def _annotation(
        self, query_id: str, vector: Vectors, *, near: npt.NDArray[np.float64], found: Sequence[_Seen]
    ) -> SkillAnnotation:
        close = near[near >= self.floor]  # sorted, so the first len(close) of `found`
        raw = np.exp((close - near[0]) / self.temperature)
        weights = (raw / raw.sum()).tolist() if len(close) else []
        skills = _summed(
            (skill, weight) for question, weight in zip(found, weights, strict=False) for skill in question.skills
        )
        categories = _summed((q.category, weight) for q, weight in zip(found, weights, strict=False) if q.category)
        return SkillAnnotation(
            query_id=query_id,
            skills=dict(list(skills.items())[: self.max_skills]),
            category=next(iter(categories), None),
            novelty=min(max(1.0 - float(near[0]), 0.0), 1.0),
            annotator="embedding",
            embedding=array("f", vector.tobytes()),
            nearest=tuple((q.id, similarity) for q, similarity in zip(found, close.tolist(), strict=False)),
        )


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Weights added up per name, heaviest first, equal ones by name."""
    sums: dict[str, float] = defaultdict(float)
    for name, weight in pairs:
        sums[name] += weight
    return dict(sorted(sums.items(), key=lambda item: (-round(item[1], 9), item[0])))
