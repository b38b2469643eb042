"""Recruiter `escalate`: cheap experts first, and a stronger one where it is expected to help enough for its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from router_service.errors import ConfigError, UnknownNameError
from router_service.recruit.base import RECRUITERS, FitData
from router_service.recruit.call_costs import typical_costs
from router_service.recruit.help_policy import HelpPolicy, HelpState, within_budget
from router_service.recruit.help_states import ANY, Stage, agreement, likelihood, state_key, state_model
from router_service.recruit.ranking import best_on_fit
from router_service.recruit.recorded_answers import Ballots, Numbers, RecordedAnswers, answer_numbers
from router_service.recruit.roster import Case, Choice, Roster
from router_service.recruit.saved import Learned
from router_service.recruit.scoring import fit_matrix
from router_service.recruit.sequence import Said, SequenceRecruiter
from router_service.recruit.strength import Floats
from router_service.types import stable_seed

__all__ = ["Escalate"]

OTHER_DRAFTS = "the usual first experts may not be asked or paid, so others draft in their place"

_LIKELIHOOD_RANGES = 3
_LEAST_FOR_RANGES = 30
"""Fit questions with known likelihoods from which on they are told apart by them."""
_ANSWERS = 4
"""Possible answers that the weight of a vote supposes (see aggregator `weighted`); of two votes the order is all."""


@RECRUITERS.register("escalate")
class Escalate(SequenceRecruiter):
    """Self-regulation: asking for help under a budget, by the paper's dynamic program, with whole experts as help.

    The first wave are `drafts` cheap experts: `first`, then the cheapest by `typical_costs`; where no cost is known the
    weakest on fit count as the cheapest. What they say puts the query in a state: the plurality's share of them, their
    mean log-probability (in three ranges, where it is known), and the query's category. On the fit questions the
    recruiter learns how often their answer is right in each state, and how often it is with help: with one more
    completion of the strongest expert on fit that is no draft, up to `helpers` of them one after the other. The answer
    is the vote weighted by success on fit, so the decision advises the aggregator `weighted`.

    Help is asked for where its gain exceeds a penalty, which is the smallest one at which the help calls to expect per
    query stay within `help_budget` (with one helper: the share of queries that get help). As queries of one state all
    get help or none does, some of the budget may be left; with `mix` the next policy takes what is left, on queries
    drawn by their seed. A query whose drafts all failed gets help in any case.
    """

    name: ClassVar[str] = "escalate"
    needs_annotation: bool = True

    def __init__(
        self,
        *,
        k: int = 2,
        help_budget: float = 0.5,
        drafts: int = 1,
        helpers: int = 1,
        first: str | None = None,
        mix: bool = False,
    ) -> None:
        super().__init__(k=k)
        if not 0 <= help_budget < math.inf:
            raise ConfigError(f"recruiter {self.name!r}: help_budget is {help_budget}; it is help calls a query, 0 up")
        if drafts < 1 or helpers < 1:
            raise ConfigError(f"recruiter {self.name!r}: drafts is {drafts} and helpers {helpers}; both are 1 or more")
        self.help_budget = help_budget
        self.drafts = drafts
        self.helpers = helpers
        self.first = first
        self.mix = mix

    # --- fitting ---------------------------------------------------------------------------------------------------

    def _learn(self, data: FitData, roster: Roster) -> None:
        ids, grades = fit_matrix(data, name=self.name)
        graded = [i for i, expert in enumerate(data.experts) if expert.is_enabled and not np.isnan(grades[:, i]).all()]
        order = self._cheapest_first(data, roster, graded)
        strongest = sorted(graded, key=lambda i: -roster.table.overall[i])
        helpers = [i for i in strongest if i not in order[: self.drafts]][: self.helpers]
        answers = RecordedAnswers.of(data, ids)
        panel = [*order[: self.drafts], *helpers]
        rows = np.flatnonzero(answers.known[:, panel].all(axis=1))
        logprobs = _logprobs(data, [ids[row] for row in rows])
        drafted = logprobs[:, order[: self.drafts]]
        self._take(order=order, helpers=helpers, cuts=_cuts(np.sort(drafted[~np.isnan(drafted)]).tolist()))
        stages = [
            self._stage(roster, answers, panel[:size], rows=rows, logprobs=logprobs)
            for size in range(min(self.drafts, len(order)), len(panel) + 1)
        ]
        annotated = [data.annotations.get(ids[row]) for row in rows]
        self._settle(*state_model(stages, [a.category if a is not None else None for a in annotated]))

    def _cheapest_first(self, data: FitData, roster: Roster, graded: Sequence[int]) -> list[int]:
        """The experts in the order in which they draft."""
        if self.first is not None and self.first not in roster.ids:
            raise UnknownNameError("expert", self.first, roster.ids)
        costs = typical_costs(data)
        weakest = sorted(graded, key=lambda i: roster.table.overall[i])
        return sorted(weakest, key=lambda i: (roster.ids[i] != self.first, float(np.nan_to_num(costs[i], nan=np.inf))))

    def _stage(
        self, roster: Roster, answers: RecordedAnswers, members: Sequence[int], *, rows: Numbers, logprobs: Floats
    ) -> Stage:
        """The panel of these members on the fit questions that all were asked."""
        ballots = Ballots(answers, rows, np.ones(len(rows)))
        for member in members:
            ballots.add(member, _vote_weight(float(roster.table.overall[member])))
        heard = answers.heard[rows][:, list(members)].tolist()
        likely = logprobs[:, list(members)].tolist()
        looks = [self._look(*row) for row in zip(heard, likely, strict=True)]
        return Stage(
            looks=looks,
            rights=ballots.grades().tolist(),
            prior=float(roster.table.overall[list(members)].max(initial=0)),
        )

    def _settle(self, states: Mapping[str, HelpState], start: Mapping[str, float]) -> None:
        """Find the penalty and say of every state whether help is asked for: always (2), by chance (1) or never (0)."""
        self.policy_, over = within_budget(states, start, self.help_budget)
        self.mixed_share_ = 0.0
        if over is not None and self.mix:
            self.mixed_share_ = (self.help_budget - self.policy_.usage) / (over.usage - self.policy_.usage)
        more = frozenset() if over is None else over.helps
        self.helps_ = {name: 2 if name in self.policy_.helps else int(name in more) for name in states}

    def _take(self, *, order: Sequence[int], helpers: Sequence[int], cuts: Sequence[float]) -> None:
        self.order_, self.helpers_, self.cuts_ = list(order), list(helpers), list(cuts)

    def _learned(self) -> Learned:
        policy = self.policy_
        return Learned(
            values={
                "order": self.order_,
                "helpers": self.helpers_,
                "cuts": self.cuts_,
                "helps": self.helps_,
                "mixed_share": self.mixed_share_,
                "policy": [policy.penalty, policy.usage, policy.success, dict(policy.gains)],
            }
        )

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        values = learned.values
        self._take(order=values["order"], helpers=values["helpers"], cuts=values["cuts"])
        self.helps_, self.mixed_share_ = values["helps"], values["mixed_share"]
        penalty, usage, success, gains = values["policy"]
        helps = frozenset(name for name, rank in self.helps_.items() if rank == 2)
        self.policy_ = HelpPolicy(penalty=penalty, helps=helps, usage=usage, success=success, gains=gains)

    # --- deciding --------------------------------------------------------------------------------------------------

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        strengths = np.where(roster.table.has_profile, roster.table.overall, 0.0).tolist()
        return [self._first_wave(roster, case, strengths) for case in cases]

    def _first_wave(self, roster: Roster, case: Case, strengths: Sequence[float]) -> Choice:
        may = set(case.shortlist.positions)
        order = [i for i in self.order_ if i in may]
        order += [i for i in best_on_fit(roster, case) if i not in order]
        positions = case.allowance.best_first(order)[: self.drafts]
        is_usual = set(positions) == set(self.order_[: self.drafts])
        return Choice(
            positions=positions,
            scores=strengths,
            fallback_reason=None if is_usual or not positions else OTHER_DRAFTS,
            aggregator="weighted",
        )

    def _further(self, roster: Roster, case: Case, said: Sequence[Said]) -> Sequence[tuple[int, float]]:
        heard = [item for item in said if item.completion.succeeded]
        if heard and not self._helps(case, heard, stage=max(0, len(said) - self.drafts)):
            return []
        order = best_on_fit(roster, case)
        order = [i for i in self.helpers_ if i in order] + [i for i in order if i not in self.helpers_]
        return [(position, float(roster.table.overall[position])) for position in case.allowance.best_first(order)[:1]]

    def _helps(self, case: Case, heard: Sequence[Said], *, stage: int) -> bool:
        """Whether help is asked for in the state that these completions and the query's category make."""
        if stage >= self.helpers:
            return False
        completions = [item.completion for item in heard]
        numbers = answer_numbers(completions, case.request.query.task_format.kind)
        look = self._look(numbers, [math.nan if c.logprob is None else c.logprob for c in completions])
        category = case.request.annotation.category
        names = [state_key(stage, x, c) for x in (look, ANY) for c in (category, None)]
        rank = next((self.helps_[name] for name in names if name in self.helps_), 0)
        if rank == 1:
            return stable_seed(case.request.seed, self.name) / 2**63 < self.mixed_share_
        return rank == 2

    def _look(self, numbers: Sequence[int], logprobs: Sequence[float]) -> str:
        return f"{agreement(numbers)} {likelihood(logprobs, self.cuts_)}"


def _vote_weight(rate: float) -> float:
    """The weight of aggregator `weighted` for an expert that is right at this rate, with `_ANSWERS` to choose from."""
    rate = min(max(rate, 0.02), 0.98)
    return max(math.log(rate * (_ANSWERS - 1) / (1.0 - rate)), 1e-3)


def _cuts(known: Sequence[float]) -> list[float]:
    """Where log-probabilities (sorted) are cut into ranges of as many each; nowhere for too few."""
    if len(known) < _LEAST_FOR_RANGES:
        return []
    return [known[len(known) * part // _LIKELIHOOD_RANGES] for part in range(1, _LIKELIHOOD_RANGES)]


def _logprobs(data: FitData, ids: Sequence[str]) -> Floats:
    """The mean log-probability of each expert's first sample on each question, NaN where unknown."""
    row_of = {question_id: row for row, question_id in enumerate(ids)}
    column_of = {expert.id: column for column, expert in enumerate(data.experts)}
    values = np.full((len(row_of), len(column_of)), np.nan)
    for outcome in sorted(data.outcomes, key=lambda o: -o.sample):
        if outcome.question_id in row_of and outcome.expert_id in column_of and outcome.logprob is not None:
            values[row_of[outcome.question_id], column_of[outcome.expert_id]] = outcome.logprob
    return values
