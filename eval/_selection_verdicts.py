"""Who is chosen for which panels: paired tests against votes of equal calls, cell by cell, backing off where thin."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aggregators.choices import MAJORITY, OVERALL, CellKey, Choice
from eval._selection_tries import Attempts

__all__ = [
    "ALPHA",
    "MIN_TRIALS",
    "CandidateEvidence",
    "CellEvidence",
    "decide",
    "sign_test",
    "wilson_interval",
]

MIN_TRIALS = 20
"""A cell with fewer trials decides nothing by itself."""

ALPHA = 0.05
"""The chance, over all candidates and cells together, of choosing one that is no better than the votes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateEvidence:
    """How a candidate did in a cell. `equal` holds each vote's accuracy over as many calls, `p_values` the one-sided
    sign tests against them; `n_short` trials had too few further completions on record for that. `fallbacks` counts
    trials in which another aggregator had to answer for it."""

    choice: Choice
    accuracy: float
    ci95: tuple[float, float]
    own_calls: float
    equal: Mapping[str, float]
    p_values: Mapping[str, float]
    fallbacks: int = 0
    n_short: int = 0

    @property
    def p_value(self) -> float:
        """Against the harder of the votes: a candidate must beat both."""
        return max(self.p_values.values(), default=1.0)

    @property
    def gain(self) -> float:
        """What it is better by than the better one of the votes."""
        return self.accuracy - max(self.equal.values(), default=self.accuracy)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEvidence:
    """The panels of one category and kind of answer (None: any): how many, who was tried, who is chosen, and why.

    `n_disputed` are the panels whose members did not all agree. `is_own` tells that the cell's own trials decided.
    """

    category: str | None
    kind: str | None
    n: int
    n_disputed: int
    chosen: Choice
    is_own: bool
    reason: str
    candidates: tuple[CandidateEvidence, ...]

    @property
    def key(self) -> CellKey:
        """Category and kind."""
        return self.category, self.kind


def decide(
    cells: Sequence[CellKey], disputed: Sequence[bool], attempts: Sequence[Attempts]
) -> tuple[CellEvidence, ...]:
    """The evidence and choice of every cell: overall first, then kinds, then categories within kinds.

    `cells` names each trial's own cell, `disputed` whether its members disagreed; `attempts` hold one candidate each.
    A candidate is chosen where it has the highest accuracy of those that beat both votes over as many calls by a
    one-sided exact sign test at `ALPHA` divided by candidates times cells with `MIN_TRIALS` trials (Bonferroni). A cell
    without such a one goes by the next wider cell, unless that one's choice did worse here than the better vote: then
    the vote stays.
    """
    rows = _rows_by_cell(cells)
    tested = sum(len(places) >= MIN_TRIALS for places in rows.values())
    level = ALPHA / max(1, len(attempts) * tested)
    decided: dict[CellKey, CellEvidence] = {}
    for key, places in rows.items():
        found = tuple(_evidence(one, places) for one in attempts)
        wider = decided.get(_wider(key, decided))
        chosen, is_own, reason = _choice(found, n=len(places), level=level, wider=wider)
        decided[key] = CellEvidence(
            category=key[0],
            kind=key[1],
            n=len(places),
            n_disputed=sum(disputed[place] for place in places),
            chosen=chosen,
            is_own=is_own,
            reason=reason,
            candidates=found,
        )
    return tuple(decided.values())


def sign_test(grades: Sequence[float], others: Sequence[float]) -> float:
    """One-sided exact p-value that `grades` are no better than `others` on the same trials (McNemar, exact).

    Only trials in which the two differ count: P(X >= better) for X binomial with that many trials and p = 1/2.
    """
    better = sum(mine > other for mine, other in zip(grades, others, strict=True))
    different = better + sum(mine < other for mine, other in zip(grades, others, strict=True))
    return float(sum(math.comb(different, i) for i in range(better, different + 1)) / 2**different)


def wilson_interval(wins: float, trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927), 95 % for the default z; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    rate, spread = wins / trials, z * z / trials
    centre = rate + spread / 2
    half = z * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def _rows_by_cell(cells: Sequence[CellKey]) -> dict[CellKey, list[int]]:
    """Which trials each cell holds, wider cells first; a level that would only repeat the one above is left out."""
    rows: dict[CellKey, list[int]] = {OVERALL: list(range(len(cells)))}
    kinds = Counter(kind for _, kind in cells)
    if len(kinds) > 1:
        for kind in sorted(kinds, key=str):
            rows[None, kind] = [place for place, cell in enumerate(cells) if cell[1] == kind]
    for category, kind in sorted(set(cells), key=str):
        places = [place for place, cell in enumerate(cells) if cell == (category, kind)]
        if category is not None and len(places) < kinds[kind]:
            rows[category, kind] = places
    return rows


def _wider(key: CellKey, decided: Mapping[CellKey, CellEvidence]) -> CellKey:
    category, kind = key
    return (None, kind) if category is not None and (None, kind) in decided else OVERALL


def _evidence(one: Attempts, places: Sequence[int]) -> CandidateEvidence:
    attempts = [one.attempts[place] for place in places]
    grades = [attempt.grade for attempt in attempts]
    equal = {vote: [votes[place] for place in places] for vote, votes in one.equal.items() if vote != one.choice.name}
    return CandidateEvidence(
        choice=one.choice,
        accuracy=_mean(grades),
        ci95=wilson_interval(sum(grades), len(grades)),
        own_calls=_mean([attempt.calls for attempt in attempts]),
        equal={vote: _mean(votes) for vote, votes in equal.items()},
        p_values={vote: sign_test(grades, votes) for vote, votes in equal.items()},
        fallbacks=sum(attempt.fell_back for attempt in attempts),
        n_short=sum(one.is_short[place] for place in places),
    )


def _choice(
    found: Sequence[CandidateEvidence], *, n: int, level: float, wider: CellEvidence | None
) -> tuple[Choice, bool, str]:
    """Who is chosen in a cell, whether by its own trials, and why."""
    better = [one for one in found if one.p_value <= level] if n >= MIN_TRIALS else []
    if better:
        best = max(better, key=lambda one: (one.accuracy, -one.own_calls))
        votes = ", ".join(f"{vote} {accuracy:.3f}" for vote, accuracy in best.equal.items())
        return best.choice, True, (
            f"{best.choice.name} is right on {best.accuracy:.3f} of {n} panels, at equal calls {votes} "
            f"(sign test, p = {best.p_value:.2g} <= {level:.2g})"
        )  # fmt: skip
    if n < MIN_TRIALS:
        thin = f"only {n} panels, {MIN_TRIALS} are needed"
    else:
        thin = f"nobody beats the votes at equal calls on {n} panels (sign test, {level:.2g})"
    if wider is None or wider.chosen == MAJORITY:
        return MAJORITY, wider is None, thin
    here = next((one for one in found if one.choice == wider.chosen), None)
    if n >= MIN_TRIALS and here is not None and here.gain < 0:
        return MAJORITY, True, f"{thin}, and {wider.chosen.name} loses {-here.gain:.3f} here"
    return wider.chosen, False, f"{thin}; as in the wider cell"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
