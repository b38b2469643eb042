"""What graded questions say of a new one: smoothed success rates by category, skill, skill family and neighbourhood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.base import FitData
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
    _number_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        asked = ~np.isnan(self.grades)
        wins = self.counts.T @ np.where(asked, self.grades, 0.0)
        self._tallies = (wins, self.counts.T @ asked.astype(np.float64))
        self._number_of = {name: number for number, name in enumerate(self.names)}

    def labels_of(self, annotation: SkillAnnotation) -> dict[str, float]:
        """The labels of this kind that an annotation bears, with weights of which the heaviest is 1."""
        if self.kind == "category":
            return {} if annotation.category is None else {annotation.category: 1.0}
        labels: dict[str, float] = {}
        for skill, weight in annotation.skills.items():
            name = skill if self.kind == "skill" else self.family_of.get(skill)
            if name is not None and weight > 0:
                labels[name] = max(labels.get(name, 0.0), weight)
        heaviest = max(labels.values(), default=1.0)
        return {name: weight / heaviest for name, weight in labels.items()}

    def rates_for(self, annotations: Sequence[SkillAnnotation], rates: Floats) -> Floats:
        """The tallies of the labels added up, shrunk towards the global rates."""
        wins, trials = self._tallies
        found = np.empty((len(annotations), len(rates)))
        for row, annotation in enumerate(annotations):
            own_wins, own_trials = np.zeros(len(rates)), np.zeros(len(rates))
            for name, weight in self.labels_of(annotation).items():
                number = self._number_of.get(name)
                if number is not None:
                    own_wins += weight * wins[number]
                    own_trials += weight * trials[number]
            found[row] = (own_wins + _LABEL_WEIGHT * rates) / (own_trials + _LABEL_WEIGHT)
        return found

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
    rows: NDArray[np.float32]
    grades: Floats

    def rates_for(self, annotations: Sequence[SkillAnnotation], rates: Floats) -> Floats:
        """Row by row: a product over the batch would round by its size."""
        vectors = embedding_rows(annotations, self.rows.shape[1]).astype(np.float32)
        found = np.empty((len(annotations), len(rates)))
        for number, vector in enumerate(vectors):
            found[number] = rates if np.isnan(vector[0]) else self._rates(self.rows @ vector, rates)
        return found

    def left_out(self, rates: Floats) -> Floats:
        """As `rates_for`, each question without itself and without its exact copies."""
        found = np.empty((len(self.rows), len(rates)))
        for number, vector in enumerate(self.rows):
            likeness = self.rows @ vector
            likeness[likeness > 1 - 1e-5] = -np.inf
            found[number] = self._rates(likeness, rates) if np.isfinite(likeness).any() else rates
        return found

    def _rates(self, likeness: NDArray[np.float32], rates: Floats) -> Floats:
        weights = np.exp((likeness - likeness.max()) / np.float32(self.temperature)).astype(np.float64)
        asked = ~np.isnan(self.grades)
        total = weights @ asked
        size = total**2 / np.maximum((weights**2) @ asked, 1e-12)
        mean = (weights @ np.where(asked, self.grades, 0.0)) / np.maximum(total, 1e-12)
        return np.asarray((size * mean + self.weight * rates) / (size + self.weight))


@dataclass(slots=True)
class Evidence:
    """All that was seen: `rates` (experts,) are the smoothed global rates, `grades` (questions, experts) NaN where not
    asked, `question_ids` their order."""

    question_ids: tuple[str, ...]
    grades: Floats
    rates: Floats
    sources: list[Source]

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
    counts = np.zeros((len(grades), len(names)))
    for row, labels in enumerate(borne):
        for name, weight in labels.items():
            counts[row, number_of[name]] = weight
    return Labels(kind, names, counts, grades, family_of)


def _kernels(rows: NDArray[np.float32], grades: Floats) -> list[Source]:
    return [Kernel(NEAR, _NEAR_WEIGHT, rows, grades), Kernel(FAR, _FAR_WEIGHT, rows, grades)]
