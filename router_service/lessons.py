"""What the parts of an engine learn from: an artefact's questions and outcomes, embedded only for who needs that."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

from aggregators.base import Aggregator, LearnedAggregator
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service import __version__
from router_service.recruit.chances import Chances
from router_service.recruit.kept import Origin, pool_digest
from router_service.types import FitData, SkillAnnotation
from skills.base import Annotator, Vectors

__all__ = ["EmbeddingAnnotator", "Lessons", "fit_data"]

A = TypeVar("A", bound=Aggregator)


@runtime_checkable
class EmbeddingAnnotator(Protocol):
    """An annotator whose annotations carry embeddings, and that embeds any text alike.

    Where it also says which embedder makes them (`embedder_fingerprint`), recruiters fitted on them can be kept.
    """

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit row per text, shape (texts, dimension)."""
        ...


def fit_data(pool: Pool, artefact: Artefact | None) -> FitData:
    """What a pool and its artefact teach: annotations hold the skills and categories that the questions name."""
    if artefact is None:
        return FitData(experts=pool.experts)
    annotations = {
        question.id: SkillAnnotation(
            query_id=question.id,
            skills=dict.fromkeys(question.skills, 1.0),
            category=question.category,
            annotator="recorded",
        )
        for question in artefact.questions
    }
    return FitData(
        experts=pool.experts,
        profiles=artefact.profiles,
        outcomes=tuple(artefact.outcomes),
        annotations=annotations,
        questions={question.id: question for question in artefact.questions},
    )


class Lessons:
    """The fit data of one engine; questions are embedded once, when the first part needs it. Safe between threads."""

    def __init__(self, pool: Pool, artefact: Artefact | None, annotator: Annotator) -> None:
        self.plain = fit_data(pool, artefact)
        self._artefact = artefact
        self._annotator = annotator
        self._embedding = threading.Lock()
        self._embedded: FitData | None = None

    def for_part(self, part: object) -> FitData:
        """What this recruiter or aggregator learns from."""
        if getattr(part, "needs_chances", False):
            return self.with_chances
        if getattr(part, "needs_embedder", False):
            return self.with_embedder
        return self.embedded if _needs_embeddings(part) else self.plain

    def taught(self, aggregator: Any) -> Any:
        """The aggregator, fitted where it learns."""
        return aggregator.fit(self.for_part(aggregator)) if isinstance(aggregator, LearnedAggregator) else aggregator

    def origin(self, part: object) -> Origin | None:
        """What says whether this part, fitted before, would learn the same now; None where nothing can."""
        embedder = getattr(self._annotator, "embedder_fingerprint", None) if _needs_embeddings(part) else None
        if self._artefact is None or (_needs_embeddings(part) and embedder is None):
            return None
        experts = pool_digest(self.plain.experts)
        return Origin(artefact=self._version, experts=experts, embedder=embedder, enlist=__version__)

    @property
    def embedded(self) -> FitData:
        """The fit data with embeddings such as the annotator's annotations carry; the plain one where it makes none."""
        with self._embedding:
            if self._embedded is None:
                self._embedded = self._embed()
            return self._embedded

    @cached_property
    def with_embedder(self) -> FitData:
        """The fit data with the annotator's embedder, where it has one, and no question embedded."""
        annotator = self._annotator
        if not isinstance(annotator, EmbeddingAnnotator):
            return self.plain
        return replace(self.plain, embed=annotator.embed)  # type: ignore[arg-type]

    @cached_property
    def with_chances(self) -> FitData:
        """The fit data with what one would have expected of every expert on every question."""
        data = self.embedded
        if not data.outcomes:
            return data
        chances = Chances.fit(data, name="P(correct)")
        rows = chances.left_out().tolist()
        return replace(data, chances=dict(zip(chances.evidence.question_ids, rows, strict=True)))

    @cached_property
    def _version(self) -> str:
        return "" if self._artefact is None else self._artefact.version

    def _embed(self) -> FitData:
        annotator, plain = self._annotator, self.plain
        if not isinstance(annotator, EmbeddingAnnotator):
            return plain
        texts = [plain.questions[question_id].text for question_id in plain.annotations]
        vectors = annotator.embed(texts) if texts else ()
        annotations = {
            question_id: replace(annotation, embedding=array("f", vector.tobytes()))
            for (question_id, annotation), vector in zip(plain.annotations.items(), vectors, strict=True)
        }
        return replace(plain, annotations=annotations, embed=annotator.embed)  # type: ignore[arg-type]


def _needs_embeddings(part: object) -> bool:
    return bool(getattr(part, "needs_embeddings", False))
