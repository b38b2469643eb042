"""The annotator's contract: queries in, the skills each one needs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from router_service.plugins import Registry
from router_service.types import Ask, Query, Question, SkillAnnotation

__all__ = ["ANNOTATORS", "Annotator"]


@runtime_checkable
class Annotator(Protocol):
    """Says what a query needs. Learned annotators are estimators: `fit`, `save` and `load` besides."""

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        """One annotation per query, in order; `ask` calls an LLM where the annotator needs one."""
        ...

    def fit(self, questions: Sequence[Question]) -> Annotator:
        """Learn from questions whose skills are known; an annotator with nothing to learn returns itself."""
        ...


ANNOTATORS: Registry[Annotator] = Registry("annotator", "skills.annotators")
