"""Recruiter `category_map`: a table that names one expert per category, within a budget of parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS, FitData, RecruitRequest
from router_service.recruit.category_plan import CategoryPlan, CategoryProblem
from router_service.recruit.category_program import plan_by_integer_program
from router_service.recruit.category_search import MOST_ENUMERATED, plan_by_enumeration
from router_service.recruit.category_table import category_scores, cheapest_within, expenses
from router_service.recruit.category_vote import category_posterior, normalised_entropy
from router_service.recruit.embedded import Vectors32
from router_service.recruit.exclusion import held_only
from router_service.recruit.ranking import best_of_pool
from router_service.recruit.roster import Case, Choice, Roster, RosterRecruiter, require_k
from router_service.recruit.saved import Learned
from router_service.recruit.strength import CATEGORY_WEIGHT, Floats
from router_service.types import Expert, Query, SkillAnnotation

__all__ = ["CategoryMap"]

_ASKED = "the best on the fit questions are asked"
NO_CATEGORY = f"nothing says which category the query is of, so {_ASKED}"


@RECRUITERS.register("category_map")
class CategoryMap(RosterRecruiter):
    """Composition of Experts (CoE, SambaNova, its two-step form): the query's category looks up who is best at it.

    The score of an expert is its mean grade on the category's fit questions, shrunk by `smoothing` trials towards its
    overall rate (0 is the plain mean, as in the paper). The table has the highest mean score over the fit questions
    whose experts together have at most `budget_total` billions of parameters, and that uses at most `budget_active`
    billions on average (`category_plan`); then only the experts in the table are ever asked. With `margin` each
    category goes to the cheapest expert that is at most so much below the best one there (of two experts: to the
    stronger where it is better by more than `margin`); cheap goes by prices, else by parameters.

    A query's category is its annotation's, where that was not merely read off the nearest questions; else the nearest
    fit questions vote. Where the vote's normalised entropy is above `fallback_entropy` (1: never), or the category has
    no fit question, the best expert on the fit questions of those in the table is asked (Robust-CoE). With k above 1
    the others follow by their score in the category; `budget_active` is about the first one, and about queries whose
    category is clear. Experts that are switched off count too: a budget is kept for them.

    Differs from the paper: nearest neighbours instead of a trained classifier, and the shrinking.
    """

    name: ClassVar[str] = "category_map"
    needs_annotation: bool = True
    needs_embeddings: ClassVar[bool] = True

    def __init__(
        self,
        *,
        k: int = 1,
        budget_total: float | None = None,
        budget_active: float | None = None,
        fallback_entropy: float = 0.8,
        margin: float | None = None,
        smoothing: float = CATEGORY_WEIGHT,
    ) -> None:
        self.k = require_k(self.name, k)
        for option, budget in (("budget_total", budget_total), ("budget_active", budget_active)):
            if budget is not None and budget <= 0:
                raise ConfigError(f"recruiter {self.name!r}: {option} is {budget}; it is in billions, above 0")
        if not 0 <= fallback_entropy <= 1:
            raise ConfigError(f"recruiter {self.name!r}: fallback_entropy is {fallback_entropy}; it is from 0 to 1")
        if margin is not None and (margin < 0 or budget_active is not None):
            raise ConfigError(
                f"recruiter {self.name!r}: margin is {margin} and budget_active {budget_active}; margin is 0 or more, "
                "and goes without budget_active: both say when a larger expert is worth it"
            )
        if smoothing < 0:
            raise ConfigError(f"recruiter {self.name!r}: smoothing is {smoothing}; it is in trials, 0 or more")
        self.budget_total, self.budget_active = budget_total, budget_active
        self.fallback_entropy, self.margin, self.smoothing = fallback_entropy, margin, smoothing

    def completions_for(self, query: Query) -> int:
        """The query's own `k`, else the recruiter's."""
        return self.k if query.controls.k is None else query.controls.k

    # --- fitting ---------------------------------------------------------------------------------------------------

    def _learn(self, data: FitData, roster: Roster) -> None:
        counts = Counter(a.category for a in data.annotations.values() if a.category is not None)
        profiled = {category for profile in roster.profiles.values() for category in profile.categories}
        names = sorted({*counts, *profiled})
        if not names:
            raise ConfigError(
                f"recruiter {self.name!r} goes by categories, and no fit question has one; make an artefact with "
                "`enlist profile` from questions with a category, or recruit with `knn`"
            )
        scores = category_scores(roster.experts, roster.profiles, categories=names, smoothing=self.smoothing)
        weights = np.array([counts[name] for name in names], dtype=np.float64)
        weights = weights / weights.sum() if weights.any() else np.full(len(names), 1 / len(names))
        places = self._places(roster, scores, weights)
        embedded = [a for _, a in sorted(data.annotations.items()) if a.category and a.embedding is not None]
        vectors = (
            np.array([a.embedding for a in embedded], dtype=np.float32) if embedded else np.zeros((0, 0), np.float32)
        )
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers[str(a.category)] for a in embedded], dtype=np.intp)
        self._take(roster, names, places=places, vectors=vectors, labels=labels)

    def _places(self, roster: Roster, scores: Floats, weights: Floats) -> NDArray[np.intp]:
        """The expert of each category, by its position in the pool."""
        usable = np.flatnonzero(roster.table.has_profile)
        if self.budget_total is not None or self.budget_active is not None:
            found = self._plan([roster.experts[place] for place in usable], scores[:, usable], weights=weights)
            if self.margin is None:
                held = usable[list(found.held)]  # a category without a fit question is in no plan's value
                best = held[scores[:, held].argmax(axis=1)]
                return np.where(weights > 0, usable[list(found.experts)], best)
            usable = usable[list(found.held)]
        if self.margin is not None:
            cost = expenses([roster.experts[place] for place in usable], name=self.name)
            return usable[cheapest_within(scores[:, usable], cost, margin=self.margin)]
        sizes = np.array([roster.experts[place].parameters_b or np.inf for place in usable])
        return usable[cheapest_within(scores[:, usable], sizes, margin=0.0)]

    def _plan(self, experts: Sequence[Expert], scores: Floats, *, weights: Floats) -> CategoryPlan:
        unknown = [expert.id for expert in experts if expert.parameters_b is None]
        if unknown:
            raise ConfigError(
                f"recruiter {self.name!r} has a budget of parameters, and the number of parameters of "
                f"{', '.join(unknown)} is unknown; give `parameters_b` in the pool, or leave the budget out"
            )
        sizes = np.array([expert.parameters_b for expert in experts], dtype=np.float64)
        solve = plan_by_enumeration if len(experts) <= MOST_ENUMERATED else plan_by_integer_program
        found = solve(
            CategoryProblem(
                scores=scores,
                weights=weights,
                parameters_b=sizes,
                budget_total=self.budget_total,
                budget_active=self.budget_active,
            )
        )
        if found is None:
            smallest = int(sizes.argmin())
            raise ConfigError(
                f"recruiter {self.name!r}: no expert fits budget_total = {self.budget_total} and budget_active = "
                f"{self.budget_active}; the smallest, {experts[smallest].id!r}, has {sizes[smallest]:g} billions of "
                "parameters, so raise the budget to that or more"
            )
        return found

    def _take(
        self,
        roster: Roster,
        names: Sequence[str],
        *,
        places: NDArray[np.intp],
        vectors: Vectors32,
        labels: NDArray[np.intp],
    ) -> None:
        """Keep what was learned; the last row, for queries of no category, is the overall rate."""
        self._names, self._vectors, self._labels = tuple(names), vectors, labels
        self.places_ = places
        self._rows = {name: row for row, name in enumerate(names)}
        scores = category_scores(roster.experts, roster.profiles, categories=names, smoothing=self.smoothing)
        general = best_of_pool(roster)
        rows = np.where(roster.table.has_profile, np.vstack([scores, roster.table.overall]), 0.0).tolist()
        self._scores = rows
        self._orders = [
            sorted(general, key=lambda i: (i != place, not roster.table.has_profile[i], -row[i]))
            for row, place in zip(rows, places.tolist(), strict=False)
        ]
        self._orders.append(general)
        has_budget = self.budget_total is not None or self.budget_active is not None
        held = places.tolist() if has_budget else general
        self._exclusion = held_only(frozenset(held), roster, limit="the budgets of parameters")

    def _learned(self) -> Learned:
        return Learned(
            values={"categories": list(self._names)},
            arrays={"places": self.places_, "vectors": self._vectors, "labels": self._labels},
        )

    def _relearn(self, learned: Learned, roster: Roster) -> None:
        names, arrays = learned.values["categories"], learned.arrays
        self._take(roster, names, places=arrays["places"], vectors=arrays["vectors"], labels=arrays["labels"])

    # --- recruiting ------------------------------------------------------------------------------------------------

    def _case(self, roster: Roster, request: RecruitRequest) -> Case:
        return self._exclusion.of(super()._case(roster, request))

    def _choose(self, roster: Roster, cases: Sequence[Case], scores: Floats) -> Sequence[Choice]:
        rows, reasons = self._rows_of([case.request.annotation for case in cases])
        choices = []
        for case, row, reason in zip(cases, rows, reasons, strict=True):
            order, eligible = self._orders[row], case.shortlist.positions
            if len(eligible) < len(order):
                order = [position for position in order if position in eligible]
            positions = case.allowance.best_first(order)
            choices.append(
                Choice(positions=positions, scores=self._scores[row], fallback_reason=reason if positions else None)
            )
        return choices

    def _rows_of(self, annotations: Sequence[SkillAnnotation]) -> tuple[list[int], list[str | None]]:
        """The row of the table for each annotation, and why it is the last one where it is."""
        general = len(self._names)
        rows, reasons = [general] * len(annotations), [None if general == 0 else NO_CATEGORY] * len(annotations)
        voted = []
        for number, annotation in enumerate(annotations):
            category, embedding = annotation.category, annotation.embedding
            has_vote = embedding is not None and len(embedding) == self._vectors.shape[1] and len(self._labels) > 0
            if category is not None and not (annotation.nearest and has_vote):
                rows[number] = self._rows.get(category, general)
                known = rows[number] < general
                reasons[number] = None if known else f"no fit question is of category {category!r}; {_ASKED}"
            elif has_vote:
                voted.append(number)
        if voted:
            vectors = np.array([annotations[number].embedding for number in voted], dtype=np.float32)
            for number, (row, reason) in zip(voted, self._votes(vectors), strict=True):
                rows[number], reasons[number] = row, reason
        return rows, reasons

    def _votes(self, vectors: Vectors32) -> list[tuple[int, str | None]]:
        """The row of the table for each vector, with the reason where the vote is too even."""
        posterior = category_posterior(self._vectors, self._labels, vectors=vectors, size=len(self._names))
        entropy = normalised_entropy(posterior).tolist()
        return [
            (winner, None)
            if even <= self.fallback_entropy
            else (len(self._names), f"the category is unclear (entropy {even:.2f} of 1); {_ASKED}")
            for winner, even in zip(posterior.argmax(axis=1).tolist(), entropy, strict=True)
        ]
