"""The states of asking for help, learned from fit questions: what agreement, likelihood and category say of success."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router_service.recruit.help_policy import HelpState, Prospect
from router_service.recruit.strength import shrunk_rate

__all__ = ["ANY", "Stage", "agreement", "likelihood", "state_key", "state_model"]

ANY = "*"
"""A look that stands for all looks: for panels such as were not seen when fitting."""
_UNKNOWN = "-"
_WEIGHT = 20.0
"""Questions that the wider estimate counts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The panel after so many help calls, on each fit question: how it looks, and how right its answer is.

    `prior` is how often it may be expected to be right before any question is looked at.
    """

    looks: Sequence[str]
    rights: Sequence[float]
    prior: float


def agreement(numbers: Sequence[int]) -> str:
    """The plurality's share of the members, such as "2/3"; `numbers` are their answers, -1 for none."""
    held = Counter(number for number in numbers if number >= 0)
    return f"{max(held.values(), default=0)}/{len(numbers)}"


def likelihood(logprobs: Sequence[float], cuts: Sequence[float]) -> str:
    """Which of the ranges between `cuts` the mean of the log-probabilities lies in; "?" where none is known (NaN)."""
    known = [logprob for logprob in logprobs if not math.isnan(logprob)]
    if not known or not cuts:
        return "?"
    return str(sum(sum(known) / len(known) > cut for cut in cuts))


def state_key(stage: int, look: str, category: str | None) -> str:
    """The name of a state."""
    return f"{stage}|{look}|{_UNKNOWN if category is None else category}"


def state_model(
    stages: Sequence[Stage], categories: Sequence[str | None]
) -> tuple[dict[str, HelpState], dict[str, float]]:
    """All states of these stages, and how often each is the first; `categories` are the fit questions' own.

    Every estimate of a state is shrunk towards that of its look in any category, which is shrunk towards that of its
    stage. There is a state for every look and every category seen, for any look, and for the unknown category.
    """
    names = [None, *sorted({category for category in categories if category is not None})]
    states = {}
    for number, stage in enumerate(stages):
        after = stages[number + 1] if number + 1 < len(stages) else None
        for look in [*sorted(set(stage.looks)), ANY]:
            for name in names:
                rows = _Rows.of(stage, look, categories=categories, category=name)
                alone = Prospect(success=_success(stage, rows))
                goes_on = {} if after is None else _onwards(number + 1, after, rows, category=name)
                helped = Prospect(goes_on=goes_on) if after is not None else alone
                states[state_key(number, look, name)] = HelpState(alone=alone, helped=helped)
    firsts = Counter(state_key(0, look, name) for look, name in zip(stages[0].looks, categories, strict=True))
    total = sum(firsts.values())
    start = {name: count / total for name, count in sorted(firsts.items())} or {state_key(0, ANY, None): 1.0}
    return states, start


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Fit questions from the widest group to the narrowest: all, of a look, of a look and a category."""

    groups: tuple[Sequence[int], ...]

    @classmethod
    def of(cls, stage: Stage, look: str, *, categories: Sequence[str | None], category: str | None) -> _Rows:
        everywhere = range(len(stage.looks))
        alike = [row for row in everywhere if look in (stage.looks[row], ANY)]
        same = [row for row in alike if category is not None and categories[row] == category]
        return cls(groups=(everywhere, alike, same))


def _success(stage: Stage, rows: _Rows) -> float:
    rate = stage.prior
    for group in rows.groups:
        rate = float(shrunk_rate(sum(stage.rights[row] for row in group), len(group), prior=rate, weight=_WEIGHT))
    return rate


def _onwards(number: int, after: Stage, rows: _Rows, *, category: str | None) -> Mapping[str, float]:
    """How often each look comes next."""
    shares: dict[str, float] = {ANY: 1.0}
    for group in rows.groups:
        counts = Counter(after.looks[row] for row in group)
        if group:
            weight = _WEIGHT if ANY not in shares else 0.0
            looks = sorted({*counts, *(look for look in shares if look != ANY)})
            shares = {look: (counts[look] + weight * shares.get(look, 0.0)) / (len(group) + weight) for look in looks}
    return {state_key(number, look, category): share for look, share in shares.items()}
