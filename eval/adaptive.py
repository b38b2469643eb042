"""Adaptive profiling: which question tells most about a new expert, when enough is known, and the profile it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from eval.adaptive_bank import Bools, Floats, Ints, KnownGrades, QuestionBank
from eval.adaptive_bounds import StratumBounds
from eval.adaptive_model import ResponseModel
from router_service.errors import ConfigError
from router_service.types import Profile, Question, Tally

__all__ = ["AdaptiveProfiler", "ErrorScales", "Estimate", "ExpertEstimate", "StratumEstimate", "error_scales"]

_MOST_REHEARSALS = 16
"""Known experts that are profiled as if they were new, to learn how far error bars must be widened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An accuracy with its error bar: the interval that covers the truth with the stated confidence."""

    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StratumEstimate:
    """One category: the accuracy there, how many questions were asked, and how it compares with the best known expert.

    `verdict` is `above` or `below` where that is settled at the stated confidence, else None; `incumbent` is "" and
    its accuracy None where no expert is known.
    """

    estimate: Estimate
    n_asked: int
    incumbent: str
    incumbent_accuracy: float | None
    verdict: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertEstimate:
    """What adaptive profiling found out about one expert; `n_bank` is what profiling in full would have asked."""

    profile: Profile
    overall: Estimate
    strata: Mapping[str, StratumEstimate]
    confidence: float
    n_asked: int
    n_bank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorScales:
    """What the model's standard deviations are multiplied with: 1 where they are right or nothing says otherwise."""

    overall: float = 1.0
    stratum: float = 1.0


@dataclass(slots=True)
class _Asked:
    """The answers so far, in order."""

    positions: list[int] = field(default_factory=list)
    grades: list[float] = field(default_factory=list)

    def arrays(self) -> tuple[Ints, Floats]:
        """Positions and grades."""
        return np.array(self.positions, dtype=np.intp), np.array(self.grades, dtype=np.float64)


class AdaptiveProfiler:
    """Chooses questions for one new expert. Ask `next_questions`, `record` what came, until `is_finished`.

    The next question is the one whose answer is expected to take most from the variance of the accuracies, the mean of
    the open strata's and the overall one together (A-optimal design under the response model). A stratum whose
    bounds lie clear of the best known expert's accuracy is asked no more (successive elimination: Even-Dar et al.
    2006; within strata, because nobody is best everywhere). It ends when every stratum is settled, `budget` answers
    are there, or the bank is empty. The same answers lead to the same questions.
    """

    def __init__(self, bank: QuestionBank, *, budget: int, confidence: float = 0.9) -> None:
        if budget < 1:
            raise ConfigError(f"the budget is {budget} questions; ask 1 or more")
        if not 0.5 <= confidence < 1:
            raise ConfigError(f"the confidence is {confidence}; it is 0.5 or more and below 1, 0.9 for instance")
        self.bank = bank
        self.budget = budget
        self.confidence = confidence
        self._model = ResponseModel(bank)
        self._bounds = StratumBounds(bank, delta=1 - confidence)
        self._answers = _Asked()
        self._is_out = np.zeros(len(bank), dtype=bool)
        self._verdicts: list[str | None] = [None] * len(bank.strata)

    @property
    def n_asked(self) -> int:
        """How many answers were recorded."""
        return len(self._answers.positions)

    @property
    def is_finished(self) -> bool:
        """Whether asking more is over."""
        return self.n_asked >= self.budget or not self._candidates().any()

    def record(self, position: int, grade: float) -> None:
        """Take in the grade (0..1) of the answer to the question at this position of the bank."""
        self._answers.positions.append(position)
        self._answers.grades.append(grade)
        self._is_out[position] = True
        self._bounds.record(position, grade)
        stratum = int(self.bank.stratum_of[position])
        self._verdicts[stratum] = self._verdicts[stratum] or self._bounds.verdict(stratum)

    def leave_out(self, position: int) -> None:
        """Never choose this question: it was asked and no answer came."""
        self._is_out[position] = True

    def next_questions(self, most: int = 1) -> tuple[int, ...]:
        """Positions of up to `most` questions to ask next, best first; none where it is finished.

        Several at once are chosen one after the other, each as if the answers to those before were there already.
        """
        if self.is_finished:
            return ()
        self._model.learn(*self._answers.arrays())
        chances, covariance = self._model.chances(), self._model.covariance
        information, gradients = chances * (1 - chances), self._model.gradients()
        is_candidate, is_unknown = self._candidates(), ~self._is_out
        chosen: list[int] = []
        while len(chosen) < min(most, self.budget - self.n_asked) and is_candidate.any():
            reach = self._model.features @ covariance
            variance = (reach * self._model.features).sum(axis=1)
            targets = self._targets(gradients, is_candidate, is_unknown)
            gain = ((reach @ targets.T) ** 2).sum(axis=1) * information / (1 + information * variance)
            gain += information * self._luck_weights()
            best = int(np.where(is_candidate, gain, -1.0).argmax())
            chosen.append(best)
            is_candidate[best] = is_unknown[best] = False
            row = reach[best]
            covariance = covariance - np.outer(row, row) * (
                information[best] / (1 + information[best] * variance[best])
            )
        return tuple(chosen)

    def result(self, expert_id: str, scales: ErrorScales = ErrorScales()) -> ExpertEstimate:
        """The profile and its error bars by what is known now; `scales` widens the bars."""
        self._model.learn(*self._answers.arrays())
        everything = np.arange(len(self.bank), dtype=np.intp)
        strata = {}
        for number, name in enumerate(self.bank.strata):
            members = np.flatnonzero(self.bank.stratum_of == number)
            rate = float(self.bank.incumbent_rate[number])
            strata[name] = StratumEstimate(
                estimate=self._estimate(members, scales.stratum),
                n_asked=int((self.bank.stratum_of[self._answers.positions] == number).sum()),
                incumbent=self.bank.incumbents[number],
                incumbent_accuracy=None if math.isnan(rate) else rate,
                verdict=self._verdicts[number],
            )
        return ExpertEstimate(
            profile=self._profile(expert_id),
            overall=self._estimate(everything, scales.overall),
            strata=strata,
            confidence=self.confidence,
            n_asked=self.n_asked,
            n_bank=len(self.bank),
        )

    def deviations(self, truth: Floats) -> tuple[float, Floats]:
        """How many of its standard deviations the estimate is off, overall and per stratum, where `truth` (a grade per
        question) is what asking everything would show."""
        self._model.learn(*self._answers.arrays())
        groups = [np.arange(len(self.bank), dtype=np.intp)]
        groups += [np.flatnonzero(self.bank.stratum_of == number) for number in range(len(self.bank.strata))]
        off = [self._deviation(members, truth) for members in groups]
        return off[0], np.array(off[1:])

    # --- choosing ----------------------------------------------------------------------------------------------------

    def _candidates(self) -> Bools:
        is_open = np.array([verdict is None for verdict in self._verdicts], dtype=bool)
        return np.asarray(~self._is_out & is_open[self.bank.stratum_of], dtype=np.bool_)

    def _targets(self, gradients: Floats, is_candidate: Bools, is_unknown: Bools) -> Floats:
        """How the accuracies sought move with the model's weights: a row per stratum (open ones), and one overall."""
        n_strata = len(self.bank.strata)
        members = np.eye(n_strata)[self.bank.stratum_of] * is_candidate[:, None]
        by_stratum = members.T @ gradients / self.bank.sizes[:, None] / math.sqrt(n_strata)
        return np.vstack([by_stratum, gradients[is_unknown].sum(axis=0, keepdims=True) / len(self.bank)])

    def _luck_weights(self) -> Floats:
        """What knowing one answer for sure takes from the variances, per unit of its own variance."""
        sizes = self.bank.sizes[self.bank.stratum_of]
        return np.asarray(1 / (sizes**2.0 * len(self.bank.strata)) + 1 / len(self.bank) ** 2, dtype=np.float64)

    # --- estimating --------------------------------------------------------------------------------------------------

    def _estimate(self, members: Ints, scale: float) -> Estimate:
        mean, sd = self._model.mean_and_sd(members, *self._answers.arrays())
        half = NormalDist().inv_cdf((1 + self.confidence) / 2) * scale * sd
        return Estimate(accuracy=mean, low=max(0.0, mean - half), high=min(1.0, mean + half))

    def _deviation(self, members: Ints, truth: Floats) -> float:
        mean, sd = self._model.mean_and_sd(members, *self._answers.arrays())
        return abs(mean - float(truth[members].mean())) / max(sd, 1e-12)

    def _profile(self, expert_id: str) -> Profile:
        skills: dict[str, list[int]] = {}
        categories: dict[str, list[int]] = {}
        for position, question in enumerate(self.bank.questions):
            for skill in question.skills:
                skills.setdefault(skill, []).append(position)
            if question.category is not None:
                categories.setdefault(question.category, []).append(position)
        overall = self._tally(range(len(self.bank)))
        rate = overall.wins / overall.trials if overall.trials else 0.5
        smoothed = min(max(rate * (overall.trials + 2.0) - 1.0, 0.0), float(overall.trials))
        return Profile(
            expert_id=expert_id,
            overall=Tally(wins=smoothed, trials=overall.trials),
            skills={name: self._tally(skills[name]) for name in sorted(skills)},
            categories={name: self._tally(categories[name]) for name in sorted(categories)},
        )

    def _tally(self, positions: Sequence[int] | range) -> Tally:
        """The estimated accuracy as wins of so many trials as would be as sure, never more than were asked in all."""
        members = np.unique(np.array(positions, dtype=np.intp))
        mean, sd = self._model.mean_and_sd(members, *self._answers.arrays())
        effective = len(positions) if sd == 0 else mean * (1 - mean) / sd**2
        trials = max(0, min(self.n_asked, len(positions), round(effective)))
        return Tally(wins=mean * trials, trials=trials)


def error_scales(
    questions: Sequence[Question], known: KnownGrades, *, budget: int, confidence: float, wave: int = 1
) -> ErrorScales:
    """How far the error bars must be widened so that they would have covered the known experts.

    Each of up to 16 known experts is profiled by its recorded grades as if it were new, the others being known. The
    scale is the root mean square of their deviations, at least 1, times what Student's distribution adds for so few
    of them: the prediction interval of one further normal deviation.
    """
    n_known = len(known.expert_ids)
    rehearsed = np.unique(np.linspace(0, n_known - 1, min(n_known, _MOST_REHEARSALS)).round().astype(int))
    overall: list[float] = []
    by_stratum: list[float] = []
    for expert in rehearsed if n_known > 1 else ():
        profiler = AdaptiveProfiler(
            QuestionBank(questions, known.without(int(expert))), budget=budget, confidence=confidence
        )
        truth = np.nan_to_num(known.grades[expert])
        while not profiler.is_finished:
            for position in profiler.next_questions(wave):
                profiler.record(position, float(truth[position]))
        off, off_by_stratum = profiler.deviations(truth)
        overall.append(off)
        by_stratum += off_by_stratum.tolist()
    n_experts = len(overall)
    return ErrorScales(
        overall=_scale(overall, n_experts, confidence), stratum=_scale(by_stratum, n_experts, confidence)
    )


def _scale(deviations: Sequence[float], n_experts: int, confidence: float) -> float:
    if not deviations:
        return 1.0
    from scipy.stats import t

    level = (1 + confidence) / 2
    few = float(t.ppf(level, n_experts)) / NormalDist().inv_cdf(level)
    return few * max(1.0, math.sqrt(math.fsum(value**2 for value in deviations) / len(deviations)))
