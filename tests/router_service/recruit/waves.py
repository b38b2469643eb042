"""Plays a sequential recruiter against a world in which every expert's answer is settled beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from experts_registry.estimate import estimate_usage
from experts_registry.profiles import fit_profiles
from router_service.recruit.base import FitData, RecruitRequest, SequentialRecruiter
from router_service.types import (
    Budget,
    Completion,
    CompletionError,
    Expert,
    Outcome,
    Question,
    Recruit,
    SkillAnnotation,
    Usage,
)
from tests.router_service.recruit.pools import expert, vector

FAILS = "fails"
"""What an expert says whose call fails."""

World = Mapping[str, str | None]
"""What each expert would answer: a text, None for none that can be read, `FAILS`."""


@dataclass(frozen=True)
class Wave:
    """What was asked at once, and with which budget left."""

    recruits: tuple[Recruit, ...]
    budget: Budget


def said(query_id: str, expert_id: str, answer: str | None, usage: Usage | None = None) -> Completion:
    error = CompletionError(code="expert_timeout", message="too late") if answer == FAILS else None
    extracted = None if error else answer
    return Completion(
        query_id=query_id,
        expert_id=expert_id,
        text=extracted or "",
        extracted=extracted,
        usage=usage or Usage(completions=1),
        error=error,
    )


def play(recruiter: SequentialRecruiter, item: RecruitRequest, world: World, experts: Sequence[Expert]) -> list[Wave]:
    """The waves of one query to the end; every call uses all that it may."""
    by_id = {e.id: e for e in experts}
    (decision,) = recruiter.recruit([item])
    waves = [Wave(decision.recruits, item.query.budget)]
    while waves[-1].recruits and len(waves) < 99:
        item = after(item, waves[-1].recruits, world, by_id)
        (more,) = recruiter.extend([item])
        waves.append(Wave(more, item.query.budget))
    return waves[:-1]


def after(
    item: RecruitRequest, recruits: Sequence[Recruit], world: World, by_id: Mapping[str, Expert]
) -> RecruitRequest:
    """The request once these have answered, with what is left of its budget."""
    usages = [estimate_usage(by_id[r.expert_id], item.query, r.samples) for r in recruits]
    completions = [
        said(item.query.id, r.expert_id, world[r.expert_id], u) for r, u in zip(recruits, usages, strict=True)
    ]
    spent = sum(usages, Usage())
    budget = item.query.budget
    left = Budget(
        max_completions=_left(budget.max_completions, spent.completions),
        max_cost_usd=_left(budget.max_cost_usd, spent.cost_usd or 0.0),
        max_output_tokens=_left(budget.max_output_tokens, spent.completion_tokens),
    )
    return replace(item, query=replace(item.query, budget=left), completions=(*item.completions, *completions))


def _left(limit, spent):
    return None if limit is None else max(0, limit - spent)


def recorded_pool(
    answers: Mapping[str, Sequence[str | None]],
    right: Sequence[str],
    *,
    categories: Sequence[str] = (),
    costs: Mapping[str, float] | None = None,
) -> FitData:
    """Experts that said these things to the fit questions, in order, of which the right answers are `right`."""
    kinds = list(categories) or ["all"] * len(right)
    questions = {
        f"fit{n:03}": Question(id=f"fit{n:03}", text=f"Question {n}?", category=kind, answer=answer)
        for n, (answer, kind) in enumerate(zip(right, kinds, strict=True))
    }
    outcomes = tuple(
        Outcome(
            dataset="d",
            split="fit",
            question_id=q.id,
            expert_id=expert_id,
            extracted=answer,
            correct=float(answer == q.answer),
            cost_usd=(costs or {}).get(expert_id),
        )
        for expert_id, given in answers.items()
        for q, answer in zip(questions.values(), given, strict=True)
    )
    annotations = {
        q.id: SkillAnnotation(query_id=q.id, category=q.category, embedding=vector(q.text)) for q in questions.values()
    }
    experts = tuple(expert(expert_id) for expert_id in answers)
    return FitData(
        experts=experts,
        profiles=fit_profiles(outcomes, questions.values()),
        outcomes=outcomes,
        annotations=annotations,
        questions=questions,
    )
