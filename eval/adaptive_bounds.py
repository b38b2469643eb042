"""Bounds that hold at every look: when a stratum is settled, however its questions were chosen."""

from __future__ import annotations

import numpy as np

from eval.adaptive_bank import Floats, QuestionBank
from eval.adaptive_model import sigmoid

__all__ = ["StratumBounds"]

_REACH = 6.0
_STEP = 0.05
_PRIOR_SD = 1.5
"""The grid of abilities in logits, around what the known experts can do, and the prior spread over it."""


class StratumBounds:
    """An anytime-valid interval for the expected accuracy in each stratum, from that stratum's answers alone.

    An ability stays while posterior/prior >= δ/strata (prior-posterior-ratio martingale: Waudby-Smith and Ramdas 2020,
    "Confidence sequences for sampling without replacement", section 2): by Ville's inequality the true one is ever
    dropped with probability δ/strata at most, in all strata together with δ. This holds at every look and for any
    choice of the next question, given the questions' relative difficulty. Nothing is borrowed from other strata: an
    expert that is strong in one alone is judged there by what it does there.
    """

    def __init__(self, bank: QuestionBank, *, delta: float) -> None:
        self._bank = bank
        self._log_floor = float(np.log(delta / len(bank.strata)))
        self._abilities: Floats = bank.ability_mean + np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
        log_prior = -0.5 * ((self._abilities - bank.ability_mean) / _PRIOR_SD) ** 2
        self._log_prior = log_prior - np.logaddexp.reduce(log_prior)
        self._log_likelihood: Floats = np.zeros((len(bank.strata), len(self._abilities)))
        self._is_possible = np.ones(self._log_likelihood.shape, dtype=bool)
        self._accuracy = self._accuracies()

    def _accuracies(self) -> Floats:
        """Mean chance over a stratum's questions per ability: shape (strata, abilities), rising along each row."""
        chances = sigmoid(self._bank.easiness[:, None] + self._abilities[None, :])
        rows = [chances[self._bank.stratum_of == stratum].mean(axis=0) for stratum in range(len(self._bank.strata))]
        return np.stack(rows)

    def record(self, position: int, grade: float) -> None:
        """Take in one answer (grade 0..1) to the question at `position`."""
        stratum = self._bank.stratum_of[position]
        logits = self._bank.easiness[position] + self._abilities
        self._log_likelihood[stratum] -= grade * np.logaddexp(0, -logits) + (1 - grade) * np.logaddexp(0, logits)
        row = self._log_likelihood[stratum]
        evidence = np.logaddexp.reduce(self._log_prior + row)
        self._is_possible[stratum] &= row - evidence >= self._log_floor

    def interval(self, stratum: int) -> tuple[float, float]:
        """Lowest and highest accuracy that is still possible, a grid step wider on each side."""
        left = np.flatnonzero(self._is_possible[stratum])
        last = len(self._abilities) - 1
        if not len(left):  # contradicts every ability: nothing can be said
            return 0.0, 1.0
        low, high = int(left[0]), int(left[-1])
        row = self._accuracy[stratum]
        return (float(row[low - 1]) if low > 0 else 0.0, float(row[high + 1]) if high < last else 1.0)

    def verdict(self, stratum: int) -> str | None:
        """Whether the expert is `above` or `below` the best known one of the stratum; None while that is open."""
        rate = self._bank.incumbent_rate[stratum]
        low, high = self.interval(stratum)
        return "above" if low > rate else "below" if high < rate else None
