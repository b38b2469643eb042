"""Chooses among candidates by a pass matrix (candidates by checks): B4 exactly, CodeT, MaxPass and MBR-exec.

The checks may be unit tests, format validators or other models' verdicts; they may be wrong too. Source: B4 (Chen et
al. 2024, "B4: Towards Optimal Assessment of Plausible Code Solutions with Plausible Tests"), released code included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from router_service.errors import AggregationError

__all__ = [
    "B4_ALPHA",
    "B4_BETA0",
    "PassGroup",
    "b4_choice",
    "b4_posterior",
    "codet_choice",
    "codet_score",
    "maxpass_choice",
    "mbr_exec_choice",
    "pass_groups",
]

B4_ALPHA = 1_000
"""How strongly candidates and checks are thought to be mostly right; the paper's experiments use 1e3."""

B4_BETA0 = 10_000
"""How seldom a wrong candidate is thought to pass a wrong check; the paper's experiments use 1e4 to 1e6."""

PassMatrix = Sequence[Sequence[bool]]
"""Row per candidate, column per check; true (or 1) where the candidate passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassGroup:
    """The candidates that pass exactly the same checks: what they pass, and their positions."""

    row: tuple[bool, ...]
    members: tuple[int, ...]

    @property
    def passes(self) -> int:
        """How many checks each member passes."""
        return sum(self.row)


def pass_groups(matrix: PassMatrix) -> tuple[PassGroup, ...]:
    """The groups of equal rows, earliest first; raises `AggregationError` for no candidates or rows of other lengths.

    Without any check (rows of length 0) all candidates are one group.
    """
    rows = [tuple(bool(cell) for cell in row) for row in matrix]
    if not rows:
        raise AggregationError("the pass matrix has no rows; give one row per candidate")
    if len({len(row) for row in rows}) > 1:
        raise AggregationError(
            f"the rows of the pass matrix have {sorted({len(row) for row in rows})} checks; run every check on every "
            "candidate, and count one that could not be run as not passed"
        )
    positions: dict[tuple[bool, ...], list[int]] = {}
    for position, row in enumerate(rows):
        positions.setdefault(row, []).append(position)
    return tuple(PassGroup(row=row, members=tuple(members)) for row, members in positions.items())


def b4_posterior(matrix: PassMatrix, *, alpha: int = B4_ALPHA, beta0: int = B4_BETA0) -> dict[PassGroup, Fraction]:
    """The unnormalised posterior that a group is the right one and its row says which checks are right, exactly.

    `B(|x|+α, N−|x|+1) · B(|y|+α, M−|y|+1) · B(k1+1, n1−k1+1) · B(k0+1, n0−k0+β0)`: x the members, y the checks they
    pass, n1 and k1 the cells and passes of other candidates on those checks, n0 and k0 on the other checks (B4,
    equation of the estimated posterior; released code `b4`). `alpha` and `beta0` are integers of 1 or more.
    """
    if min(alpha, beta0) < 1:
        raise AggregationError(f"B4 has alpha {alpha} and beta0 {beta0}; both are whole numbers of 1 or more")
    groups = pass_groups(matrix)
    n_rows, n_checks = len(matrix), len(groups[0].row)
    columns = [sum(bool(row[check]) for row in matrix) for check in range(n_checks)]
    scores = {}
    for group in groups:
        size, passes = len(group.members), group.passes
        others_right = sum(columns[c] - size for c in range(n_checks) if group.row[c])
        others_wrong = sum(columns[c] for c in range(n_checks) if not group.row[c])
        cells_right, cells_wrong = (n_rows - size) * passes, (n_rows - size) * (n_checks - passes)
        scores[group] = (
            _beta(size + alpha, n_rows - size + 1)
            * _beta(passes + alpha, n_checks - passes + 1)
            * _beta(others_right + 1, cells_right - others_right + 1)
            * _beta(others_wrong + 1, cells_wrong - others_wrong + beta0)
        )
    return scores


def b4_choice(matrix: PassMatrix, *, alpha: int = B4_ALPHA, beta0: int = B4_BETA0) -> tuple[int, ...]:
    """The candidates of the group with the highest posterior; several groups where they are exactly level."""
    posterior = b4_posterior(matrix, alpha=alpha, beta0=beta0)
    return _best(matrix, posterior.__getitem__)


def codet_score(group: PassGroup) -> float:
    """CodeT: checks passed times the root of how many candidates agree (Chen et al. 2022, as in B4's released code)."""
    return group.passes * math.sqrt(len(group.members))


def codet_choice(matrix: PassMatrix) -> tuple[int, ...]:
    """The candidates with the best CodeT score, compared exactly (by its square)."""
    return _best(matrix, lambda group: Fraction(group.passes**2 * len(group.members)))


def maxpass_choice(matrix: PassMatrix) -> tuple[int, ...]:
    """The candidates that pass most checks."""
    return _best(matrix, lambda group: Fraction(group.passes))


def mbr_exec_choice(matrix: PassMatrix) -> tuple[int, ...]:
    """The candidates whose behaviour most others share (Shi et al. 2022), whatever they pass."""
    return _best(matrix, lambda group: Fraction(len(group.members)))


def _best(matrix: PassMatrix, score: Callable[[PassGroup], Fraction]) -> tuple[int, ...]:
    """The members of every group with the highest score, in order of position."""
    scored = [(score(group), group) for group in pass_groups(matrix)]
    highest = max(value for value, _ in scored)
    return tuple(sorted(member for value, group in scored if value == highest for member in group.members))


def _beta(a: int, b: int) -> Fraction:
    """The Beta function of whole numbers, `(a−1)!(b−1)!/(a+b−1)!`, by the smaller of the two: no huge factorials."""
    least = min(a, b)
    return Fraction(1, least * math.comb(a + b - 1, least))
