"""Recruiter `calibrated`: the experts likeliest to be right on the query, and as many as are worth their calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.chances import Chances
from router_service.recruit.rehearsal import Positions, Rehearsal
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.saved import Learned
from router_service.recruit.strength import Floats
from router_service.types import MAX_K, Query

__all__ = ["Calibrated", "ordered"]

_PENALTIES = (0.0, 0.1, 0.2, 0.4)
_JUDGED_SIZES = (3, 5)
_WEIGHED = 11
"""So many experts of a panel are chosen with a view to the others."""


@RECRUITERS.register("calibrated")
class Calibrated(RosterRecruiter):
    """Our own recruiter, in one shot. `Chances` says how likely each expert is to be right on this very query; the
    panel is built one by one, each time the expert with the highest P(correct) less `redundancy` times how often it
    errs in the same words as those already chosen. That price of redundancy and, without `k`, the size of the panel
    (up to `most`) are those that would have given the most accurate fused answers on the fit questions,
    cross-validated, where a larger panel must gain at least `worth` in accuracy per completion.

    `redundancy` fixes the price instead of learning it. Advises the aggregator `fuser`.
    """

    name: ClassVar[str] = "calibrated"
    needs_annotation: bool = True
    needs_embeddings: ClassVar[bool] = True
    scores_jointly: ClassVar[bool] = True
    sizes_panel: ClassVar[bool] = True
    has_own_chances: ClassVar[bool] = True

    def __init__(
        self,
        *,
        k: int | None = None,
        most: int = 9,
        worth: float = 0.001,
        redundancy: float | None = None,
        seed: int = 0,
    ) -> None:
        self.k = k if k is None else require_k(self.name, k)
        if not 1 <= most <= MAX_K:
            raise ConfigError(f"recruiter {self.name!r}: most is {most}; it is a panel's largest size, 1 to {MAX_K}")
        if worth < 0:
            raise ConfigError(f"recruiter {self.name!r}: worth is {worth}; it is accuracy per completion, 0 or more")
        if redundancy is not None and redundancy < 0:
            raise ConfigError(f"recruiter {self.name!r}: redundancy is {redundancy}; it is a price, 0 or more")
        self.most, self.worth, self.redundancy, self.seed = most, worth, redundancy, seed
        self.chances_: Chances | None = None
        self.overlap_: Floats = np.zeros((0, 0))
        self.penalty_ = 0.0
        self.size_ = 1
        self.curve_: list[float] = []

    def completions_for(self, query: Query) -> int:
        """The query's own `k`, else the recruiter's, else the size that paid on the fit questions."""
        return query.controls.k or self.k or self.size_

    def order(self, chances: Floats) -> Positions:
        """The experts in the order in which they are asked, (n, m), by their P(correct), (n, m)."""
        return ordered(chances, self.overlap_, self.penalty_)

    def _learn(self, data: FitData, roster: Roster) -> None:
        self.learn_from(*Rehearsal.with_chances(data, name=self.name, seed=self.seed))

    def learn_from(self, known: Chances, rehearsal: Rehearsal) -> None:
        """Learn the price of redundancy and the size that pays."""
        self.chances_ = known
        chances = rehearsal.of_asked(known.left_out())
        self.overlap_ = shared_errors(rehearsal)
        self.penalty_ = self._best_penalty(rehearsal, chances) if self.redundancy is None else self.redundancy
        most = min(self.most, chances.shape[1])
        steps = rehearsal.steps(ordered(chances, self.overlap_, self.penalty_), chances, most=most)
        self.curve_ = [float(step.grades.mean()) for step in steps]
        self.size_ = 1 + int(np.argmax(np.array(self.curve_) - self.worth * np.arange(len(steps))))

    def _best_penalty(self, rehearsal: Rehearsal, chances: Floats) -> float:
        """The price of redundancy with the most accurate panels; 0 unless another is better."""
        sizes = [size for size in _JUDGED_SIZES if size < chances.shape[1]]
        reached = []
        for penalty in _PENALTIES:
            steps = rehearsal.steps(ordered(chances, self.overlap_, penalty), chances, most=max(sizes, default=1))
            reached.append(sum(float(steps[size - 1].grades.mean()) for size in sizes))
        return _PENALTIES[int(np.argmax(np.round(reached, 9)))]

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        assert self.chances_ is not None
        chances = self.chances_.of([case.request.annotation for case in cases])
        ranked = ordered(with_strangers_last(chances, roster), self.overlap_, self.penalty_).tolist()
        known = np.where(roster.table.has_profile, chances, np.nan).tolist()
        choices = []
        for case, order, own, shown in zip(cases, ranked, chances.tolist(), known, strict=True):
            allowed = set(case.shortlist.positions)
            positions = case.allowance.best_first([position for position in order if position in allowed])
            choices.append(Choice(positions=positions, scores=own, p_correct=shown, aggregator="fuser"))
        return choices

    def _learned(self) -> Learned:
        assert self.chances_ is not None
        inner = self.chances_.learned()
        values = {**inner.values, "penalty": self.penalty_, "size": self.size_, "curve": self.curve_}
        return Learned(values=values, arrays={**inner.arrays, "overlap": self.overlap_})

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        self.chances_ = Chances.relearned(learned)
        self.overlap_ = learned.arrays["overlap"]
        self.penalty_, self.size_ = float(learned.values["penalty"]), int(learned.values["size"])
        self.curve_ = list(learned.values["curve"])


def shared_errors(rehearsal: Rehearsal) -> Floats:
    """How often two experts err alike, (experts, experts): the questions on which both give the same wrong answer,
    over the geometric mean of their errors; 0 on the diagonal."""
    votes = rehearsal.votes
    grades = votes.grades()
    wrong = (grades == 0) & (votes.labels >= 0)
    experts = wrong.shape[1]
    shared = np.zeros((experts, experts))
    for one in range(experts):
        alike = wrong & wrong[:, [one]] & (votes.labels == votes.labels[:, [one]])
        shared[one] = alike.sum(axis=0)
    errors = np.maximum((grades == 0).sum(axis=0), 1)
    shared /= np.sqrt(np.outer(errors, errors))
    np.fill_diagonal(shared, 0.0)
    return shared


def ordered(chances: Floats, overlap: Floats, penalty: float) -> Positions:
    """The experts in the order in which they are asked, (n, m): each time the highest P(correct) less `penalty` times
    the mean overlap with those already chosen, the twelfth and later by P(correct) alone; ties in the pool's order."""
    if penalty == 0:
        return np.asarray(np.argsort(-chances, axis=1, kind="stable"))
    n, experts = chances.shape
    order = np.zeros((n, experts), dtype=np.intp)
    burden = np.zeros((n, experts))
    left = chances.copy()
    rows = np.arange(n)
    turns = min(experts, _WEIGHED)
    for turn in range(turns):
        chosen = (left - penalty * burden / max(1, turn)).round(9).argmax(axis=1)
        order[:, turn] = chosen
        burden += overlap[chosen]
        left[rows, chosen] = -np.inf
    order[:, turns:] = np.argsort(-left, axis=1, kind="stable")[:, : experts - turns]
    return order


def with_strangers_last(chances: Floats, roster: Roster) -> Floats:
    """P(correct) for ordering: experts without a profile come after all others, in the pool's order."""
    strangers = ~roster.table.has_profile
    if not strangers.any():
        return chances
    return np.where(strangers, -1.0 - np.arange(len(strangers)) / len(strangers), chances)
