"""A scripted engine and a real server on a free loopback port, for the tests of the doors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from router_service.http.base import EngineLike
from router_service.http.server import DoorServer
from router_service.http.settings import ServerSettings
from router_service.types import (
    Answer,
    Answered,
    Completion,
    CompletionError,
    CompletionFinished,
    DecisionMade,
    Elimination,
    Event,
    Expert,
    Failed,
    Prices,
    Query,
    Recruit,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    SkillAnnotation,
    TokenDelta,
    ToolCall,
    Usage,
)


def expert(expert_id: str, *, is_enabled: bool = True) -> Expert:
    return Expert(
        id=expert_id,
        model=f"maker/{expert_id}",
        backend="echo",
        prices=Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=2.0),
        is_enabled=is_enabled,
    )


@dataclass(frozen=True)
class FakePool:
    experts: tuple[Expert, ...] = (expert("ada"), expert("bob"), expert("off", is_enabled=False))


@dataclass(frozen=True, kw_only=True)
class Script:
    """What the fake engine does with a query: pause, then deltas with pauses, then the answer or a failure."""

    answer: str = "42"
    deltas: tuple[str, ...] = ()
    pause_s: float = 0.0
    steps: int = 0
    failure: RouteFailure | None = None
    error: Exception | None = None
    cost_usd: float | None = 0.0125
    confidence: float | None = 0.875
    tool_calls: tuple[ToolCall, ...] = ()
    score: float = 2.0
    notes: tuple[str, ...] = ()


class FakeEngine:
    """Follows its script and records the queries it got and how its streams ended."""

    recruiter_names = ("best_single", "symbolic")
    aggregator_names = ("majority", "weighted")

    def __init__(self, script: Script | None = None, pool: FakePool | None = None) -> None:
        self.script = script or Script()
        self.pool = pool or FakePool()
        self.queries: list[Query] = []
        self.opened = threading.Event()
        self.finished = threading.Event()
        self.cancelled = threading.Event()
        self.is_closed = False

    async def stream(self, queries: Sequence[Query]) -> AsyncGenerator[Event, None]:
        [query] = queries
        self.queries.append(query)
        self.opened.set()
        try:
            async for event in self._events(query):
                yield event
            self.finished.set()
        finally:
            if not self.finished.is_set():
                self.cancelled.set()

    async def _events(self, query: Query) -> AsyncGenerator[Event, None]:
        script = self.script
        yield self._made(query)
        for step in range(script.steps):
            await asyncio.sleep(script.pause_s)
            yield CompletionFinished(query_id=query.id, completion=_completion(query, step))
        if not script.steps:
            await asyncio.sleep(script.pause_s)
        if script.error is not None:
            raise script.error
        for delta in script.deltas:
            yield TokenDelta(query_id=query.id, text=delta)
            await asyncio.sleep(script.pause_s)
        if script.failure is not None:
            yield Failed(query_id=query.id, failure=script.failure)
        else:
            yield Answered(query_id=query.id, response=self._response(query))

    async def run(self, queries: Sequence[Query]) -> list[RouteResponse | RouteFailure]:
        async with aclosing(self.stream(queries)) as events:
            async for event in events:
                if isinstance(event, Answered):
                    return [event.response]
                if isinstance(event, Failed):
                    return [event.failure]
        raise AssertionError("the script has no end")

    async def route(self, queries: Sequence[Query]) -> list[DecisionMade | Failed]:
        [query] = queries
        self.queries.append(query)
        if self.script.failure is not None:
            return [Failed(query_id=query.id, failure=self.script.failure)]
        return [self._made(query)]

    async def aclose(self) -> None:
        self.is_closed = True

    def _made(self, query: Query) -> DecisionMade:
        annotation = SkillAnnotation(
            query_id=query.id,
            skills={"algebra": 1.0},
            category="math",
            novelty=0.25,
            annotator="fake",
            nearest=(("q1", 0.9),),
        )
        return DecisionMade(query_id=query.id, annotation=annotation, decision=self._decision(query))

    def _decision(self, query: Query) -> RouteDecision:
        return RouteDecision(
            query_id=query.id,
            recruits=(Recruit(expert_id="ada", score=self.script.score, p_correct=0.75, samples=2),),
            recruiter=query.controls.recruiter or "symbolic",
            aggregator=query.controls.aggregator,
            eliminated=(Elimination(expert_id="off", reason="disabled"),),
            scores={"ada": self.script.score, "bob": 1.0},
            estimate=Usage(completions=2, cost_usd=None),
            seed=7,
        )

    def _response(self, query: Query) -> RouteResponse:
        made = self._made(query)
        script = self.script
        answer = Answer(
            text=script.answer,
            extracted=script.answer,
            aggregator="majority",
            supporters=("ada",),
            agreement=1.0,
            confidence=script.confidence,
            tool_calls=script.tool_calls,
            usage=Usage(completions=1, prompt_tokens=7, completion_tokens=1, cost_usd=0.0025),
            notes=script.notes,
        )
        return RouteResponse(
            query_id=query.id,
            annotation=made.annotation,
            decision=made.decision,
            completions=(_completion(query, 0), _completion(query, 1)),
            answer=answer,
            usage=Usage(completions=2, prompt_tokens=20, completion_tokens=4, cost_usd=script.cost_usd),
            overhead_s=0.002,
        )


def _completion(query: Query, sample: int) -> Completion:
    return Completion(
        query_id=query.id,
        expert_id="ada",
        sample=sample,
        text="The answer is 42",
        extracted="42",
        finish_reason="stop",
        usage=Usage(completions=1, prompt_tokens=10, completion_tokens=2, cost_usd=0.5),
        latency_s=0.125,
    )


def failure(code: str, message: str = "it did not work", *, retry_after_s: float | None = None) -> RouteFailure:
    error = CompletionError(code=code, message=message, is_retryable=True, retry_after_s=retry_after_s)
    finished = Completion(query_id="q", expert_id="ada", error=error)
    return RouteFailure(query_id="q", code=code, message=message, completions=(finished,))


@dataclass(frozen=True)
class RunningServer:
    """A server that answers at `url`."""

    url: str
    server: DoorServer


@contextmanager
def running_server(engine: EngineLike, **settings: object) -> Iterator[RunningServer]:
    """The real server over `engine` on a free port of this machine, in a thread of its own."""
    known = {"port": 0, "log_level": "critical", "shutdown_grace_s": 1.0} | settings
    server = DoorServer(engine, ServerSettings.model_validate(known))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    try:
        yield RunningServer(url=f"http://127.0.0.1:{server.port}", server=server)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive(), "the server did not stop"
