"""Recruiter `symbolic_softmax`: draws experts by a softmax over strength times score, as Symbolic-MoE's paper says."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from router_service.recruit.base import RECRUITERS
from router_service.recruit.draws import lifted_weights, share_of_total, softmax_weights
from router_service.recruit.strength import Combine, Floats
from router_service.recruit.symbolic import Symbolic

__all__ = ["SymbolicSoftmax"]


@RECRUITERS.register("symbolic_softmax")
class SymbolicSoftmax(Symbolic):
    """Symbolic-MoE, paper (section 3.2): softmax of global strength times local score at temperature `tau`, every
    expert has a chance, and those below 5 % are trimmed, their draws going to the others in proportion.

    Global strength is the share of the pool's total score (`share_of_total` says what holds where that is undefined).
    The paper trims over all draws of a batch; here it is each query's own distribution that is trimmed, so that no
    answer depends on what else is in the batch. A query without a known skill draws every expert alike.
    """

    name: ClassVar[str] = "symbolic_softmax"

    def __init__(
        self,
        *,
        k: int = 3,
        tau: float = 0.5,
        trim: float = 0.05,
        replacement: bool = True,
        combine: Combine = "sum",
    ) -> None:
        super().__init__(k=k, tau=tau, trim=trim, replacement=replacement, combine=combine)

    def _weights(self, scores: Floats, totals: Floats) -> tuple[Floats, Floats, NDArray[np.int_]]:
        strength = share_of_total(totals, tau=self.tau)
        weights = softmax_weights(scores, strength, tau=self.tau)
        return weights, lifted_weights(scores, strength), np.zeros(len(scores), dtype=np.int_)
