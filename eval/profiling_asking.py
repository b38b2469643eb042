"""Asks experts questions whose answers are known: one run of the engine, each completion graded as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from eval.grading import grade, question_query
from router_service.engine import Engine
from router_service.types import (
    Completion,
    CompletionFinished,
    DecisionMade,
    Event,
    Failed,
    Outcome,
    Query,
    Question,
    RouteControls,
    stable_seed,
)

__all__ = ["Failures", "Graded", "OpenQuestion", "ask_and_grade"]

_EVERYBODY, _NO_VOTE = "all", "first"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """What is not known yet of one question and sample: the experts that are to answer it."""

    question: Question
    expert_ids: tuple[str, ...]
    sample: int = 0

    @property
    def query_id(self) -> str:
        """The question's id, so that recorded outcomes can be replayed; further samples get ids of their own."""
        return self.question.id if self.sample == 0 else f"{self.question.id}#sample-{self.sample}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A completion that succeeded, as an outcome, and what was said word for word."""

    outcome: Outcome
    text: str


@dataclass(slots=True)
class Failures:
    """Completions that did not come: per expert how many, and the message of the first."""

    by_expert: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, expert_id: str, message: str) -> None:
        """Count one; the first message of an expert is kept."""
        count, first = self.by_expert.get(expert_id, (0, message))
        self.by_expert[expert_id] = (count + 1, first)


async def ask_and_grade(
    engine: Engine, items: Sequence[OpenQuestion], failures: Failures
) -> AsyncGenerator[Graded, None]:
    """Graded completions as they come, all experts in one run of the engine; what fails is counted in `failures`.

    Close the iterator (`contextlib.aclosing`) to cancel every open call.
    """
    asked = {item.query_id: item for item in items}
    async with aclosing(engine.stream([_query(engine, item) for item in items])) as events:
        async for event in events:
            _note_failures(event, asked, failures)
            if isinstance(event, CompletionFinished) and event.completion.succeeded:
                outcome = await _graded(asked[event.query_id], event.completion)
                yield Graded(outcome=outcome, text=event.completion.text)


def _query(engine: Engine, item: OpenQuestion) -> Query:
    query = question_query(item.question, seed=stable_seed(engine.defaults.seed, item.question.id, item.sample))
    controls = RouteControls(
        recruiter=_EVERYBODY, aggregator=_NO_VOTE, experts_allowed=item.expert_ids, waits_for_all=True
    )
    return replace(query, id=item.query_id, controls=controls)


def _note_failures(event: Event, asked: Mapping[str, OpenQuestion], failures: Failures) -> None:
    if isinstance(event, CompletionFinished) and event.completion.error is not None:
        failures.add(event.completion.expert_id, event.completion.error.message)
    elif isinstance(event, DecisionMade):
        for left in event.decision.eliminated:
            if left.expert_id in asked[event.query_id].expert_ids:
                failures.add(left.expert_id, left.reason)
    elif isinstance(event, Failed) and not event.failure.completions:
        for expert_id in asked[event.query_id].expert_ids:
            failures.add(expert_id, event.failure.message)


async def _graded(item: OpenQuestion, completion: Completion) -> Outcome:
    """The outcome of a completion; comparing formulas can take its time, so it happens beside the event loop."""
    question = item.question
    return Outcome(
        dataset=question.benchmark,
        split=question.split,
        question_id=question.id,
        expert_id=completion.expert_id,
        sample=item.sample,
        extracted=completion.extracted,
        correct=await asyncio.to_thread(grade, completion.extracted, question),
        prompt_tokens=completion.usage.prompt_tokens,
        completion_tokens=completion.usage.completion_tokens,
        cost_usd=completion.usage.cost_usd,
        latency_s=completion.latency_s,
        logprob=completion.logprob,
    )
