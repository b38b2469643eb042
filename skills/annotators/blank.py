"""The annotator that says nothing: for recruiters that need no skills and for calls to one expert."""

from __future__ import annotations

from collections.abc import Sequence

from router_service.types import Ask, Query, Question, SkillAnnotation
from skills.base import ANNOTATORS

__all__ = ["Blank"]


@ANNOTATORS.register("blank")
class Blank:
    """No skills, no category, no embedding; free, and nothing to fit."""

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        """An empty annotation per query; never calls `ask`."""
        return [SkillAnnotation(query_id=query.id, annotator="blank") for query in queries]

    def fit(self, questions: Sequence[Question]) -> Blank:
        """Nothing to learn; returns itself."""
        return self
