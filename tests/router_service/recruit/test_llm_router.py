"""An LLM as the router: what it is shown, what of its reply counts, what it costs, and who decides where it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import BudgetExceeded, ConfigError, NotFittedError, RouterError, UnknownNameError
from router_service.recruit.base import FitData, RecruitRequest
from router_service.recruit.choice_prompt import choice_format, choice_prompt, chosen_ids, describe
from router_service.recruit.llm_router import LlmRouter
from router_service.types import (
    Budget,
    Completion,
    CompletionError,
    Profile,
    Query,
    RouteControls,
    RouteFailure,
    RouteResponse,
    Tally,
    Usage,
    user_query,
)
from tests.router_service.parts import FakeBackend, completion, engine_of, pool_of
from tests.router_service.recruit.pools import expert, fit_data, profile, recruiter, request, vector

IDS = ("a", "b", "c", "d")


def a_pool(**fields) -> FitData:
    """`a` is right most often, `d` least."""
    wins = dict(zip(IDS, (8, 6, 4, 2), strict=True))
    profiles = {i: profile(i, {}, overall=Tally(wins=float(n), trials=10)) for i, n in wins.items()}
    return fit_data([expert(i, **fields) for i in IDS], profiles)


@dataclass
class FakeAsk:
    """Replies as told, after a pause, and remembers what was asked."""

    reply: Callable[[Query], str | RouterError] = lambda query: '{"experts": ["c"]}'
    pause_s: float = 0.0
    asked: list[tuple[str, Query]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def __call__(self, expert_id: str, query: Query, *, is_visible: bool = False) -> Completion:
        self.asked.append((expert_id, query))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.pause_s)
        finally:
            self.at_once -= 1
        said = self.reply(query)
        if isinstance(said, RouterError):
            raise said
        return Completion(query_id=query.id, expert_id=expert_id, text=said, usage=Usage(completions=1))


async def decided(fitted: LlmRouter, ask: FakeAsk, *items: RecruitRequest):
    return fitted.recruit(await fitted.consult(items or [request()], ask=ask))


def ids_of(decision) -> list[str]:
    return [r.expert_id for r in decision.recruits]


async def test_who_is_named_is_asked():
    ask = FakeAsk()
    (decision,) = await decided(recruiter("llm_router", a_pool()), ask)
    assert ids_of(decision) == ["c"] and not decision.is_fallback
    assert decision.scores == {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0}
    ((router, query),) = ask.asked
    assert (router, query.parent_id, query.sampling.temperature) == ("a", "q0", 0.0)


async def test_the_reply_is_held_to_the_ids_that_may_be_asked():
    ask = FakeAsk()
    await decided(recruiter("llm_router", a_pool()), ask, request(k=2, experts_denied=("b",)))
    ((_, query),) = ask.asked
    ids = json.loads(query.task_format.json_schema)["properties"]["experts"]
    assert sorted(ids["items"]["enum"]) == ["a", "c", "d"] and ids["maxItems"] == 2
    assert '"b"' not in query.text and "What is it?" in query.text


async def test_several_are_asked_in_the_order_named_and_filled_up_with_the_best():
    ask = FakeAsk(lambda query: '{"experts": ["d", "b", "d"]}')
    (decision,) = await decided(recruiter("llm_router", a_pool(), k=3), ask)
    assert ids_of(decision) == ["d", "b", "a"]


async def test_the_list_is_shuffled_by_the_querys_seed():
    ask = FakeAsk()
    fitted = recruiter("llm_router", a_pool())
    await decided(fitted, ask, *(request(seed=seed) for seed in range(40)))
    orders = [
        tuple(json.loads(q.task_format.json_schema)["properties"]["experts"]["items"]["enum"]) for _, q in ask.asked
    ]
    assert len(set(orders)) > 10 and {order[0] for order in orders} == set(IDS)
    other = FakeAsk()
    await decided(recruiter("llm_router", a_pool()), other, request(seed=7))
    assert other.asked[0][1].text in [query.text for _, query in ask.asked]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from([*IDS, "z", 1, None])).map(lambda x: json.dumps({"experts": x})))
def test_an_id_outside_the_pool_never_leaves(reply):
    fitted = recruiter("llm_router", a_pool())
    (decision,) = fitted.recruit([replace(request(experts_denied=("b",)), advice=reply)])
    assert set(ids_of(decision)) <= {"a", "c", "d"} and len(decision.recruits) == 1
    assert decision.is_fallback == (not chosen_ids(reply, {"a", "c", "d"}))


# --- failing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "logged"),
    [
        (FakeAsk(lambda query: BudgetExceeded("no money left")), "no money left"),
        (FakeAsk(pause_s=30), "no reply within 0.05 s"),
        (FakeAsk(lambda query: "I'd rather not say."), None),
        (FakeAsk(lambda query: '{"experts": ["z"]}'), None),
    ],
)
async def test_without_a_usable_reply_the_fallback_decides_and_says_so(ask, logged, caplog):
    fitted = recruiter("llm_router", a_pool(), timeout_s=0.05, k=2)
    (decision,) = await decided(fitted, ask)
    assert ids_of(decision) == ["a", "b"] and decision.is_fallback
    assert decision.fallback_reason == "no advice of 'a' was to be had, so recruiter 'fixed' decided"
    assert (logged or "") in caplog.text and bool(caplog.records) == (logged is not None)
    assert ask.at_once == 0


async def test_a_failed_completion_is_no_advice():
    class Failing(FakeAsk):
        async def __call__(self, expert_id, query, *, is_visible=False):
            error = CompletionError(code="expert_refused", message="not today")
            return replace(await super().__call__(expert_id, query), error=error)

    (decision,) = await decided(recruiter("llm_router", a_pool()), Failing())
    assert decision.is_fallback


def test_advice_on_nobody_who_may_be_asked_is_named_as_such():
    (decision,) = recruiter("llm_router", a_pool()).recruit([replace(request(), advice='{"experts": ["gone"]}')])
    assert decision.fallback_reason == "'a' named nobody who may be asked, so recruiter 'fixed' decided"


async def test_one_querys_failure_leaves_the_others_their_advice():
    ask = FakeAsk(lambda query: BudgetExceeded("no") if "bad" in query.text else '{"experts": ["c"]}')
    items = [request(text="good", seed=1), request(text="bad", seed=2), request(text="fine", seed=3)]
    decisions = await decided(recruiter("llm_router", a_pool()), ask, *items)
    assert [d.is_fallback for d in decisions] == [False, True, False]


async def test_a_defect_is_raised_and_ends_the_other_calls():
    def reply(query):
        if "bad" in query.text:
            raise ZeroDivisionError("a bug")
        return '{"experts": ["c"]}'

    slow = FakeAsk(reply)
    with pytest.raises(ZeroDivisionError):
        await decided(recruiter("llm_router", a_pool()), slow, request(text="bad", seed=1), request(seed=2))
    assert slow.at_once == 0


async def test_the_time_limit_does_not_count_the_waiting_line():
    pool = a_pool()
    pool = replace(pool, experts=tuple(replace(e, limits=replace(e.limits, max_concurrency=2)) for e in pool.experts))
    ask = FakeAsk(pause_s=0.03)
    decisions = await decided(recruiter("llm_router", pool, timeout_s=0.2), ask, *(request(seed=i) for i in range(20)))
    assert not any(d.is_fallback for d in decisions) and ask.most_at_once == 2


# --- remembering ------------------------------------------------------------------------------------------------------


async def test_the_same_question_is_asked_once():
    ask = FakeAsk()
    fitted = recruiter("llm_router", a_pool())
    items = [request(seed=5), request(seed=5), request(seed=5, text="Another?")]
    together = await decided(fitted, ask, *items)
    assert len(ask.asked) == 2 and [ids_of(d) for d in together] == [["c"]] * 3
    assert await decided(fitted, ask, *items) == together and len(ask.asked) == 2
    await decided(fitted, ask, request(seed=5, experts_denied=("d",)), request(seed=5, k=2))
    assert len(ask.asked) == 4


async def test_a_failure_is_not_remembered_and_the_next_alike_tries_itself():
    replies = iter([BudgetExceeded("no"), '{"experts": ["c"]}'])
    ask = FakeAsk(lambda query: next(replies))
    first, second = await decided(recruiter("llm_router", a_pool()), ask, request(seed=5), request(seed=5))
    assert len(ask.asked) == 2 and ids_of(first) == ids_of(second) == ["c"]


async def test_advice_is_saved_and_needs_no_call_again(tmp_path):
    pool = a_pool()
    fitted = recruiter("llm_router", pool)
    items = [request(seed=seed) for seed in range(3)]
    before = await decided(fitted, FakeAsk(), *items)
    fitted.save(tmp_path / "l.npz")
    silent = FakeAsk(lambda query: BudgetExceeded("no"))
    loaded = LlmRouter().load(tmp_path / "l.npz", experts=pool.experts)
    assert await decided(loaded, silent, *items) == before and not silent.asked


@pytest.mark.parametrize("fallback", ["threshold", "subset_select", "symbolic", "knn"])
def test_the_fallback_decides_as_it_would_by_itself(fallback):
    profiles = {
        i: profile(i, {"algebra": 5 - 3 * n}, overall=Tally(wins=2.0 + n, trials=10)) for n, i in enumerate(IDS)
    }
    pool = fit_data([expert(i) for i in IDS], profiles)
    asked = request(["algebra"], embedding=vector("one"))
    (decision,) = recruiter("llm_router", pool, k=2, fallback=fallback).recruit([asked])
    (own,) = recruiter(fallback, pool, k=2).recruit([asked])
    assert decision.is_fallback and (decision.recruits, decision.scores) == (own.recruits, own.scores)


async def test_with_a_cluster_fallback_what_it_learned_is_saved_too(tmp_path):
    pool = a_pool()
    fitted = recruiter("llm_router", pool, fallback="knn")
    assert fitted.needs_embeddings and fitted.needs_annotation
    fitted.save(tmp_path / "l.npz")
    loaded = LlmRouter(fallback="knn").load(tmp_path / "l.npz", experts=pool.experts)
    items = [request(embedding=pool.annotations[f"fit{n}"].embedding, seed=n) for n in range(4)]
    assert loaded.recruit(items) == fitted.recruit(items)
    plain = recruiter("knn", pool).recruit(items)
    assert [d.scores for d in fitted.recruit(items)] == [d.scores for d in plain]


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "is_asked"),
    [
        (Budget(max_completions=1), False),
        (Budget(max_completions=2), True),
        (Budget(max_output_tokens=256), False),
        (Budget(max_output_tokens=257), True),
        (Budget(max_cost_usd=1.5e-4), False),
        (Budget(max_cost_usd=1.0), True),
    ],
)
async def test_the_llm_is_asked_only_where_something_is_left_for_an_expert(budget, is_asked):
    """Every expert here writes 100 tokens at 1 USD a million: a call is 1e-4 USD."""
    ask = FakeAsk()
    (decision,) = await decided(recruiter("llm_router", a_pool()), ask, request(budget=budget))
    assert len(ask.asked) == int(is_asked) and decision.recruits
    assert decision.is_fallback != is_asked


async def test_one_candidate_needs_no_advice():
    ask = FakeAsk()
    (decision,) = await decided(recruiter("llm_router", a_pool()), ask, request(experts_allowed=("b",)))
    assert (ids_of(decision), decision.is_fallback, ask.asked) == (["b"], False, [])


# --- in an engine -----------------------------------------------------------------------------------------------------


def names_c(expert_, assignment, sample) -> Completion:
    text = '{"experts": ["c"]}' if assignment.query.parent_id else "42"
    return completion(expert_, assignment, sample, text)


async def test_in_an_engine_its_call_is_paid_by_the_query_and_counts():
    pool = a_pool()
    backend = FakeBackend(reply=names_c)
    engine = engine_of(backend, recruiter=recruiter("llm_router", pool), pool=pool_of(*IDS))
    (response,) = await engine.run([replace(user_query("q", "hi"), budget=Budget(max_completions=2))])
    assert isinstance(response, RouteResponse) and response.usage.completions == 2
    assert backend.asked == ["a:q#route:0", "c:q:0"]
    (again,) = await engine.run([replace(user_query("q", "hi"), budget=Budget(max_completions=1))])
    assert isinstance(again, RouteResponse) and again.usage.completions == 1


async def test_in_an_engine_a_late_or_forbidden_llm_costs_the_query_nothing_but_time():
    backend = FakeBackend(reply=names_c, writing_pause_s=30)
    fitted = recruiter("llm_router", a_pool(), timeout_s=0.05)
    engine = engine_of(backend, recruiter=fitted, pool=pool_of(*IDS))
    late = replace(user_query("q1", "hi"), budget=Budget(max_completions=2))
    forbidden = replace(user_query("q2", "ho"), controls=RouteControls(experts_denied=("a",)))
    for query, chosen in ((late, "a"), (forbidden, "b")):
        (end,) = await engine.run([query])
        assert not isinstance(end, RouteFailure) and end.decision.is_fallback
        assert ids_of(end.decision) == [chosen]
    assert backend.open_calls == 0


# --- what is shown and read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "ids"),
    [
        ('{"experts": ["b", "a"]}', ["b", "a"]),
        ('Sure!\n```json\n{"experts": ["b"]}\n```', ["b"]),
        ('["c"]', ["c"]),
        ('{"experts": "c"}', ["c"]),
        ('{"experts": ["z", 3, "c", "c"]}', ["c"]),
        ('{"answer": ["c"]}', []),
        ("c", []),
        ("", []),
    ],
)
def test_what_is_read_out_of_a_reply(reply, ids):
    assert chosen_ids(reply, IDS) == ids


def test_descriptions_are_the_experts_own_or_its_profiles():
    seen = Profile(
        expert_id="a",
        overall=Tally(wins=6.0, trials=10),
        categories={"law": Tally(wins=5, trials=5), "art": Tally(wins=1, trials=5), "rare": Tally(wins=1, trials=1)},
    )
    assert describe(expert("a", description=" Knows\nlaw. "), seen) == "Knows law."
    assert describe(expert("a"), seen) == "right on 58% of 10 questions; best at law (86%)"
    assert describe(expert("a"), None) == "nothing is known of it"
    assert len(describe(expert("a", description="x" * 999), None)) < 310


def test_the_prompt_holds_the_question_and_asks_for_as_many():
    text = choice_prompt("Why?" + "x" * 20_000, [("a", "fast"), ("b", "slow")], wanted=2)
    assert '- "a": fast\n- "b": slow' in text and "2 of them" in text and len(text) < 13_000
    assert "Which one would" in choice_prompt("Why?", [("a", "fast")], wanted=1)
    schema = json.loads(choice_format(["a", "b"], wanted=2).json_schema)
    assert schema["properties"]["experts"]["items"]["enum"] == ["a", "b"]


# --- set-up -----------------------------------------------------------------------------------------------------------


def test_the_router_may_be_named():
    assert recruiter("llm_router", a_pool(), expert="d").expert_ == "d"
    with pytest.raises(UnknownNameError, match="'e'"):
        recruiter("llm_router", a_pool(), expert="e")
    off = a_pool()
    off = replace(off, experts=tuple(replace(e, is_enabled=e.id != "a") for e in off.experts))
    assert recruiter("llm_router", off).expert_ == "b"


@pytest.mark.parametrize("fallback", ["llm_router", "escalate", "named"])
def test_a_fallback_decides_at_once_and_by_itself(fallback):
    with pytest.raises(ConfigError, match=f"fallback is '{fallback}'"):
        LlmRouter(fallback=fallback)


def test_an_unknown_fallback_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'fixed'"):
        LlmRouter(fallback="fixd")


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"timeout_s": 0.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LlmRouter(**options)


async def test_consulting_needs_a_fit():
    with pytest.raises(NotFittedError, match="llm_router"):
        await LlmRouter().consult([request()], ask=FakeAsk())
