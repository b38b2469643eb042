"""The engine's laws: order kept, batch equals singles, one query's failure is its own, cancel reaches every call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import InvalidQuery, RoutingError, StoreUnavailable
from router_service.recruit.base import RecruitRequest
from router_service.types import (
    Answered,
    Budget,
    Completion,
    CompletionError,
    CompletionFinished,
    DecisionMade,
    Elimination,
    Event,
    ExpertLimits,
    Failed,
    Message,
    Query,
    RouteControls,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    TokenDelta,
    Usage,
    user_query,
)
from tests.router_service.parts import (
    AskingAnnotator,
    Broken,
    Escalating,
    Everyone,
    FakeAnnotator,
    FakeBackend,
    Named,
    Shelf,
    Spendthrift,
    Stumbling,
    Thrifty,
    TurnCoat,
    Writer,
    completion,
    engine_of,
    pool_of,
    says,
)


def answer_of(end: RouteResponse | RouteFailure) -> object:
    """What must not depend on how queries were batched."""
    if isinstance(end, RouteFailure):
        return end.code, end.message
    completions = sorted((c.expert_id, c.sample, c.text) for c in end.completions)
    return end.answer.text, end.answer.agreement, end.decision, end.annotation, completions, end.usage


texts = st.lists(st.sampled_from(["one plus one", "two", "three four", "unreadable", " ", "five"]), max_size=6)


@settings(max_examples=40, deadline=None)
@given(texts=texts, seed=st.integers(0, 3), samples=st.integers(1, 3))
def test_a_batch_is_its_singles(texts: list[str], seed: int, samples: int) -> None:
    heard_out = RouteControls(waits_for_all=True)  # else those who are not needed depend on the schedule
    queries = [replace(user_query(f"q{i}", text), controls=heard_out) for i, text in enumerate(texts)]

    async def both() -> tuple[list[object], list[object]]:
        engine = engine_of(FakeBackend(), recruiter=Everyone(("a", "b"), samples=samples), seed=seed)
        together = await engine.run(queries)
        alone = [(await engine.run([query]))[0] for query in queries]
        return [answer_of(end) for end in together], [answer_of(end) for end in alone]

    together, alone = asyncio.run(both())
    assert together == alone


async def test_order_is_kept_and_ids_are_the_queries_own() -> None:
    queries = [user_query(f"q{i}", f"text {i}") for i in range(20)]
    ends = await engine_of(FakeBackend()).run(queries)
    assert [end.query_id for end in ends] == [query.id for query in queries]


async def test_the_seed_decides_and_the_position_does_not() -> None:
    engine = engine_of(FakeBackend())
    first, other, again = await engine.run(
        [user_query("x", "same", seed=1), user_query("y", "same", seed=2), user_query("z", "same", seed=1)]
    )
    assert isinstance(first, RouteResponse) and isinstance(other, RouteResponse) and isinstance(again, RouteResponse)
    assert [c.text for c in first.completions] == [c.text for c in again.completions]
    assert [c.text for c in first.completions] != [c.text for c in other.completions]


async def collect(engine, queries) -> list[Event]:
    async with aclosing(engine.stream(queries)) as events:
        return [event async for event in events]


async def test_events_tell_the_story_in_order() -> None:
    events = await collect(engine_of(FakeBackend()), [user_query("q", "hello you")])
    assert [type(e) for e in events] == [DecisionMade, *[CompletionFinished] * 3, Answered]


async def test_run_is_stream_folded() -> None:
    engine = engine_of(FakeBackend())
    queries = [user_query(f"q{i}", f"text {i}") for i in range(5)]
    events = await collect(engine, queries)
    folded = {e.query_id: e.response for e in events if isinstance(e, Answered)}
    assert [answer_of(end) for end in await engine.run(queries)] == [answer_of(folded[q.id]) for q in queries]


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        (user_query("bad", "  "), "invalid_query", "empty"),
        (Query(id="bad", messages=()), "invalid_query", "no messages"),
        (replace(user_query("bad", "hi"), controls=RouteControls(recruiter="symbolc")), "unknown_name", "symbolc"),
        (replace(user_query("bad", "hi"), controls=RouteControls(aggregator="majorty")), "unknown_name", "'majority'"),
        (replace(user_query("bad", "hi"), controls=RouteControls(expert="z")), "unknown_name", "expert 'z'"),
        (replace(user_query("bad", "hi"), controls=RouteControls(experts_denied=("z",))), "unknown_name", "expert 'z'"),
        (replace(user_query("bad", "hi"), controls=RouteControls(k=0)), "invalid_query", "k is 0"),
        (replace(user_query("bad", "hi"), budget=Budget(max_cost_usd=-1)), "invalid_query", "max_cost_usd is -1"),
        (user_query("bad", "unreadable"), "routing_error", "unreadable"),
        (replace(user_query("bad", "hi"), controls=RouteControls(aggregator="broken")), "aggregation_error", "a bug"),
    ],
)
async def test_one_querys_failure_is_its_own(query: Query, code: str, words: str) -> None:
    engine = engine_of(FakeBackend(), aggregators={"broken": Broken()})
    before, failed, after = await engine.run([user_query("q1", "hi there"), query, user_query("q2", "hi again")])
    assert isinstance(before, RouteResponse) and isinstance(after, RouteResponse)
    assert isinstance(failed, RouteFailure)
    assert failed.code == code and words in failed.message


async def test_an_annotator_that_stumbles_over_one_query_is_asked_singly() -> None:
    annotator = FakeAnnotator()
    engine = engine_of(FakeBackend(), annotator=annotator)
    await engine.run([user_query("q1", "hi"), user_query("q2", "unreadable"), user_query("q3", "ho")])
    assert annotator.batches == [3, 1, 1, 1]


@pytest.mark.parametrize("defect", [ZeroDivisionError("a bug"), RoutingError("a bug")])
@pytest.mark.parametrize("bad", ["recruit", "extend"])
async def test_a_recruiter_that_stumbles_over_one_query_fails_it_alone(bad: str, defect: Exception, caplog) -> None:
    engine = engine_of(FakeBackend(), recruiter=Stumbling(("a", "b"), defect=defect))
    before, failed, after = await engine.run([user_query("q1", "hi"), user_query("q", bad), user_query("q2", "hi")])
    assert isinstance(before, RouteResponse) and isinstance(after, RouteResponse)
    assert len(before.completions) == len(after.completions) == 2
    assert isinstance(failed, RouteFailure)
    assert failed.code == "routing_error" and "a bug" in failed.message
    assert failed.usage.completions == len(failed.completions) == (0 if bad == "recruit" else 1)
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == isinstance(defect, ZeroDivisionError)


async def test_a_recruit_that_is_not_registered_fails_its_query_alone() -> None:
    engine = engine_of(FakeBackend(), recruiter=Stumbling(("a", "b")))
    good, failed = await engine.run([user_query("q1", "hi"), user_query("q2", "stranger")])
    assert isinstance(good, RouteResponse) and isinstance(failed, RouteFailure)
    assert failed.code == "unknown_name" and "'z'" in failed.message


async def test_a_batch_whose_every_query_breaks_is_logged_with_one_trace(caplog) -> None:
    class Defective(FakeAnnotator):
        async def annotate(self, queries, *, ask):
            raise KeyError("weights")

    ends = await engine_of(FakeBackend(), annotator=Defective()).run([user_query(f"q{i}", "hi") for i in range(3)])
    assert all(isinstance(end, RouteFailure) and "the annotator broke: KeyError" in end.message for end in ends)
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_part_that_cannot_be_made_fails_its_query_alone() -> None:
    class Making(Shelf):
        def get(self, name):
            if name == "odd":
                raise ValueError("a bug in a constructor")
            return super().get(name)

    engine = engine_of(FakeBackend(), recruiters=Making({"named": Named(), "odd": None}))
    named = replace(user_query("q1", "hi"), controls=RouteControls(expert="a"))
    odd = replace(user_query("q2", "hi"), controls=RouteControls(recruiter="odd"))
    good, failed = await engine.run([named, odd])
    assert isinstance(good, RouteResponse) and isinstance(failed, RouteFailure)
    assert failed.code == "routing_error" and "a bug in a constructor" in failed.message


# --- the annotator's and the aggregator's own calls -------------------------------------------------------------------


def budgeted(query_id: str, text: str, **budget) -> Query:
    return replace(user_query(query_id, text), budget=Budget(**budget))


async def test_the_recruiter_plans_with_what_the_annotator_left() -> None:
    engine = engine_of(FakeBackend(), annotator=AskingAnnotator(runs=2), recruiter=Thrifty(("a", "b", "c")))
    (response,) = await engine.run([budgeted("q", "hi", max_completions=3)])
    assert isinstance(response, RouteResponse)
    assert [c.succeeded for c in response.completions] == [True]
    assert response.usage.completions == 3


async def test_nothing_left_by_the_annotator_is_said_so() -> None:
    class Strict(Thrifty):
        def recruit(self, requests):
            made = super().recruit(requests)
            return [
                replace(d, eliminated=(Elimination(expert_id="a", reason="", code="no_completions"),)) for d in made
            ]

    engine = engine_of(FakeBackend(), annotator=AskingAnnotator(runs=3), recruiter=Strict(("a",)))
    (failure,) = await engine.run([budgeted("q", "hi", max_completions=3)])
    assert isinstance(failure, RouteFailure)
    assert failure.code == "budget_exceeded" and "after the annotator's 3 completions" in failure.message
    assert failure.usage.completions == 3


async def test_output_tokens_the_annotator_took_shorten_the_experts_calls() -> None:
    limits: list[int | None] = []

    def reply(expert, assignment, sample) -> Completion:
        limits.append(assignment.query.budget.max_output_tokens)
        return completion(expert, assignment, sample, "one two three four")

    engine = engine_of(FakeBackend(reply=reply), annotator=AskingAnnotator(runs=1), recruiter=Everyone(("b",)))
    (response,) = await engine.run([budgeted("q", "hi", max_output_tokens=1100)])
    assert isinstance(response, RouteResponse)
    assert limits == [None, 1096]


async def test_a_good_query_beside_a_bad_one_pays_its_annotation_once() -> None:
    backend = FakeBackend()
    engine = engine_of(backend, annotator=AskingAnnotator(runs=2), recruiter=Everyone(("a", "b")))
    good, bad = await engine.run(
        [budgeted("q1", "hi", max_completions=4), budgeted("q2", "unreadable", max_completions=4)]
    )
    assert isinstance(good, RouteResponse) and isinstance(bad, RouteFailure)
    assert [c.succeeded for c in good.completions] == [True, True]
    assert (good.usage.completions, bad.usage.completions) == (4, 2)
    assert len(backend.asked) == 2 + 2 + 2


async def test_a_denied_expert_does_not_annotate() -> None:
    backend = FakeBackend()
    engine = engine_of(backend, annotator=AskingAnnotator())
    query = replace(user_query("q1", "hi"), controls=RouteControls(experts_denied=("a",)))
    denied, good = await engine.run([query, user_query("q2", "hi")])
    assert isinstance(denied, RouteFailure) and isinstance(good, RouteResponse)
    assert denied.code == "no_expert_available" and "'a' may not be asked" in denied.message


@pytest.mark.parametrize("aggregator", [Spendthrift(), TurnCoat()])
async def test_what_a_failing_aggregator_spent_is_counted(aggregator: Writer) -> None:
    engine = engine_of(FakeBackend(reply=says("a b")), aggregators={"writer": aggregator})
    query = replace(user_query("q", "hi"), controls=RouteControls(aggregator="writer", streams=True))
    (failure,) = await engine.run([query])
    assert isinstance(failure, RouteFailure)
    assert failure.usage.completions == 4


async def test_two_queries_of_one_id_are_refused_at_once() -> None:
    with pytest.raises(InvalidQuery, match="share the id 'q'"):
        await engine_of(FakeBackend()).run([user_query("q", "a"), user_query("q", "b")])


def failing(expert, assignment, sample) -> Completion:
    error = CompletionError(code="expert_refused", message="no key")
    return replace(completion(expert, assignment, sample, ""), error=error)


async def test_a_panel_that_failed_alike_keeps_its_code_and_names_everyone() -> None:
    (failure,) = await engine_of(FakeBackend(reply=failing)).run([user_query("q", "hi")])
    assert isinstance(failure, RouteFailure)
    assert failure.code == "expert_refused"
    assert all(f"{expert}: " in failure.message for expert in "abc") and "no key" in failure.message
    assert len(failure.completions) == 3


@pytest.mark.parametrize("code", ["empty_completion", "cancelled", "no_recorded_outcome"])
async def test_a_failures_code_is_always_one_of_the_tree(code: str) -> None:
    def reply(expert, assignment, sample) -> Completion:
        error = CompletionError(code=code, message="nothing came")
        return replace(completion(expert, assignment, sample, ""), error=error)

    (failure,) = await engine_of(FakeBackend(reply=reply)).run([user_query("q", "hi")])
    assert isinstance(failure, RouteFailure)
    assert failure.code == "expert_error" and f"a: nothing came ({code})" in failure.message


async def test_a_partial_panel_still_answers() -> None:
    def reply(expert, assignment, sample) -> Completion:
        return failing(expert, assignment, sample) if expert.id == "b" else completion(expert, assignment, sample, "7")

    (response,) = await engine_of(FakeBackend(reply=reply)).run([user_query("q", "hi")])
    assert isinstance(response, RouteResponse)
    assert response.answer.text == "7" and response.answer.supporters == ("a", "c")


async def test_usage_adds_up_over_experts_and_aggregator() -> None:
    engine = engine_of(FakeBackend(reply=says("a b")), aggregators={"writer": Writer()})
    query = replace(user_query("q", "hi"), controls=RouteControls(aggregator="writer"))
    (response,) = await engine.run([query])
    assert isinstance(response, RouteResponse)
    assert response.usage == Usage(completions=4, prompt_tokens=12, completion_tokens=8, cost_usd=None)


# --- naming an expert, streaming, extending, cancelling ---------------------------------------------------------------


async def test_a_named_expert_bypasses_annotation_and_recruiting() -> None:
    annotator = FakeAnnotator()
    backend = FakeBackend(reply=says("hello"))
    query = replace(user_query("q", "hi"), controls=RouteControls(expert="b"))
    (response,) = await engine_of(backend, annotator=annotator).run([query])
    assert isinstance(response, RouteResponse)
    assert backend.asked == ["b:q:0"] and annotator.batches == []
    assert (response.decision.recruiter, response.decision.aggregator) == ("named", "first")


@pytest.mark.parametrize("controls", [RouteControls(expert="b"), RouteControls(k=1)])
async def test_a_panel_of_one_streams_its_tokens(controls: RouteControls) -> None:
    query = replace(user_query("q", "hi"), controls=replace(controls, streams=True))
    events = await collect(engine_of(FakeBackend(reply=says("to be or"))), [query])
    deltas = [event.text for event in events if isinstance(event, TokenDelta)]
    (answered,) = [event for event in events if isinstance(event, Answered)]
    assert deltas == ["to", "be", "or"]
    assert "".join(deltas) == answered.response.answer.text


async def test_a_vote_does_not_stream_its_members() -> None:
    query = replace(user_query("q", "hi"), controls=RouteControls(streams=True))
    events = await collect(engine_of(FakeBackend()), [query])
    assert not [event for event in events if isinstance(event, TokenDelta)]


@pytest.mark.parametrize("is_final", [True, False])
async def test_who_asks_in_waves_streams_only_where_it_says_that_nobody_follows(is_final: bool) -> None:
    class Settled(Escalating):
        def is_final(self, decision: RouteDecision) -> bool:
            return is_final

    query = replace(user_query("q", "hi"), controls=RouteControls(streams=True))
    engine = engine_of(FakeBackend(reply=says("to be or")), recruiter=Settled(("a",)))
    deltas = [event.text for event in await collect(engine, [query]) if isinstance(event, TokenDelta)]
    assert deltas == (["to", "be", "or"] if is_final else [])


@pytest.mark.parametrize("streams", [True, False])
async def test_a_writing_aggregator_streams_only_where_asked(streams: bool) -> None:
    engine = engine_of(FakeBackend(reply=says("so it is")), aggregators={"writer": Writer()})
    query = replace(user_query("q", "hi"), controls=RouteControls(aggregator="writer", streams=streams))
    deltas = [event.text for event in await collect(engine, [query]) if isinstance(event, TokenDelta)]
    assert deltas == (["so", "it", "is"] if streams else [])


@pytest.mark.parametrize(("streams", "end"), [(True, Failed), (False, Answered)])
async def test_a_streamed_text_is_never_contradicted(streams: bool, end: type[Event]) -> None:
    engine = engine_of(FakeBackend(reply=says("so it is")), aggregators={"turncoat": TurnCoat()})
    query = replace(user_query("q", "hi"), controls=RouteControls(aggregator="turncoat", streams=streams))
    events = await collect(engine, [query])
    assert isinstance(events[-1], end)


async def test_a_sequential_recruiter_sees_the_completions_before_it_asks_for_more() -> None:
    backend = FakeBackend(reply=says("5"))
    engine = engine_of(backend, recruiter=Escalating(("a", "b", "c")))
    events = await collect(engine, [user_query("q", "hi")])
    (answered,) = [event for event in events if isinstance(event, Answered)]
    assert backend.asked == ["a:q:0", "b:q:0", "c:q:0"]
    assert [r.expert_id for r in answered.response.decision.recruits] == ["a", "b", "c"]
    assert answered.response.usage.completions == 3


async def test_closing_the_stream_ends_every_open_call() -> None:
    backend = FakeBackend(pause_s=60)
    engine = engine_of(backend)
    async with aclosing(engine.stream([user_query(f"q{i}", "hi") for i in range(3)])) as events:
        async for _ in events:
            break
        await asyncio.sleep(0.05)
        assert backend.open_calls == 9
    assert backend.open_calls == 0 and backend.cancelled_calls == 9


async def test_cancelling_a_run_ends_the_aggregators_call_too() -> None:
    backend = FakeBackend(reply=says("x"), writing_pause_s=60)
    engine = engine_of(backend, aggregators={"writer": Writer()})
    query = replace(user_query("q", "hi"), controls=RouteControls(aggregator="writer"))
    task = asyncio.create_task(engine.run([query]))
    while len(backend.asked) < 3 or backend.open_calls != 1:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and backend.open_calls == 0 and backend.cancelled_calls == 1


async def test_a_deadline_ends_the_query_and_keeps_what_was_finished() -> None:
    def reply(expert, assignment, sample) -> Completion:
        return completion(expert, assignment, sample, "1")

    query = replace(user_query("q", "hi"), budget=Budget(deadline_s=0.05))
    (end,) = await engine_of(FakeBackend(reply=reply, pause_s=30)).run([query])
    assert isinstance(end, RouteFailure)
    assert end.code == "expert_timeout" and len(end.completions) == 3


@pytest.mark.parametrize("recruiter", [Everyone(("a",)), Escalating(("a", "b"))])
async def test_a_long_batch_expires_nobody_who_alone_would_be_answered(recruiter: Everyone) -> None:
    pool = pool_of("a", "b", limits=ExpertLimits(max_concurrency=1))
    engine = engine_of(FakeBackend(pause_s=0.03), recruiter=recruiter, pool=pool, default_deadline_s=0.12)
    queries = [user_query(f"q{i}", "hi") for i in range(8)]
    ends = await engine.run(queries, deadlines_from="first_call")
    assert all(isinstance(end, RouteResponse) for end in ends)
    assert not all(isinstance(end, RouteResponse) for end in await engine.run(queries))


async def test_the_default_deadline_is_one_for_annotator_experts_and_writer() -> None:
    engine = engine_of(
        FakeBackend(pause_s=0.06, writing_pause_s=0.06, reply=says("x")),
        aggregators={"writer": Writer()},
        default_deadline_s=0.1,
    )
    query = replace(user_query("q", "hi"), controls=RouteControls(aggregator="writer"))
    (end,) = await engine.run([query])
    assert isinstance(end, RouteResponse) and end.answer.text == ""


async def test_a_memo_that_cannot_keep_ends_the_run_with_its_own_error() -> None:
    class Full:
        async def recall(self, keys: Sequence[str]) -> dict[str, Completion]:
            return {}

        async def keep(self, key: str, completion: Completion) -> None:
            raise StoreUnavailable("no space left")

    with pytest.raises(StoreUnavailable, match="no space left"):
        await engine_of(FakeBackend()).remembering(Full()).run([user_query("q1", "x"), user_query("q2", "y")])


async def test_route_asks_nobody() -> None:
    backend = FakeBackend()
    engine = engine_of(backend)
    made, failed = await engine.route([user_query("q1", "hi"), user_query("q2", "")])
    assert isinstance(made, DecisionMade) and isinstance(failed, Failed)
    assert [r.expert_id for r in made.decision.recruits] == ["a", "b", "c"]
    assert backend.asked == []


@dataclass
class Talkative(Everyone):
    """Says which skills and which seed its decision rests on."""

    def explain(self, request: RecruitRequest) -> list[str]:
        return [f"skill {name}, seed {request.seed}" for name in request.annotation.skills]


async def test_a_recruiter_that_explains_itself_is_heard_with_what_it_decided_on() -> None:
    engine = engine_of(FakeBackend(), recruiter=Talkative(("a", "b")))
    query = user_query("q", "algebra please", seed=7)
    [made] = await engine.route([query])
    assert isinstance(made, DecisionMade)
    assert engine.explain(query, made) == ["skill algebra, seed 7"]
    assert engine_of(FakeBackend()).explain(query, made) == []


async def test_overhead_leaves_the_experts_time_out() -> None:
    (response,) = await engine_of(FakeBackend(pause_s=0.2)).run([user_query("q", "hi")])
    assert isinstance(response, RouteResponse)
    assert response.overhead_s < 0.1


async def test_images_count_as_content_and_system_messages_do_not() -> None:
    from router_service.types import ImagePart

    picture = Query(id="p", messages=(Message(role="user", content=(ImagePart(url="data:,"),)),))
    rules = Query(id="s", messages=(Message(role="system", content="be brief"),))
    seen, refused = await engine_of(FakeBackend(), recruiter=Everyone(("a",), needs_annotation=False)).run(
        [picture, rules]
    )
    assert isinstance(seen, RouteResponse) and isinstance(refused, RouteFailure)
