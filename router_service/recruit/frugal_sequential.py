"""Recruiter `frugal_sequential`: asks one expert at a time, for as long as the next ones are expected to pay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.call_costs import typical_costs
from router_service.recruit.frugal_rules import best_stop, frugal_objective, released_stop
from router_service.recruit.ranking import best_on_fit
from router_service.recruit.recorded_answers import Ballots, RecordedAnswers, answer_numbers
from router_service.recruit.roster import Case, Choice, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.scoring import embedding_rows, fit_embeddings, fit_matrix
from router_service.recruit.sequence import Said, SequenceRecruiter
from router_service.recruit.strength import Floats

__all__ = ["FrugalSequential"]

_DECIMALS = 9
"""Objectives and distances are compared to so many, so that rounding breaks no tie."""


@RECRUITERS.register("frugal_sequential")
class FrugalSequential(SequenceRecruiter):
    """FrugalFoE (Fusion of Experts, ICLR 2024; released code github.com/hwang595/FoE-ICLR2024, commit cde0ae44).

    With some outputs known, the error of the fused answer of every wider panel is expected to be what it was on the
    fit questions nearest in the space of these outputs; whoever leads to the panel of least `error + penalty * cost`
    is asked next, and nobody where that is the panel so far. Here outputs are compared by who agrees with whom and who
    is silent; of equally near questions each counts for its share; the fused answer is the majority's (a tie goes to
    the earliest); and wider panels are followed one best expert at a time up to `k`, since a second vote alone never
    changes a majority. `embedding_weight` above 0 adds the distance of the questions' embeddings (1 minus cosine,
    times this weight); on recorded outcomes it did not help.

    `cost` is one a call, or the USD of one of the expert's calls (`typical_costs`); `penalty` is in shares of error per
    unit of it. `rule` "released" is the released code's: nobody's cost counts, the first expert is the best on
    fit, and asking stops where the next expert improves the error on the near questions by less than two points, so
    that two are always asked; its neighbours are 10.
    """

    name: ClassVar[str] = "frugal_sequential"
    scores_jointly: ClassVar[bool] = True

    def __init__(
        self,
        *,
        k: int = 5,
        penalty: float = 0.003,
        neighbours: int = 40,
        embedding_weight: float = 0.0,
        cost: Literal["calls", "usd"] = "calls",
        rule: Literal["frugal", "released"] = "frugal",
    ) -> None:
        super().__init__(k=k)
        for option, value in (("penalty", penalty), ("embedding_weight", embedding_weight)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"recruiter {self.name!r}: {option} is {value}; it is 0 or more, and finite")
        if neighbours < 1:
            raise ConfigError(f"recruiter {self.name!r}: neighbours is {neighbours}; it is a number of questions, 1 up")
        self.penalty = penalty
        self.neighbours = neighbours
        self.embedding_weight = embedding_weight
        self.cost = cost
        self.rule = rule
        self.needs_annotation = embedding_weight > 0

    @property
    def needs_embeddings(self) -> bool:  # type: ignore[override]
        """Only where embeddings count."""
        return self.embedding_weight > 0

    # --- fitting ---------------------------------------------------------------------------------------------------

    def _learn(self, data: FitData, roster: Roster) -> None:
        ids, _ = fit_matrix(data, name=self.name, embedded=self.needs_embeddings)
        embeddings = fit_embeddings(data, ids) if self.needs_embeddings else np.zeros((len(ids), 0))
        self._take(RecordedAnswers.of(data, ids), embeddings, self._costs(data))

    def _costs(self, data: FitData) -> Floats:
        """What a call of each expert costs, in the unit asked for."""
        if self.cost == "calls":
            return np.ones(len(data.experts))
        costs = typical_costs(data)
        if unknown := [expert.id for expert, cost in zip(data.experts, costs, strict=True) if math.isnan(cost)]:
            raise ConfigError(
                f"recruiter {self.name!r}: cost is 'usd', and neither a price nor a fit outcome says what "
                f"{', '.join(unknown)} costs; give prices in the pool, or count calls (cost: calls)"
            )
        return costs

    def _take(self, answers: RecordedAnswers, embeddings: Floats, costs: Floats) -> None:
        self.answers_, self.embeddings_, self.costs_ = answers, embeddings, costs

    def _learned(self) -> Learned:
        arrays = {**self.answers_.as_arrays(), "embeddings": self.embeddings_, "costs": self.costs_}
        return Learned(arrays=arrays)

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        arrays = learned.arrays
        self._take(RecordedAnswers.from_arrays(arrays), arrays["embeddings"], arrays["costs"])

    # --- deciding --------------------------------------------------------------------------------------------------

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        everywhere = self._ballots((), np.ones(len(self.answers_.heard))).errors_with(1.0)
        return [self._first(roster, case, everywhere) for case in cases]

    def _first(self, roster: Roster, case: Case, everywhere: Floats) -> Choice:
        is_placed = self.needs_embeddings and case.request.annotation.embedding is not None
        errors = self._ballots((), self._near(case, (), ())).errors_with(1.0) if is_placed else everywhere
        order = best_on_fit(roster, case)
        if self.rule == "frugal" and order:
            order = [self._best(order, errors)]
        return Choice(positions=order[: min(1, case.allowance.completions)], scores=(1.0 - errors).tolist())

    def _further(self, roster: Roster, case: Case, said: Sequence[Said]) -> Sequence[tuple[int, float]]:
        heard = [item for item in said if item.completion.succeeded]
        members = tuple(item.position for item in heard)
        numbers = answer_numbers([item.completion for item in heard], case.request.query.task_format.kind)
        candidates = best_on_fit(roster, case)
        if self.rule == "released":
            return self._released(case, members, numbers, candidates=candidates)
        ballots = self._ballots(members, self._near(case, members, numbers))
        errors, costs, path = self._chain(members, ballots, candidates, steps=case.allowance.completions)
        return [(path[0], 1.0 - errors[1])] if best_stop(errors, costs, self.penalty) > 0 else []

    def _chain(
        self, members: Sequence[int], ballots: Ballots, candidates: Sequence[int], *, steps: int
    ) -> tuple[list[float], list[float], list[int]]:
        """Expected errors and costs of the panel so far and as it grows by the best expert at a time, and who they
        are."""
        left = list(candidates)
        errors, costs, path = [ballots.error()], [0.0], list[int]()
        while left and len(path) < steps:
            weight = _weight(len(members) + len(path))
            wider = ballots.errors_with(weight)
            best = self._best(left, wider)
            errors.append(float(wider[best]))
            costs.append(costs[-1] + float(self.costs_[best]))
            ballots.add(best, weight)
            path.append(best)
            left.remove(best)
        return errors, costs, path

    def _released(
        self, case: Case, members: tuple[int, ...], numbers: Sequence[int], *, candidates: Sequence[int]
    ) -> Sequence[tuple[int, float]]:
        """The next one by the released code's rule: the errors it went by so far are found again, output by output."""
        path = []
        for size in range(1, len(members) + 1):
            near = self._near(case, members[:size], numbers[:size])
            errors = self._ballots(members[:size], near).errors_with(_weight(size))
            nearest = members[size] if size < len(members) else min(candidates, key=lambda i: errors[i])
            path.append((nearest, float(errors[nearest])))
        if not path:
            errors = self._ballots((), self._near(case, (), ())).errors_with(1.0)
            return [(position, 1.0 - float(errors[position])) for position in candidates[:1]]
        stop = released_stop([error for _, error in path])
        return [(path[-1][0], 1.0 - path[-1][1])] if stop == len(path) - 1 else []

    def _best(self, candidates: Sequence[int], errors: Floats) -> int:
        """Of the candidates the one of least objective; of equal ones the first."""
        costs = self.costs_
        return min(
            candidates,
            key=lambda i: round(frugal_objective(float(errors[i]), float(costs[i]), self.penalty), _DECIMALS),
        )

    def _near(self, case: Case, members: Sequence[int], numbers: Sequence[int]) -> Floats:
        """How much each fit question counts: 1 for the nearest to what is known, and for those that are all as near as
        the last of the `neighbours` an equal share of the places left."""
        distances = self.answers_.pattern_distances(members, numbers)
        if self.needs_embeddings:
            (row,) = embedding_rows([case.request.annotation], self.embeddings_.shape[1])
            cosines = np.einsum("nd,d->n", self.embeddings_, row)
            distances = distances + self.embedding_weight * (1.0 - np.nan_to_num(cosines))
        distances = np.round(distances, _DECIMALS)
        number = min(self.neighbours, len(distances))
        last = np.partition(distances, number - 1)[number - 1]
        is_nearer, is_last = distances < last, distances == last
        return np.asarray(is_nearer + is_last * ((number - is_nearer.sum()) / is_last.sum()), dtype=np.float64)

    def _ballots(self, members: Sequence[int], shares: Floats) -> Ballots:
        rows = np.flatnonzero(shares)
        ballots = Ballots(self.answers_, rows, shares[rows])
        for place, member in enumerate(members):
            ballots.add(member, _weight(place))
        return ballots


def _weight(place: int) -> float:
    """A vote's weight: one, and a trifle more the earlier it is, so that ties go as the majority's do."""
    return 1.0 + 0.5 ** (place + 2)
