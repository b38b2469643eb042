"""How good, and how sure: accuracy, its bootstrap interval, and the paired difference of two strategies."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "accuracy", "bootstrap_interval", "paired_difference"]

_RESAMPLES = 2_000
_LEVEL = 0.95
_CHUNK = 100
_KEPT_COUNTS = 4_000_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much better the first strategy is than the second on the same questions, with its interval."""

    mean: float
    low: float
    high: float


def accuracy(grades: Sequence[float]) -> float:
    """The mean grade (each 0..1); raises `ValueError` without any."""
    return float(_checked(grades).mean())


def bootstrap_interval(
    grades: Sequence[float], *, level: float = _LEVEL, resamples: int = _RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean grade, resampling questions (Efron and Tibshirani 1993, ch. 13).

    Seeded: the same grades give the same interval on any machine. Raises `ValueError` without grades.
    """
    means = np.concatenate(list(_resampled_means(_checked(grades), resamples, seed)))
    return _percentiles(means, level)


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    level: float = _LEVEL,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The mean of `first - second` with its bootstrap interval; both hold one grade per question, in one order.

    Pairing takes out how hard the questions are, so the interval is narrower than two separate ones suggest.
    Raises `ValueError` where the two differ in length or are empty.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} grades against {len(second)}; a pair needs the same questions in one order")
    differences = _checked(first) - _checked(second)
    means = np.concatenate(list(_resampled_means(differences, resamples, seed)))
    low, high = _percentiles(means, level)
    return Difference(mean=float(differences.mean()), low=low, high=high)


def _checked(grades: Sequence[float]) -> Floats:
    values = np.asarray(grades, dtype=np.float64)
    if values.size == 0:
        raise ValueError("there are no grades to average")
    return values


def _resampled_means(values: Floats, resamples: int, seed: int) -> Iterator[Floats]:
    """Means of resampled values, a chunk of resamples at a time so that memory stays small."""
    if values.size * resamples <= _KEPT_COUNTS:
        yield _counts(values.size, resamples, seed) @ values / values.size
        return
    for drawn in _drawn(values.size, resamples, seed):
        yield values[drawn].mean(axis=1)


@functools.lru_cache(maxsize=4)
def _counts(size: int, resamples: int, seed: int) -> Floats:
    """How often each value is in each resample, shape (resamples, size): thousands of intervals share one drawing."""
    chunks = [
        np.apply_along_axis(np.bincount, 1, drawn, minlength=size).astype(np.float64)
        for drawn in _drawn(size, resamples, seed)
    ]
    return np.concatenate(chunks)


def _drawn(size: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Positions drawn with replacement, shape (up to `_CHUNK`, size) a time."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        yield random.integers(0, size, size=(min(_CHUNK, resamples - start), size))


def _percentiles(means: Floats, level: float) -> tuple[float, float]:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
