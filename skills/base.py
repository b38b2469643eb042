"""The contracts of the skills room: embedders turn texts into vectors, annotators queries into the skills they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from router_service.plugins import Registry
from router_service.types import Ask, Query, Question, SkillAnnotation

__all__ = ["ANNOTATORS", "EMBEDDERS", "Annotator", "Embedder", "Vectors"]

Vectors = npt.NDArray[np.float32]
"""A float32 matrix of unit rows, one per text: shape (texts, dimension)."""


@runtime_checkable
class Annotator(Protocol):
    """Says what a query needs. Learned annotators are estimators: `fit`, `save` and `load` besides."""

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        """One annotation per query, in order; `ask` calls an LLM where the annotator needs one."""
        ...

    def fit(self, questions: Sequence[Question]) -> Annotator:
        """Learn from questions whose skills are known; an annotator with nothing to learn returns itself."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into unit vectors whose dot product says how alike the texts are. Safe to share between threads."""

    @property
    def dimension(self) -> int:
        """The length of every vector."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vector of some text would change; saved artefacts remember it."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One unit row per text, in order; a row never depends on the other texts (beyond 1e-5 where texts are padded).

        Any text has a row, the empty one too; what exceeds the embedder's reach is cut off at the end.
        """
        ...


ANNOTATORS: Registry[Annotator] = Registry("annotator", "skills.annotators")
EMBEDDERS: Registry[Embedder] = Registry("embedder", "skills.embedders")
