"""The skill index: snaps any skill name to the nearest known skill, or says that none is near enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError, NotFittedError
from router_service.types import Question
from skills.base import Embedder
from skills.cached_embedder import open_embedder
from skills.neighbours import Neighbours

__all__ = ["SkillIndex", "SkillMatch"]

KIND = ArtefactKind("skill_index", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillMatch:
    """What became of one name: the known skill it stands for, None where even the nearest lies below the floor."""

    name: str
    skill: str | None
    nearest: str | None
    similarity: float | None


class SkillIndex:
    """Known skills by the embeddings of their names (Symbolic-MoE, section 3.2: the most similar validation keyword).

    `fit` learns the skills, `match` snaps names to them. A name that is a known skill matches itself with
    similarity 1 and is never embedded. Order of the fitted skills and repeats in it do not matter.
    """

    def __init__(self, embedder: Embedder | str = "minilm_onnx") -> None:
        self.embedder = open_embedder(embedder)
        self.skills_: tuple[str, ...] | None = None
        self._neighbours: Neighbours | None = None

    def fit(self, skills: Iterable[str]) -> SkillIndex:
        """Learn the known skills; names are stripped, blank ones left out. Embeds nothing until a match needs it."""
        self.skills_ = tuple(sorted({skill.strip() for skill in skills} - {""}))
        self._neighbours = None
        return self

    def fit_questions(self, questions: Sequence[Question]) -> SkillIndex:
        """Learn all skills that these questions name; `ConfigError` where none names any."""
        skills = [skill for question in questions for skill in question.skills if skill.strip()]
        if not skills:
            raise ConfigError(
                f"none of the {len(questions)} questions to fit on names a skill; give them skills "
                "(the annotator `llm` can name them), or use an annotator that needs none, such as `embedding`"
            )
        return self.fit(skills)

    def match(self, names: Sequence[str], floor: float = 0.0) -> list[SkillMatch]:
        """One match per name, in order, repeats kept; below cosine similarity `floor` the skill is None."""
        skills = self._fitted()
        known = set(skills)
        unknown = sorted({name for name in names if name.strip() not in known})
        nearest = dict(zip(unknown, self._nearest(unknown), strict=True)) if skills else {}
        return [_match(name, known, nearest=nearest.get(name), floor=floor) for name in names]

    def weights_of_each(self, names_of_each: Sequence[Sequence[str]], floor: float = 0.0) -> list[dict[str, float]]:
        """How often each list hits each known skill: two names that snap to one skill give it weight 2, as released.

        One embedding call for all lists.
        """
        matches = iter(self.match([name for names in names_of_each for name in names], floor))
        return [_weights([next(matches) for _ in names]) for names in names_of_each]

    def require_fitted(self) -> None:
        """Raise `NotFittedError` before `fit` or `load`."""
        self._fitted()

    def save(self, path: str | Path) -> None:
        """Write the fitted skills and their vectors to one file."""
        skills = self._fitted()
        fields = {"skills": list(skills), "embedder": self.embedder.fingerprint}
        KIND.save(path, fields, {"vectors": self._searchable().rows})

    def load(self, path: str | Path) -> SkillIndex:
        """Take the state that `save` wrote; returns itself. `ConfigError` where it was fitted with another embedder."""
        artefact = KIND.load(path)
        artefact.check_embedder(self.embedder.fingerprint)
        self.skills_ = tuple(artefact.fields["skills"])
        self._neighbours = Neighbours(artefact.arrays["vectors"])
        return self

    def _nearest(self, names: Sequence[str]) -> list[tuple[str, float]]:
        if not names:
            return []
        skills = self._fitted()
        similarities, rows = self._searchable().search(self.embedder.embed([name.strip() for name in names]), 1)
        return [(skills[row], float(value)) for row, value in zip(rows[:, 0], similarities[:, 0], strict=True)]

    def _searchable(self) -> Neighbours:
        if self._neighbours is None:
            self._neighbours = Neighbours(self.embedder.embed(self._fitted()))
        return self._neighbours

    def _fitted(self) -> tuple[str, ...]:
        if self.skills_ is None:
            raise NotFittedError("the skill index knows no skills yet; call fit(skills) or load(path) first")
        return self.skills_


def _weights(matches: Iterable[SkillMatch]) -> dict[str, float]:
    hits = Counter(match.skill for match in matches if match.skill is not None)
    return {skill: float(count) for skill, count in hits.items()}


def _match(name: str, known: set[str], *, nearest: tuple[str, float] | None, floor: float) -> SkillMatch:
    if name.strip() in known:
        return SkillMatch(name=name, skill=name.strip(), nearest=name.strip(), similarity=1.0)
    if nearest is None:
        return SkillMatch(name=name, skill=None, nearest=None, similarity=None)
    skill, similarity = nearest
    return SkillMatch(name=name, skill=skill if similarity >= floor else None, nearest=skill, similarity=similarity)
