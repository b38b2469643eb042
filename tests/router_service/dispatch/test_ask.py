"""Asking: billed to the parent, gathered into batches for engines, cancelled when nobody waits any more."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from router_service.dispatch.ask import BudgetedAsk
from router_service.dispatch.ledger import Ledger
from router_service.errors import BudgetExceeded, ExpertRefused, NoExpertAvailable, UnknownNameError
from router_service.types import Ask, Budget, Query, RouteControls, TokenDelta, Usage
from tests.router_service.dispatch.fakes import (
    BatchedBackend,
    ScriptedBackend,
    after,
    answer_all,
    expert,
    query,
    runner_of,
    until,
)


def child(query_id: str, parent_id: str = "q", **fields) -> Query:
    return replace(query(query_id), parent_id=parent_id, **fields)


def ask_of(backend: ScriptedBackend, ledgers: dict[str, Ledger] | None = None, **options) -> BudgetedAsk:
    return BudgetedAsk(runner_of(backend, [expert("A"), expert("B")]), ledgers or {}, **options)


@pytest.mark.parametrize("backend_type", [ScriptedBackend, BatchedBackend])
async def test_it_answers_and_bills_the_parent(backend_type) -> None:
    ledger = Ledger(Budget(max_completions=5))
    ask = ask_of(backend_type(), {"q": ledger})
    assert isinstance(ask, Ask)
    completion = await ask("A", child("q/keywords/0"))
    assert completion.text == "A on q/keywords/0 #0"
    assert ledger.spent.completions == ask.usage("q").completions == 1
    assert ask.usage("q").cost_usd == pytest.approx(15e-6)
    assert ask.usage("other") == Usage()


@pytest.mark.parametrize("backend_type", [ScriptedBackend, BatchedBackend])
async def test_a_query_of_its_own_pays_itself(backend_type) -> None:
    ledger = Ledger(Budget())
    await ask_of(backend_type(), {"q": ledger})("A", query("q"))
    assert ledger.spent.completions == 1


async def test_calls_to_one_engine_go_out_in_one_batch_per_expert() -> None:
    backend = BatchedBackend()
    ask = ask_of(backend)
    asked = [ask("AB"[i % 2], child(f"q/{i}")) for i in range(6)]
    completions = await asyncio.gather(*asked)
    assert [c.query_id for c in completions] == [f"q/{i}" for i in range(6)]
    assert [(b.expert_id, len(b.assignments)) for b in backend.calls] == [("A", 3), ("B", 3)]


async def test_the_same_query_twice_gets_two_answers() -> None:
    backend = BatchedBackend()
    ask = ask_of(backend)
    completions = await asyncio.gather(ask("A", child("same")), ask("A", child("same")), ask("A", child("other")))
    assert [c.query_id for c in completions] == ["same", "same", "other"]
    assert sum(len(b.assignments) for b in backend.calls) == 3


async def test_seeds_come_from_the_query_and_not_from_the_company() -> None:
    backend = BatchedBackend()
    ask = ask_of(backend)
    await asyncio.gather(ask("A", child("x", seed=1)), ask("A", child("y", seed=2)))
    await ask("A", child("x", seed=1))
    first, second = backend.calls
    assert first.assignments[0].seed == second.assignments[0].seed != first.assignments[1].seed


@pytest.mark.parametrize("backend_type", [ScriptedBackend, BatchedBackend])
async def test_an_empty_purse_raises(backend_type) -> None:
    ask = ask_of(backend_type(), {"q": Ledger(Budget(max_completions=1))})
    await ask("A", child("q/1"))
    with pytest.raises(BudgetExceeded, match="max_completions is 1"):
        await ask("A", child("q/2"))
    assert ask.usage("q").completions == 1


async def test_one_purse_is_not_the_other() -> None:
    ask = ask_of(BatchedBackend(), {"poor": Ledger(Budget(max_completions=0)), "rich": Ledger(Budget())})
    poor, rich = await asyncio.gather(
        ask("A", child("p", "poor")), ask("A", child("r", "rich")), return_exceptions=True
    )
    assert isinstance(poor, BudgetExceeded)
    assert rich.succeeded


async def test_an_unknown_expert_raises_and_a_failed_call_is_data() -> None:
    ask = ask_of(ScriptedBackend(lambda e, b, n: [ExpertRefused("no", expert_id=e.id)]))
    with pytest.raises(UnknownNameError, match="unknown expert 'Z'"):
        await ask("Z", child("q/1"))
    assert (await ask("A", child("q/1"))).error.code == "expert_refused"


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        (RouteControls(experts_denied=("A",)), "experts_denied names it"),
        (RouteControls(experts_allowed=("B",)), "experts_allowed does not name it"),
        (RouteControls(), "switched off"),
    ],
)
async def test_who_may_not_be_recruited_is_not_asked_either(controls: RouteControls, words: str) -> None:
    backend = ScriptedBackend()
    experts = [replace(expert("A"), is_enabled=words != "switched off"), expert("B")]
    ask = BudgetedAsk(runner_of(backend, experts), {}, controls={"q": controls})
    with pytest.raises(NoExpertAvailable, match=f"'A' may not be asked: .*{words}"):
        await ask("A", child("q/1"))
    assert (await ask("B", child("q/1"))).succeeded
    assert [batch.expert_id for batch in backend.calls] == ["B"]


async def test_after_a_rewind_the_same_questions_are_answered_once_more_and_paid_once() -> None:
    backend, ledger = ScriptedBackend(after({"A": 0.02})), Ledger(Budget(max_completions=3))
    ask = ask_of(backend, {"q": ledger})
    under_way = asyncio.create_task(ask("A", child("q/1", seed=1)))
    first = await ask("B", child("q/2"))
    await ask.rewind()
    assert under_way.done() and await ask("A", child("q/1", seed=1)) == under_way.result()
    assert await ask("B", child("q/2")) == first
    assert ask.usage("q").completions == ledger.spent.completions == len(backend.calls) == 2
    await ask("A", child("q/1", seed=2))
    assert len(backend.calls) == 3
    with pytest.raises(BudgetExceeded):
        await ask("B", child("q/2"))  # its answer was taken


async def test_only_visible_tokens_are_shown_and_under_the_parents_id() -> None:
    def script(e, b, n):
        deltas = [TokenDelta(query_id=a.query.id, text=w) for a in b.assignments if a.streams for w in ("so ", "it is")]
        return [*deltas, *answer_all(e, b, n)]

    shown: list[tuple[str, str]] = []
    ask = ask_of(ScriptedBackend(script), on_delta=lambda query_id, text: shown.append((query_id, text)))
    await ask("A", child("q/hidden"))
    await ask("A", child("q/final"), is_visible=True)
    assert shown == [("q", "so "), ("q", "it is")]


async def test_waiting_counts_overlapping_calls_once() -> None:
    ask = ask_of(ScriptedBackend(after({"A": 0.05, "B": 0.1})))
    await asyncio.gather(ask("A", child("q/1")), ask("B", child("q/2")), ask("A", child("p/1", "p")))
    assert 0.08 < ask.waited_s("q") < 0.14
    assert 0.03 < ask.waited_s("p") < 0.09
    assert ask.waited_s("nobody") == 0


@pytest.mark.parametrize("backend_type", [ScriptedBackend, BatchedBackend])
async def test_cancelling_the_last_who_waits_ends_the_call(backend_type) -> None:
    backend = backend_type(after({"A": 60}))
    ask = ask_of(backend)
    first, second = (asyncio.create_task(ask("A", child(f"q/{i}"))) for i in range(2))
    await until(lambda: bool(backend.open))
    first.cancel()
    await asyncio.wait([first])
    assert backend.open == 1
    second.cancel()
    await asyncio.wait([second])
    assert backend.open == 0


async def test_who_gives_up_while_gathering_is_not_asked_for() -> None:
    backend = BatchedBackend()
    ask = ask_of(backend, window_s=0.03)
    first, second = (asyncio.create_task(ask("A", child(f"q/{i}"))) for i in range(2))
    await asyncio.sleep(0.005)
    first.cancel()
    assert (await second).succeeded
    assert [a.query.id for b in backend.calls for a in b.assignments] == ["q/1"]
