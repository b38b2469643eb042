"""How much asking on should gain, predicted from what the panel has said so far, and where to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.rehearsal import Rehearsal, Step
from router_service.recruit.strength import Floats

__all__ = ["LARGEST", "Gains", "first_wave", "most_asked"]

LARGEST = 11
"""The largest panel that is rehearsed, and asked for where `most` does not say otherwise."""
MOST_WANTED = 8
"""Thresholds are learned for 1 to so many completions on average."""
_PRECISION = 5.0
"""Of the ridge regression, in questions."""
_THRESHOLDS = 200
_MOST_FREE = 9


@dataclass(slots=True)
class Gains:
    """`weights` (steps, f) predict, after each step (1 completion, 2, ...), how much likelier a right answer is on
    average over the larger panels; `thresholds` (wanted,) is the least predicted gain at which a query is asked on, for
    each number of completions wanted on average."""

    weights: Floats
    thresholds: Floats
    rehearsed: list[Floats] = field(default_factory=list)
    """The gains predicted for the fit questions, (n,) per step, each by a model that never saw the question; not
    saved."""

    @classmethod
    def fit(cls, rehearsal: Rehearsal, chances: Floats) -> Gains:
        """Learn from the rehearsed panels in order of P(correct), `chances` (n, m)."""
        order = np.argsort(-chances, axis=1, kind="stable")
        steps = rehearsal.steps(order, chances, most=min(LARGEST, chances.shape[1]))
        weights, predicted = _weights(steps, rehearsal.folds)
        return cls(weights=weights, thresholds=_thresholds(predicted), rehearsed=predicted)

    def pays(self, seen: Floats, asked: int, *, wanted: int | None, worth: float) -> bool:
        """Whether to ask one more after `asked` completions, of which `seen` (f,) is seen: where `wanted` completions
        are wanted on average, or, without that, where the gain is `worth` it."""
        if len(self.weights) == 0:
            return False
        weights = self.weights[min(asked, len(self.weights)) - 1]
        threshold = self._threshold(wanted, worth)
        return bool(round(float(np.sum(weights * seen)), 9) > threshold)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For a recruiter's file."""
        return {"gain_weights": self.weights, "gain_thresholds": self.thresholds}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Gains:
        """What `arrays` held."""
        return cls(weights=arrays["gain_weights"], thresholds=arrays["gain_thresholds"])

    def _threshold(self, wanted: int | None, worth: float) -> float:
        return worth if wanted is None else float(self.thresholds[min(wanted, len(self.thresholds)) - 1])

    def rehearsed_calls(self, *, wanted: int | None, worth: float) -> NDArray[np.intp]:
        """How many completions each rehearsed question takes, (n,)."""
        most, start = most_asked(wanted), first_wave(wanted)
        return _calls(self.rehearsed, self._threshold(wanted, worth), start=start, most=most)


def first_wave(wanted: int | None) -> int:
    """How many are asked at once to begin with: two, but one where fewer than three are wanted on average, and all
    where more are wanted than thresholds are learned for."""
    if wanted is not None and wanted > MOST_WANTED:
        return wanted
    return 1 if wanted is not None and wanted < 3 else 2


def most_asked(wanted: int | None) -> int:
    """The most completions of a query where so many are wanted on average; 9 where the number is left open. Never more
    than are rehearsed, or the average would be another."""
    if wanted is None:
        return _MOST_FREE
    if wanted > MOST_WANTED:
        return wanted
    return min(2 * wanted + 1, LARGEST) if wanted > 1 else 1


def _weights(steps: Sequence[Step], folds: Sequence[NDArray[np.bool_]]) -> tuple[Floats, list[Floats]]:
    """Ridge weights per step, and the cross-validated predictions, (n,) per step."""
    weights, predicted = [], []
    for number, step in enumerate(steps[:-1]):
        later = np.mean([other.grades for other in steps[number + 1 :]], axis=0)
        gain = later - step.grades
        held = np.zeros(len(gain))
        for held_out in folds:
            learned = _ridge(step.seen[~held_out], gain[~held_out])
            held[held_out] = step.seen[held_out] @ learned
        weights.append(_ridge(step.seen, gain))
        predicted.append(held)
    width = steps[0].seen.shape[1]
    return np.array(weights).reshape(len(weights), width), predicted


def _ridge(seen: Floats, gain: Floats) -> Floats:
    penalty = _PRECISION * np.eye(seen.shape[1])
    return np.asarray(np.linalg.solve(seen.T @ seen + penalty, seen.T @ gain))


def _thresholds(predicted: Sequence[Floats]) -> Floats:
    """For each number wanted on average: the threshold with which the rehearsed questions come nearest to it."""
    if not predicted:
        return np.zeros(MOST_WANTED)
    every = np.concatenate(list(predicted))
    candidates = np.unique(np.quantile(every, np.linspace(0, 1, _THRESHOLDS)))
    found = []
    for wanted in range(1, MOST_WANTED + 1):
        most, start = most_asked(wanted), first_wave(wanted)
        means = [_calls(predicted, threshold, start=start, most=most).mean() for threshold in candidates]
        found.append(candidates[int(np.argmin(np.abs(np.array(means) - wanted)))])
    return np.array(found)


def _calls(predicted: Sequence[Floats], threshold: float, *, start: int, most: int) -> NDArray[np.intp]:
    calls = np.full(len(predicted[0]), start, dtype=np.intp)
    goes_on = np.ones(len(calls), dtype=bool)
    for asked in range(start, min(most, len(predicted) + 1)):
        goes_on &= predicted[asked - 1] > threshold
        calls = np.where(goes_on, asked + 1, calls)
    return calls
