"""How well stated chances are kept: expected calibration error over equal-mass bins, and the Brier score."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from eval.results import Calibration, CalibrationBin

__all__ = ["BINS", "calibration"]

BINS = 10
_ROUNDING = 1e-9


def calibration(chances: Sequence[float], grades: Sequence[float], *, bins: int = BINS) -> Calibration | None:
    """Calibration of stated chances against the grades that followed, pairwise; None without any.

    The pairs are sorted by chance and cut into at most `bins` bins of as equal a number as equal chances allow: a bin
    never parts equal ones, so that the order of the pairs does not matter. Raises `ValueError` where the two differ in
    length or a chance is not in [0, 1].
    """
    p, y = np.asarray(chances, dtype=np.float64), np.asarray(grades, dtype=np.float64)
    if p.shape != y.shape:
        raise ValueError(f"{len(p)} chances against {len(y)} grades; each chance needs its own grade")
    if p.size == 0:
        return None
    if not ((p >= -_ROUNDING) & (p <= 1 + _ROUNDING)).all():
        raise ValueError("a chance lies outside [0, 1]")
    p = np.clip(p, 0.0, 1.0)
    order = np.argsort(p, kind="stable")
    p, y = p[order], y[order]
    edges = sorted({0, p.size, *(int(np.searchsorted(p, p[i * p.size // bins], "left")) for i in range(1, bins))})
    parts = tuple(
        CalibrationBin(n=end - start, p_mean=float(p[start:end].mean()), correct_mean=float(y[start:end].mean()))
        for start, end in pairwise(edges)
    )
    ece = sum(part.n * abs(part.p_mean - part.correct_mean) for part in parts) / p.size
    return Calibration(n=int(p.size), ece=float(ece), brier=float(((p - y) ** 2).mean()), bins=parts)
