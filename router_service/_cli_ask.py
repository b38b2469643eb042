"""The commands `ask` and `route`: one question, answered or explained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_engine import LogOption, opened_log, with_engine
from router_service._cli_options import QuestionOptions
from router_service._cli_output import jsonable, print_error, print_json, print_lines, print_table, shown_cost

if TYPE_CHECKING:
    from router_service.engine import Engine
    from router_service.types import DecisionMade, Expert, Failed, Query, RouteFailure, RouteResponse

__all__ = ["RouteOptions", "ask", "route"]

_QUERY_ID = "question"
_TOP_SKILLS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOptions(QuestionOptions):
    """A question to route, and how much to say about it."""

    explain: Annotated[bool, typer.Option("--explain", help="Show skills, neighbours and every expert's score.")] = (
        False
    )
    log: LogOption = None


def ask(options: QuestionOptions) -> None:
    """Answer one question by the experts that are good at it."""
    query = _query(options)

    async def work(engine: Engine) -> RouteResponse | RouteFailure:
        [end] = await engine.run([query])
        return end

    end = with_engine(options.engine_config(), work)
    if options.as_json:
        print_json(end)
    _print_end(end, is_silent=options.as_json)


def route(options: RouteOptions) -> None:
    """Show who would be asked, and why, without asking. `enlist route replay LOG` decides logged questions again."""
    query = _query(options)
    config = options.engine_config()

    async def work(engine: Engine) -> tuple[DecisionMade | Failed, tuple[Expert, ...], list[str]]:
        from router_service.types import DecisionMade

        [made] = await engine.route([query])
        if options.log is not None and isinstance(made, DecisionMade):
            with opened_log(options.log, config, engine) as log:
                log.write(query, made)
        reasons = engine.explain(query, made) if options.explain and isinstance(made, DecisionMade) else []
        return made, engine.pool.experts, reasons

    made, experts, reasons = with_engine(config, work)
    if options.as_json:
        print_json({**jsonable(made), "explanation": reasons} if options.explain else made)
    _print_route(made, experts, options)
    if not options.as_json:
        for reason in reasons:
            print_lines(reason)


def _query(options: QuestionOptions) -> Query:
    from dataclasses import replace

    from eval.grading import question_query
    from router_service.errors import ConfigError, InvalidQuery, nearest_name
    from router_service.types import AnswerKind, Budget, Question

    if not options.question.strip():
        raise InvalidQuery("the question is empty; write it in quotes after the command")
    kind = options.kind or ("choice" if options.option else "free")
    kinds = [allowed.value for allowed in AnswerKind]
    if kind not in kinds:
        near = nearest_name(kind, kinds)
        guess = f" Did you mean {near!r}?" if near else ""
        raise ConfigError(f"--kind is {kind!r}.{guess} Allowed: {', '.join(kinds)}.")
    question = Question(
        id=_QUERY_ID, text=options.question, options=tuple(options.option or ()), answer_kind=AnswerKind(kind)
    )
    budget = Budget(
        max_completions=options.max_completions, max_cost_usd=options.max_cost_usd, deadline_s=options.deadline_s
    )
    return replace(question_query(question), budget=budget)


def _print_end(end: RouteResponse | RouteFailure, *, is_silent: bool) -> None:
    from router_service.types import RouteFailure

    if isinstance(end, RouteFailure):
        if not is_silent:
            print_error(f"{end.message} ({end.code})")
        raise typer.Exit(1)
    if is_silent:
        return
    asked = ", ".join(f"{r.expert_id} ×{r.samples}" if r.samples > 1 else r.expert_id for r in end.decision.recruits)
    made_by = f"{end.decision.recruiter} + {end.answer.aggregator}"
    print_lines(end.answer.text)
    print_lines(
        f"{asked} · {made_by} · {end.answer.agreement:.0%} agree · {shown_cost(end.usage.cost_usd)}", style="dim"
    )
    for note in end.answer.notes:
        print_lines(f"note: {note}", style="dim")


def _print_route(made: DecisionMade | Failed, experts: tuple[Expert, ...], options: RouteOptions) -> None:
    from router_service.types import Failed

    if isinstance(made, Failed):
        if not options.as_json:
            print_error(f"{made.failure.message} ({made.failure.code})")
        raise typer.Exit(1)
    if options.as_json:
        return
    if options.explain:
        _print_skills(made)
        _print_nearest(made)
    recruits = [[r.expert_id, r.samples, r.score, r.p_correct] for r in made.decision.recruits]
    print_table(f"Recruited by {made.decision.recruiter}", ["expert", "samples", "score", "P(correct)"], recruits)
    if options.explain:
        _print_others(made, experts)
    for line in _closing_lines(made):
        print_lines(line, style="dim")


def _print_skills(made: DecisionMade) -> None:
    annotation = made.annotation
    skills = sorted(annotation.skills.items(), key=lambda item: -item[1])[:_TOP_SKILLS]
    said = [f"by {annotation.annotator}"]
    if annotation.category:
        said.append(f"category {annotation.category}")
    if annotation.novelty is not None:
        said.append(f"novelty {annotation.novelty:.2f}")
    if skills:
        print_table(f"Skills ({', '.join(said)})", ["skill", "weight"], skills)
    else:
        print_lines(f"no skills ({', '.join(said)})")


def _print_nearest(made: DecisionMade) -> None:
    if made.annotation.nearest:
        print_table("Nearest fitted questions", ["question", "similarity"], made.annotation.nearest)


def _print_others(made: DecisionMade, experts: tuple[Expert, ...]) -> None:
    """Every expert of the pool: its score, and what became of it."""
    decision = made.decision
    reasons = {left.expert_id: f"left out: {left.reason}" for left in decision.eliminated}
    states = reasons | {recruit.expert_id: "recruited" for recruit in decision.recruits}
    chances = {recruit.expert_id: recruit.p_correct for recruit in decision.recruits}
    rows = [[e.id, decision.scores.get(e.id), chances.get(e.id), states.get(e.id, "not chosen")] for e in experts]
    print_table("All experts", ["expert", "score", "P(correct)", ""], sorted(rows, key=lambda row: -_number(row[1])))


def _number(score: object) -> float:
    return score if isinstance(score, float | int) else float("-inf")


def _closing_lines(made: DecisionMade) -> Iterator[str]:
    decision = made.decision
    if decision.is_fallback:
        yield f"fallback: {decision.fallback_reason}"
    if decision.estimate is not None:
        estimate = decision.estimate
        yield (
            f"at most {estimate.completions} completions, {estimate.completion_tokens} output tokens, "
            f"{shown_cost(estimate.cost_usd)} · seed {decision.seed}"
        )
