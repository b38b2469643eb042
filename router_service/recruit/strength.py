"""How good each expert is at what a query needs: local scores and P(correct), for whole batches at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from router_service.types import Expert, Profile, SkillAnnotation, Tally

__all__ = [
    "CATEGORY_WEIGHT",
    "OVERALL_WEIGHT",
    "SKILL_WEIGHT",
    "SOFTMIN_NET",
    "Combine",
    "Floats",
    "StrengthTable",
    "shrunk_rate",
]

Floats = NDArray[np.float64]

Combine = Literal["sum", "mean", "min", "softmin"]
"""How the scores of a query's skills become one: a sum, as released, or nearer to the weakest of them."""

OVERALL_WEIGHT = 2.0
"""Trials that the prior rate, one half, counts for."""
CATEGORY_WEIGHT = 20.0
"""Trials that the overall rate counts for where the category has few of its own."""
SKILL_WEIGHT = 20.0
"""Trials that the category's rate counts for where the skills have few: most skills of real data occur once, and one
trial must move the rate only a little."""

SOFTMIN_NET = 1.0
"""The temperature of `softmin`, in wins minus losses: a skill so much above the weakest weighs 1/e of it."""

_DECIMALS = 9
"""Scores are rounded so far: sums of fractional weights that cancel are then exactly 0, as in exact arithmetic."""


def shrunk_rate(wins: Any, trials: Any, *, prior: Any, weight: float) -> Any:
    """`(wins + prior*weight) / (trials + weight)`, on numbers or arrays: the mean of a Beta posterior."""
    return (wins + prior * weight) / (trials + weight)


class StrengthTable:
    """The profiles of a pool as arrays: rows are skills (or categories), columns the experts in the pool's order.

    Rows are added up skill by skill and not by a matrix product, whose rounding depends on the size of the batch:
    a query's scores must be the same alone and among others.
    """

    def __init__(self, experts: Sequence[Expert], profiles: Mapping[str, Profile]) -> None:
        columns = [profiles.get(expert.id) for expert in experts]
        self.has_profile = np.array([profile is not None for profile in columns], dtype=bool)
        known = [profile if profile is not None else Profile(expert_id="") for profile in columns]
        self._size = len(known)
        self._skills = _numbered(profile.skills for profile in known)
        self._categories = _numbered(profile.categories for profile in known)
        wins, trials = _arrays(self._skills, [profile.skills for profile in known])
        self._stacked = np.concatenate([2 * wins - trials, wins, trials], axis=1)
        self.totals: Floats = _rounded(np.array([_total_net(profile) for profile in known]))
        self.overall = self._overall(known)
        self._base = self._base_rates(known)
        self.best_first: tuple[int, ...] = self._best_first()
        """Positions by success on the fit questions, ties in the pool's order, experts without a profile last."""

    def _best_first(self) -> tuple[int, ...]:
        has_profile, overall = self.has_profile.tolist(), self.overall.tolist()
        return tuple(sorted(range(self._size), key=lambda i: (not has_profile[i], -overall[i])))

    def _overall(self, known: Sequence[Profile]) -> Floats:
        wins = np.array([profile.overall.wins for profile in known])
        trials = np.array([profile.overall.trials for profile in known], dtype=float)
        return np.asarray(shrunk_rate(wins, trials, prior=0.5, weight=OVERALL_WEIGHT), dtype=np.float64)

    def _base_rates(self, known: Sequence[Profile]) -> Floats:
        """Rates per category, shrunk; the last row, for an unknown category, is the overall rate."""
        wins, trials = _arrays(self._categories, [profile.categories for profile in known])
        rates = shrunk_rate(wins, trials, prior=self.overall, weight=CATEGORY_WEIGHT)
        seen = np.array([[c in profile.categories for profile in known] for c in [*self._categories, None]], dtype=bool)
        return np.where(seen, rates, self.overall)

    def knows(self, annotation: SkillAnnotation) -> bool:
        """Whether any profile has one of the annotated skills."""
        return any(weight > 0 and skill in self._skills for skill, weight in annotation.skills.items())

    def strengths(self, annotations: Sequence[SkillAnnotation], *, combine: Combine = "sum") -> tuple[Floats, Floats]:
        """Local scores and P(correct), each of shape (annotations, experts).

        The local score combines wins minus losses over the annotated skills: with `sum`, the sum of weight times wins
        minus losses (Symbolic-MoE, released code); `_combined` says what the others are. For P(correct) the tallies
        of the annotated skills are added up (weighted, the heaviest skill counting in full) and shrunk towards the
        rate in the query's category, which is shrunk towards the overall rate, which is shrunk towards one half;
        skills and categories the profile does not know add nothing. Experts without a profile have 0 and NaN.
        """
        entries, heaviest = self._entries(annotations)
        sums = self._sums(entries)
        n = self._size
        unknown = len(self._categories)
        rows = [unknown if a.category is None else self._categories.get(a.category, unknown) for a in annotations]
        base = self._base[np.array(rows, dtype=np.intp)]
        wins = sums[:, n : 2 * n] / heaviest[:, None]
        trials = sums[:, 2 * n :] / heaviest[:, None]
        chances = np.asarray(shrunk_rate(wins, trials, prior=base, weight=SKILL_WEIGHT), dtype=np.float64)
        chances[:, ~self.has_profile] = np.nan
        return _rounded(sums[:, :n] if combine == "sum" else self._combined(entries, sums[:, :n], combine)), chances

    def _entries(self, annotations: Sequence[SkillAnnotation]) -> tuple[_Entries, Floats]:
        """The annotated skills that some profile has, and each annotation's heaviest weight (1 where it has none)."""
        rows: list[int] = []
        weights: list[float] = []
        lengths = np.zeros(len(annotations), dtype=np.intp)
        heaviest = np.ones(len(annotations))
        skills = self._skills
        for number, annotation in enumerate(annotations):
            if not annotation.skills:
                continue
            known = [(skills[s], w) for s, w in annotation.skills.items() if w > 0 and s in skills]
            lengths[number] = len(known)
            rows += [row for row, _ in known]
            weights += [weight for _, weight in known]
            heaviest[number] = max(annotation.skills.values())
        heaviest[heaviest <= 0] = 1.0
        entries = _Entries(rows=np.array(rows, dtype=np.intp), weights=np.array(weights), lengths=lengths)
        return entries, heaviest

    def _sums(self, entries: _Entries) -> Floats:
        """Weighted sums of the stacked tallies, per annotation."""
        sums = np.zeros((len(entries.lengths), self._stacked.shape[1]))
        if len(sums) == 1:  # the same additions in the same order, without what it takes to do them for many
            for row, weight in zip(entries.rows.tolist(), entries.weights.tolist(), strict=True):
                sums[0] += weight * self._stacked[row]
            return sums
        for active, rows, weights in entries.turns():
            sums[active] += weights[:, None] * self._stacked[rows]
        return sums

    def _combined(self, entries: _Entries, sums: Floats, combine: Combine) -> Floats:
        """Wins minus losses over an annotation's skills: `mean` is their mean by weight, `min` the least of them,
        whatever the weights (the weakest link), and `softmin` between the two, `-T log(mean by weight of
        exp(-net/T))` with T = `SOFTMIN_NET`. A skill that an expert's profile lacks counts as 0, as in a sum; a skill
        that no profile has is left out."""
        n, has_skill = self._size, entries.lengths > 0
        least, totals, mass = np.full_like(sums, np.inf), np.zeros(len(sums)), np.zeros_like(sums)
        for active, rows, weights in entries.turns():
            least[active] = np.minimum(least[active], self._stacked[rows, :n])
            totals[active] += weights
        least[~has_skill], totals[~has_skill] = 0.0, 1.0
        if combine == "min":
            return least
        if combine == "mean":
            return np.asarray(sums / totals[:, None])
        for active, rows, weights in entries.turns():
            mass[active] += weights[:, None] * np.exp((least[active] - self._stacked[rows, :n]) / SOFTMIN_NET)
        mass[~has_skill] = 1.0
        return np.asarray(least - SOFTMIN_NET * np.log(mass / totals[:, None]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entries:
    """The known skills of all annotations one after the other: `lengths` says how many each annotation has."""

    rows: NDArray[np.intp]
    weights: Floats
    lengths: NDArray[np.intp]

    def turns(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], Floats]]:
        """Every annotation's first skill, then its second, ...: which annotations still have one, the skill, its
        weight."""
        starts = np.cumsum(self.lengths) - self.lengths
        for turn in range(int(self.lengths.max(initial=0))):
            active = np.flatnonzero(self.lengths > turn)
            entries = starts[active] + turn
            yield active, self.rows[entries], self.weights[entries]


def _numbered(tallies: Any) -> dict[str, int]:
    """Every name that occurs, numbered in sorted order, so that the order of profiles does not show."""
    names = sorted({name for tally_by_name in tallies for name in tally_by_name})
    return {name: number for number, name in enumerate(names)}


def _arrays(numbers: Mapping[str, int], columns: Sequence[Mapping[str, Tally]]) -> tuple[Floats, Floats]:
    """Wins and trials, shape (names + 1, experts); the last row is that of an unknown name, all 0."""
    wins = np.zeros((len(numbers) + 1, len(columns)))
    trials = np.zeros_like(wins)
    for column, tallies in enumerate(columns):
        for name, tally in tallies.items():
            wins[numbers[name], column] = tally.wins
            trials[numbers[name], column] = tally.trials
    return wins, trials


def _total_net(profile: Profile) -> float:
    return float(sum(tally.net for tally in profile.skills.values()))


def _rounded(values: Floats) -> Floats:
    return np.asarray(np.round(values, _DECIMALS) + 0.0, dtype=np.float64)
