"""Tests of routes: whether decisions are what a file of checks expects of them; no expert is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.grading import question_query
from eval.route_checks import Expected, RouteCheck, RouteTests
from router_service.engine import Engine
from router_service.errors import UnknownNameError
from router_service.types import Budget, DecisionMade, Failed, Query, Question, RouteControls

__all__ = ["RouteResult", "check_routes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteResult:
    """How one check came out. `problems` are what does not hold; `reasons` are the recruiter's own words on why."""

    check: RouteCheck
    made: DecisionMade | Failed
    problems: tuple[str, ...]
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True where everything expected holds."""
        return not self.problems

    @property
    def decided(self) -> str:
        """What was decided, in one line."""
        return _in_words(self.made)

    def as_json(self) -> dict[str, Any]:
        """The result, for programs."""
        return {
            "name": self.check.title,
            "question": self.check.question,
            "passed": self.passed,
            "problems": list(self.problems),
            "decided": self.decided,
            "reasons": list(self.reasons),
        }


async def check_routes(engine: Engine, tests: RouteTests) -> list[RouteResult]:
    """Decide every question and compare, in order; no expert is asked (an annotator that is an LLM is).

    Raises `UnknownNameError` for an expert or aggregator that is expected and does not exist: such a check could only
    fail, or only pass.
    """
    for check in tests.checks:
        _require_names(engine, check)
    queries = [_query(number, check) for number, check in enumerate(tests.checks)]
    results = []
    for check, query, made in zip(tests.checks, queries, await engine.route(queries), strict=True):
        if isinstance(made, Failed):
            problems, reasons = [f"nothing could be decided: {made.failure.message} ({made.failure.code})"], []
        else:
            problems = _problems(check.expect, made)
            reasons = engine.explain(query, made) if problems else []
        results.append(RouteResult(check=check, made=made, problems=tuple(problems), reasons=tuple(reasons)))
    return results


def _require_names(engine: Engine, check: RouteCheck) -> None:
    for expert_id in check.expect.experts.every_name if check.expect.experts is not None else ():
        engine.pool.expert(expert_id)
    name = check.expect.aggregator
    if name is not None and name not in engine.aggregator_names:
        raise UnknownNameError("aggregator", name, engine.aggregator_names)


def _query(number: int, check: RouteCheck) -> Query:
    question = Question(
        id=f"check-{number + 1}",
        text=check.question,
        options=check.options,
        answer_kind=check.answer_kind,
        skills=check.skills,
    )
    return replace(
        question_query(question, seed=check.seed),
        budget=Budget(**check.budget.model_dump()),
        controls=RouteControls(recruiter=check.recruiter, aggregator=check.aggregator, k=check.k),
    )


# --- what must hold --------------------------------------------------------------------------------------------------

_Rule = Callable[[Expected, DecisionMade], list[str]]


def _problems(expected: Expected, made: DecisionMade) -> list[str]:
    return [problem for rule in _RULES for problem in rule(expected, made)]


def _experts(expected: Expected, made: DecisionMade) -> list[str]:
    recruited = [recruit.expert_id for recruit in made.decision.recruits]
    return expected.experts.problems(recruited, "experts") if expected.experts is not None else []


def _skills(expected: Expected, made: DecisionMade) -> list[str]:
    return expected.skills.problems(made.annotation.skills, "skills") if expected.skills is not None else []


def _category(expected: Expected, made: DecisionMade) -> list[str]:
    return _same("category", expected.category, made.annotation.category)


def _aggregator(expected: Expected, made: DecisionMade) -> list[str]:
    return _same("aggregator", expected.aggregator, made.decision.aggregator)


def _fallback(expected: Expected, made: DecisionMade) -> list[str]:
    decision = made.decision
    if expected.is_fallback is None or expected.is_fallback == decision.is_fallback:
        return []
    why = f" ({decision.fallback_reason})" if decision.fallback_reason else ""
    return [f"is_fallback: expected {str(expected.is_fallback).lower()}, is {str(decision.is_fallback).lower()}{why}"]


def _floors(expected: Expected, made: DecisionMade) -> list[str]:
    """Of the best recruit: one that knows is enough."""
    chances = [recruit.p_correct for recruit in made.decision.recruits if recruit.p_correct is not None]
    scores = [recruit.score for recruit in made.decision.recruits]
    return [
        *_at_least("min_p_correct", expected.min_p_correct, chances),
        *_at_least("min_score", expected.min_score, scores),
    ]


def _limits(expected: Expected, made: DecisionMade) -> list[str]:
    decision = made.decision
    asked = sum(recruit.samples for recruit in decision.recruits)
    cost = decision.estimate.cost_usd if decision.estimate is not None else None
    problems = []
    if expected.max_completions is not None and asked > expected.max_completions:
        problems.append(f"max_completions: {asked} are asked for, at most {expected.max_completions} expected")
    if expected.max_cost_usd is not None and cost is None:
        problems.append(f"max_cost_usd: the cost is unknown, at most {expected.max_cost_usd} expected")
    elif expected.max_cost_usd is not None and cost is not None and cost > expected.max_cost_usd:
        problems.append(f"max_cost_usd: may cost {cost:.6g}, at most {expected.max_cost_usd:.6g} expected")
    return problems


_RULES: tuple[_Rule, ...] = (_experts, _skills, _category, _floors, _limits, _fallback, _aggregator)


def _same(what: str, expected: str | None, found: str | None) -> list[str]:
    return [] if expected in (None, found) else [f"{what}: expected {expected}, found {found or 'none'}"]


def _at_least(what: str, floor: float | None, found: Sequence[float]) -> list[str]:
    if floor is None or any(value >= floor for value in found):
        return []
    best = f"the best recruit has {max(found):.3f}" if found else "no recruit has one"
    return [f"{what}: expected {floor:.3f} or more, {best}"]


def _in_words(made: DecisionMade | Failed) -> str:
    if isinstance(made, Failed):
        return f"no decision ({made.failure.code})"
    decision = made.decision
    experts = ", ".join(
        f"{r.expert_id}{f' ×{r.samples}' if r.samples > 1 else ''}{f' ({r.p_correct:.2f})' if r.p_correct else ''}"
        for r in decision.recruits
    )
    skills = ", ".join(sorted(made.annotation.skills, key=lambda name: -made.annotation.skills[name])[:5]) or "none"
    category = f", category {made.annotation.category}" if made.annotation.category else ""
    fallback = f", fallback: {decision.fallback_reason}" if decision.is_fallback else ""
    return f"{experts} by {decision.recruiter} + {decision.aggregator} (skills: {skills}{category}{fallback})"
