"""Recruiters that have an LLM read the queries first: paid by each query's own budget, and each query's own affair."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import RouterError, RoutingError
from router_service.recruit.base import ConsultingRecruiter, RecruitRequest
from router_service.types import (
    Ask,
    Budget,
    DecisionMade,
    Elimination,
    Failed,
    Query,
    Recruit,
    RouteControls,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    user_query,
)
from tests.router_service.parts import (
    AskingAnnotator,
    Everyone,
    FakeBackend,
    Named,
    Shelf,
    Thrifty,
    engine_of,
)
from tests.router_service.test_engine import answer_of, collect


@dataclass
class Consulting(Thrifty):
    """Has `consulted` name the experts by number; breaks on queries that hold `unheard`, after it has asked."""

    consulted: str = "a"
    defect: Exception = field(default_factory=lambda: ZeroDivisionError("a bug in a plugin"))
    advice: list[str | None] = field(default_factory=list)

    async def consult(self, requests: Sequence[RecruitRequest], *, ask: Ask) -> list[RecruitRequest]:
        async def heard(request: RecruitRequest) -> RecruitRequest:
            asked = user_query(f"{request.query.id}#consult", request.query.text, seed=7)
            try:
                said = await ask(self.consulted, replace(asked, parent_id=request.query.id))
            except RouterError:
                return request
            return replace(request, advice=said.text if said.succeeded else None)

        done = list(await asyncio.gather(*[heard(request) for request in requests]))
        if any("unheard" in request.query.text for request in requests):
            raise self.defect
        return done

    def recruit(self, requests: Sequence[RecruitRequest]) -> list[RouteDecision]:
        self.advice += [request.advice for request in requests]
        made = super().recruit(requests)
        return [self._advised(d, request.advice) for d, request in zip(made, requests, strict=True)]

    def _advised(self, decision: RouteDecision, advice: str | None) -> RouteDecision:
        if advice is None:
            return decision
        return replace(decision, recruits=(Recruit(expert_id=self.ids[int(advice) % len(self.ids)]),))


def consulting(backend: FakeBackend, recruiter: Consulting | None = None, **options):
    return engine_of(backend, recruiter=recruiter or Consulting(("a", "b", "c")), **options)


def test_it_is_the_protocol() -> None:
    assert isinstance(Consulting(("a",)), ConsultingRecruiter) and not isinstance(Everyone(("a",)), ConsultingRecruiter)


async def test_what_was_said_reaches_the_recruiter_and_its_usage_the_response() -> None:
    backend = FakeBackend()
    recruiter = Consulting(("a", "b", "c"))
    (response,) = await consulting(backend, recruiter).run([user_query("q", "hi")])
    assert isinstance(response, RouteResponse)
    assert backend.asked[0] == "a:q#consult:0" and len(backend.asked) == 2
    assert recruiter.advice[0] is not None and len(response.decision.recruits) == 1
    assert response.usage.completions == 2


async def test_the_annotators_and_the_consulted_experts_usage_add_up() -> None:
    engine = consulting(FakeBackend(), annotator=AskingAnnotator(runs=2))
    (response,) = await engine.run([user_query("q", "hi")])
    assert isinstance(response, RouteResponse) and response.usage.completions == 2 + 1 + 1


async def test_a_consultation_that_breaks_fails_its_query_alone_and_the_others_pay_once() -> None:
    backend = FakeBackend()
    budget = Budget(max_completions=2)
    queries = [replace(user_query(f"q{i}", t), budget=budget) for i, t in enumerate(["hi", "unheard", "ho"])]
    first, bad, last = await consulting(backend).run(queries)
    assert isinstance(first, RouteResponse) and isinstance(last, RouteResponse) and isinstance(bad, RouteFailure)
    assert bad.code == "routing_error" and "recruiter 'everyone' broke" in bad.message
    assert (first.usage.completions, bad.usage.completions, last.usage.completions) == (2, 1, 2)
    assert sum("#consult" in asked for asked in backend.asked) == 3


async def test_an_error_of_the_tree_keeps_its_words() -> None:
    recruiter = Consulting(("a",), defect=RoutingError("cannot be read aloud"))
    (bad,) = await consulting(FakeBackend(), recruiter).run([user_query("q", "unheard")])
    assert isinstance(bad, RouteFailure) and bad.message == "cannot be read aloud"


async def test_whoever_may_not_be_asked_is_not_consulted() -> None:
    backend = FakeBackend()
    query = replace(user_query("q", "hi"), controls=RouteControls(experts_denied=("a",)))
    (response,) = await consulting(backend).run([query])
    assert isinstance(response, RouteResponse)
    assert not any(asked.startswith("a:") for asked in backend.asked)


async def test_only_the_recruiters_that_consult_are_let_to_and_named_experts_skip_it() -> None:
    backend = FakeBackend()
    recruiters = Shelf({"everyone": Everyone(("b", "c")), "consulting": Consulting(("a", "b")), "named": Named()})
    engine = engine_of(backend, recruiters=recruiters)
    asks = replace(user_query("q2", "hi"), controls=RouteControls(recruiter="consulting"))
    named = replace(user_query("q3", "hi"), controls=RouteControls(expert="c"))
    ends = await engine.run([user_query("q1", "hi"), asks, named])
    assert [end.query_id for end in ends if isinstance(end, RouteResponse)] == ["q1", "q2", "q3"]
    assert [asked for asked in backend.asked if "consult" in asked] == ["a:q2#consult:0"]


async def test_routing_alone_consults_too() -> None:
    backend = FakeBackend()
    (made,) = await consulting(backend).route([user_query("q", "hi")])
    assert isinstance(made, DecisionMade) and backend.asked == ["a:q#consult:0"]


async def test_nothing_left_by_the_consultation_is_said_so() -> None:
    class Strict(Consulting):
        def recruit(self, requests):
            ruled_out = (Elimination(expert_id="a", reason="", code="no_completions"),)
            return [replace(d, recruits=(), eliminated=ruled_out) for d in super().recruit(requests)]

    query = replace(user_query("q", "hi"), budget=Budget(max_completions=1))
    (failure,) = await consulting(FakeBackend(), Strict(("a",))).run([query])
    assert isinstance(failure, RouteFailure)
    assert failure.code == "budget_exceeded" and "the consulted expert's 1 completions" in failure.message


async def test_waiting_for_the_consulted_is_no_overhead_and_its_time_counts() -> None:
    engine = consulting(FakeBackend(pause_s=0.02, writing_pause_s=0.2))
    (response,) = await engine.run([user_query("q", "hi")])
    assert isinstance(response, RouteResponse) and response.overhead_s < 0.1
    late = replace(user_query("q", "hi"), budget=Budget(deadline_s=0.1))
    (end,) = await consulting(FakeBackend(pause_s=0.02, writing_pause_s=5)).run([late])
    assert isinstance(end, RouteFailure) and end.code == "expert_timeout"


async def test_closing_the_stream_ends_the_consultation() -> None:
    backend = FakeBackend(writing_pause_s=60)
    engine = consulting(backend)

    async def first_event() -> None:
        async with aclosing(engine.stream([user_query("q", "hi")])) as events:
            async for _ in events:
                break

    task = asyncio.create_task(first_event())
    while backend.open_calls != 1:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert backend.open_calls == 0 and backend.cancelled_calls == 1


@pytest.mark.parametrize("text", ["hi", "unheard"])
async def test_each_query_ends_once(text: str) -> None:
    events = await collect(consulting(FakeBackend()), [user_query("q", text)])
    assert isinstance(events[-1], Failed) == (text == "unheard")
    assert sum(isinstance(event, DecisionMade) for event in events) == (text != "unheard")


texts = st.lists(st.sampled_from(["one", "two", "three four", "unreadable", "unheard", " "]), max_size=6)


@settings(max_examples=30, deadline=None)
@given(texts=texts, seed=st.integers(0, 3))
def test_a_batch_is_its_singles(texts: list[str], seed: int) -> None:
    queries: list[Query] = [user_query(f"q{i}", text) for i, text in enumerate(texts)]

    async def both() -> tuple[list[object], list[object]]:
        engine = consulting(FakeBackend(), seed=seed)
        together = await engine.run(queries)
        alone = [(await engine.run([query]))[0] for query in queries]
        return [answer_of(end) for end in together], [answer_of(end) for end in alone]

    together, alone = asyncio.run(both())
    assert together == alone
