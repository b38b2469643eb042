"""P(correct) of every expert on a query, calibrated: from its global strength, its category, skills and neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from router_service.estimation import WeightPrior, fit_logistic, logit, sigmoid
from router_service.recruit.base import FitData
from router_service.recruit.evidence import Evidence, gather_evidence
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats
from router_service.types import SkillAnnotation

__all__ = ["Chances"]

_LEVEL_PRECISION, _DIFFICULTY_PRECISION, _OWN_PRECISION = 10.0, 5.0, 300.0
"""How firmly the weights are believed beforehand: of the global log-odds (1), of what a source says of the question for
everyone (together 1.5), and of what it says of one expert against the others (together 1.2). The last is firm, for a
few hundred questions say little about it; chosen by cross-validation on `fit` from 30, 100, 300, 1000."""
_DIFFICULTY_TOTAL, _OWN_TOTAL = 1.5, 1.2
_DECIMALS = 9


@dataclass(slots=True)
class Chances:
    """A logistic model over log-odds. With g the expert's smoothed global rate and r its smoothed rate by one source of
    evidence (category, skills, skill families, near and far neighbours), the source says `logit r - logit g`; its mean
    over the experts is how hard the question is, what is left is how this expert differs from the others here. The
    weights are learned on the fit questions, each judged by the evidence of the others.

    `evidence` is what was seen, `weights` (2 + 2 sources,) what was learned.
    """

    evidence: Evidence
    weights: Floats
    _left_out: Floats | None = field(default=None, repr=False)

    @classmethod
    def fit(cls, data: FitData, *, name: str) -> Chances:
        """Learn from the graded outcomes; `ConfigError`, naming the recruiter, where there are none."""
        evidence = gather_evidence(data, name=name)
        features = _left_out_features(evidence)
        asked = ~np.isnan(evidence.grades)
        prior = _prior(len(evidence.sources))
        weights = fit_logistic(features[asked], evidence.grades[asked], prior)
        chances = cls(evidence=evidence, weights=weights)
        chances._left_out = chances._chances(features)
        return chances

    def of(self, annotations: Sequence[SkillAnnotation]) -> Floats:
        """P(correct), shape (annotations, experts), strictly between 0 and 1; a source that knows nothing of a query
        (no embedding, no known category) says nothing."""
        evidence = self.evidence
        return self._chances(_features(evidence.rates, evidence.rates_for(annotations), count=len(annotations)))

    def left_out(self) -> Floats:
        """P(correct) on the fit questions, (questions, experts), each by the evidence of the others."""
        if self._left_out is None:
            self._left_out = self._chances(_left_out_features(self.evidence))
        return self._left_out

    def _chances(self, features: Floats) -> Floats:
        scores = np.einsum("nmf,f->nm", features, self.weights)
        return np.clip(np.round(sigmoid(scores), _DECIMALS), 1e-4, 1 - 1e-4)

    def learned(self) -> Learned:
        """For a recruiter's file."""
        inner = self.evidence.learned()
        return Learned(values=inner.values, arrays={**inner.arrays, "weights": self.weights})

    @classmethod
    def relearned(cls, learned: Learned) -> Chances:
        """What `learned` held."""
        return cls(evidence=Evidence.relearned(learned), weights=np.asarray(learned.arrays["weights"]))


def _left_out_features(evidence: Evidence) -> Floats:
    said = [source.left_out(evidence.rates) for source in evidence.sources]
    return _features(evidence.rates, said, count=len(evidence.grades))


def _features(rates: Floats, said: Sequence[Floats], *, count: int) -> Floats:
    """Shape (questions, experts, 2 + 2 sources): log-odds, 1, then per source what it says of all, and of each."""
    level = logit(rates)
    sources = len(said)
    features = np.empty((count, len(rates), 2 + 2 * sources))
    features[..., 0], features[..., 1] = level, 1.0
    if sources:
        away = logit(np.stack(said)) - level
        mean = away.mean(axis=2, keepdims=True)
        features[..., 2 : 2 + sources] = np.moveaxis(mean, 0, 2)
        features[..., 2 + sources :] = np.moveaxis(away - mean, 0, 2)
    return features


def _prior(sources: int) -> WeightPrior:
    shared, own = _DIFFICULTY_TOTAL / max(1, sources), _OWN_TOTAL / max(1, sources)
    return WeightPrior(
        mean=[1.0, 0.0, *[shared] * sources, *[own] * sources],
        precision=[_LEVEL_PRECISION, 1.0, *[_DIFFICULTY_PRECISION] * sources, *[_OWN_PRECISION] * sources],
        may_be_negative=[True, True, *[True] * sources, *[False] * sources],
    )
