"""The code that passes most tests, however few candidates behave like it."""

from __future__ import annotations

from aggregators.base import AGGREGATORS
from aggregators.code_choice import CodeChoice
from aggregators.pass_matrix import PassMatrix, maxpass_choice

__all__ = ["Maxpass"]


@AGGREGATORS.register("maxpass")
class Maxpass(CodeChoice):
    """Row sums of the pass matrix alone; tests by the panel's experts (`code_choice`)."""

    name = "maxpass"

    def choose(self, matrix: PassMatrix) -> tuple[int, ...]:
        """Those that pass most."""
        return maxpass_choice(matrix)
