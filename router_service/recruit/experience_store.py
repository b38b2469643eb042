"""A store of verified experiences: questions, who solved them and how; nothing unverified, nothing twice."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError, UnknownNameError
from router_service.recruit.embedded import BLOCK, Vectors32

__all__ = ["ExperienceStore", "Solved", "text_key"]

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """One experience: a question, the skills it took, the experts that were right, and the right answer.

    `is_verified` says that the answer was checked against a reference, a test or a person, and not just believed.
    `embedding` is the question text's, of unit length.
    """

    text: str
    winners: tuple[str, ...]
    answer: str | None = None
    skills: tuple[str, ...] = ()
    is_verified: bool = False
    embedding: Sequence[float] = field(default=(), repr=False)


def text_key(text: str) -> str:
    """A key that is equal for texts of the same words and signs, whatever their case and white space; "" for none."""
    plain = re.sub(r"\s+", " ", text).strip().casefold()
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest() if plain else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperienceStore:
    """Experiences as they are searched: their unit `vectors`, shape (experiences, dimension), who of the experts has
    won, shape (experiences, experts), and their texts, answers and skills.

    `near` is the cosine similarity from which on two questions count as the same one asked twice. A store never
    changes: adding to it gives another one.
    """

    expert_ids: tuple[str, ...]
    near: float
    vectors: Vectors32
    has_won: NDArray[np.bool_]
    items: tuple[tuple[str, str | None, tuple[str, ...]], ...] = ()
    keys: tuple[str, ...] = ()

    @classmethod
    def empty(cls, expert_ids: Sequence[str], *, dimension: int, near: float) -> ExperienceStore:
        """A store without experiences."""
        vectors, has_won = np.zeros((0, dimension), dtype=np.float32), np.zeros((0, len(expert_ids)), dtype=bool)
        return cls(expert_ids=tuple(expert_ids), near=near, vectors=vectors, has_won=has_won)

    def __len__(self) -> int:
        return len(self.items)

    def adding(self, found: Sequence[Solved]) -> tuple[ExperienceStore, list[str | None]]:
        """The store with those of `found` that may be stored, taken in order, and for each why it is refused, if so.

        Raises `UnknownNameError` for a winner that is no expert here, and `ConfigError` for an embedding that is no
        unit vector of the store's dimension.
        """
        vectors = np.array([self._vector(solved) for solved in found], dtype=np.float32)
        vectors = vectors.reshape(len(found), self.vectors.shape[1])
        everything = np.concatenate([self.vectors, vectors])
        stored = np.zeros(len(everything), dtype=bool)
        stored[: len(self)] = True
        keys = {key for key in self.keys if key}
        refusals: list[str | None] = []
        for start in range(0, len(found), BLOCK):
            alike = everything @ vectors[start : start + BLOCK].T
            for number, solved in enumerate(found[start : start + BLOCK]):
                likeness = float(alike[stored, number].max(initial=-1.0))
                refusals.append(self._refusal(solved, keys, likeness=likeness))
                if refusals[-1] is None:
                    stored[len(self) + start + number] = True
                    keys.add(text_key(solved.text))
        return self._with([found[i] for i, why in enumerate(refusals) if why is None], everything[stored]), refusals

    def as_values(self) -> dict[str, Any]:
        """What JSON can hold of it; the arrays are `vectors` and `has_won`."""
        return {"items": [[text, answer, list(skills)] for text, answer, skills in self.items]}

    def with_values(
        self, values: Mapping[str, Any], *, vectors: NDArray[Any], has_won: NDArray[Any]
    ) -> ExperienceStore:
        """An empty store filled with what `as_values` and the arrays hold."""
        items = tuple((text, answer, tuple(skills)) for text, answer, skills in values["items"])
        keys = tuple(text_key(text) for text, _, _ in items)
        return replace(self, vectors=vectors, has_won=has_won, items=items, keys=keys)

    def _refusal(self, solved: Solved, keys: set[str], *, likeness: float) -> str | None:
        if not solved.is_verified:
            return "its answer is not verified; check it, and say so with is_verified"
        if not solved.winners:
            return "no expert solved it, so there is nobody to recruit by it"
        if text_key(solved.text) in keys:
            return "the same question is stored already"
        if likeness >= self.near:
            return f"a stored question is all but the same: similarity {likeness:.3f}, and {self.near:g} is too near"
        return None

    def _with(self, solved: Sequence[Solved], vectors: Vectors32) -> ExperienceStore:
        has_won = [[expert_id in item.winners for expert_id in self.expert_ids] for item in solved]
        more = np.array(has_won, dtype=bool).reshape(len(solved), len(self.expert_ids))
        return replace(
            self,
            vectors=vectors,
            has_won=np.concatenate([self.has_won, more]),
            items=(*self.items, *((item.text, item.answer, item.skills) for item in solved)),
            keys=(*self.keys, *(text_key(item.text) for item in solved)),
        )

    def _vector(self, solved: Solved) -> NDArray[np.float32]:
        for winner in solved.winners:
            if winner not in self.expert_ids:
                raise UnknownNameError("expert", winner, self.expert_ids)
        vector = np.asarray(solved.embedding, dtype=np.float32)
        length = math.sqrt(float(vector @ vector)) if vector.ndim == 1 else math.nan
        if vector.shape != self.vectors.shape[1:] or not abs(length - 1.0) <= _UNIT_TOLERANCE:
            raise ConfigError(
                f"the embedding of {solved.text[:60]!r} has shape {vector.shape} and length {length:.3f}; needed is a "
                f"unit vector of {self.vectors.shape[1]} numbers, from the embedder that was fitted with"
            )
        return vector
