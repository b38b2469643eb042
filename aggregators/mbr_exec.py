"""The code whose behaviour most candidates share (MBR-exec, Shi et al. 2022)."""

from __future__ import annotations

from aggregators.base import AGGREGATORS
from aggregators.code_choice import CodeChoice
from aggregators.pass_matrix import PassMatrix, mbr_exec_choice

__all__ = ["MbrExec"]


@AGGREGATORS.register("mbr_exec")
class MbrExec(CodeChoice):
    """The group of candidates that pass the same tests which has most members, however many they pass: the tests are
    only inputs on which behaviour shows (`code_choice`). The paper compares outputs; here it is which tests are passed,
    so candidates that pass none have nothing in common and are left out.
    """

    name = "mbr_exec"

    def choose(self, matrix: PassMatrix) -> tuple[int, ...]:
        """The largest groups of those that pass anything; all candidates where nobody does."""
        left = [position for position, row in enumerate(matrix) if any(row)] or range(len(matrix))
        return tuple(left[place] for place in mbr_exec_choice([matrix[position] for position in left]))
