"""What is learned from: the pool, its profiles and the graded outcomes. Import it from `router_service.types`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from router_service._types_asked import Question
from router_service._types_experts import Expert, Profile
from router_service._types_results import Outcome, SkillAnnotation

__all__ = ["EmbedTexts", "FitData"]


class EmbedTexts(Protocol):
    """Turns texts into unit vectors, the same ones that annotations carry: shape (texts, dimension)."""

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One row per text, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitData:
    """All that recruiters and aggregators may learn from; who needs more than is there says clearly what is missing.

    `annotations` and `questions` are keyed by question id. Annotations hold embeddings only for recruiters that say
    `needs_embeddings`; `embed` makes more of them, and is None where no embedder is at hand; who wants nothing but it
    says `needs_embedder`. `chances` is there for who says `needs_chances`: by question id the P(correct) of every
    expert, in the order of `experts`, as the other questions let one expect.
    """

    experts: tuple[Expert, ...]
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = ()
    annotations: Mapping[str, SkillAnnotation] = field(default_factory=dict)
    questions: Mapping[str, Question] = field(default_factory=dict)
    chances: Mapping[str, Sequence[float]] = field(default_factory=dict)
    embed: EmbedTexts | None = field(default=None, repr=False, compare=False)
