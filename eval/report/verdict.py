"""Says plainly what the rows show: who is ahead, and whether choosing experts by the question was worth it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from eval.report.wording import interval, percent, points, strategy_name
from eval.results import PairedDifference, ReplayReport, ReplayRow

__all__ = ["UNROUTED", "Judgement", "PoolVerdict", "headline", "judge", "pool_verdicts"]

UNROUTED = frozenset({"all", "best_single", "fixed", "named", "random"})
"""Recruiters that look at no question: what every other strategy must beat to be worth its trouble."""

_FIXED = "fixed"
_CHANCE = 0.025
"""How often the 95 % interval of a difference that is none lies wholly above 0."""


class Judgement(StrEnum):
    """What a paired 95 % interval says of a difference."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    UNKNOWN = "unknown"


def judge(difference: PairedDifference | None) -> Judgement:
    """Better or worse only where the whole interval lies on one side of 0."""
    if difference is None:
        return Judgement.UNKNOWN
    if difference.low > 0:
        return Judgement.BETTER
    return Judgement.WORSE if difference.high < 0 else Judgement.UNDECIDED


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolVerdict:
    """The best rows of a pool by accuracy, the one with fewer calls of two equal; `routed` chooses by the question."""

    dataset: str
    pool: str
    n_routed: int
    winner: ReplayRow
    routed: ReplayRow | None
    fixed: ReplayRow | None

    @property
    def against_single(self) -> Judgement:
        """The best routed strategy against the best single expert."""
        return judge(self.routed.vs_best_single) if self.routed else Judgement.UNKNOWN

    @property
    def against_fixed(self) -> Judgement:
        """The best routed strategy against the fixed panel of as many calls."""
        return judge(self.routed.vs_fixed) if self.routed else Judgement.UNKNOWN

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict in words, each with its interval."""
        said = [f"Ahead: {_described(self.winner)}."]
        if self.routed is None:
            return (*said, "No strategy that chooses by the question was judged here.")
        if self.routed is not self.winner:
            said.append(
                f"No strategy that chooses by the question does better; the best of {self.n_routed} is "
                f"{_described(self.routed)}."
            )
        said.append(_compared(self.routed.vs_best_single, "the best single expert, as chosen on the fitted questions"))
        said.append(_compared(self.routed.vs_fixed, "the vote of a fixed panel of as many calls"))
        if self.fixed is not None and self.routed is self.winner:
            said.append(f"The best fixed panel of any size is {_described(self.fixed)}.")
        return tuple(sentence for sentence in said if sentence)


def _described(row: ReplayRow) -> str:
    calls = f"{row.calls_per_query:.3g} call{'' if row.calls_per_query == 1 else 's'} a question"
    return f"{strategy_name(row)} with {percent(row.accuracy)} % right (95 % interval {interval(row.ci95)}, {calls})"


def _compared(difference: PairedDifference | None, other: str) -> str:
    judgement = judge(difference)
    if judgement is Judgement.UNKNOWN:
        return ""
    words = {
        Judgement.BETTER: "it is better",
        Judgement.WORSE: "it is worse",
        Judgement.UNDECIDED: "the two cannot be told apart",
    }
    return f"Against {other}: {points(difference)} points, so {words[judgement]}."


def pool_verdicts(report: ReplayReport) -> tuple[PoolVerdict, ...]:
    """One verdict per pool of each dataset that has rows, in the order of the rows; controls do not count."""
    judged = [row for row in report.rows if not row.is_shuffled]
    places = dict.fromkeys((row.dataset, row.pool) for row in judged)
    return tuple(_verdict([row for row in judged if (row.dataset, row.pool) == place]) for place in places)


def _verdict(rows: Sequence[ReplayRow]) -> PoolVerdict:
    routed = [row for row in rows if row.recruiter not in UNROUTED]
    return PoolVerdict(
        dataset=rows[0].dataset,
        pool=rows[0].pool,
        n_routed=len(routed),
        winner=_best(rows),
        routed=_best(routed) if routed else None,
        fixed=_best(fixed) if (fixed := [row for row in rows if row.recruiter == _FIXED]) else None,
    )


def _best(rows: Iterable[ReplayRow]) -> ReplayRow:
    return max(rows, key=lambda row: (row.accuracy, -row.calls_per_query))


def headline(verdicts: Sequence[PoolVerdict]) -> tuple[str, ...]:
    """What all pools together say, and how far that can be trusted."""
    routed = [verdict for verdict in verdicts if verdict.routed is not None]
    if not routed:
        return ("No strategy that chooses experts by the question was judged, so nothing can be said of routing.",)
    singles, panels = ([getattr(v, against) for v in routed] for against in ("against_single", "against_fixed"))
    of_each = (
        f"the best strategy of each of {len(routed)} pools" if len(routed) > 1 else "the best strategy of the pool"
    )
    said = [
        f"Going by {of_each}, choosing experts by the question {_tally(singles, 'the best single expert')}, and "
        f"{_tally(panels, 'the vote of a fixed panel of as many calls')}."
    ]
    ahead = sum(verdict.winner.recruiter in UNROUTED for verdict in routed)
    if ahead:
        where = f"On {ahead} of {len(routed)} pools" if len(routed) > 1 else "Here"
        said.append(f"{where} a panel that looks at no question at all is ahead of everything.")
    tried = sum(verdict.n_routed for verdict in routed)
    by_luck = round(_CHANCE * tried)
    luck = (
        f" Were none of these strategies any better than what it is compared with, about {by_luck} would still show an "
        "interval above 0."
    )
    said.append(
        f"Read this with care: the winners were picked among {tried} judged strategies by the very questions they are "
        f"judged on, which flatters them.{luck if by_luck else ''} Decide by other questions than these."
    )
    return tuple(said)


_VERBS = {
    Judgement.BETTER: "beats",
    Judgement.WORSE: "loses to",
    Judgement.UNDECIDED: "cannot be told from",
    Judgement.UNKNOWN: "was not compared with",
}


def _tally(found: Sequence[Judgement], other: str) -> str:
    """What holds on the one pool, or on how many of them what holds: "beats it on 1, cannot be told from it on 2"."""
    if len(found) == 1:
        return f"{_VERBS[found[0]]} {other}"
    counts = {kind: found.count(kind) for kind in _VERBS if kind in found or kind is Judgement.BETTER}
    first, *others = (
        f"{_VERBS[kind]} {'it' if place else other} on {count or 'none'}"
        for place, (kind, count) in enumerate(counts.items())
    )
    return f"{first} ({', '.join(others)})" if others else first
