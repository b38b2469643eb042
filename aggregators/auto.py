"""Aggregator `auto`: the learned vote where it is measurably better than a plain one, else the plain one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aggregators.base import AGGREGATORS
from aggregators.fuser import Fuser
from aggregators.fusion import Votes, cross_fitted, fused_ids, votes_of
from aggregators.majority import Majority
from router_service.artefacts import ArtefactKind
from router_service.errors import ConfigError, NotFittedError
from router_service.estimation import Floats, chance_better
from router_service.types import Answer, Ask, FitData, Panel

__all__ = ["Auto"]

KIND = ArtefactKind("aggregator_auto", 1)

_SIZES = (3, 5)
"""Panels of the best experts on which the two votes are compared."""


@AGGREGATORS.register("auto")
class Auto:
    """Chooses on the fit questions, cross-validated, between `majority` and `fuser`: the learned vote has to be better
    with probability `level`, by a paired test over panels of the three and the five best experts. Without graded
    outcomes it is `majority`. A recruiter that advises an aggregator of its own for a query, as the recruiter `auto`
    does, is followed before this one is asked.

    `evidence_` says what was found: accuracy of either, the probability, the number of questions.
    """

    keeps_text = True
    needs_chances = True

    def __init__(self, *, level: float = 0.8, seed: int = 0) -> None:
        if not 0.5 <= level < 1:
            raise ConfigError(f"aggregator 'auto': level is {level}; it is a probability, from 0.5 to below 1")
        self.level, self.seed = level, seed
        self.fuser_: Fuser | None = None
        self.evidence_: dict[str, float] | None = None

    def fit(self, data: FitData) -> Auto:
        """Compare, and learn the vote where it is better; returns itself."""
        self.fuser_, self.evidence_ = None, {}
        ids, categories = fused_ids(data)
        if not ids:
            return self
        votes = votes_of(data, ids, categories)
        plain, learned = _compared(votes, len(categories), self.seed)
        p = chance_better(learned, plain)
        self.evidence_ = {
            "majority": float(plain.mean()),
            "fuser": float(learned.mean()),
            "p_fuser_better": p,
            "n": float(len(ids)),
        }
        if p >= self.level:
            self.fuser_ = Fuser(seed=self.seed).fit(data)
        return self

    def save(self, path: str | Path) -> None:
        """Write what was chosen and learned, the vote in a file beside it; `NotFittedError` before `fit`."""
        if self.evidence_ is None:
            raise _not_fitted()
        KIND.save(path, {"evidence": self.evidence_, "is_learned": self.fuser_ is not None, "seed": self.seed}, {})
        if self.fuser_ is not None:
            self.fuser_.save(_beside(path))

    def load(self, path: str | Path) -> Auto:
        """Take the state that `save` wrote; returns itself."""
        saved = KIND.load(path)
        self.evidence_ = dict(saved.fields["evidence"])
        self.fuser_ = Fuser(seed=saved.fields["seed"]).load(_beside(path)) if saved.fields["is_learned"] else None
        return self

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        """The answer of the vote that was chosen, under that vote's name."""
        if self.evidence_ is None:
            raise _not_fitted()
        chosen = Majority() if self.fuser_ is None else self.fuser_
        return await chosen.aggregate(panel, ask=ask)


def _compared(votes: Votes, categories: int, seed: int) -> tuple[Floats, Floats]:
    """The mean grade of either vote on each question over the panels of the best, those of other folds."""
    grades = votes.grades()
    asked = ~np.isnan(grades)
    plain, learned = np.zeros(len(votes)), np.zeros(len(votes))
    sizes = [size for size in _SIZES if size <= votes.labels.shape[1]] or [votes.labels.shape[1]]
    for held_out, fusion in cross_fitted(votes, categories=categories, seed=seed):
        seen = asked & ~held_out[:, None]
        rates = (np.where(seen, grades, 0.0).sum(axis=0) + 1.0) / (seen.sum(axis=0) + 2.0)
        ranks = np.argsort(np.argsort(-rates, kind="stable"))
        part = votes.rows(held_out)
        for size in sizes:
            panel = part.within(np.broadcast_to(ranks < size, part.labels.shape))
            plain[held_out] += panel.majority(np.broadcast_to(rates, part.labels.shape)) / len(sizes)
            learned[held_out] += part.is_right(fusion.verdicts(panel).winners) / len(sizes)
    return plain, learned


def _beside(path: str | Path) -> Path:
    return Path(path).with_suffix(".fuser.npz")


def _not_fitted() -> NotFittedError:
    return NotFittedError("aggregator 'auto' is not fitted; it chooses by an artefact's outcomes (`enlist profile`)")
