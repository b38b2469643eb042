"""When asking for help pays under a budget of help: the dynamic program of Self-regulation; plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["HelpPolicy", "HelpState", "Prospect", "solve", "within_budget"]

_ROUNDING = 1e-12
"""Gains and values this near are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What a choice leads to: the probability of success where the story ends, and the states it goes on in, with
    their probabilities."""

    success: float = 0.0
    goes_on: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpState:
    """A state in which help may be asked for: the prospects without it and with it."""

    alone: Prospect
    helped: Prospect


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpPolicy:
    """In which states help is asked for at a penalty; expected help calls (`usage`) and success, from the start.

    `gains` is what help is expected to add in each state, later help paid for, before its own penalty.
    """

    penalty: float
    helps: frozenset[str]
    usage: float
    success: float
    gains: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Outlook:
    """Expected success and help calls of a state."""

    success: float = 0.0
    usage: float = 0.0

    def value(self, penalty: float) -> float:
        return self.success - penalty * self.usage


def solve(states: Mapping[str, HelpState], start: Mapping[str, float], penalty: float) -> HelpPolicy:
    """The best policy where each help call costs `penalty`: `V(s) = max(alone, helped - penalty)` (Self-regulation).

    `start` says with which probability each state comes first; `states` must lead on without a circle. Help is asked
    for where it gains more than the penalty; a gain of exactly that is none.
    """
    outlooks: dict[str, _Outlook] = {}
    gains: dict[str, float] = {}

    def expected(prospect: Prospect) -> _Outlook:
        nexts = [(share, outlook(name)) for name, share in prospect.goes_on.items()]
        return _Outlook(
            math.fsum([prospect.success, *(share * there.success for share, there in nexts)]),
            math.fsum(share * there.usage for share, there in nexts),
        )

    def outlook(name: str) -> _Outlook:
        if name not in outlooks:
            alone, helped = expected(states[name].alone), expected(states[name].helped)
            gains[name] = helped.value(penalty) - alone.value(penalty)
            paid = replace(helped, usage=helped.usage + 1.0)
            outlooks[name] = paid if gains[name] > penalty + _ROUNDING else alone
        return outlooks[name]

    whole = expected(Prospect(goes_on=start))
    for name in states:
        outlook(name)
    helps = frozenset(name for name, gain in gains.items() if gain > penalty + _ROUNDING)
    return HelpPolicy(penalty=penalty, helps=helps, usage=whole.usage, success=whole.success, gains=gains)


def within_budget(
    states: Mapping[str, HelpState], start: Mapping[str, float], budget: float
) -> tuple[HelpPolicy, HelpPolicy | None]:
    """The policy at the smallest penalty whose expected help calls stay within `budget`; and, where some of the budget
    is left over because the next policy needs more, that one (mixing the two by chance meets the budget exactly).

    Usage falls in steps as the penalty grows, at the slopes of the best success for a given usage; those on either side
    of the budget are found by trying the slope between the two nearest so far.
    """
    over = solve(states, start, 0.0)
    if over.usage <= budget + _ROUNDING:
        return over, None
    within = solve(states, start, math.inf if not states else 1.0)
    while True:
        slope = (over.success - within.success) / (over.usage - within.usage)
        between = solve(states, start, slope)
        best = max(_value(over, slope), _value(within, slope))
        if _value(between, slope) <= best + _ROUNDING:
            return replace(within, penalty=slope), over
        if between.usage <= budget + _ROUNDING:
            within = between
        else:
            over = between


def _value(policy: HelpPolicy, penalty: float) -> float:
    return policy.success - penalty * policy.usage
