"""The family of every skill of the fit questions, where there are skills and an embedder to group them by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from router_service.types import EmbedTexts, FitData
from skills.base import Vectors
from skills.families import SkillFamilies

__all__ = ["families_of_skills"]

_MOST_FAMILIES = 32
_SKILLS_PER_FAMILY = 8
_FEWEST_SKILLS = 16


class _Texts:
    """The embedder behind fit data, as the skills room wants one."""

    def __init__(self, embed: EmbedTexts) -> None:
        self._embed = embed
        self.dimension = len(embed(["skill"])[0])
        self.fingerprint = hashlib.blake2b(np.asarray(embed(["skill"])).tobytes(), digest_size=8).hexdigest()

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.asarray(self._embed(texts), dtype=np.float32)


def families_of_skills(data: FitData) -> dict[str, str]:
    """The family of each skill; empty where nothing embeds texts or there are too few skills to group."""
    names = sorted({name for annotation in data.annotations.values() for name in annotation.skills})
    if data.embed is None or len(names) < _FEWEST_SKILLS:
        return {}
    families = SkillFamilies(min(_MOST_FAMILIES, len(names) // _SKILLS_PER_FAMILY), embedder=_Texts(data.embed))
    families.fit(names)
    return dict(zip(names, families.families_of(names), strict=True))
