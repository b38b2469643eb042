"""Profiling: every expert over the fit questions through the serving engine, graded, durable, fitted into profiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from eval.grading import grade, task_format_of
from eval.profiling_asking import Failures, OpenQuestion, ask_and_grade
from eval.profiling_folder import OutcomeKey, ProfilingFolder
from experts_registry.artefact import Artefact
from router_service.engine import Engine
from router_service.errors import ConfigError
from router_service.types import Expert, Question

__all__ = [
    "ProfilingJob",
    "ProfilingReport",
    "Progress",
    "accuracy_table",
    "chosen_experts",
    "profile_experts",
    "require_gradable",
]

Progress = Callable[[int, int], None]
"""Called with the completions graded and the completions in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilingJob:
    """What to profile: `experts` are ids (none given: every enabled one), `samples` is per expert and question."""

    questions: tuple[Question, ...]
    experts: tuple[str, ...] = ()
    samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilingReport:
    """What came of it. `failures` holds, per expert, how many completions failed and why the first one did.

    A failed completion is no outcome: it is asked for again when the same profiling is run again.
    """

    artefact: Artefact
    n_new: int
    n_known: int
    failures: Mapping[str, tuple[int, str]]


async def profile_experts(
    engine: Engine, job: ProfilingJob, folder: ProfilingFolder, *, on_progress: Progress | None = None
) -> ProfilingReport:
    """Ask what is not known yet, grade it, keep each outcome at once, and fit the artefact from all outcomes.

    All experts are asked in one run of the engine, so each model is loaded once. `folder` must be open. Raises
    `ConfigError` for a question without reference answer, `InvalidQuery` for one with more than 26 options,
    `UnknownNameError` for an unknown expert.
    """
    experts = chosen_experts(engine, job.experts)
    questions = folder.remembered(job.questions)
    require_gradable(questions)
    known = folder.begin(questions, experts, pool_name=engine.pool.name)
    asked = _open_questions(questions, experts, known, samples=job.samples)
    n_open = sum(len(item.expert_ids) for item in asked)
    n_all = len(questions) * len(experts) * job.samples
    failures, n_new = Failures(), 0
    if on_progress is not None:
        on_progress(n_all - n_open, n_all)
    async with aclosing(ask_and_grade(engine, asked, failures)) as answers:
        async for graded in answers:
            folder.add(graded.outcome, graded.text)
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


def chosen_experts(engine: Engine, expert_ids: Sequence[str]) -> list[Expert]:
    """The experts of these ids, every enabled one where none is given; raises for an unknown or unusable one."""
    experts = [engine.pool.expert(name) for name in dict.fromkeys(expert_ids)]
    disabled = [expert.id for expert in experts if not expert.is_enabled]
    if disabled:
        raise ConfigError(f"expert {disabled[0]!r} is switched off or not usable; run `enlist pool check` to see why")
    return experts or list(engine.pool.enabled)


def require_gradable(questions: Sequence[Question]) -> None:
    """Raise `ConfigError` or `InvalidQuery` where there is no question, or one that no answer can be graded against."""
    if not questions:
        raise ConfigError("there are no questions to profile on; give a JSONL file with at least one")
    for question in questions:
        task_format_of(question)
        grade(None, question)


def _open_questions(
    questions: Sequence[Question], experts: Sequence[Expert], known: set[OutcomeKey], *, samples: int
) -> list[OpenQuestion]:
    """What is to be asked."""
    asked = []
    for question in questions:
        for sample in range(samples):
            missing = tuple(expert.id for expert in experts if (expert.id, question.id, sample) not in known)
            if missing:
                asked.append(OpenQuestion(question=question, sample=sample, expert_ids=missing))
    return asked
