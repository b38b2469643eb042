"""Live panels: one pool's experts answer questions through the engine, aggregated by whatever is to be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from aggregators.choices import Choice
from eval.grading import grade, question_query
from eval.kept_calls import KeptCalls
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.config import EngineConfig, PartConfig
from router_service.types import (
    Answer,
    Answered,
    Completion,
    Failed,
    Question,
    RouteControls,
    RouteFailure,
    RouteResponse,
    stable_seed,
)

__all__ = ["LivePanels", "LiveRun", "Progress"]

End = RouteResponse | RouteFailure
_RIGHT = 0.5

Progress = Callable[[int, int], None]
"""Called with the questions answered and the questions in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRun:
    """One aggregator over all questions: an end and a grade for each, in order. `model_s` is what the models took for
    it, drafts included and remembered calls counted as what they took when they were made; `new_calls` were made now,
    in `wall_s`."""

    choice: Choice
    k: int
    ends: tuple[End, ...]
    grades: tuple[float, ...]
    model_s: float
    new_calls: int
    wall_s: float

    @property
    def answers(self) -> tuple[Answer | None, ...]:
        """The answers, None where a question got none."""
        return tuple(end.answer if isinstance(end, RouteResponse) else None for end in self.ends)

    @property
    def own_calls(self) -> tuple[int, ...]:
        """How many calls the aggregator itself made for each question."""
        return tuple(answer.usage.completions if answer is not None else 0 for answer in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePanels:
    """Questions, and whom to ask: every run over the same drafts, since `backend` remembers what experts said."""

    pool: Pool
    artefact: Artefact
    questions: Sequence[Question]
    backend: KeptCalls
    config: EngineConfig

    @property
    def most_drafts(self) -> int:
        """Beyond so many completions a greedy pool has nothing new to say: one an expert."""
        return len(self.pool.enabled)

    async def run(self, choice: Choice, *, k: int, recruiter: str, on_progress: Progress | None = None) -> LiveRun:
        """Every question answered by the `k` drafts of `recruiter` and the chosen aggregator."""
        asked, spent_s, started = self.backend.asked, self.backend.spent_s, time.perf_counter()
        ends = await self._ends(choice, k=k, recruiter=recruiter, on_progress=on_progress)
        return LiveRun(
            choice=choice,
            k=k,
            ends=tuple(ends[question.id] for question in self.questions),
            grades=tuple(_grade(ends[question.id], question) for question in self.questions),
            model_s=self.backend.spent_s - spent_s,
            new_calls=self.backend.asked - asked,
            wall_s=time.perf_counter() - started,
        )

    async def _ends(self, choice: Choice, *, k: int, recruiter: str, on_progress: Progress | None) -> Mapping[str, End]:
        given = {"expert": choice.expert} if choice.expert else {}
        parts = {
            "recruiter": PartConfig(name=recruiter),
            "aggregator": PartConfig(name=choice.aggregator, options={**given, **dict(choice.options)}),
            "k": k,
        }
        backends = {expert.backend: self.backend for expert in self.pool.experts}
        engine = build_engine(
            self.config.model_copy(update=parts), pool=self.pool, artefact=self.artefact, backends=backends
        )
        controls = RouteControls(waits_for_all=True)
        queries = [
            replace(question_query(q, seed=stable_seed(self.config.seed, q.id)), controls=controls)
            for q in self.questions
        ]
        ends: dict[str, End] = {}
        async with aclosing(engine.stream(queries)) as events:
            async for event in events:
                if isinstance(event, Answered | Failed):
                    ends[event.query_id] = event.response if isinstance(event, Answered) else event.failure
                    if on_progress is not None:
                        on_progress(len(ends), len(queries))
        return ends

    @staticmethod
    def is_right(completion: Completion, question: Question) -> bool:
        """Whether one draft holds the right answer."""
        return completion.succeeded and grade(completion.extracted, question) >= _RIGHT


def _grade(end: End, question: Question) -> float:
    return 0.0 if isinstance(end, RouteFailure) else grade(end.answer.extracted, question)
