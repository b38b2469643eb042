"""What a query asks for by name is made beside the event loop, once, and its trouble is the query's own."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field, replace

from aggregators.first import First
from router_service._engine_parts import EngineDefaults, EngineParts
from router_service.errors import ConfigError
from router_service.recruit.base import RecruitRequest
from router_service.types import (
    DecisionMade,
    Failed,
    RouteControls,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    user_query,
)
from tests.router_service.parts import Everyone, FakeBackend, Named, Shelf, engine_of


@dataclass
class SlowShelf(Shelf):
    """`slow` is ready when the event loop has had its say; `broken` never is."""

    loop_has_run: threading.Event = field(default_factory=threading.Event)
    made: list[str] = field(default_factory=list)

    def get(self, name: str):
        if name == "broken":
            raise ConfigError("it cannot be fitted")
        if name == "slow":
            self.made.append(name)
            assert self.loop_has_run.wait(10), "the event loop stood still"
        return super().get(name)


def asking(recruiter: str, query_id: str = "q"):
    return replace(user_query(query_id, "one"), controls=RouteControls(recruiter=recruiter))


def shelf() -> SlowShelf:
    return SlowShelf({"slow": Everyone(("a",)), "everyone": Everyone(("a",)), "named": Named()})


async def test_a_slow_fit_does_not_stop_the_others() -> None:
    parts = shelf()
    engine = engine_of(FakeBackend(), recruiters=parts)
    slow = asyncio.create_task(engine.route([asking("slow")]))
    (end,) = await engine.route([user_query("other", "one")])
    assert isinstance(end, DecisionMade) and not slow.done()
    parts.loop_has_run.set()
    (end,) = await slow
    assert isinstance(end, DecisionMade)


async def test_what_was_made_is_not_made_again_in_a_thread() -> None:
    parts = shelf()
    parts.loop_has_run.set()
    made = EngineParts(
        parts, Shelf({"majority": object()}), defaults=EngineDefaults(recruiter="slow", aggregator="majority")
    )
    for _ in range(3):
        await made.make([user_query("q", "one")])
    assert parts.made == ["slow"]


async def test_what_cannot_be_made_fails_its_own_query() -> None:
    ends = await engine_of(FakeBackend(), recruiters=shelf()).route(
        [asking("broken", "bad"), asking("everyone", "good")]
    )
    bad, good = ends
    assert isinstance(bad, Failed) and "it cannot be fitted" in bad.failure.message
    assert isinstance(good, DecisionMade)


class Adviser(Everyone):
    """Advises an aggregator that there is not, for queries that hold `strange`."""

    def _decision(self, request: RecruitRequest) -> RouteDecision:
        advice = "nowhere" if "strange" in request.query.text else "majority"
        return replace(super()._decision(request), aggregator=advice)


async def test_an_advised_aggregator_that_cannot_be_made_fails_its_own_query() -> None:
    engine = engine_of(FakeBackend(), recruiter=Adviser(("a",)), aggregators={"auto": First()})
    controls = RouteControls(aggregator="auto")
    bad, good = await engine.run(
        [replace(user_query(i, text), controls=controls) for i, text in (("bad", "strange"), ("good", "one"))]
    )
    assert isinstance(bad, RouteFailure) and "'nowhere'" in bad.message
    assert isinstance(good, RouteResponse) and good.answer.aggregator == "majority"


def test_a_named_expert_needs_no_recruiter_and_no_vote() -> None:
    parts = EngineParts(shelf(), Shelf({}), defaults=EngineDefaults(recruiter="everyone", aggregator="majority"))
    named = replace(user_query("q", "one"), controls=RouteControls(expert="a"))
    assert parts.names(named) == ("named", "first")
    assert parts.names(replace(named, controls=RouteControls(expert="a", aggregator="weighted"))) == (
        "named",
        "weighted",
    )
    assert parts.names(asking("slow")) == ("slow", "majority")
