"""Skill families: many fine skill names gathered into few coarse ones, so that sparse profiles add up to something.

The second pass of Metacognitive Capabilities (Didolkar et al. 2024: labels are clustered and every one replaced by its
cluster's), with spherical k-means on name embeddings in place of a large LLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError, NotFittedError
from skills.base import Embedder, Vectors
from skills.cached_embedder import open_embedder
from skills.neighbours import Neighbours

__all__ = ["SkillFamilies"]

KIND = ArtefactKind("skill_families", 1)
_ROUNDS = 100
_STARTS = 4

Labels = npt.NDArray[np.int64]


class SkillFamilies:
    """Clusters skill names into at most `families` families, each named after its most central skill.

    The map is total (a skill never seen belongs to the family whose centre is nearest) and idempotent (a family's
    name belongs to that family). Same skills in any order and same seed: same families.
    """

    def __init__(self, families: int = 32, *, embedder: Embedder | str = "minilm_onnx", seed: int = 0) -> None:
        if families < 1:
            raise ConfigError(f"families={families}; there must be 1 or more")
        self.families = families
        self.embedder = open_embedder(embedder)
        self.seed = seed
        self.members_: dict[str, tuple[str, ...]] | None = None
        self._family_by_skill: dict[str, str] = {}
        self._centres: Neighbours | None = None

    def fit(self, skills: Iterable[str]) -> SkillFamilies:
        """Cluster these skills (repeats and blanks left out); `ConfigError` where none is left."""
        names = sorted({skill.strip() for skill in skills} - {""})
        if not names:
            raise ConfigError("skill families need at least one skill name to fit; none was given")
        vectors = self.embedder.embed(names)
        labels, centres = _spherical_k_means(vectors, min(self.families, len(names)), self.seed)
        members = {}
        for label, centre in enumerate(centres):
            inside = np.flatnonzero(labels == label)
            central = inside[int(np.argmax(np.round(vectors[inside] @ centre, 6)))]
            members[names[central]] = tuple(names[i] for i in inside)
        self._settle(members, centres)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The families' names, sorted."""
        return tuple(sorted(self._fitted()))

    def members(self, family: str) -> tuple[str, ...]:
        """The fitted skills of one family, sorted; empty for a name that is no family."""
        return self._fitted().get(family, ())

    def family_of(self, skill: str) -> str:
        """The family a skill belongs to, fitted or not."""
        return self.families_of([skill])[0]

    def families_of(self, skills: Sequence[str]) -> list[str]:
        """The family of each skill, in order; what was not fitted is embedded in one call."""
        order = list(self._fitted())
        known = self._family_by_skill
        strange = sorted({skill for skill in skills if skill.strip() not in known})
        found: dict[str, str] = {}
        if strange and self._centres is not None:
            _, rows = self._centres.search(self.embedder.embed([skill.strip() for skill in strange]), 1)
            found = {skill: order[row] for skill, row in zip(strange, rows[:, 0], strict=True)}
        return [known.get(skill.strip()) or found[skill] for skill in skills]

    def save(self, path: str | Path) -> None:
        """Write the families and their centres to one file."""
        families = [[name, list(inside)] for name, inside in self._fitted().items()]
        centres = self._centres.rows if self._centres is not None else np.zeros((0, self.embedder.dimension))
        KIND.save(path, {"families": families, "embedder": self.embedder.fingerprint}, {"centres": centres})

    def load(self, path: str | Path) -> SkillFamilies:
        """Take the state that `save` wrote; returns itself. `ConfigError` where it was fitted with another embedder."""
        artefact = KIND.load(path)
        artefact.check_embedder(self.embedder.fingerprint)
        members = {name: tuple(inside) for name, inside in artefact.fields["families"]}
        self._settle(members, artefact.arrays["centres"])
        return self

    def _settle(self, members: dict[str, tuple[str, ...]], centres: Vectors) -> None:
        self.members_ = members
        self._family_by_skill = {skill: name for name, inside in members.items() for skill in inside}
        self._centres = Neighbours(centres)

    def _fitted(self) -> dict[str, tuple[str, ...]]:
        if self.members_ is None:
            raise NotFittedError("the skill families are not fitted yet; call fit(skills) or load(path) first")
        return self.members_


def _spherical_k_means(vectors: Vectors, count: int, seed: int) -> tuple[Labels, Vectors]:
    """The best of some seeded starts: a label per row, and the unit centre of every label that is in use."""
    generator = np.random.default_rng(seed)
    starts = [_one_start(vectors, _spread_rows(vectors, count, generator)) for _ in range(_STARTS)]
    return max(starts, key=lambda start: round(float(np.einsum("nd,nd->", vectors, start[1][start[0]])), 4))


def _spread_rows(vectors: Vectors, count: int, generator: np.random.Generator) -> Vectors:
    """First centres by k-means++ (Arthur & Vassilvitskii 2007): far rows are likelier to be drawn."""
    chosen = [int(generator.integers(len(vectors)))]
    distance = 1.0 - vectors @ vectors[chosen[0]]
    while len(chosen) < count:
        odds = np.clip(distance, 0.0, None).astype(np.float64)
        odds[chosen] = 0.0
        if odds.sum() <= 0.0:  # only copies of the chosen rows are left
            break
        chosen.append(int(generator.choice(len(vectors), p=odds / odds.sum())))
        distance = np.minimum(distance, 1.0 - vectors @ vectors[chosen[-1]])
    return vectors[chosen]


def _one_start(vectors: Vectors, centres: Vectors) -> tuple[Labels, Vectors]:
    labels = _nearest_centre(vectors, centres)
    for _ in range(_ROUNDS):
        sums = np.stack([vectors[labels == label].sum(axis=0) for label in np.unique(labels)])
        centres = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        moved = _nearest_centre(vectors, centres)
        if np.array_equal(moved, labels):
            break
        labels = moved
    used, labels = np.unique(labels, return_inverse=True)
    return labels.astype(np.int64), centres[used]


def _nearest_centre(vectors: Vectors, centres: Vectors) -> Labels:
    nearest: Labels = np.argmax(np.round(vectors @ centres.T, 6), axis=1).astype(np.int64)
    return nearest
