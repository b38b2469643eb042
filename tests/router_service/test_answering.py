"""From panel to answer: whom an aggregator may ask, what it may spend, and when it need not wait any longer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.base import Aggregator, PlannedCall
from aggregators.majority import Majority
from experts_registry.pool import Pool
from router_service._answering_plan import affordable, planned_usage
from router_service.backends.base import Backend
from router_service.dispatch.ledger import Ledger
from router_service.engine import Engine
from router_service.prompt_tokens import persona_tokens
from router_service.types import (
    NOT_NEEDED,
    Answer,
    Answered,
    AnswerKind,
    Ask,
    Assignment,
    Budget,
    Completion,
    Expert,
    ExpertBatch,
    Panel,
    Prices,
    RouteControls,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    Sampling,
    SkillAnnotation,
    TaskFormat,
    TokenDelta,
    ToolCall,
    Usage,
    user_query,
)
from tests.router_service.parts import (
    Early,
    Everyone,
    FakeBackend,
    Writer,
    completion,
    engine_of,
    pool_of,
    says,
)


@dataclass
class Onlooker:
    """Keeps the panels it is shown, and answers with the first member's text."""

    keeps_text: bool = True
    panels: list[Panel] = field(default_factory=list)

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        self.panels.append(panel)
        return Answer(text=panel.members[0].text, aggregator="onlooker")


# --- whom an aggregator may ask ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("controls", "askable"),
    [
        (RouteControls(), "abd"),
        (RouteControls(experts_denied=("b",)), "ad"),
        (RouteControls(experts_allowed=("d", "a")), "ad"),
        (RouteControls(experts_allowed=("a", "b", "c"), experts_denied=("b",)), "a"),
    ],
)
async def test_a_panel_names_whom_the_query_lets_be_asked(controls: RouteControls, askable: str) -> None:
    pool = pool_of("a", "b", "c", "d", context_window=4096)
    pool = Pool(name="test", experts=tuple(replace(e, is_enabled=e.id != "c") for e in pool.experts))
    onlooker = Onlooker()
    engine = engine_of(FakeBackend(), pool=pool, recruiter=Everyone(("a",)), aggregators={"onlooker": onlooker})
    query = replace(user_query("q", "hi"), controls=replace(controls, aggregator="onlooker"))
    (response,) = await engine.run([query])
    assert isinstance(response, RouteResponse)
    assert "".join(onlooker.panels[0].experts) == askable
    assert all(expert.context_window == 4096 for expert in onlooker.panels[0].experts.values())


# --- when it need not wait any longer ---------------------------------------------------------------------------------


@dataclass
class Timed(Backend):
    """Says `text[expert]`, `delay_s[expert]` seconds after it was asked; counts what was stopped."""

    texts: Mapping[str, str]
    delays_s: Mapping[str, float]
    stopped: list[str] = field(default_factory=list)

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Completion | TokenDelta]:
        try:
            await asyncio.sleep(self.delays_s.get(expert.id, 0.0))
            for assignment in batch.assignments:
                yield completion(expert, assignment, 0, self.texts[expert.id])
        except asyncio.CancelledError:
            self.stopped.append(expert.id)
            raise


def timed_engine(texts: str, delays_s: Mapping[str, float], **given) -> tuple[Engine, Timed]:
    ids = "abcdefg"[: len(texts)]
    backend = Timed(dict(zip(ids, texts, strict=True)), delays_s)
    return engine_of(backend, ids=ids, aggregators={"majority": Early()}, **given), backend


async def end_of(engine: Engine, controls: RouteControls | None = None) -> RouteResponse:
    asked = user_query("q", "hi", task_format=TaskFormat(kind=AnswerKind.LITERAL))
    (end,) = await engine.run([replace(asked, controls=controls or RouteControls())])
    assert isinstance(end, RouteResponse)
    return end


async def test_a_vote_of_five_answers_when_three_agree() -> None:
    engine, backend = timed_engine("xxyxy", {"c": 0.02, "d": 0.02, "e": 60.0})
    async with asyncio.timeout(20):
        end = await end_of(engine)
    assert (end.answer.extracted, end.calls_saved, backend.stopped) == ("x", 1, ["e"])
    assert end.completions[4].error.code == NOT_NEEDED
    assert end.usage.completions == 5 and end.usage.cost_usd is None  # it had been asked


@pytest.mark.parametrize(
    ("controls", "given"),
    [(RouteControls(waits_for_all=True), {}), (RouteControls(), {"stops_early": False})],
)
async def test_everybody_is_heard_where_that_is_asked_for(controls: RouteControls, given: dict[str, object]) -> None:
    engine, backend = timed_engine("xxxyy", {"e": 0.05}, **given)
    end = await end_of(engine, controls)
    assert (end.answer.agreement, end.calls_saved, backend.stopped) == (0.6, 0, [])


async def test_an_aggregator_that_cannot_tell_waits_and_is_said_once(caplog) -> None:
    class Unsure(Early):
        def is_settled(self, panel, pending):
            raise ZeroDivisionError("a bug in a plugin")

    backend = Timed(dict.fromkeys("abcd", "x"), {"c": 0.02, "d": 0.04})
    end = await end_of(engine_of(backend, ids="abcd", aggregators={"majority": Unsure()}))
    assert end.calls_saved == 0
    assert len([record for record in caplog.records if record.exc_info]) == 1


@dataclass
class Unruly(Timed):
    """`Timed`, but it proposes a tool call where its text is `!`, streams, and heeds no stop sequence."""

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Completion | TokenDelta]:
        async for said in super().complete(expert, batch):
            if said.text == "!":
                yield replace(said, text="", tool_calls=(ToolCall(id="c", name="f", arguments="{}"),))
                continue
            if batch.assignments[0].streams:
                yield TokenDelta(query_id=said.query_id, text=said.text)
            yield said


@pytest.mark.parametrize("texts", [("!", "!", "2"), ("1 END 7", "2 END 7", "2")])
async def test_nothing_is_settled_over_members_who_will_not_vote_as_they_read(texts: tuple[str, ...]) -> None:
    backend = Unruly(dict(zip("abc", texts, strict=True)), {"c": 0.1})
    asked = user_query("q", "hi", task_format=TaskFormat(kind=AnswerKind.NUMBER))
    engine = engine_of(backend, ids="abc", aggregators={"majority": Majority()})
    (end,) = await engine.run([replace(asked, sampling=Sampling(stop=("END",)))])
    assert isinstance(end, RouteResponse)
    assert (end.answer.extracted, end.calls_saved) == ("2", 0)


async def test_a_stream_past_a_stop_sequence_is_still_an_answer() -> None:
    engine = engine_of(Unruly({"a": "hello END more"}, {}), ids="a", aggregators={"majority": Majority()})
    asked = replace(user_query("q", "hi"), sampling=Sampling(stop=("END",)), controls=RouteControls(streams=True))
    (end,) = await engine.run([asked])
    assert isinstance(end, RouteResponse) and end.answer.text == "hello END more"


@pytest.mark.parametrize(("is_final", "saved"), [(True, 1), (False, 0)])
async def test_who_may_ask_on_hears_everybody_first(is_final: bool, saved: int) -> None:
    class InWaves(Everyone):
        def extend(self, requests):
            return [() for _ in requests]

        def is_final(self, decision):
            return is_final

    backend = Timed(dict.fromkeys("abc", "x"), {"c": 0.1})
    engine = engine_of(backend, recruiter=InWaves(("a", "b", "c")), aggregators={"majority": Early()})
    assert (await end_of(engine)).calls_saved == saved


@settings(max_examples=60, deadline=None)
@given(
    texts=st.text("xyz", min_size=2, max_size=7),
    ranks=st.lists(st.integers(0, 4), min_size=7, max_size=7),
    silent=st.sets(st.sampled_from("abcdefg"), max_size=3),
)
def test_what_is_answered_does_not_depend_on_who_was_quick(texts: str, ranks: list[int], silent: set[str]) -> None:
    ids = "abcdefg"[: len(texts)]
    said = {i: "" if i in silent else text for i, text in zip(ids, texts, strict=True)}
    delays_s = {i: rank * 0.002 for i, rank in zip(ids, ranks, strict=False)}

    async def both() -> list[tuple[str, str | None]]:
        engine = engine_of(Timed(said, delays_s), ids=ids, aggregators={"majority": Early()}, backoff_initial_s=0.0)
        asked = user_query("q", "hi", task_format=TaskFormat(kind=AnswerKind.LITERAL))
        controls = [RouteControls(), RouteControls(waits_for_all=True)]
        ends = [(await engine.run([replace(asked, controls=each)]))[0] for each in controls]
        return [("", e.answer.extracted) if isinstance(e, RouteResponse) else (e.code, None) for e in ends]

    early, whole = asyncio.run(both())
    assert early == whole


# --- what an aggregator may spend -------------------------------------------------------------------------------------


@dataclass
class Talker:
    """Asks the first expert `calls` times and, whatever it planned, `unplanned` times more; `cheaper` stands in."""

    calls: int
    cheaper: Aggregator
    unplanned: int = 0
    completion_tokens: int | None = 10
    keeps_text: bool = False

    def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
        tokens = self.completion_tokens
        return (PlannedCall(expert_id="a", prompt_tokens=20, completion_tokens=tokens),) * self.calls

    def degraded(self) -> Aggregator:
        return self.cheaper

    async def aggregate(self, panel: Panel, *, ask: Ask) -> Answer:
        usage = Usage()
        for number in range(self.calls + self.unplanned):
            child = replace(panel.query, id=f"{panel.query.id}/talk/{number}", parent_id=panel.query.id)
            usage += (await ask("a", child)).usage
        return Answer(text="talked", aggregator=f"talk_{self.calls}", usage=usage, notes=("talked a lot",))


async def talked(talker: Aggregator, budget: Budget, *, price: float | None = 1.0) -> RouteResponse | RouteFailure:
    prices = None if price is None else Prices(input_usd_per_mtok=price, output_usd_per_mtok=price)
    engine = engine_of(
        FakeBackend(reply=says("x")), pool=pool_of("a", "b", prices=prices), ids="ab", aggregators={"talk": talker}
    )
    query = replace(user_query("q", "hi"), budget=budget, controls=RouteControls(aggregator="talk"))
    (end,) = await engine.run([query])
    return end


TALKERS = Talker(6, Talker(3, Talker(1, Majority())))


@pytest.mark.parametrize(
    ("left", "who", "note"),
    [
        (6, "talk_6", ()),
        (5, "talk_3", ("aggregator talk was not affordable (max_completions: 5 left, 6 needed); talk_3 stood in",)),
        (2, "talk_1", ("aggregator talk was not affordable (max_completions: 2 left, 6 needed); talk_1 stood in",)),
        (0, "majority", ("aggregator talk was not affordable (max_completions: 0 left, 6 needed); majority stood in",)),
    ],
)
async def test_a_plan_that_does_not_fit_degrades_in_its_stated_order(left: int, who: str, note: tuple[str]) -> None:
    end = await talked(TALKERS, Budget(max_completions=2 + left))
    assert isinstance(end, RouteResponse)
    assert end.answer.aggregator == who
    assert end.answer.notes == (*note, *(("talked a lot",) if "talk" in who else ()))
    assert end.usage.completions == 2 + int(who.removeprefix("talk_").replace("majority", "0"))


@pytest.mark.parametrize(
    ("budget", "price", "word"),
    [
        (Budget(max_output_tokens=2 * 1024 + 40), 1.0, "max_output_tokens"),
        (Budget(max_cost_usd=0.0021), 1.0, "max_cost_usd"),
        (Budget(deadline_s=0.05), 1.0, "deadline_s: none left"),
    ],
)
async def test_money_tokens_and_time_count_too(budget: Budget, price: float | None, word: str) -> None:
    def slowly(panel: Panel) -> None:
        if budget.deadline_s:
            time.sleep(0.06)

    class Slow(Talker):
        def plan(self, panel: Panel) -> tuple[PlannedCall, ...]:
            slowly(panel)
            return super().plan(panel)

    end = await talked(Slow(6, Majority(), completion_tokens=1024), budget, price=price)
    assert isinstance(end, RouteResponse)
    assert end.answer.aggregator == "majority" and word in end.answer.notes[0]
    assert end.usage.completions == 2


async def test_an_unknown_price_does_not_fit_under_a_limit_in_usd() -> None:
    panel = Panel(
        query=replace(user_query("q", "hi"), budget=Budget(max_cost_usd=1.0)),
        annotation=SkillAnnotation(query_id="q"),
        decision=RouteDecision(query_id="q", recruits=(), recruiter="test"),
        completions=(),
        experts={e.id: e for e in pool_of("a").experts},
    )
    found = await affordable(Talker(1, Majority()), panel, Ledger(panel.query.budget))
    assert isinstance(found.aggregator, Majority) and found.calls == 0
    assert str(found.shortfall) == "max_cost_usd: 1 left, and what is needed is unknown"


async def test_calls_beyond_the_plan_are_refused() -> None:
    end = await talked(Talker(2, Majority(), unplanned=1), Budget())
    assert isinstance(end, RouteFailure)
    assert end.code == "budget_exceeded" and "calls that it planned" in end.message
    assert end.usage.completions == 2 + 2


async def test_who_stands_in_without_a_plan_asks_nobody() -> None:
    end = await talked(Talker(9, Writer()), Budget(max_completions=8))
    assert isinstance(end, RouteFailure) and end.code == "budget_exceeded"


async def test_an_order_without_end_is_a_defect() -> None:
    talker = Talker(9, Majority())
    talker.cheaper = talker
    end = await talked(talker, Budget(max_completions=2))
    assert isinstance(end, RouteFailure)
    assert end.code == "aggregation_error" and "must end in a vote" in end.message


async def test_a_plan_counts_personas_and_each_experts_own_limit() -> None:
    prices = Prices(input_usd_per_mtok=1.0, output_usd_per_mtok=10.0)
    expert = Expert(id="a", model="m", backend="fake", prices=prices, persona="You are terse.", max_output_tokens=50)
    panel = Panel(
        query=user_query("q", "hi"),
        annotation=SkillAnnotation(query_id="q"),
        decision=RouteDecision(query_id="q", recruits=(), recruiter="test"),
        completions=(),
        experts={"a": expert},
    )
    plan = (
        PlannedCall(expert_id="a", prompt_tokens=100),
        PlannedCall(expert_id="a", prompt_tokens=100, completion_tokens=20),
        PlannedCall(expert_id="denied", prompt_tokens=100),
    )
    usage = planned_usage(plan, panel)
    prompt = 100 + persona_tokens(expert)
    assert usage.completions == 2 and usage.prompt_tokens == 2 * prompt and usage.completion_tokens == 70
    assert usage.cost_usd == pytest.approx(2 * prompt * 1e-6 + 70 * 1e-5)


# --- what the query demands of the answer -----------------------------------------------------------------------------

SCHEMA = '{"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}'
JSON_QUERY = user_query("q", "hi", task_format=TaskFormat(kind=AnswerKind.JSON, json_schema=SCHEMA))


async def test_who_breaks_what_is_demanded_does_not_vote_and_nothing_is_settled_before_all_are_heard() -> None:
    backend = Timed({"a": "none", "b": "none", "c": '{"x": 7}'}, {"c": 0.03})
    engine = engine_of(backend, ids="abc", aggregators={"majority": Early()})
    (end,) = await engine.run([JSON_QUERY])
    assert isinstance(end, RouteResponse)
    assert (end.answer.text, end.answer.supporters, end.calls_saved) == ('{"x": 7}', ("c",), 0)


@pytest.mark.parametrize("streams", [True, False])
async def test_an_answer_that_must_be_checked_first_is_not_shown_as_it_comes(streams: bool) -> None:
    engine = engine_of(FakeBackend(reply=says('{"x": 7}')), ids="ab", aggregators={"writer": Writer()})
    controls = [RouteControls(streams=streams, aggregator="writer"), RouteControls(streams=streams, k=1)]
    for asked in controls:
        async with aclosing(engine.stream([replace(JSON_QUERY, controls=asked)])) as events:
            seen = [event async for event in events]
        assert isinstance(seen[-1], Answered)
        assert not [event for event in seen if isinstance(event, TokenDelta)]


async def test_the_call_that_mends_an_answer_comes_on_top_of_the_plan() -> None:
    def reply(expert: Expert, assignment: Assignment, sample: int) -> Completion:
        is_repair = assignment.query.parent_id is not None
        return completion(expert, assignment, sample, '{"x": 7}' if is_repair else "seven, I think")

    talker = Talker(0, Majority())
    engine = engine_of(FakeBackend(reply=reply), ids="ab", aggregators={"talk": talker})
    (end,) = await engine.run([replace(JSON_QUERY, controls=RouteControls(aggregator="talk"))])
    assert isinstance(end, RouteResponse)
    assert json.loads(end.answer.text) == {"x": 7} and end.usage.completions == 3


async def test_a_streamed_answer_that_turns_out_otherwise_is_an_error_also_of_one_expert() -> None:
    class Loose(FakeBackend):
        async def complete(self, expert, batch):
            for assignment in batch.assignments:
                yield TokenDelta(query_id=assignment.query.id, text="one thing")
                yield completion(expert, assignment, 0, "another thing")

    query = replace(user_query("q", "hi"), controls=RouteControls(k=1, streams=True))
    (end,) = await engine_of(Loose()).run([query])
    assert isinstance(end, RouteFailure)
    assert end.code == "aggregation_error" and "cannot be taken back" in end.message
