"""Which strategy to trust: each rehearsed on the fit questions at equal calls, simpler ones kept unless beaten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_service.estimation import Floats, chance_better

__all__ = ["Contender", "Verdict", "judge", "verdicts_by_category"]

FEWEST_QUESTIONS = 40
"""A category with fewer fit questions is no evidence of its own."""
_NEARLY_EVEN = 0.55
_SAME_CALLS = 1.1
_MARGIN = 0.01
"""The accuracy that a strategy with fewer completions may lose and still be preferred in a category."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A strategy with its grade and its number of completions on every fit question, (n,) each."""

    name: str
    grades: Floats
    calls: Floats

    def within(self, rows: NDArray[np.bool_]) -> Contender:
        """On some of the questions."""
        return Contender(name=self.name, grades=self.grades[rows], calls=self.calls[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Who was chosen on `n` questions, and the evidence: per contender its accuracy, completions per query, and how
    likely it is to be better than the one chosen before it (None where there was none)."""

    chosen: str
    n: int
    evidence: tuple[tuple[str, float, float, float | None], ...]

    def as_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"chosen": self.chosen, "n": self.n, "evidence": [list(row) for row in self.evidence]}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Verdict:
        """What `as_json` held."""
        rows = tuple((str(r[0]), float(r[1]), float(r[2]), r[3]) for r in content["evidence"])
        return cls(chosen=content["chosen"], n=content["n"], evidence=rows)

    def lines(self) -> list[str]:
        """The evidence for people, one line a contender."""
        return [
            f"{name}: accuracy {accuracy:.3f}, {calls:.2f} completions a query"
            + ("" if p is None else f", better than what was chosen before it with probability {p:.2f}")
            + (" (chosen)" if name == self.chosen else "")
            for name, accuracy, calls, p in self.evidence
        ]


def judge(contenders: Sequence[Contender], *, level: float, incumbent: str | None = None) -> Verdict:
    """Who is to be trusted: the contenders come simplest first, and one replaces those before it only where it is
    better with probability `level` at least; `_NEARLY_EVEN` will do where it takes no more completions, for then the
    better-looking one is the better bet and only ties go to the simpler. With an `incumbent` that one is chosen
    beforehand, and any other needs `level`."""
    chosen = next((c for c in contenders if c.name == incumbent), contenders[0])
    evidence = []
    for contender in contenders:
        p = None if contender is chosen else chance_better(contender.grades, chosen.grades)
        evidence.append((contender.name, float(contender.grades.mean()), float(contender.calls.mean()), p))
        is_dearer = contender.calls.mean() > _SAME_CALLS * chosen.calls.mean()
        needed = level if is_dearer or incumbent is not None else min(level, _NEARLY_EVEN)
        if p is not None and p >= needed:
            chosen = contender
    return Verdict(chosen=chosen.name, n=len(contenders[0].grades), evidence=tuple(evidence))


def verdicts_by_category(
    contenders: Sequence[Contender], categories: NDArray[np.intp], *, overall: str, level: float
) -> dict[int, Verdict]:
    """Per category, by number: the verdict where it has questions enough and another than the overall choice wins.

    One that takes fewer completions wins where it is with probability `level` less than `_MARGIN` worse (the simplest
    of these); any other where it is better with that probability.
    """
    found = {}
    for number in np.unique(categories[categories >= 0]).tolist():
        rows = categories == number
        if int(rows.sum()) < FEWEST_QUESTIONS:
            continue
        here = [contender.within(rows) for contender in contenders]
        incumbent = _cheaper_and_no_worse(here, overall, level=level) or overall
        verdict = judge(here, level=level, incumbent=incumbent)
        if verdict.chosen != overall:
            found[int(number)] = verdict
    return found


def _cheaper_and_no_worse(contenders: Sequence[Contender], overall: str, *, level: float) -> str | None:
    chosen = next(contender for contender in contenders if contender.name == overall)
    for contender in contenders:
        saves = contender.calls.mean() < 0.9 * chosen.calls.mean()
        if saves and chance_better(contender.grades + _MARGIN, chosen.grades) >= level:
            return contender.name
    return None
