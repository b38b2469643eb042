"""The weights of learned fusion: what scores an answer, and how the weights are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregators._votes import Votes
from router_service.estimation import Floats, sigmoid

__all__ = ["Weights", "fit_weights", "strayed_ranks"]

_NO_SCORE = -1e9
_SAID, _CATEGORY, _SHARED = 1.0, 10.0, 1.0
"""Precisions of the Gaussian priors: on an expert's weight, on its correction in a category, and on the shared terms;
chosen on `fit` by cross-validation from 1, 3, 10, 30. All are around 0 but that of the expected log-odds."""
_ODDS = 0.5
_SHARED_TERMS = 3
_LONGEST = 3.0
"""Standard deviations beyond which a completion is no longer than long."""
_PANEL_SIZES = (2, 3, 4, 5, 7)
_REPLICAS, _FEW = 8, 2
_MANY_QUESTIONS = 2_000
"""Panels drawn per question: eight, or two where there are many questions."""
_NOISE = 0.08
"""How far, in accuracy, the panels drawn stray from the best experts: one standard deviation."""
_ROUNDS = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Per expert, or per member of one panel: `said` (m,), `by_category` (categories, m), the usual length and its
    spread (m,), and the `share` (m,) of a voice, below 1 where several members are samples of one expert."""

    said: Floats
    by_category: Floats
    usual: Floats
    spread: Floats
    share: Floats
    shared: Floats
    """Of the shared terms: the logarithm of how many gave the answer, the length of a completion, and the log-odds with
    which its expert was expected to be right."""

    def scores(self, votes: Votes) -> Floats:
        """The score of each answer to each question, shape (n, c); -1e9 for one that nobody gave."""
        words = self._words(votes)
        sums, numbers = _added_up(votes, words, self.share)
        return np.where(numbers > 0, sums + self.shared[0] * np.log1p(numbers), _NO_SCORE)

    def _words(self, votes: Votes) -> Floats:
        """What each expert's word weighs on each question, shape (n, m)."""
        lengths = relative_lengths(votes.lengths, self.usual, self.spread)
        words = self.said + with_unknown(self.by_category)[votes.categories]
        words = words + self.shared[1] * lengths + self.shared[2] * known_odds(votes)
        return np.asarray(words * self.share)

    def of_members(self, columns: Sequence[int], shares: Sequence[float]) -> Weights:
        """The weights of a panel's members: for each the column of its expert, -1 for one that was not there when the
        weights were learned, and its share of that expert's voice. A stranger's word weighs what the mean one does."""
        chosen = np.asarray(columns, dtype=np.intp)
        is_known = chosen >= 0
        return Weights(
            said=np.where(is_known, self.said[chosen], self.said.mean()),
            by_category=np.where(is_known, self.by_category[:, chosen], 0.0),
            usual=np.where(is_known, self.usual[chosen], np.nan),
            spread=self.spread[chosen],
            share=np.asarray(shares, dtype=np.float64),
            shared=self.shared,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name, for `from_arrays`."""
        return {
            "said": self.said,
            "by_category": self.by_category,
            "shared": self.shared,
            "usual": self.usual,
            "spread": self.spread,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Weights:
        """What `arrays` held."""
        return cls(
            said=arrays["said"],
            by_category=arrays["by_category"],
            usual=arrays["usual"],
            spread=arrays["spread"],
            share=np.ones(len(arrays["said"])),
            shared=arrays["shared"],
        )


def with_unknown(by_category: Floats) -> Floats:
    """The corrections with a last row of zeros, which is what the number of an unknown category, -1, picks."""
    return np.concatenate([by_category, np.zeros((1, by_category.shape[1]))])


def relative_lengths(lengths: Floats, usual: Floats, spread: Floats) -> Floats:
    """Lengths in standard deviations from each expert's usual one, held within ±3; 0 where unknown."""
    return np.nan_to_num(np.clip((lengths - usual) / spread, -_LONGEST, _LONGEST), nan=0.0)


def known_odds(votes: Votes) -> Floats:
    """The log-odds expected beforehand, 0 where unknown."""
    return np.nan_to_num(votes.odds, nan=0.0)


def fit_weights(votes: Votes, *, categories: int, seed: int = 0) -> Weights:
    """The weights of largest posterior on panels drawn from the votes; zeros where no question teaches anything.

    A question teaches where some panel member is right and another answers otherwise. Experts that were never asked
    get the mean weight of the others.
    """
    usual, spread = _usual_lengths(votes)
    drawn = _panels(votes, seed)
    taught = _teaching(drawn)
    panels = _Panels(drawn.rows(taught), relative_lengths(drawn.lengths, usual, spread)[taught], categories)
    replicas = max(1, len(drawn) // max(1, len(votes)))
    weights = panels.fitted(replicas)
    experts = votes.labels.shape[1]
    said = weights[:experts]
    is_known = votes.asked.any(axis=0)
    said = np.where(is_known, said, said[is_known].mean() if is_known.any() else 0.0)
    by_category = weights[experts:-_SHARED_TERMS].reshape(categories, experts)
    return Weights(
        said=said,
        by_category=by_category,
        usual=usual,
        spread=spread,
        share=np.ones(experts),
        shared=weights[-_SHARED_TERMS:],
    )


def _usual_lengths(votes: Votes) -> tuple[Floats, Floats]:
    known = ~np.isnan(votes.lengths)
    number = np.maximum(known.sum(axis=0), 1)
    usual = np.where(known, votes.lengths, 0.0).sum(axis=0) / number
    spread = np.sqrt((np.where(known, votes.lengths - usual, 0.0) ** 2).sum(axis=0) / number)
    return usual, np.where(spread > 1e-6, spread, 1.0)


def _panels(votes: Votes, seed: int) -> Votes:
    """Every question several times, each time with a panel of other experts: mostly the better ones."""
    random = np.random.default_rng([seed, 2])
    experts = votes.labels.shape[1]
    sizes = np.array([*(size for size in _PANEL_SIZES if size < experts), experts])
    replicas = _FEW if len(votes) > _MANY_QUESTIONS else _REPLICAS
    rows = np.tile(np.arange(len(votes)), replicas)
    drawn = votes.rows(rows)
    ranks = strayed_ranks(drawn, random, noise=_NOISE)
    return drawn.within(ranks < random.choice(sizes, len(rows))[:, None])


def strayed_ranks(votes: Votes, random: np.random.Generator, *, noise: float) -> NDArray[np.intp]:
    """The experts' ranks, (n, m), by how likely each is to be right on the question (overall, where nothing is expected
    of the question), strayed by chance: `noise` is the standard deviation that is added."""
    grades = votes.grades()
    asked = ~np.isnan(grades)
    rates = (np.where(asked, grades, 0.0).sum(axis=0) + 1.0) / (asked.sum(axis=0) + 2.0)
    expected = np.where(np.isnan(votes.odds), rates, sigmoid(known_odds(votes)))
    strayed = random.normal(0.0, noise, grades.shape) - expected
    return np.asarray(strayed.argsort(axis=1).argsort(axis=1))


def _teaching(votes: Votes) -> NDArray[np.bool_]:
    _, numbers = _added_up(votes, np.zeros(votes.labels.shape))
    given = numbers > 0
    return np.asarray((given & votes.right).any(axis=1) & (given.sum(axis=1) > 1))


def _added_up(votes: Votes, words: Floats, shares: Floats | None = None) -> tuple[Floats, Floats]:
    """Per answer, shape (n, c): the sum of the words for it, and their number by shares. One expert after the other, so
    that a row's sums do not depend on the other rows."""
    sums, numbers = np.zeros(votes.right.shape), np.zeros(votes.right.shape)
    for expert in range(votes.labels.shape[1]):
        labels = votes.labels[:, expert]
        rows = np.flatnonzero(labels >= 0)
        sums[rows, labels[rows]] += words[rows, expert]
        numbers[rows, labels[rows]] += 1.0 if shares is None else shares[expert]
    return sums, numbers


class _Panels:
    """The posterior's slope, in the order (said, by category, count, length, odds)."""

    def __init__(self, votes: Votes, lengths: Floats, categories: int) -> None:
        self.votes, self.lengths, self.categories = votes, lengths, categories
        self.experts = votes.labels.shape[1]
        self.odds = known_odds(votes)
        _, numbers = _added_up(votes, np.zeros(votes.labels.shape))
        self.given = numbers > 0
        self.log_numbers = np.log1p(numbers)
        self.holds = [np.flatnonzero(votes.labels[:, expert] >= 0) for expert in range(self.experts)]

    def fitted(self, replicas: int) -> Floats:
        from scipy.optimize import minimize

        by_category = self.categories * self.experts
        precision = replicas * np.concatenate(
            [np.full(self.experts, _SAID), np.full(by_category, _CATEGORY), np.full(_SHARED_TERMS, _SHARED)]
        )
        start = np.zeros(len(precision))
        start[-1] = _ODDS
        if len(self.votes) == 0:
            return start

        def loss(weights: Floats) -> tuple[float, Floats]:
            value, slope = self._loss(weights)
            away = weights - start
            return value + 0.5 * float(np.sum(precision * away**2)), slope + precision * away

        return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ROUNDS}).x)

    def _loss(self, weights: Floats) -> tuple[float, Floats]:
        """Minus the log-likelihood of the right answers among those given, and its slope."""
        said, rest = weights[: self.experts], weights[self.experts : -_SHARED_TERMS]
        corrections = rest.reshape(self.categories, self.experts)
        words = said + with_unknown(corrections)[self.votes.categories]
        words = words + weights[-2] * self.lengths + weights[-1] * self.odds
        sums, _ = _added_up(self.votes, words)
        scores = np.where(self.given, sums + weights[-3] * self.log_numbers, _NO_SCORE)
        scores -= scores.max(axis=1, keepdims=True)
        belief = np.exp(scores)
        belief /= belief.sum(axis=1, keepdims=True)
        right = np.where(self.votes.right, belief, 0.0)
        total = right.sum(axis=1, keepdims=True) + 1e-12
        excess = belief - right / total
        return -float(np.log(total).sum()), self._slope(excess)

    def _slope(self, excess: Floats) -> Floats:
        said = np.zeros(self.experts)
        corrections = np.zeros((self.categories + 1, self.experts))
        length, odds = 0.0, 0.0
        for expert, rows in enumerate(self.holds):
            held = excess[rows, self.votes.labels[rows, expert]]
            said[expert] = held.sum()
            np.add.at(corrections[:, expert], self.votes.categories[rows], held)
            length += float(held @ self.lengths[rows, expert])
            odds += float(held @ self.odds[rows, expert])
        count = float((excess * self.log_numbers).sum())
        return np.concatenate([said, corrections[:-1].ravel(), [count, length, odds]])
