"""Code that passes many tests which many candidates pass alike (CodeT, Chen et al. 2022)."""

from __future__ import annotations

from aggregators.base import AGGREGATORS
from aggregators.code_choice import CodeChoice
from aggregators.pass_matrix import PassMatrix, codet_choice

__all__ = ["Codet"]


@AGGREGATORS.register("codet")
class Codet(CodeChoice):
    """The group with most tests passed times the root of its members; tests by the panel's experts (`code_choice`)."""

    name = "codet"

    def choose(self, matrix: PassMatrix) -> tuple[int, ...]:
        """The groups with the highest product."""
        return codet_choice(matrix)
