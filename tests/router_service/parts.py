"""Values and fakes to put an engine together from, without a pool file, a model or a server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aggregators.base import Aggregator
from aggregators.first import First
from aggregators.majority import Majority
from experts_registry.pool import Pool
from router_service.backends.base import Backend
from router_service.config import DispatchConfig
from router_service.dispatch.runner import Runner
from router_service.engine import Engine, EngineDefaults
from router_service.errors import AggregationError, UnknownNameError
from router_service.recruit.base import FitData, Recruiter, RecruitRequest
from router_service.types import (
    Answer,
    Ask,
    Assignment,
    Completion,
    Expert,
    ExpertBatch,
    Panel,
    Query,
    Question,
    Recruit,
    RouteDecision,
    SkillAnnotation,
    TokenDelta,
    Usage,
    stable_seed,
    user_query,
)
from skills.base import Annotator

Reply = Callable[[Expert, Assignment, int], Completion]


def says(text: str) -> Reply:
    """Every completion says `text`."""
    return lambda expert, assignment, sample: completion(expert, assignment, sample, text)


def completion(expert: Expert, assignment: Assignment, sample: int, text: str) -> Completion:
    return Completion(
        query_id=assignment.query.id,
        expert_id=expert.id,
        sample=sample,
        text=text,
        usage=Usage(completions=1, prompt_tokens=3, completion_tokens=len(text.split()), cost_usd=None),
    )


def seeded(expert: Expert, assignment: Assignment, sample: int) -> Completion:
    """Text that depends on expert, query, seed and sample alone."""
    text = str(stable_seed(expert.id, assignment.query.text, assignment.seed, sample) % 5)
    return completion(expert, assignment, sample, text)


@dataclass
class FakeBackend(Backend):
    """Replies as told, after a pause; counts what is open, so that a test sees cancellation."""

    reply: Reply = seeded
    pause_s: float = 0.0
    writing_pause_s: float = 0.0
    open_calls: int = 0
    cancelled_calls: int = 0
    asked: list[str] = field(default_factory=list)

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Completion | TokenDelta]:
        self.open_calls += 1
        try:
            for assignment in batch.assignments:
                for sample in range(assignment.first_sample, assignment.first_sample + assignment.samples):
                    await asyncio.sleep(self.writing_pause_s if assignment.query.parent_id else self.pause_s)
                    self.asked.append(f"{expert.id}:{assignment.query.id}:{sample}")
                    said = self.reply(expert, assignment, sample)
                    if assignment.streams:
                        for word in said.text.split(" "):
                            yield TokenDelta(query_id=assignment.query.id, text=word)
                        said = replace(said, text="".join(said.text.split(" ")))
                    yield said
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled_calls += 1
            raise
        finally:
            self.open_calls -= 1


@dataclass
class Everyone:
    """Recruits every expert allowed, `samples` times each, up to the query's k."""

    ids: tuple[str, ...]
    samples: int = 1
    needs_annotation: bool = True

    def fit(self, data: FitData) -> Everyone:
        return self

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        return [self._decision(request) for request in requests]

    def _decision(self, request: RecruitRequest) -> RouteDecision:
        controls = request.query.controls
        ids = [i for i in self.ids if i not in controls.experts_denied][: controls.k]
        recruits = tuple(Recruit(expert_id=i, samples=self.samples, p_correct=0.6) for i in ids)
        return RouteDecision(query_id=request.query.id, recruits=recruits, recruiter="everyone", seed=request.seed)


@dataclass
class Escalating(Everyone):
    """Asks the first expert, then one more after each wave, until all were asked."""

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        return [replace(d, recruits=d.recruits[:1]) for d in super().recruit(requests)]

    def extend(self, requests: Sequence[RecruitRequest]) -> list[tuple[Recruit, ...]]:
        asked = [len({c.expert_id for c in request.completions}) for request in requests]
        return [(Recruit(expert_id=self.ids[n]),) if n < len(self.ids) else () for n in asked]


class Named:
    """Recruits the expert the caller named."""

    needs_annotation = False

    def fit(self, data: FitData) -> Named:
        return self

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        return [
            RouteDecision(
                query_id=request.query.id,
                recruits=(Recruit(expert_id=request.query.controls.expert or ""),),
                recruiter="named",
                seed=request.seed,
            )
            for request in requests
        ]


@dataclass
class FakeAnnotator:
    """Annotates each query with its first word; refuses queries that hold `unreadable`."""

    batches: list[int] = field(default_factory=list)

    def fit(self, questions: Sequence[Question]) -> FakeAnnotator:
        return self

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        from router_service.errors import RoutingError

        self.batches.append(len(queries))
        if any("unreadable" in query.text for query in queries):
            raise RoutingError("a query is unreadable")
        return [SkillAnnotation(query_id=q.id, skills={q.text.split()[0]: 1.0}, annotator="fake") for q in queries]


@dataclass
class AskingAnnotator(FakeAnnotator):
    """Asks the first expert `runs` times per query, all at once; then refuses queries that hold `unreadable`."""

    runs: int = 1
    expert_id: str = "a"

    async def annotate(self, queries: Sequence[Query], *, ask: Ask) -> list[SkillAnnotation]:
        calls = [
            ask(self.expert_id, replace(user_query(f"{query.id}#{run}", query.text), parent_id=query.id))
            for query in queries
            for run in range(self.runs)
        ]
        await asyncio.gather(*calls)
        return await super().annotate(queries, ask=ask)


@dataclass
class Thrifty(Everyone):
    """As many of its experts as `max_completions` allows."""

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        made = super().recruit(requests)
        most = [request.query.budget.max_completions for request in requests]
        return [replace(d, recruits=d.recruits[:n]) for d, n in zip(made, most, strict=True)]


@dataclass
class Stumbling(Escalating):
    """Breaks in `recruit` on queries that hold `recruit`, in `extend` on those that hold `extend`; recruits a stranger
    for those that hold `stranger`."""

    defect: Exception = field(default_factory=lambda: ZeroDivisionError("a bug in a plugin"))

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        self._stumble("recruit", requests)
        made = super().recruit(requests)
        strange = ["stranger" in request.query.text for request in requests]
        return [replace(d, recruits=(Recruit(expert_id="z"),)) if s else d for d, s in zip(made, strange, strict=True)]

    def extend(self, requests: Sequence[RecruitRequest]) -> list[tuple[Recruit, ...]]:
        self._stumble("extend", requests)
        return super().extend(requests)

    def _stumble(self, over: str, requests: Sequence[RecruitRequest]) -> None:
        if any(over in request.query.text for request in requests):
            raise self.defect


class Early(Majority):
    """A plurality vote of plain texts that knows when the rest cannot turn it any more."""

    def is_settled(self, panel: Panel, pending: Sequence[str]) -> bool:
        votes = Counter(member.extracted for member in panel.members if member.extracted)
        (_, most), (_, second) = [*votes.most_common(2), ("", 0), ("", 0)][:2]
        return most - second > len(pending)


class Writer:
    """An aggregator that lets the first expert write the answer, visibly."""

    keeps_text = False

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        query = replace(panel.query, id=f"{panel.query.id}#write", parent_id=panel.query.id)
        written = await ask(panel.members[0].expert_id, query, is_visible=True)
        return Answer(text=written.text, aggregator="writer", agreement=1.0, usage=written.usage)


class TurnCoat(Writer):
    """Shows one text and answers with another, as where a writer breaks off and a vote takes over."""

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        return replace(await super().aggregate(panel, ask=ask), text="something else")


class Spendthrift(Writer):
    """Has its text written, and then finds no answer."""

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        await super().aggregate(panel, ask=ask)
        raise AggregationError("no answer after all")


class Broken:
    """An aggregator with a bug."""

    keeps_text = True

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        raise ZeroDivisionError("a bug in a plugin")


@dataclass
class Shelf:
    """Named parts, ready made."""

    parts: Mapping[str, object]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def get(self, name: str):
        if name not in self.parts:
            raise UnknownNameError("part", name, self.parts)
        return self.parts[name]


def pool_of(*ids: str, **fields: object) -> Pool:
    return Pool(name="test", experts=tuple(Expert(id=i, model=i, backend="fake", **fields) for i in ids))


def engine_of(
    backend: Backend,
    *,
    ids: Sequence[str] = ("a", "b", "c"),
    recruiter: Recruiter | None = None,
    aggregators: Mapping[str, Aggregator] | None = None,
    annotator: Annotator | None = None,
    recruiters: Shelf | None = None,
    pool: Pool | None = None,
    seed: int = 0,
    **dispatch: object,
) -> Engine:
    """An engine of fakes over one backend; `everyone` recruits and `majority` aggregates unless told otherwise."""
    pool = pool or pool_of(*ids)
    return Engine(
        pool=pool,
        annotator=annotator or FakeAnnotator(),
        recruiters=recruiters or Shelf({"everyone": recruiter or Everyone(tuple(ids)), "named": Named()}),
        aggregators=Shelf({"majority": Majority(), "first": First(), **(aggregators or {})}),
        runner=Runner(
            experts={e.id: e for e in pool.experts}, backends={"fake": backend}, settings=DispatchConfig(**dispatch)
        ),
        defaults=EngineDefaults(recruiter="everyone", aggregator="majority", seed=seed),
    )
