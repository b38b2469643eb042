"""Aggregator `auto`: the learned vote where it is measurably better than a plain one, else the plain one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from aggregators.base import AGGREGATORS, Aggregator
from aggregators.fuser import Fuser
from aggregators.fusion import Votes, cross_fitted, fused_ids, votes_of
from aggregators.majority import Majority
from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError, NotFittedError
from router_service.estimation import chance_better
from router_service.types import Answer, Ask, FitData, Panel

__all__ = ["Auto", "Comparison"]

KIND = ArtefactKind("aggregator_auto", 1)

_SIZES = (3, 5)
"""Panels of the best experts on which the two votes are compared, besides the whole pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What either vote reached with the best `size` experts, and how likely the learned one is the better."""

    size: int
    majority: float
    fuser: float
    p_fuser_better: float


@AGGREGATORS.register("auto")
class Auto:
    """Chooses on the fit questions, cross-validated, between `majority` and `fuser`, for each size of panel: the
    learned vote has to be better with probability `level`, by a paired test over panels of the three and the five best
    experts and of all; a panel goes by the size nearest to its own. Without graded outcomes it is `majority`. Where a
    recruiter advises an aggregator for a query, as the recruiter `auto` does, that one is asked instead.

    `evidence_` holds what was found, a `Comparison` per size.
    """

    keeps_text = True
    needs_chances = True

    def __init__(self, *, level: float = 0.8, seed: int = 0) -> None:
        if not 0.5 <= level < 1:
            raise ConfigError(f"aggregator 'auto': level is {level}; it is a probability, from 0.5 to below 1")
        self.level, self.seed = level, seed
        self.fuser_: Fuser | None = None
        self.evidence_: tuple[Comparison, ...] | None = None

    def fit(self, data: FitData) -> Auto:
        """Compare, and learn the vote where it is better; returns itself."""
        self.fuser_, self.evidence_ = None, ()
        ids, categories = fused_ids(data)
        if not ids:
            return self
        votes = votes_of(data, ids, categories)
        self.evidence_ = _compared(votes, len(categories), self.seed)
        if any(found.p_fuser_better >= self.level for found in self.evidence_):
            self.fuser_ = Fuser(seed=self.seed).fit(data)
        return self

    def save(self, path: str | Path) -> None:
        """Write what was chosen and learned, the vote in a file beside it; `NotFittedError` before `fit`."""
        if self.evidence_ is None:
            raise _not_fitted()
        evidence = [asdict(found) for found in self.evidence_]
        options = {"level": self.level, "seed": self.seed}
        KIND.save(path, {"evidence": evidence, "is_learned": self.fuser_ is not None, **options}, {})
        if self.fuser_ is not None:
            self.fuser_.save(_beside(path))

    def load(self, path: str | Path) -> Auto:
        """Take the state that `save` wrote; returns itself. `ConfigError` for another file, format, level or seed."""
        saved = KIND.load(path)
        for option, now in (("level", self.level), ("seed", self.seed)):
            then = saved.fields.get(option)
            if then != now:
                raise ConfigError(
                    f"{path} was fitted with {option} {then}, and {now} is configured; configure the same, or fit again"
                )
        self.evidence_ = tuple(Comparison(**found) for found in saved.fields["evidence"])
        self.fuser_ = Fuser(seed=saved.fields["seed"]).load(_beside(path)) if saved.fields["is_learned"] else None
        return self

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer of the vote that was chosen, under that vote's name."""
        if self.evidence_ is None:
            raise _not_fitted()
        return await self._vote_for(len(panel.members)).aggregate(panel, ask=ask)

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        """Whether the plain vote is decided, and would be taken however many of those still out come through."""
        if self.evidence_ is None:
            return False
        there = len(panel.members)
        votes = [self._vote_for(size) for size in range(there, there + len(pending) + 1)]
        return all(isinstance(vote, Majority) for vote in votes) and Majority().is_settled(panel, pending)

    def _vote_for(self, size: int) -> Aggregator:
        """The vote for a panel of so many members."""
        if self.fuser_ is None or not self.evidence_:
            return Majority()
        nearest = min(self.evidence_, key=lambda found: (abs(found.size - size), found.size))
        return self.fuser_ if nearest.p_fuser_better >= self.level else Majority()


def _compared(votes: Votes, categories: int, seed: int) -> tuple[Comparison, ...]:
    """Both votes with the best experts of the other folds, a comparison per size of panel."""
    everyone = votes.labels.shape[1]
    sizes = sorted({*(size for size in _SIZES if size < everyone), everyone})
    plain, learned = np.zeros((len(sizes), len(votes))), np.zeros((len(sizes), len(votes)))
    grades = votes.grades()
    asked = ~np.isnan(grades)
    for held_out, fusion in cross_fitted(votes, categories=categories, seed=seed):
        seen = asked & ~held_out[:, None]
        rates = (np.where(seen, grades, 0.0).sum(axis=0) + 1.0) / (seen.sum(axis=0) + 2.0)
        ranks = np.argsort(np.argsort(-rates, kind="stable"))
        part = votes.rows(held_out)
        for number, size in enumerate(sizes):
            panel = part.within(np.broadcast_to(ranks < size, part.labels.shape))
            plain[number, held_out] = panel.majority(np.broadcast_to(rates, part.labels.shape))
            learned[number, held_out] = part.is_right(fusion.verdicts(panel).winners)
    return tuple(
        Comparison(size=size, majority=float(a.mean()), fuser=float(b.mean()), p_fuser_better=chance_better(b, a))
        for size, a, b in zip(sizes, plain, learned, strict=True)
    )


def _beside(path: str | Path) -> Path:
    return Path(path).with_suffix(".fuser.npz")


def _not_fitted() -> NotFittedError:
    return NotFittedError("aggregator 'auto' is not fitted; it chooses by an artefact's outcomes (`enlist profile`)")
