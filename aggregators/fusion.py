"""Learned fusion: how much each expert's word is worth here, learned from who was right when they disagreed."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregators._fusion_fit import Weights, fit_weights, strayed_ranks
from aggregators._votes import NOBODY, Votes, votes_of
from aggregators.equivalence import AnswerGroup
from router_service.estimation import Floats, WeightPrior, fit_logistic, logit, sigmoid
from router_service.types import Completion, FitData

__all__ = ["NOBODY", "Fusion", "Verdicts", "Votes", "cross_fitted", "fold_of", "fused_ids", "votes_of"]

FOLDS = 5
_NO_SCORE = -1e9
_WIDEST_MARGIN = 6.0
"""Log-odds beyond which a lead is no clearer, and the lead of an answer that nobody contests."""
_STRAY = 0.15
"""How far, in accuracy, the panels on which the confidence is learned stray from the best experts."""
_SIZES = (1, 2, 3, 4, 5, 7)
"""Panels on which the confidence is learned, besides the whole pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What fusion makes of votes: the winning answer of each question (n,), `NOBODY` where nobody answered, the share
    of belief that the winner has among the answers given, and its lead over the next in log-odds."""

    winners: NDArray[np.intp]
    shares: Floats
    leads: Floats
    scores: Floats

    def signs(self, votes: Votes) -> Floats:
        """What says how far the winner may be trusted: one row per question."""
        n = len(votes)
        asked = np.maximum(votes.asked.sum(axis=1), 1)
        holds = (votes.labels == self.winners[:, None]) & (votes.labels != NOBODY)
        held = holds.sum(axis=1)
        given = (votes.labels != NOBODY).sum(axis=1)
        rivals = (self.scores > _NO_SCORE).sum(axis=1)
        top = np.clip(np.where(self.winners >= 0, self.scores.max(axis=1, initial=_NO_SCORE), 0.0), -9.0, 9.0)
        expected = np.where(np.isnan(votes.odds), 0.0, votes.odds)
        lead = np.where(holds, expected, -9.0).max(axis=1, initial=-9.0)
        lead = np.where(lead > -9.0, lead, 0.0)
        mean = np.where(votes.asked, expected, 0.0).sum(axis=1) / asked
        columns = [np.ones(n), held / asked, (rivals == 1) * (held > 1), self.leads, self.shares, top, lead, mean]
        return np.stack([*columns, 1.0 / asked, rivals / asked, (asked - given) / asked], axis=1).astype(np.float64)


class Fusion:
    """A conditional logit over the answers given (McFadden 1974), as Fusion of Experts learns its fuser (seeds: FoE).

    An answer's score is the sum over the experts that gave it of a weight of the expert, a correction for the query's
    category, a term in the log-odds with which the expert was expected to be right on the query (the recruiter's
    P(correct)), and one for how long its completion was, against its own usual length; and a term in the logarithm of
    how many gave it. Weights are learned together, so that experts that err together count for less than
    they would alone. They are learned on many panels drawn from the pool, since a panel is rarely the whole pool.
    `expert_ids` and `categories` number the columns and the categories of the votes it reads.
    """

    def __init__(self, expert_ids: Sequence[str], categories: Sequence[str]) -> None:
        self.expert_ids = tuple(expert_ids)
        self.categories = tuple(categories)
        self.weights_: Weights | None = None
        self.confidence_: Floats | None = None

    def fit(self, votes: Votes, *, seed: int = 0, with_confidence: bool = True) -> Fusion:
        """Learn the weights and, by cross-validation over the questions, how far winners may be trusted."""
        self.weights_ = fit_weights(votes, categories=len(self.categories), seed=seed)
        if with_confidence:
            self.confidence_ = _fit_confidence(self, votes, seed)
        return self

    def verdicts(self, votes: Votes) -> Verdicts:
        """The winners; ties go to the answer with the lower number, which is the one given first."""
        assert self.weights_ is not None
        scores = self.weights_.scores(votes)
        if scores.shape[1] == 0:
            nobody = np.full(len(votes), NOBODY, dtype=np.intp)
            return Verdicts(winners=nobody, shares=np.zeros(len(votes)), leads=np.zeros(len(votes)), scores=scores)
        best = scores.max(axis=1)
        some = best > _NO_SCORE
        ordered = -np.sort(-scores, axis=1)
        second = ordered[:, 1] if scores.shape[1] > 1 else np.full(len(votes), _NO_SCORE)
        leads = np.where(second > _NO_SCORE, best - second, _WIDEST_MARGIN)
        belief = np.exp(np.maximum(scores - best[:, None], -50.0)) * (scores > _NO_SCORE)
        return Verdicts(
            winners=np.where(some, np.argmax(np.round(scores, 9), axis=1), NOBODY),
            shares=np.where(some, 1.0 / np.maximum(belief.sum(axis=1), 1.0), 0.0),
            leads=np.where(some, np.clip(leads, 0.0, _WIDEST_MARGIN), 0.0),
            scores=scores,
        )

    def confidence(self, votes: Votes, verdicts: Verdicts) -> Floats:
        """The calibrated chance, (n,), that each winner is right; 0 where nobody answered."""
        assert self.confidence_ is not None
        chances = sigmoid(np.einsum("nf,f->n", verdicts.signs(votes), self.confidence_))
        return np.where(verdicts.winners >= 0, chances, 0.0)

    def of_members(self, expert_ids: Sequence[str]) -> Fusion:
        """This fusion for the members of one panel, a column each, by their experts; several samples of one expert
        share its voice."""
        assert self.weights_ is not None
        column_of = {expert_id: column for column, expert_id in enumerate(self.expert_ids)}
        samples = Counter(expert_ids)
        panel = Fusion(expert_ids, self.categories)
        panel.weights_ = self.weights_.of_members(
            [column_of.get(expert_id, -1) for expert_id in expert_ids], [1 / samples[i] for i in expert_ids]
        )
        panel.confidence_ = self.confidence_
        return panel

    def votes_of_panel(
        self,
        groups: Sequence[AnswerGroup],
        members: Sequence[Completion],
        *,
        category: str | None,
        chances: Sequence[float | None],
    ) -> Votes:
        """The votes of one question by a panel's members (a column each), whose answers are the groups, in order;
        `chances` are the P(correct) of the members' experts, None where unknown."""
        group_of = {id(member): number for number, group in enumerate(groups) for member in group.members}
        tokens = [member.usage.completion_tokens for member in members]
        number = self.categories.index(category) if category in self.categories else NOBODY
        odds = [np.nan if chance is None else float(logit(chance)) for chance in chances]
        return Votes(
            labels=np.array([[group_of.get(id(member), NOBODY) for member in members]], dtype=np.intp),
            asked=np.ones((1, len(members)), dtype=bool),
            right=np.zeros((1, len(groups)), dtype=bool),
            lengths=np.array([[math.log1p(count) if count > 0 else np.nan for count in tokens]]),
            categories=np.array([number], dtype=np.intp),
            odds=np.array([odds], dtype=np.float64),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned, for `from_arrays`."""
        assert self.weights_ is not None and self.confidence_ is not None
        return {**self.weights_.arrays(), "confidence": self.confidence_}

    @classmethod
    def from_arrays(cls, expert_ids: Sequence[str], categories: Sequence[str], arrays: Mapping[str, Any]) -> Fusion:
        """What `arrays` held."""
        fusion = cls(expert_ids, categories)
        fusion.weights_ = Weights.from_arrays(arrays)
        fusion.confidence_ = np.asarray(arrays["confidence"], dtype=np.float64)
        return fusion


def fused_ids(data: FitData) -> tuple[list[str], list[str]]:
    """The ids of the questions that fusion learns from (graded, in order) and the categories they have."""
    ids = sorted({outcome.question_id for outcome in data.outcomes})
    names = {data.annotations[i].category for i in ids if i in data.annotations}
    return ids, sorted(name for name in names if name is not None)


def fold_of(count: int, *, folds: int = FOLDS, seed: int = 0) -> NDArray[np.intp]:
    """The fold of each of `count` questions: seeded, folds as even as can be."""
    return np.random.default_rng([seed, count]).permutation(count) % folds


def cross_fitted(votes: Votes, *, categories: int, seed: int = 0) -> tuple[tuple[NDArray[np.bool_], Fusion], ...]:
    """Per fold: which questions are held out, and a fusion learned without them. Remembered for the same votes."""
    return _cross_fitted(_Key(votes), categories, seed)


class _Key:
    """Votes by their content, so that who asks for the same cross-validation twice gets it at once."""

    def __init__(self, votes: Votes) -> None:
        self.votes = votes
        known = [np.nan_to_num(array, nan=-1e3) for array in (votes.lengths, votes.odds)]
        parts = (votes.labels, votes.right, votes.asked, votes.categories, *known)
        self._content = hash(tuple(part.tobytes() for part in parts))
        self._shape = (votes.labels.shape, votes.right.shape)

    def __hash__(self) -> int:
        return hash((self._content, self._shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and (self._content, self._shape) == (other._content, other._shape)


@functools.lru_cache(maxsize=8)
def _cross_fitted(key: _Key, categories: int, seed: int) -> tuple[tuple[NDArray[np.bool_], Fusion], ...]:
    votes = key.votes
    folds = fold_of(len(votes), seed=seed)
    found = []
    for fold in range(min(FOLDS, len(votes))):
        held_out = folds == fold
        names = [""] * categories
        learned = Fusion([""] * votes.labels.shape[1], names)
        found.append((held_out, learned.fit(votes.rows(~held_out), seed=seed, with_confidence=False)))
    return tuple(found)


def _fit_confidence(fusion: Fusion, votes: Votes, seed: int) -> Floats:
    """Logistic weights of the signs, learned on panels of several sizes, each judged by a fusion that never saw it."""
    random = np.random.default_rng([seed, 1])
    signs, grades = [], []
    experts = votes.labels.shape[1]
    for held_out, learned in cross_fitted(votes, categories=len(fusion.categories), seed=seed):
        for size in {*(s for s in _SIZES if s < experts), experts}:
            part = votes.rows(held_out)
            part = part.within(strayed_ranks(part, random, noise=_STRAY) < size)
            verdicts = learned.verdicts(part)
            some = verdicts.winners >= 0
            signs.append(verdicts.signs(part)[some])
            grades.append(part.is_right(verdicts.winners)[some])
    count = len(signs)
    width = signs[0].shape[1] if signs else 11
    prior = WeightPrior(mean=[0.0] * width, precision=[float(count)] * width, may_be_negative=[True] * width)
    return fit_logistic(np.concatenate(signs), np.concatenate(grades), prior) if signs else np.zeros(width)
