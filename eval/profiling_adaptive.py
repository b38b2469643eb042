"""Adaptive profiling as a run: a new expert is asked a few chosen questions, and gets a profile with error bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from eval.adaptive import AdaptiveProfiler, ExpertEstimate, error_scales
from eval.adaptive_bank import QuestionBank, known_grades
from eval.profiling import Progress, chosen_experts, require_gradable
from eval.profiling_asking import Failures, OpenQuestion, ask_and_grade
from eval.profiling_folder import ProfilingFolder
from experts_registry.artefact import Artefact
from router_service.engine import Engine
from router_service.errors import ConfigError
from router_service.types import Expert, Question

__all__ = ["AdaptiveJob", "AdaptiveReport", "profile_adaptively"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveJob:
    """Whom to profile: `experts` are ids (none given: every enabled one that is not profiled in full).

    `n_questions` is the most that each is asked, those of earlier runs included; `wave` of them go out at once.
    `questions` are the bank to choose from; none given: those of the artefact that is gone on with.
    """

    questions: tuple[Question, ...] = ()
    experts: tuple[str, ...] = ()
    n_questions: int = 60
    confidence: float = 0.9
    wave: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveReport:
    """What came of it; `failures` as in `ProfilingReport`. An expert of whom nothing came has no estimate."""

    artefact: Artefact
    estimates: tuple[ExpertEstimate, ...]
    n_new: int
    n_known: int
    failures: Mapping[str, tuple[int, str]]


class _Run:
    """The state of one run over several experts: what is asked, kept and counted."""

    def __init__(
        self, engine: Engine, job: AdaptiveJob, *, folder: ProfilingFolder, questions: Sequence[Question]
    ) -> None:
        self.job = job
        self.questions = questions
        self.failures = Failures()
        self.n_new = 0
        self._engine = engine
        self._folder = folder

    async def profile(self, expert: Expert, *, on_answer: Progress) -> ExpertEstimate | None:
        """Choose, ask, grade and keep until it is finished; what is known already is not asked again."""
        job = self.job
        known = known_grades(self.questions, self._folder.outcomes, leaving_out=expert.id)
        profiler = AdaptiveProfiler(
            QuestionBank(self.questions, known), budget=job.n_questions, confidence=job.confidence
        )
        for position, grade in self._recorded(expert):
            profiler.record(position, grade)
        n_failed = 0
        on_answer(profiler.n_asked, job.n_questions)
        while not profiler.is_finished and profiler.n_asked + n_failed < job.n_questions:
            wave = profiler.next_questions(min(job.wave, job.n_questions - profiler.n_asked - n_failed))
            grades = await self._ask(expert, wave, on_answer=lambda n: on_answer(profiler.n_asked + n, job.n_questions))
            for position in wave:
                if position in grades:
                    profiler.record(position, grades[position])
                else:
                    profiler.leave_out(position)
            n_failed += len(wave) - len(grades)
        if not profiler.n_asked:
            return None
        scales = error_scales(self.questions, known, budget=profiler.n_asked, confidence=job.confidence, wave=job.wave)
        return profiler.result(expert.id, scales)

    def _recorded(self, expert: Expert) -> list[tuple[int, float]]:
        places = {question.id: position for position, question in enumerate(self.questions)}
        return [
            (places[outcome.question_id], outcome.correct)
            for outcome in self._folder.outcomes
            if outcome.expert_id == expert.id and outcome.sample == 0 and outcome.question_id in places
        ]

    async def _ask(self, expert: Expert, wave: Sequence[int], *, on_answer: Callable[[int], None]) -> dict[int, float]:
        """The grades of the answers that came, by position."""
        places = {self.questions[position].id: position for position in wave}
        items = [OpenQuestion(question=self.questions[position], expert_ids=(expert.id,)) for position in wave]
        grades: dict[int, float] = {}
        async with aclosing(ask_and_grade(self._engine, items, self.failures)) as answers:
            async for graded in answers:
                self._folder.add(graded.outcome, graded.text)
                grades[places[graded.outcome.question_id]] = graded.outcome.correct
                self.n_new += 1
                on_answer(len(grades))
        return grades


async def profile_adaptively(
    engine: Engine, job: AdaptiveJob, folder: ProfilingFolder, *, on_progress: Progress | None = None
) -> AdaptiveReport:
    """Profile new experts by a few chosen questions each; every other expert's profile stays as it is.

    `folder` must be open. Answers are kept at once, so that a run that was cut short goes on where it was. Raises
    `ConfigError` where there are no questions to choose from or nobody is left to profile.
    """
    questions = folder.remembered(job.questions or folder.questions)
    if not questions:
        raise ConfigError(
            f"{folder.path} holds no questions to choose from; profile other experts in full there first, or give a "
            "file of questions (--data)"
        )
    require_gradable(questions)
    chosen = chosen_experts(engine, job.experts)
    folder.begin(questions, chosen, pool_name=engine.pool.name)
    experts = _new_experts(chosen, questions, folder, is_asked_for=bool(job.experts))
    run = _Run(engine, job, folder=folder, questions=questions)
    estimates = []
    for number, expert in enumerate(experts):

        def on_answer(done: int, total: int, *, before: int = number) -> None:
            if on_progress is not None:
                on_progress(before * total + done, len(experts) * total)

        estimates.append(await run.profile(expert, on_answer=on_answer))
    made = tuple(estimate for estimate in estimates if estimate is not None)
    artefact = folder.finish(questions, pool_name=engine.pool.name, estimates=made)
    n_known = sum(estimate.n_asked for estimate in made) - run.n_new
    return AdaptiveReport(
        artefact=artefact, estimates=made, n_new=run.n_new, n_known=n_known, failures=run.failures.by_expert
    )


def _new_experts(
    chosen: Sequence[Expert], questions: Sequence[Question], folder: ProfilingFolder, *, is_asked_for: bool
) -> list[Expert]:
    """The chosen experts that are not profiled in full; `ConfigError` where a named one is, or nobody is left."""
    full = set(known_grades(questions, folder.outcomes).expert_ids)
    done = [expert.id for expert in chosen if expert.id in full]
    if done and (is_asked_for or len(done) == len(chosen)):
        raise ConfigError(
            f"{', '.join(done)}: profiled in full on these questions already, which is surer than any estimate; name "
            "a new expert with --expert"
        )
    return [expert for expert in chosen if expert.id not in full]
