"""Code chosen by the posterior of candidates and tests being right together (B4, Chen et al. 2024)."""

from __future__ import annotations

from aggregators.base import AGGREGATORS
from aggregators.code_choice import CodeChoice
from aggregators.pass_matrix import B4_ALPHA, B4_BETA0, PassMatrix, b4_choice
from router_service.errors import ConfigError

__all__ = ["B4"]


@AGGREGATORS.register("b4")
class B4(CodeChoice):
    """The group of candidates with the highest posterior, exactly; tests by the panel's experts (`code_choice`)."""

    name = "b4"

    def __init__(
        self,
        *,
        alpha: int = B4_ALPHA,
        beta0: int = B4_BETA0,
        testers: list[str] | None = None,
        max_testers: int = 4,
        tests: int = 10,
        test_s: float = 2.0,
    ) -> None:
        """`alpha`: how strongly candidates and tests are thought to be mostly right; `beta0`: how seldom a wrong
        candidate is thought to pass a wrong test (`pass_matrix`). The rest as for every `CodeChoice`."""
        super().__init__(testers=testers, max_testers=max_testers, tests=tests, test_s=test_s)
        if min(alpha, beta0) < 1:
            raise ConfigError(f"b4 has alpha {alpha} and beta0 {beta0}; both are whole numbers of 1 or more")
        self.alpha = alpha
        self.beta0 = beta0

    def choose(self, matrix: PassMatrix) -> tuple[int, ...]:
        """The groups with the highest posterior."""
        return b4_choice(matrix, alpha=self.alpha, beta0=self.beta0)
