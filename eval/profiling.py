"""Profiling: every expert over the fit questions through the serving engine, graded, durable, fitted into profiles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from eval.grading import grade, question_query, task_format_of
from eval.profiling_folder import OutcomeKey, ProfilingFolder
from experts_registry.artefact import Artefact
from router_service.engine import Engine
from router_service.errors import ConfigError
from router_service.types import (
    Completion,
    CompletionFinished,
    DecisionMade,
    Event,
    Expert,
    Failed,
    Outcome,
    Query,
    Question,
    RouteControls,
    stable_seed,
)

__all__ = ["ProfilingJob", "ProfilingReport", "accuracy_table", "profile_experts"]

Progress = Callable[[int, int], None]
"""Called with the completions graded and the completions in all."""

_EVERYBODY, _NO_VOTE = "all", "first"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilingJob:
    """What to profile: `experts` are ids (none given: every enabled one), `samples` is per expert and question."""

    questions: tuple[Question, ...]
    experts: tuple[str, ...] = ()
    samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """What is not known yet of one question and sample: the experts that are to answer it."""

    question: Question
    sample: int
    expert_ids: tuple[str, ...]

    @property
    def query_id(self) -> str:
        """The question's id, so that recorded outcomes can be replayed; further samples get ids of their own."""
        return self.question.id if self.sample == 0 else f"{self.question.id}#sample-{self.sample}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilingReport:
    """What came of it. `failures` holds, per expert, how many completions failed and why the first one did.

    A failed completion is no outcome: it is asked for again when the same profiling is run again.
    """

    artefact: Artefact
    n_new: int
    n_known: int
    failures: Mapping[str, tuple[int, str]]


@dataclass(slots=True)
class _Failures:
    """Completions that did not come, by expert."""

    by_expert: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, expert_id: str, message: str) -> None:
        """Count one; the first message of an expert is kept."""
        count, first = self.by_expert.get(expert_id, (0, message))
        self.by_expert[expert_id] = (count + 1, first)


async def profile_experts(
    engine: Engine, job: ProfilingJob, folder: ProfilingFolder, *, on_progress: Progress | None = None
) -> ProfilingReport:
    """Ask what is not known yet, grade it, keep each outcome at once, and fit the artefact from all outcomes.

    All experts are asked in one run of the engine, so each model is loaded once. `folder` must be open. Raises
    `ConfigError` for a question without reference answer, `InvalidQuery` for one with more than 26 options,
    `UnknownNameError` for an unknown expert.
    """
    experts = _chosen(engine, job.experts)
    questions = folder.remembered(job.questions)
    _check(questions)
    known = folder.begin(questions, experts, pool_name=engine.pool.name)
    asked = _open_questions(questions, experts, known, samples=job.samples)
    n_open = sum(len(item.expert_ids) for item in asked.values())
    n_all = len(questions) * len(experts) * job.samples
    failures, n_new = _Failures(), 0
    if on_progress is not None:
        on_progress(n_all - n_open, n_all)
    queries = [_query(engine, item) for item in asked.values()]
    async with aclosing(engine.stream(queries)) as events:
        async for event in events:
            _note_failures(event, asked, failures)
            if isinstance(event, CompletionFinished) and event.completion.succeeded:
                outcome = await _graded(asked[event.query_id], event.completion)
                folder.add(outcome, event.completion.text)
                n_new += 1
                if on_progress is not None:
                    on_progress(n_all - n_open + n_new, n_all)
    artefact = folder.finish(questions, pool_name=engine.pool.name)
    return ProfilingReport(artefact=artefact, n_new=n_new, n_known=n_all - n_open, failures=failures.by_expert)


def accuracy_table(artefact: Artefact) -> tuple[list[str], list[list[str | float | None]]]:
    """Column names and rows of the expert by category accuracies; None where an expert has no trial there."""
    profiles = artefact.profiles.values()
    categories = sorted({category for profile in profiles for category in profile.categories})
    rows: list[list[str | float | None]] = []
    for profile in profiles:
        tallies = [profile.categories.get(category) for category in categories]
        cells = [tally.wins / tally.trials if tally and tally.trials else None for tally in tallies]
        overall = profile.overall.wins / profile.overall.trials if profile.overall.trials else None
        rows.append([profile.expert_id, *cells, overall])
    return ["expert", *categories, "all"], rows


def _chosen(engine: Engine, expert_ids: Sequence[str]) -> list[Expert]:
    experts = [engine.pool.expert(name) for name in dict.fromkeys(expert_ids)]
    disabled = [expert.id for expert in experts if not expert.is_enabled]
    if disabled:
        raise ConfigError(f"expert {disabled[0]!r} is switched off or not usable; run `enlist pool check` to see why")
    return experts or list(engine.pool.enabled)


def _check(questions: Sequence[Question]) -> None:
    if not questions:
        raise ConfigError("there are no questions to profile on; give a JSONL file with at least one")
    for question in questions:
        task_format_of(question)
        grade(None, question)


def _open_questions(
    questions: Sequence[Question], experts: Sequence[Expert], known: set[OutcomeKey], *, samples: int
) -> dict[str, _Open]:
    """What is to be asked, by query id."""
    asked = {}
    for question in questions:
        for sample in range(samples):
            missing = tuple(expert.id for expert in experts if (expert.id, question.id, sample) not in known)
            if missing:
                item = _Open(question=question, sample=sample, expert_ids=missing)
                asked[item.query_id] = item
    return asked


def _query(engine: Engine, item: _Open) -> Query:
    query = question_query(item.question, seed=stable_seed(engine.defaults.seed, item.question.id, item.sample))
    controls = RouteControls(recruiter=_EVERYBODY, aggregator=_NO_VOTE, experts_allowed=item.expert_ids)
    return replace(query, id=item.query_id, controls=controls)


def _note_failures(event: Event, asked: Mapping[str, _Open], failures: _Failures) -> None:
    if isinstance(event, CompletionFinished) and event.completion.error is not None:
        failures.add(event.completion.expert_id, event.completion.error.message)
    elif isinstance(event, DecisionMade):
        for left in event.decision.eliminated:
            if left.expert_id in asked[event.query_id].expert_ids:
                failures.add(left.expert_id, left.reason)
    elif isinstance(event, Failed) and not event.failure.completions:
        for expert_id in asked[event.query_id].expert_ids:
            failures.add(expert_id, event.failure.message)


async def _graded(item: _Open, completion: Completion) -> Outcome:
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
    )
