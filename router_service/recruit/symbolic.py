"""Recruiter `symbolic`: draws experts by skill score times global strength, as Symbolic-MoE's released code does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, RecruitRequest
from router_service.recruit.draws import draw, global_strength, lifted_weights, positive_weights, trim_weights
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.strength import Combine, Floats
from router_service.types import Query

__all__ = ["Symbolic"]

NO_SKILL = "no profile knows a skill of the query, so every expert is drawn alike"
NOBODY_POSITIVE = "no expert has a positive score, so scores are shifted to start at 1"
NO_STRENGTH = "every expert with a positive score has global strength 0, so scores alone decide"


@RECRUITERS.register("symbolic")
class Symbolic(RosterRecruiter):
    """Symbolic-MoE, released code (github.com/dinobby/Symbolic-MoE, commit d6c2e0dc; paper section 3.2).

    An expert's score for a query is the sum of its wins minus losses over the query's skills. Experts with a positive
    score are drawn, `k` times with replacement, in proportion to score times global strength (`global_strength`, over
    the eligible experts); a score of exactly 0 is not positive. Where nobody's is positive, `lifted_weights` holds
    for everyone; where no skill is known, every expert is drawn alike. `RouteDecision.scores` are the scores alone,
    so that a score does not depend on who else is in the pool.

    `trim` drops experts that hold less than that share of a query's draws (the released code never trims; 0 keeps
    everyone), query by query, so that no answer depends on what else is in the batch. Without `replacement` the `k`
    experts are different ones, and those without weight come last. `combine` says what becomes of the scores of
    several skills: their sum, as released, or `mean`, `min` or `softmin`, which look to the weakest of them (Law of
    the Weakest Link: models do worse at a question that takes several skills than the skills' mean suggests).
    """

    name: ClassVar[str] = "symbolic"
    needs_annotation: bool = True

    def __init__(
        self,
        *,
        k: int = 3,
        tau: float = 0.5,
        trim: float = 0.0,
        replacement: bool = True,
        combine: Combine = "sum",
    ) -> None:
        if tau <= 0:
            raise ConfigError(f"recruiter {self.name!r}: tau is {tau}; it is a temperature, above 0")
        if not 0 <= trim < 1:
            raise ConfigError(f"recruiter {self.name!r}: trim is {trim}; it is a share, from 0 to below 1")
        self.k = require_k(self.name, k)
        self.tau = tau
        self.trim = trim
        if combine not in get_args(Combine):
            raise ConfigError(
                f"recruiter {self.name!r}: combine is {combine!r}; it is one of {', '.join(get_args(Combine))}"
            )
        self.replacement = replacement
        self.combine = combine

    def completions_for(self, query: Query) -> int:
        """The query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    def draw_probabilities(self, requests: Sequence[RecruitRequest]) -> Floats:
        """The chance of each expert to be drawn first, budgets apart; shape (requests, experts), rows add up to 1.

        A row of zeros means that nobody is eligible. Raises `NotFittedError` before `fit`.
        """
        roster = self._require_fitted()
        cases = [self._case(roster, request) for request in requests]
        scores, _ = roster.table.strengths([r.annotation for r in requests], combine=self.combine)
        (weights, *_), _ = self._levels(roster, cases, scores)
        totals = weights.sum(axis=1, keepdims=True)
        return np.asarray(weights / np.where(totals > 0, totals, 1.0))

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        (preferred, *others), reasons = self._levels(roster, cases, scores)
        choices = []
        rows = zip(cases, scores.tolist(), preferred.tolist(), strict=True)
        for number, (case, own, weights) in enumerate(rows):
            levels = [weights]
            if not self.replacement or case.allowance.shares:  # only then can a draw need anyone else
                levels += [other[number].tolist() for other in others]
            positions = case.shortlist.positions
            seed = case.request.seed
            drawn = draw(levels, case.allowance, seed=seed, candidates=positions, replacement=self.replacement)
            choices.append(Choice(positions=drawn, scores=own, fallback_reason=reasons[number] if drawn else None))
        return choices

    def _levels(
        self, roster: Roster, cases: Sequence[Case], scores: Floats
    ) -> tuple[tuple[Floats, ...], list[str | None]]:
        """Weights over the pool, shape (cases, experts) each, in the order in which draws fall back on them, and per
        case why they have to from the start, if so."""
        rows_by_shortlist: dict[tuple[int, ...], list[int]] = {}
        reasons: list[str | None] = [None] * len(cases)
        first, second = np.zeros_like(scores), np.zeros_like(scores)
        for row, case in enumerate(cases):
            if not roster.table.knows(case.request.annotation):
                first[row, list(case.shortlist.positions)] = 1.0
                reasons[row] = NO_SKILL
            elif case.shortlist.positions:
                rows_by_shortlist.setdefault(case.shortlist.positions, []).append(row)
        for positions, rows in rows_by_shortlist.items():
            here = np.ix_(rows, positions)
            first[here], second[here], codes = self._weights(scores[here], roster.table.totals[list(positions)])
            for row, code in zip(rows, codes.tolist(), strict=True):
                reasons[row] = _REASONS[code]
        has_first = first.any(axis=1, keepdims=True)
        lifted = trim_weights(second, self.trim)
        return (np.where(has_first, trim_weights(first, self.trim), lifted), lifted, second), reasons

    def _weights(self, scores: Floats, totals: Floats) -> tuple[Floats, Floats, NDArray[np.int_]]:
        """Weights of the eligible experts, those to fall back on, and per row the number of the fallback's reason."""
        strength = global_strength(totals, tau=self.tau)
        best = scores.max(axis=1)
        is_weak = (best > 0) & ((np.maximum(scores, 0.0) * strength).max(axis=1) == 0)
        codes = np.where(best <= 0, 1, np.where(is_weak, 2, 0))
        return positive_weights(scores, strength), lifted_weights(scores, strength), codes


_REASONS = (None, NOBODY_POSITIVE, NO_STRENGTH)
