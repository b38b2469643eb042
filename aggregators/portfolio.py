"""Joins votes of several kinds: Medprompt+'s weighted portfolio, and the vote of the chains with most steps.

Sources: Nori et al. 2023, "Can Generalist Foundation Models Outcompete Special-Purpose Tuning?", with the released
promptbase code (Medprompt+); Fu et al. 2023, "Complexity-Based Prompting for Multi-Step Reasoning", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router_service.errors import AggregationError

__all__ = [
    "DIRECT_WEIGHT",
    "DIRECT_WEIGHT_REASONING",
    "Chain",
    "complexity_vote",
    "leading_answer",
    "portfolio_scores",
    "step_count",
]

DIRECT_WEIGHT_REASONING = 0.5
"""Weight of direct votes where reasoning pays (promptbase: 20 listed subjects of MMLU)."""

DIRECT_WEIGHT = 2.0
"""Weight of direct votes elsewhere (promptbase: all other subjects)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain of thought as the vote sees it: its answer and how many steps led there."""

    answer: str
    steps: int


def portfolio_scores(
    reasoned: Mapping[str, float], direct: Mapping[str, float], *, direct_weight: float
) -> dict[str, float]:
    """`reasoned + direct_weight · direct` per answer, in order of first mention: shares of votes after a chain of
    thought, and of direct answers (by log-probability). Raises `AggregationError` for a negative weight."""
    if direct_weight < 0:
        raise AggregationError(f"direct_weight is {direct_weight}; it is 0 (direct answers ignored) or more")
    answers = dict.fromkeys([*reasoned, *direct])
    return {name: reasoned.get(name, 0.0) + direct_weight * direct.get(name, 0.0) for name in answers}


def leading_answer(scores: Mapping[str, float]) -> str:
    """The answer with the highest score; the first-named one where several are level.

    (The released vote never updates its running maximum, so it returns the last answer whose votes exceed zero.)
    Raises `AggregationError` where there is no answer.
    """
    if not scores:
        raise AggregationError("nobody voted; give at least one answer with its score")
    return max(scores, key=lambda name: scores[name])


def complexity_vote(chains: Sequence[Chain], *, top: int | None = None, prefers_long: bool = True) -> str:
    """The plurality answer among the `top` chains with most steps (all of them where `top` is None).

    Ties go to the earlier chain: in the choice of chains and in the vote. `prefers_long=False` keeps the shortest
    chains: for models trained to reason, length goes with failure; measure the sign before using either. Raises
    `AggregationError` for no chains, or `top` below 1.
    """
    if top is not None and top < 1:
        raise AggregationError(f"top is {top}; keep 1 chain or more, or leave it out to keep all")
    sign = -1 if prefers_long else 1
    order = sorted(range(len(chains)), key=lambda position: (sign * chains[position].steps, position))
    votes: dict[str, float] = {}
    for position in sorted(order[:top]):
        answer = chains[position].answer
        votes[answer] = votes.get(answer, 0.0) + 1.0
    return leading_answer(votes)


def step_count(text: str) -> int:
    """The steps of a chain of thought: its lines, empty ones left out (Fu et al., section 3)."""
    return sum(bool(line.strip()) for line in text.splitlines())
