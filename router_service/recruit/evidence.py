"""What graded questions say of a new one: smoothed success rates by category, skill, skill family and neighbourhood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.base import FitData
from router_service.recruit.embedded import Vectors32, blocks, similarities
from router_service.recruit.saved import Learned
from router_service.recruit.scoring import embedding_rows, fit_embeddings, fit_matrix
from router_service.recruit.skill_families import families_of_skills
from router_service.recruit.strength import Floats
from router_service.types import SkillAnnotation

__all__ = ["Evidence", "Kernel", "Labels", "Source", "gather_evidence"]

NEAR, FAR = 0.05, 0.15
"""Temperatures of the two neighbourhoods, in cosine similarity: some tens of questions, and some hundreds."""
_LABEL_WEIGHT, _NEAR_WEIGHT, _FAR_WEIGHT = 20.0, 10.0, 20.0
"""Trials that the global rate counts for where a category, a skill or a neighbourhood has few of its own."""
_WEIGHT_GRAIN, _GRADE_GRAIN = 2.0**20, 2.0**12
"""Weights and grades are counted in grains this small: as whole numbers, whose sums float64 holds exactly, they can be
added up by a matrix product over a whole batch, and no query's evidence depends on how many others are in it."""


class Source(Protocol):
    """One kind of evidence."""

    def rates_for(self, annotations: Sequence[SkillAnnotation], rates: Floats) -> Floats:
        """Smoothed rates, (annotations, experts); the global ones where the source knows nothing."""
        ...

    def left_out(self, rates: Floats) -> Floats:
        """The rates that each graded question would get if it had not been graded, (questions, experts)."""
        ...


@dataclass(slots=True)
class Labels:
    """Evidence by labels with weights (a category, skills, families): `counts` (questions, labels) says how much each
    graded question has of each, `grades` (questions, experts) is NaN where an expert was not asked."""

    kind: str
    names: tuple[str, ...]
    counts: Floats
    grades: Floats
    family_of: Mapping[str, str] = field(default_factory=dict)
    _tallies: tuple[Floats, Floats] = field(init=False)
    _whole_tallies: Floats = field(init=False)
    _number_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        asked = ~np.isnan(self.grades)
        wins = self.counts.T @ np.where(asked, self.grades, 0.0)
        self._tallies = (wins, self.counts.T @ asked.astype(np.float64))
        self._whole_tallies = np.rint(np.concatenate(self._tallies, axis=1) * _GRADE_GRAIN)
        self._number_of = {name: number for number, name in enumerate(self.names)}

    def labels_of(self, annotation: SkillAnnotation) -> dict[str, float]:
        """The labels of this kind that an annotation bears, with weights of which the heaviest is 1."""
        if self.kind == "category":
            return {} if annotation.category is None else {annotation.category: 1.0}
        labels: dict[str, float] = {}
        if self.kind == "skill":
            labels = {skill: weight for skill, weight in annotation.skills.items() if weight > 0}
        else:
            for skill, weight in annotation.skills.items():
                name = self.family_of.get(skill)
                if name is not None and weight > labels.get(name, 0.0):
                    labels[name] = weight
        heaviest = max(labels.values(), default=1.0)
        return {name: weight / heaviest for name, weight in labels.items()}

    def rates_for(self, annotations: Sequence[SkillAnnotation], rates: Floats) -> Floats:
        """The tallies of the labels added up, shrunk towards the global rates."""
        added = self._added([self.labels_of(a) for a in annotations]) / (_WEIGHT_GRAIN * _GRADE_GRAIN)
        wins, trials = added[:, : len(rates)], added[:, len(rates) :]
        return np.asarray((wins + _LABEL_WEIGHT * rates) / (trials + _LABEL_WEIGHT))

    def _added(self, borne: Sequence[Mapping[str, float]]) -> Floats:
        """The whole tallies of the labels borne, by whole weights, (annotations, 2 experts): few bear many, so only
        theirs are added up."""
        added = np.zeros((len(borne), self._whole_tallies.shape[1]))
        for row, labels in enumerate(borne):
            known = [(self._number_of[name], weight) for name, weight in labels.items() if name in self._number_of]
            if known:
                numbers, weights = zip(*known, strict=True)
                added[row] = np.rint(np.array(weights) * _WEIGHT_GRAIN) @ self._whole_tallies[list(numbers)]
        return added

    def left_out(self, rates: Floats) -> Floats:
        """As `rates_for`, with the question's own grade taken out of every label it bears."""
        asked = ~np.isnan(self.grades)
        own = (self.counts**2).sum(axis=1, keepdims=True)
        wins = self.counts @ self._tallies[0] - own * np.where(asked, self.grades, 0.0)
        trials = self.counts @ self._tallies[1] - own * asked
        return np.asarray((wins + _LABEL_WEIGHT * rates) / (trials + _LABEL_WEIGHT))


@dataclass(slots=True)
class Kernel:
    """Evidence by likeness: every graded question counts by `exp(similarity / temperature)`; `rows` (questions,
    dimension) are unit vectors. The rate counts as so many trials as the weights are worth (Kish's effective size)."""

    temperature: float
    weight: float
    rows: Vectors32
    grades: Floats
    _tallies: Floats = field(init=False)
    """Who was asked (1 or 0), then the whole grades, (questions, 2 experts)."""

    def __post_init__(self) -> None:
        asked = ~np.isnan(self.grades)
        whole_grades = np.rint(np.where(asked, self.grades, 0.0) * _GRADE_GRAIN)
        self._tallies = np.concatenate([asked.astype(np.float64), whole_grades], axis=1)

    def rates_for(self, annotations: Sequence[SkillAnnotation], rates: Floats) -> Floats:
        """The questions' grades by likeness, shrunk towards the global rates."""
        return self.rates_by(_likenesses(self.rows, annotations), rates)

    def rates_by(self, likeness: Vectors32, rates: Floats) -> Floats:
        """`rates_for` by likeness to the graded questions, (annotations, questions), NaN where nothing is known."""
        shares = np.exp((likeness - likeness.max(axis=1, keepdims=True)) / np.float32(self.temperature))
        weights = np.rint(shares.astype(np.float64) * _WEIGHT_GRAIN)
        experts = len(rates)
        added = weights @ self._tallies
        total = added[:, :experts] / _WEIGHT_GRAIN
        squares = np.rint(weights * weights / _WEIGHT_GRAIN) @ self._tallies[:, :experts] / _WEIGHT_GRAIN
        size = total**2 / np.maximum(squares, 1e-12)
        mean = added[:, experts:] / (_WEIGHT_GRAIN * _GRADE_GRAIN) / np.maximum(total, 1e-12)
        found = (size * mean + self.weight * rates) / (size + self.weight)
        return np.where(np.isnan(likeness[:, :1]), rates, found)

    def left_out(self, rates: Floats) -> Floats:
        """As `rates_for`, each question without itself and without its exact copies."""
        found = np.empty((len(self.rows), len(rates)))
        for block in blocks(len(self.rows)):
            likeness = similarities(self.rows, self.rows[block])
            likeness[likeness > 1 - 1e-5] = -np.inf
            own = np.arange(len(likeness))
            likeness[own, block.start + own] = -np.inf  # an empty text's vector is 0, and unlike even itself
            likeness[np.isneginf(likeness).all(axis=1)] = np.nan
            found[block] = self.rates_by(likeness, rates)
        return found


@dataclass(slots=True)
class Evidence:
    """All that was seen: `rates` (experts,) are the smoothed global rates, `grades` (questions, experts) NaN where not
    asked, `question_ids` their order."""

    question_ids: tuple[str, ...]
    grades: Floats
    rates: Floats
    sources: list[Source]

    def rates_for(self, annotations: Sequence[SkillAnnotation]) -> list[Floats]:
        """What each source says, (annotations, experts); likeness is worked out once for all neighbourhoods."""
        said = [np.empty((len(annotations), len(self.rates))) for _ in self.sources]
        rows = next((source.rows for source in self.sources if isinstance(source, Kernel)), None)
        for block in blocks(len(annotations)):
            likeness = None if rows is None else _likenesses(rows, annotations[block])
            for found, source in zip(said, self.sources, strict=True):
                if likeness is not None and isinstance(source, Kernel):
                    found[block] = source.rates_by(likeness, self.rates)
                else:
                    found[block] = source.rates_for(annotations[block], self.rates)
        return said

    def learned(self) -> Learned:
        """For a recruiter's file."""
        labels = [source for source in self.sources if isinstance(source, Labels)]
        values: dict[str, Any] = {
            "questions": list(self.question_ids),
            "labels": [[source.kind, list(source.names), dict(source.family_of)] for source in labels],
        }
        arrays: dict[str, NDArray[Any]] = {f"counts_{source.kind}": source.counts for source in labels}
        rows = [source.rows for source in self.sources if isinstance(source, Kernel)]
        if rows:
            arrays["rows"] = rows[0]
        return Learned(values=values, arrays={**arrays, "grades": self.grades, "rates": self.rates})

    @classmethod
    def relearned(cls, learned: Learned) -> Evidence:
        """What `learned` held."""
        grades = learned.arrays["grades"]
        sources: list[Source] = [
            Labels(kind, tuple(names), learned.arrays[f"counts_{kind}"], grades, family_of)
            for kind, names, family_of in learned.values["labels"]
        ]
        if "rows" in learned.arrays:
            sources += _kernels(learned.arrays["rows"], grades)
        return cls(
            question_ids=tuple(learned.values["questions"]),
            grades=grades,
            rates=learned.arrays["rates"],
            sources=sources,
        )


def gather_evidence(data: FitData, *, name: str) -> Evidence:
    """The evidence in fit data; sources without any (no embeddings, no skills) are left out. `ConfigError`, naming the
    recruiter, where nothing was graded."""
    ids, grades = fit_matrix(data, name=name)
    asked = ~np.isnan(grades)
    rates = (np.where(asked, grades, 0.0).sum(axis=0) + 1.0) / (asked.sum(axis=0) + 2.0)
    annotations = [data.annotations.get(i, SkillAnnotation(query_id=i)) for i in ids]
    sources: list[Source] = []
    family_of = families_of_skills(data)
    for kind in ("category", "skill", "family"):
        labels = _labels(kind, annotations, grades=grades, family_of=family_of if kind == "family" else {})
        if labels is not None:
            sources.append(labels)
    if all(annotation.embedding is not None for annotation in annotations):
        sources += _kernels(fit_embeddings(data, ids).astype(np.float32), grades)
    return Evidence(question_ids=tuple(ids), grades=grades, rates=rates, sources=sources)


def _labels(
    kind: str, annotations: Sequence[SkillAnnotation], *, grades: Floats, family_of: Mapping[str, str]
) -> Labels | None:
    empty = Labels(kind, (), np.zeros((len(grades), 0)), grades, family_of)
    borne = [empty.labels_of(annotation) for annotation in annotations]
    names = tuple(sorted({name for labels in borne for name in labels}))
    if not names:
        return None
    number_of = {name: number for number, name in enumerate(names)}
    return Labels(kind, names, _counts(borne, number_of), grades, family_of)


def _counts(borne: Sequence[Mapping[str, float]], number_of: Mapping[str, int]) -> Floats:
    """Labels with weights as a matrix (annotations, labels); unknown labels are left out."""
    entries = [
        (row, number_of[name], weight)
        for row, labels in enumerate(borne)
        for name, weight in labels.items()
        if name in number_of
    ]
    counts = np.zeros((len(borne), len(number_of)))
    if entries:
        rows, numbers, weights = zip(*entries, strict=True)
        counts[rows, numbers] = weights
    return counts


def _likenesses(rows: Vectors32, annotations: Sequence[SkillAnnotation]) -> Vectors32:
    """Cosine similarity of each annotation to every row, (annotations, rows); NaN without an embedding that fits."""
    vectors = embedding_rows(annotations, rows.shape[1]).astype(np.float32)
    return similarities(rows, vectors)


def _kernels(rows: Vectors32, grades: Floats) -> list[Source]:
    return [Kernel(NEAR, _NEAR_WEIGHT, rows, grades), Kernel(FAR, _FAR_WEIGHT, rows, grades)]
