"""Gives fit questions the skills they lack: by their category, or as an expert names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eval.grading import question_query
from router_service.dispatch.ask import BudgetedAsk
from router_service.engine import Engine
from router_service.errors import ConfigError
from router_service.types import Question, stable_seed
from skills.annotators.llm import Llm

__all__ = ["label_by_category", "label_by_expert", "label_skills", "require_skills"]

_SHOWN = 3


async def label_skills(
    engine: Engine, questions: Sequence[Question], *, by_category: bool = False, annotator: Llm | None = None
) -> list[Question]:
    """The questions with skills: by category, else by the annotator's expert, else they must have some already."""
    if by_category:
        return label_by_category(questions)
    if annotator is not None:
        return await label_by_expert(engine, questions, annotator)
    require_skills(questions)
    return list(questions)


def require_skills(questions: Sequence[Question]) -> None:
    """Raise `ConfigError` where a question names no skill, with the ways to give it some."""
    bare = [question.id for question in questions if not question.skills]
    if bare:
        shown = ", ".join(map(repr, bare[:_SHOWN]))
        raise ConfigError(
            f"{len(bare)} of {len(questions)} questions have no skills (for instance {shown}); give them a `skills` "
            "list, take their category with --skills category, or let an expert name them with "
            "--annotator llm --annotator-expert ID"
        )


def label_by_category(questions: Sequence[Question]) -> list[Question]:
    """The questions, each one without skills with its category as its one skill; `ConfigError` where it has neither."""
    lacking = [question.id for question in questions if not question.skills and not question.category]
    if lacking:
        raise ConfigError(
            f"{len(lacking)} questions have neither skills nor a category, for instance {lacking[0]!r}; "
            "give them a `category`, or let an expert name their skills with --annotator llm --annotator-expert ID"
        )
    return [
        question if question.skills else replace(question, skills=(question.category or "",)) for question in questions
    ]


async def label_by_expert(engine: Engine, questions: Sequence[Question], annotator: Llm) -> list[Question]:
    """The questions, each one without skills with those that the annotator's expert names for it; maybe none.

    Raises `ConfigError` where no question got any: profiles of it could not tell experts apart.
    """
    bare = [question for question in questions if not question.skills]
    seed = engine.defaults.seed
    queries = [question_query(question, seed=stable_seed(seed, "skills", question.id)) for question in bare]
    ledgers = {query.id: engine.runner.ledger(query.budget, deadline_from="first_call") for query in queries}
    ask = BudgetedAsk(engine.runner, ledgers)
    named = dict(zip((q.id for q in bare), await annotator.name_skills(queries, ask=ask), strict=True))
    if bare and not any(named.values()):
        raise ConfigError(
            f"expert {annotator.expert!r} named no skill that was kept for any of {len(bare)} questions; "
            "take a larger model as --annotator-expert, or --skills category"
        )
    return [replace(q, skills=named[q.id]) if q.id in named else q for q in questions]
