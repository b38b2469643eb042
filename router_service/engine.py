"""The engine: annotate -> recruit -> dispatch -> aggregate, one path for one query or thousands, as typed events."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType

from aggregators.base import Aggregator
from experts_registry.pool import Pool
from router_service._engine_parts import NAMED, EngineDefaults, EngineParts, Parts
from router_service.admission import allowed_experts, check_query, require_distinct_ids
from router_service.answering import Answering, shows
from router_service.dispatch.ask import BudgetedAsk
from router_service.dispatch.ledger import DeadlinesFrom
from router_service.dispatch.planner import plan_batches
from router_service.dispatch.runner import PanelReady, Runner
from router_service.errors import RouterError
from router_service.flight import (
    Emit,
    Flight,
    as_router_error,
    asking,
    by_recruiter,
    controls_of,
    ledgers_of,
    together_or_alone,
    without_lost,
)
from router_service.recruit.base import (
    ConsultingRecruiter,
    ExplainingRecruiter,
    Recruiter,
    RecruitRequest,
    SequentialRecruiter,
)
from router_service.types import (
    Answered,
    Ask,
    Completion,
    CompletionFinished,
    CompletionMemo,
    DecisionMade,
    Event,
    ExpertBatch,
    Failed,
    Query,
    Recruit,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    SkillAnnotation,
    TokenDelta,
    stable_seed,
)
from skills.base import Annotator

__all__ = ["Engine", "EngineDefaults", "Parts"]

_log = logging.getLogger(__name__)

_AUTO = "auto"


class Engine:
    """Answers queries. Replaceable in every part; `router_service.assembly.build_engine` makes one from a config."""

    def __init__(
        self,
        *,
        pool: Pool,
        annotator: Annotator,
        recruiters: Parts[Recruiter],
        aggregators: Parts[Aggregator],
        runner: Runner,
        defaults: EngineDefaults,
    ) -> None:
        self.pool = pool
        self.runner = runner
        self.defaults = defaults
        self._annotator = annotator
        self._parts = EngineParts(recruiters, aggregators, defaults=defaults)
        self._answering = Answering(aggregators)
        self._askable = MappingProxyType({expert.id: expert for expert in pool.enabled})

    def remembering(self, memo: CompletionMemo) -> Engine:
        """This engine, sharing all its parts, with a memo of completions: none that it keeps is asked for again."""
        engine = copy.copy(self)
        engine.runner = self.runner.remembering(memo)
        return engine

    @property
    def recruiter_names(self) -> tuple[str, ...]:
        """What `controls.recruiter` may name."""
        return tuple(name for name in self._parts.recruiters.names if name != NAMED)

    @property
    def aggregator_names(self) -> tuple[str, ...]:
        """What `controls.aggregator` may name."""
        return self._parts.aggregators.names

    async def stream(
        self, queries: Sequence[Query], *, deadlines_from: DeadlinesFrom = "arrival"
    ) -> AsyncGenerator[Event, None]:
        """Events as they happen; exactly one `Answered` or `Failed` per query.

        `deadlines_from="first_call"` keeps every query's deadline from when a call of it goes out, not counting what
        it waits in line behind the others of a long batch.

        Close the iterator (`contextlib.aclosing`) to cancel every open call. Raises `InvalidQuery` at once where two
        queries share an id; everything that goes wrong with one query is its own `Failed`.
        """
        require_distinct_ids(queries)
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        worker = asyncio.create_task(self._work(queries, events.put_nowait, deadlines_from))
        worker.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await worker
        finally:
            worker.cancel()
            await asyncio.wait([worker])

    async def run(
        self, queries: Sequence[Query], *, deadlines_from: DeadlinesFrom = "arrival"
    ) -> list[RouteResponse | RouteFailure]:
        """One response or failure per query, in order: `stream`, folded."""
        ends: dict[str, RouteResponse | RouteFailure] = {}
        async with aclosing(self.stream(queries, deadlines_from=deadlines_from)) as events:
            async for event in events:
                if isinstance(event, Answered):
                    ends[event.query_id] = event.response
                elif isinstance(event, Failed):
                    ends[event.query_id] = event.failure
        return [ends[query.id] for query in queries]

    async def route(self, queries: Sequence[Query]) -> list[DecisionMade | Failed]:
        """Annotate and recruit only, in order; no expert answers (an annotator or recruiter may ask one)."""
        require_distinct_ids(queries)
        ends: dict[str, DecisionMade | Failed] = {}

        def emit(event: Event) -> None:
            if isinstance(event, DecisionMade | Failed):
                ends[event.query_id] = event

        await self._decide(queries, emit, "arrival")
        return [ends[query.id] for query in queries]

    def explain(self, query: Query, made: DecisionMade) -> list[str]:
        """What the recruiter says of why it decided so, line by line; nothing where it does not explain itself."""
        recruiter = self._parts.recruiters.get(made.decision.recruiter)
        if not isinstance(recruiter, ExplainingRecruiter):
            return []
        return recruiter.explain(RecruitRequest(query=query, annotation=made.annotation, seed=made.decision.seed))

    async def aclose(self) -> None:
        """Give back what the backends hold."""
        await self.runner.aclose()

    async def _work(self, queries: Sequence[Query], emit: Emit, deadlines_from: DeadlinesFrom) -> None:
        flights = await self._decide(queries, emit, deadlines_from)
        try:
            while flights:
                flights = await self._dispatch(flights, emit)
        except ExceptionGroup as broken:  # so a task group wraps what its body raises
            raise broken.exceptions[0] from broken

    async def _decide(self, queries: Sequence[Query], emit: Emit, deadlines_from: DeadlinesFrom) -> list[Flight]:
        await self._parts.make(queries)
        flights = self._admit(queries, emit, deadlines_from)
        flights = await self._annotate(flights, emit)
        flights = await self._consult(flights, emit)
        return await self._recruit(flights, emit)

    # --- annotate -> recruit ---------------------------------------------------------------------------------------

    def _admit(self, queries: Sequence[Query], emit: Emit, deadlines_from: DeadlinesFrom) -> list[Flight]:
        admitted = []
        for query in queries:
            try:
                admitted.append(self._flight(query, deadlines_from))
            except Exception as error:  # a foreign part's bug is this query's failure, not the batch's
                if not isinstance(error, RouterError):
                    _log.exception("the parts for query %s could not be made", query.id)
                emit(_refused(query, as_router_error(error, "making the recruiter or the aggregator")))
        return admitted

    def _flight(self, query: Query, deadlines_from: DeadlinesFrom) -> Flight:
        controls = query.controls
        check_query(query)
        recruiter_name, aggregator_name = self._parts.names(query)
        for expert_id in (controls.expert, *controls.experts_allowed, *controls.experts_denied):
            if expert_id is not None:
                self.pool.expert(expert_id)
        self._parts.aggregators.get(aggregator_name)
        seed = stable_seed(self.defaults.seed, query.messages) if query.seed is None else query.seed
        return Flight(
            query=replace(query, seed=seed),
            recruiter=self._parts.recruiters.get(recruiter_name),
            recruiter_name=recruiter_name,
            aggregator_name=aggregator_name,
            ledger=self.runner.ledger(query.budget, deadline_from=deadlines_from),
            annotation=SkillAnnotation(query_id=query.id),
            decision=RouteDecision(query_id=query.id, recruits=(), recruiter=recruiter_name, seed=seed),
            experts=allowed_experts(self._askable, controls),
        )

    async def _annotate(self, flights: list[Flight], emit: Emit) -> list[Flight]:
        async def annotate(group: Sequence[Flight], ask: Ask) -> list[SkillAnnotation]:
            return await self._annotator.annotate([flight.query for flight in group], ask=ask)

        todo = [flight for flight in flights if flight.recruiter.needs_annotation]
        done = await asking(self.runner, todo, annotate, part="the annotator", emit=emit)
        for flight, annotation in done:
            flight.annotation = annotation
        return without_lost(flights, todo, done)

    async def _consult(self, flights: list[Flight], emit: Emit) -> list[Flight]:
        """Let the recruiters that have an LLM read the queries first ask it."""

        async def consult(group: Sequence[Flight], ask: Ask) -> list[RecruitRequest]:
            recruiter = group[0].recruiter
            assert isinstance(recruiter, ConsultingRecruiter)
            return await recruiter.consult([requests[flight.query.id] for flight in group], ask=ask)

        consulting = [flight for flight in flights if isinstance(flight.recruiter, ConsultingRecruiter)]
        requests = {flight.query.id: flight.request for flight in consulting}
        for group in by_recruiter(consulting):
            part = f"recruiter {group[0].recruiter_name!r}"
            done = await asking(self.runner, group, consult, part=part, emit=emit)
            for flight, request in done:
                flight.advice = request.advice
            flights = without_lost(flights, group, done)
        return flights

    async def _recruit(self, flights: list[Flight], emit: Emit) -> list[Flight]:
        recruited = []
        for group in by_recruiter(flights):
            part = f"recruiter {group[0].recruiter_name!r}"
            for flight, decision in await together_or_alone(group, self._decisions, part=part, emit=emit):
                flight.decision = _named(decision, flight)
                if decision.recruits:
                    recruited.append(flight)
                else:
                    emit(flight.nobody())
        for flight in recruited:
            emit(DecisionMade(query_id=flight.query.id, annotation=flight.annotation, decision=flight.decision))
            flight.start_wave(flight.decision.recruits)
        return recruited

    async def _decisions(self, group: Sequence[Flight]) -> list[RouteDecision]:
        decisions = group[0].recruiter.recruit([flight.request for flight in group])
        self._require_registered(recruit for decision in decisions for recruit in decision.recruits)
        for flight, decision in zip(group, decisions, strict=True):
            self._parts.aggregators.get(_named(decision, flight).aggregator or flight.aggregator_name)
        return decisions

    def _require_registered(self, recruits: Iterable[Recruit]) -> None:
        for expert_id in {recruit.expert_id for recruit in recruits}:
            self.runner.is_batched(expert_id)  # raises where the expert, or its backend, is not there

    # --- dispatch -> aggregate -------------------------------------------------------------------------------------

    async def _dispatch(self, flights: list[Flight], emit: Emit) -> list[Flight]:
        """Ask one wave of experts; panels that are complete are aggregated at once, the others come back."""
        by_id = {flight.query.id: flight for flight in flights}
        ask = BudgetedAsk(self.runner, ledgers_of(flights), controls=controls_of(flights), on_delta=shows(by_id, emit))
        unfinished: list[Flight] = []
        async with asyncio.TaskGroup() as group:
            wave = self.runner.run(self._plan(flights), ledgers_of(flights), settles=self._answering.settles(by_id))
            async with aclosing(wave) as finished:
                async for item in finished:
                    if isinstance(item, Completion):
                        emit(CompletionFinished(query_id=item.query_id, completion=item))
                    elif isinstance(item, TokenDelta):
                        by_id[item.query_id].shown += item.text
                        emit(item)
                    else:
                        flight = _land(by_id, item)
                        if isinstance(flight.recruiter, SequentialRecruiter):
                            unfinished.append(flight)
                        else:
                            group.create_task(self._answering.answer(flight, ask, emit))
            widened, complete = await self._extend(unfinished, emit)
            for flight in complete:
                group.create_task(self._answering.answer(flight, ask, emit))
        return widened

    def _plan(self, flights: list[Flight]) -> list[ExpertBatch]:
        decisions = [(flight.query_left, replace(flight.decision, recruits=flight.wave)) for flight in flights]
        asked = {
            (flight.query.id, recruit.expert_id): flight.samples_of(recruit.expert_id)
            for flight in flights
            for recruit in flight.wave
            if flight.completions
        }
        streaming = {flight.query.id for flight in flights if self._answering.streams(flight)}
        return plan_batches(decisions, streaming_ids=streaming, first_samples=asked)

    async def _extend(self, flights: list[Flight], emit: Emit) -> tuple[list[Flight], list[Flight]]:
        """Ask the sequential recruiters: who gets further experts, and whose panel is complete."""
        widened, complete = [], []
        for group in by_recruiter(flights):
            part = f"recruiter {group[0].recruiter_name!r}"
            for flight, more in await together_or_alone(group, self._further, part=part, emit=emit):
                if more:
                    flight.widen(more)
                    widened.append(flight)
                else:
                    complete.append(flight)
        return widened, complete

    async def _further(self, group: Sequence[Flight]) -> list[tuple[Recruit, ...]]:
        recruiter = group[0].recruiter
        assert isinstance(recruiter, SequentialRecruiter)
        further = recruiter.extend([flight.request for flight in group])
        self._require_registered(recruit for more in further for recruit in more)
        return further


def _land(by_id: Mapping[str, Flight], ready: PanelReady) -> Flight:
    flight = by_id[ready.query_id]
    flight.end_wave(ready.completions)
    flight.ledger.stop_clock()
    return flight


def _named(decision: RouteDecision, flight: Flight) -> RouteDecision:
    """The decision under the names its parts go by here; where the aggregator is left to `auto`, the recruiter's
    advice on it stays."""
    advice = decision.aggregator if flight.aggregator_name == _AUTO else None
    return replace(decision, recruiter=flight.recruiter_name, aggregator=advice or flight.aggregator_name)


def _refused(query: Query, error: RouterError) -> Event:
    failure = RouteFailure(query_id=query.id, code=error.code, message=error.message)
    return Failed(query_id=query.id, failure=failure)
