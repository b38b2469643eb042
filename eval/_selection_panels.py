"""The panels that aggregators are selected on: what recruiting would have given, knowing only the other questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aggregators.base import Aggregator, LearnedAggregator
from aggregators.choices import CellKey, Choice
from aggregators.extract import extract
from eval.grading import question_query, task_format_of
from eval.recorded_calls import RecordedCalls
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.config import EngineConfig, PartConfig
from router_service.engine import Engine
from router_service.lessons import Lessons
from router_service.types import Completion, Panel, Question, RouteControls, RouteResponse, stable_seed
from skills.base import ANNOTATORS

__all__ = ["NaturalPanels", "Trial"]

_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A question with the panel that a candidate is given. `n_distinct` counts the panel's completions that are not
    repeats of a recorded one."""

    question: Question
    panel: Panel
    n_distinct: int = 0

    @property
    def cell(self) -> CellKey:
        """The panel's category, as it was annotated, and its kind of answer."""
        return self.panel.annotation.category, self.panel.query.task_format.kind.value


class NaturalPanels:
    """Recorded completions put together as the configured recruiter would, by an engine that knows everything about
    the questions of the other folds and nothing of its own."""

    def __init__(
        self, pool: Pool, artefact: Artefact, completions: Mapping[str, Sequence[Completion]], *, config: EngineConfig
    ) -> None:
        self._pool = pool
        self._artefact = artefact
        self._config = config.model_copy(update={"aggregator": PartConfig(name="first"), "artefact": None})
        self._recorded = RecordedCalls({q.id: _read(q, completions.get(q.id, ())) for q in artefact.questions})
        self._fold = {q.id: stable_seed(config.seed, "fold", q.id) % _FOLDS for q in artefact.questions}
        self._engines: dict[int, Engine] = {}
        self._lessons: dict[int, Lessons] = {}
        self._taught: dict[tuple[int, Choice], Aggregator] = {}
        self._trials: dict[int, dict[str, Trial]] = {}

    async def of_size(self, k: int) -> Mapping[str, Trial]:
        """A trial a question, by its id, where the recruiter is asked for `k` completions; questions of which none is
        on record are left out."""
        if k not in self._trials:
            found: dict[str, Trial] = {}
            for fold in sorted(set(self._fold.values())):
                questions = [q for q in self._artefact.questions if self._fold[q.id] == fold]
                found |= await self._panels(questions, fold, k)
            self._trials[k] = {q.id: found[q.id] for q in self._artefact.questions if q.id in found}
        return self._trials[k]

    def taught(self, choice: Choice, question_id: str) -> Aggregator:
        """The chosen aggregator; one that learns knows the questions of the other folds."""
        fold = self._fold[question_id]
        if (fold, choice) not in self._taught:
            made = choice.create()
            is_learned = isinstance(made, LearnedAggregator)
            self._taught[fold, choice] = self._lessons_of(fold).taught(made) if is_learned else made
        return self._taught[fold, choice]

    async def _panels(self, questions: Sequence[Question], fold: int, k: int) -> dict[str, Trial]:
        queries = [
            replace(
                question_query(question, seed=stable_seed(self._config.seed, question.id)),
                controls=RouteControls(k=k, waits_for_all=True),
            )
            for question in questions
        ]
        ends = await self._engine(fold).run(queries)
        experts = {expert.id: expert for expert in self._pool.enabled}
        return {
            question.id: self._trial(
                question,
                Panel(
                    query=replace(query, controls=RouteControls()),
                    annotation=end.annotation,
                    decision=end.decision,
                    completions=end.completions,
                    experts=experts,
                ),
            )
            for question, query, end in zip(questions, queries, ends, strict=True)
            if isinstance(end, RouteResponse)
        }

    def _trial(self, question: Question, panel: Panel) -> Trial:
        distinct = {
            (member.expert_id, member.sample % self._recorded.recorded(question.id, member.expert_id))
            for member in panel.members
        }
        return Trial(question=question, panel=panel, n_distinct=len(distinct))

    def _engine(self, fold: int) -> Engine:
        if fold not in self._engines:
            backends = dict.fromkeys((expert.backend for expert in self._pool.experts), self._recorded)
            self._engines[fold] = build_engine(
                self._config, pool=self._pool, artefact=self._without(fold), backends=backends
            )
        return self._engines[fold]

    def _lessons_of(self, fold: int) -> Lessons:
        if fold not in self._lessons:
            artefact, part = self._without(fold), self._config.annotator
            annotator = ANNOTATORS.create(part.name, part.options).fit(artefact.questions)
            self._lessons[fold] = Lessons(self._pool, artefact, annotator)
        return self._lessons[fold]

    def _without(self, fold: int) -> Artefact:
        """What the questions of the other folds teach; of all questions where there is but one fold."""
        alone = len(Counter(self._fold.values())) == 1
        questions = [q for q in self._artefact.questions if alone or self._fold[q.id] != fold]
        ids = {question.id for question in questions}
        outcomes = [outcome for outcome in self._artefact.outcomes if outcome.question_id in ids]
        return Artefact.fit(outcomes, questions, pool_name=self._artefact.pool_name)


def _read(question: Question, completions: Sequence[Completion]) -> list[Completion]:
    """The completions with their answers extracted, empty ones left out."""
    return [
        replace(completion, extracted=completion.extracted or extract(completion.text, task_format_of(question)))
        for completion in completions
        if completion.succeeded and (completion.text.strip() or completion.extracted)
    ]
