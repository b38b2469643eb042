"""Recruiter `instruction_retrieval`: the experts whose description is most like the query."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.embedded import EmbeddingRecruiter, Vectors32
from router_service.recruit.roster import Case, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.strength import CATEGORY_WEIGHT, OVERALL_WEIGHT, SKILL_WEIGHT, Floats
from router_service.types import EmbedTexts, Expert, Profile, Tally

__all__ = ["InstructionRetrieval", "instruction_text"]

NO_TEXT = "no eligible expert has a description or known skills, so the best on the fit questions are asked"

_CATEGORIES_NAMED = 3
_SKILLS_NAMED = 12
_SAME = 1e-4
"""Vectors of one text differ by less between two calls of one embedder."""


def instruction_text(expert: Expert, profile: Profile | None) -> str | None:
    """What the expert is good at, in words: its description, else the categories and skills in which its profile is
    furthest above its own overall rate; None where neither says anything. Names of experts and models are not in it."""
    if expert.description and expert.description.strip():
        return expert.description.strip()
    if profile is None:
        return None
    overall = profile.overall.rate(weight=OVERALL_WEIGHT)
    categories = _best(profile.categories, overall, weight=CATEGORY_WEIGHT)[:_CATEGORIES_NAMED]
    skills = _best(profile.skills, overall, weight=SKILL_WEIGHT)[:_SKILLS_NAMED]
    if not categories and not skills:
        return None
    about = f"Questions of {', '.join(categories)}." if categories else ""
    return " ".join(part for part in (about, f"Skills: {', '.join(skills)}." if skills else "") if part)


def _best(tallies: Mapping[str, Tally], overall: float, *, weight: float) -> list[str]:
    """Names by smoothed rate, best first, equals by name; those above the overall rate, or all where none is."""
    rates = {name: tally.rate(prior=overall, weight=weight) for name, tally in tallies.items()}
    order = sorted(rates, key=lambda name: (-rates[name], name))
    return [name for name in order if rates[name] > overall] or order


@RECRUITERS.register("instruction_retrieval")
class InstructionRetrieval(EmbeddingRecruiter):
    """Glider ("Glider: Global and Local Instruction-Driven Expert Router", the global router).

    Each expert has a text on what it is good at, and a query's score for it is the cosine of the two embeddings. In the
    paper an LLM writes both texts; here an expert's is its pool entry's `description`, else made of its profile
    (`instruction_text`), and the query stands for itself. The paper's local, token-level router needs the experts'
    weights and is left out.

    A text is embedded once: the vectors are kept by the hash of their text, in the saved file too, and a refit embeds
    only what is new, as long as the embedder gives the same vectors. Experts without a text come last.
    """

    name: ClassVar[str] = "instruction_retrieval"
    needs_profiles: ClassVar[bool] = False
    unknown_reason = NO_TEXT

    def __init__(self, *, k: int = 1) -> None:
        super().__init__(k=k)
        self.kept_: dict[str, Vectors32] = {}
        self.texts_: tuple[str, ...] = ()

    def _learn(self, data: FitData, roster: Roster) -> None:
        if data.embed is None:
            raise ConfigError(
                f"recruiter {self.name!r} embeds what experts are good at, and no embedder is at hand; "
                "use an annotator that embeds queries, such as `embedding`"
            )
        texts = [instruction_text(expert, data.profiles.get(expert.id)) or "" for expert in data.experts]
        if not any(texts) and not roster.table.has_profile.any():
            raise ConfigError(
                f"recruiter {self.name!r} goes by what experts are good at, and none of the {len(texts)} has a "
                "description or a profile; write `description` in the pool file, or make profiles with `enlist profile`"
            )
        self._take(texts, self._vectors(sorted({text for text in texts if text}), data.embed))

    def _vectors(self, texts: Sequence[str], embed: EmbedTexts) -> dict[str, Vectors32]:
        """The vector of each text by the text's hash; kept ones are used again if the first of them still holds."""
        known = [text for text in texts if _digest(text) in self.kept_]
        probe = _embedded(embed, known[:1])
        is_same = bool(known) and _is_near(probe[0], self.kept_[_digest(known[0])])
        fresh = [text for text in texts if not is_same or text not in known]
        made = dict(zip(map(_digest, fresh), _embedded(embed, fresh), strict=True))
        return made | {_digest(text): self.kept_[_digest(text)] for text in (known if is_same else ())}

    def _take(self, texts: Sequence[str], kept: Mapping[str, Vectors32]) -> None:
        self.texts_, self.kept_ = tuple(texts), dict(kept)
        self.dimension_ = len(next(iter(self.kept_.values()), ())) or 1
        blank = np.full(self.dimension_, np.nan, dtype=np.float32)
        self.vectors_ = np.array([self.kept_[_digest(text)] if text else blank for text in texts], dtype=np.float32)

    def _learned(self) -> Learned:
        kept = sorted(self.kept_)
        return Learned(
            values={"texts": list(self.texts_), "digests": kept},
            arrays={"kept": np.array([self.kept_[digest] for digest in kept], dtype=np.float32)},
        )

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self._take(learned.values["texts"], dict(zip(learned.values["digests"], learned.arrays["kept"], strict=True)))

    def _reason(self, case: Case) -> str:
        return super()._reason(case) if any(self.texts_) else self.unknown_reason

    def _judge_embedded(
        self, roster: Roster, cases: Sequence[Case], vectors: Vectors32
    ) -> tuple[Floats, Floats | None]:
        return np.einsum("bd,ed->be", vectors, self.vectors_).astype(np.float64), None


def _embedded(embed: EmbedTexts, texts: Sequence[str]) -> NDArray[np.float32]:
    return np.asarray(embed(texts), dtype=np.float32) if texts else np.empty((0, 0), dtype=np.float32)


def _is_near(one: Vectors32, other: Vectors32) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max(initial=0.0) < _SAME)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
