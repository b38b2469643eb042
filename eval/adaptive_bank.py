"""The bank that adaptive profiling chooses from: questions in strata, how hard the known experts found each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router_service.errors import ConfigError
from router_service.types import Outcome, Question

__all__ = ["Bools", "Floats", "Ints", "KnownGrades", "QuestionBank", "known_grades"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_FULL_SHARE = 0.9
"""An expert with outcomes on so much of the bank was profiled in full; others were asked chosen questions, which says
nothing about how hard the others are."""

_ABILITY_SD = 1.0
"""Least spread of a new expert's ability around the known ones', in logits: it may be unlike all of them."""

_SMALLEST_SPREAD = 1e-4
"""Variance of true difficulties below which the questions count as equally hard."""

_ONE_EXPERT_WEIGHT = 4.0
"""Answers that the mean difficulty counts for where a single known expert says nothing of how difficulties spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownGrades:
    """What experts profiled in full scored: shape (experts, questions), NaN where there is no outcome."""

    expert_ids: tuple[str, ...]
    grades: Floats

    def without(self, position: int) -> KnownGrades:
        """The same without one expert."""
        ids = self.expert_ids[:position] + self.expert_ids[position + 1 :]
        return KnownGrades(expert_ids=ids, grades=np.delete(self.grades, position, axis=0))


def known_grades(questions: Sequence[Question], outcomes: Iterable[Outcome], *, leaving_out: str = "") -> KnownGrades:
    """The grades (means over samples) of the experts profiled in full, but for the one that is to be profiled."""
    column = {question.id: number for number, question in enumerate(questions)}
    samples: dict[str, dict[int, list[float]]] = {}
    for outcome in outcomes:
        if outcome.expert_id != leaving_out and outcome.question_id in column:
            by_question = samples.setdefault(outcome.expert_id, {})
            by_question.setdefault(column[outcome.question_id], []).append(outcome.correct)
    full = [name for name, found in samples.items() if len(found) >= _FULL_SHARE * len(column)]
    grades = np.full((len(full), len(column)), np.nan)
    for row, name in enumerate(full):
        for number, values in samples[name].items():
            grades[row, number] = sum(values) / len(values)
    return KnownGrades(expert_ids=tuple(full), grades=grades)


class QuestionBank:
    """Questions as arrays: `stratum_of` and `easiness` (logits, mean 0) per question; what to expect of a new expert.

    A stratum is a category; the questions without one are a stratum of their own, named "". `incumbents` names the
    best known expert of each stratum and `incumbent_rate` its accuracy there, NaN where nobody is known.
    """

    def __init__(self, questions: Sequence[Question], known: KnownGrades) -> None:
        if not questions:
            raise ConfigError("there are no questions to choose from; profile an expert in full first")
        self.questions = tuple(questions)
        labels = [question.category or "" for question in questions]
        self.strata = tuple(sorted(set(labels)))
        numbers = {name: number for number, name in enumerate(self.strata)}
        self.stratum_of: Ints = np.array([numbers[label] for label in labels], dtype=np.intp)
        self.sizes: Ints = np.bincount(self.stratum_of, minlength=len(self.strata))
        self.easiness = _easiness(known.grades)
        self.ability_mean, self.ability_sd = _abilities(known.grades)
        self.incumbents, self.incumbent_rate = self._incumbents(known)

    def __len__(self) -> int:
        return len(self.questions)

    def _incumbents(self, known: KnownGrades) -> tuple[tuple[str, ...], Floats]:
        if not known.expert_ids:
            return ("",) * len(self.strata), np.full(len(self.strata), np.nan)
        rates = np.stack([_means(known.grades[:, self.stratum_of == s]) for s in range(len(self.strata))])
        best = rates.argmax(axis=1)
        return tuple(known.expert_ids[number] for number in best), rates.max(axis=1)


def _means(grades: Floats) -> Floats:
    """Each expert's mean over the questions that it has an outcome on; 0 where it has none."""
    counts = (~np.isnan(grades)).sum(axis=1)
    return np.asarray(np.nansum(grades, axis=1) / np.maximum(counts, 1), dtype=np.float64)


def _abilities(grades: Floats) -> tuple[float, float]:
    """Mean and spread (logits) of what to expect of a new expert."""
    if not len(grades):
        return 0.0, 1.5 * _ABILITY_SD
    abilities = _logit(_means(grades))
    spread = float(abilities.std(ddof=1)) if len(abilities) > 1 else 0.0
    return float(abilities.mean()), max(_ABILITY_SD, spread)


def _easiness(grades: Floats) -> Floats:
    """The logit of each question's share of known experts that are right, shrunk by how far the shares can be trusted.

    Shares are beta-binomial; their true spread is the observed one less what chance alone makes (method of moments),
    so that where experts differ by luck only, all questions come out equally hard.
    """
    n_experts, n_questions = grades.shape
    if not n_experts:
        return np.zeros(n_questions)
    counts = (~np.isnan(grades)).sum(axis=0)
    wins = np.nansum(grades, axis=0)
    mean = float(np.clip(wins.sum() / max(counts.sum(), 1), 0.01, 0.99))
    weight = _ONE_EXPERT_WEIGHT
    if n_experts > 1 and n_questions > 1:
        full = counts > 1
        shares = wins[full] / counts[full]
        by_chance = float(np.mean(shares * (1 - shares) / (counts[full] - 1)))
        spread = max(float(shares.var(ddof=1)) - by_chance, _SMALLEST_SPREAD)
        weight = max(mean * (1 - mean) / spread - 1, 1.0)
    easiness = _logit((wins + weight * mean) / (counts + weight))
    return np.asarray(easiness - easiness.mean(), dtype=np.float64)


def _logit(rates: Floats) -> Floats:
    clipped = np.clip(rates, 0.01, 0.99)
    return np.asarray(np.log(clipped / (1 - clipped)), dtype=np.float64)
