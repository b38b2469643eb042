"""Panels that end early, deadlines, budgets and cancelling: what is let go is really let go, and paid for right."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from router_service.dispatch.ledger import Ledger
from router_service.dispatch.planner import keys_of
from router_service.errors import ExpertRefused, ExpertUnavailable
from router_service.types import Budget, Completion, CompletionError, RouteControls, TokenDelta, Usage
from tests.router_service.dispatch.fakes import (
    BatchedBackend,
    ScriptedBackend,
    Sleeper,
    after,
    answer_all,
    batch_of,
    collect,
    expert,
    panels,
    plan,
    query,
    runner_of,
    said,
    until,
)


def codes(panel: tuple[Completion, ...]) -> list[str]:
    return [c.error.code if c.error else "ok" for c in panel]


# --- quorum --------------------------------------------------------------------------------------------------------


async def test_a_quorum_leaves_stragglers_behind_and_cancels_them() -> None:
    backend = ScriptedBackend(after({"B": 60}))
    runner = runner_of(backend, [expert(e) for e in "ABC"], quorum=2)
    async with asyncio.timeout(20):
        events = await collect(runner, plan({"q": "ABC"}))
    panel = panels(events)["q"]
    assert codes(panel) == ["ok", "cancelled", "ok"]
    assert "2 of 3" in panel[1].error.message
    assert panel[1].usage == Usage(completions=1, cost_usd=None)
    assert backend.cancelled == ["B"]
    assert backend.open == 0


async def test_no_quorum_leaves_behind_who_is_waited_for() -> None:
    runner = runner_of(ScriptedBackend(after({"B": 0.1})), [expert(e) for e in "ABC"], quorum=1)
    patient = replace(query("q"), controls=RouteControls(waits_for_all=True))
    batches = [
        replace(b, assignments=tuple(replace(a, query=patient) for a in b.assignments)) for b in plan({"q": "ABC"})
    ]
    assert codes(panels(await collect(runner, batches))["q"]) == ["ok", "ok", "ok"]


async def test_grace_lets_the_nearly_finished_finish() -> None:
    backend = ScriptedBackend(after({"B": 0.02, "C": 60}))
    runner = runner_of(backend, [expert(e) for e in "ABC"], quorum=1, straggler_grace_s=0.3)
    assert codes(panels(await collect(runner, plan({"q": "ABC"})))["q"]) == ["ok", "ok", "cancelled"]


async def test_failures_do_not_make_a_quorum() -> None:
    def script(e, b, n):
        return [RuntimeError("no")] if e.id in "AB" else [0.01, *answer_all(e, b, n)]

    runner = runner_of(ScriptedBackend(script), [expert(e) for e in "ABCD"], quorum=2)
    assert codes(panels(await collect(runner, plan({"q": "ABCD"})))["q"]) == [
        "expert_error",
        "expert_error",
        "ok",
        "ok",
    ]


async def test_a_quorum_that_cannot_be_reached_waits_for_all() -> None:
    runner = runner_of(ScriptedBackend(), [expert("A")], quorum=5)
    assert codes(panels(await collect(runner, plan({"q": "A"})))["q"]) == ["ok"]


async def test_an_engine_goes_on_for_those_who_still_wait() -> None:
    slow = BatchedBackend(lambda e, b, n: [said(("q1", "S", 0)), 0.05, said(("q2", "S", 0))])
    runner = runner_of({"fake": ScriptedBackend(), "slow": slow}, [expert("A"), expert("S", "slow")], quorum=1)
    batches = [batch_of("S", query("q1"), query("q2")), batch_of("A", query("q1"))]
    events = await collect(runner, batches)
    assert codes(panels(events)["q2"]) == ["ok"]
    assert "ok" in codes(panels(events)["q1"])


async def test_an_engine_nobody_waits_for_is_stopped() -> None:
    slow = BatchedBackend(after({"S": 60}))
    runner = runner_of({"fake": ScriptedBackend(), "slow": slow}, [expert("A"), expert("S", "slow")], quorum=1)
    async with asyncio.timeout(20):
        events = await collect(runner, plan({"q1": "AS", "q2": "SA"}))
    assert codes(panels(events)["q2"]) == ["cancelled", "ok"]
    assert slow.cancelled == ["S"]


# --- deadlines -----------------------------------------------------------------------------------------------------


async def test_a_deadline_ends_what_is_out_and_keeps_what_is_in() -> None:
    backend = ScriptedBackend(after({"B": 60}))
    runner = runner_of(backend, [expert("A"), expert("B")])
    ledgers = {"q": Ledger(Budget(deadline_s=0.05)), "free": Ledger(Budget())}
    async with asyncio.timeout(20):
        events = await collect(runner, plan({"q": "AB", "free": "A"}), ledgers)
    panel = panels(events)["q"]
    assert codes(panel) == ["ok", "expert_timeout"]
    assert "deadline" in panel[1].error.message
    assert codes(panels(events)["free"]) == ["ok"]
    assert backend.cancelled == ["B"]


async def test_a_deadline_counts_the_time_in_the_waiting_line() -> None:
    backend = ScriptedBackend(after({"A": 0.2}))
    runner = runner_of(backend, [expert("A", max_concurrency=1)])
    events = await collect(runner, [batch_of("A", query("first"), query("second", deadline_s=0.05))])
    assert codes(panels(events)["second"]) == ["expert_timeout"]
    assert panels(events)["second"][0].usage == Usage()
    assert len(backend.calls) == 1


async def test_nothing_goes_out_after_the_deadline() -> None:
    now = [0.0]
    ledger = Ledger(Budget(deadline_s=1.0), clock=lambda: now[0])
    now[0] = 2.0
    backend = ScriptedBackend()
    events = await collect(runner_of(backend, [expert("A")]), plan({"q": "A"}), {"q": ledger})
    assert codes(panels(events)["q"]) == ["expert_timeout"]
    assert backend.calls == []
    assert ledger.spent == Usage()


async def test_a_query_without_deadline_gets_the_default_one() -> None:
    runner = runner_of(ScriptedBackend(after({"A": 60})), [expert("A")], default_deadline_s=0.03)
    async with asyncio.timeout(20):
        events = await collect(runner, plan({"q": "A"}), {"q": runner.ledger(Budget())})
    assert codes(panels(events)["q"]) == ["expert_timeout"]
    assert runner.ledger(Budget(deadline_s=2.0)).budget.deadline_s == 2.0


async def test_the_default_deadline_is_one_for_all_waves() -> None:
    runner = runner_of(ScriptedBackend(after({"A": 0.06})), [expert("A")], default_deadline_s=0.1)
    ledgers = {"q": runner.ledger(Budget())}
    waves = [panels(await collect(runner, plan({"q": "A"}), ledgers))["q"] for _ in range(2)]
    assert [codes(panel) for panel in waves] == [["ok"], ["expert_timeout"]]


@pytest.mark.parametrize(("deadline_from", "answered"), [("arrival", 2), ("first_call", 6)])
async def test_a_deadline_from_the_first_call_leaves_the_line_out(deadline_from, answered: int) -> None:
    runner = runner_of(ScriptedBackend(after({"A": 0.05})), [expert("A", max_concurrency=1)], default_deadline_s=0.12)
    names = [f"q{i}" for i in range(6)]
    ledgers = {name: runner.ledger(Budget(), deadline_from=deadline_from) for name in names}
    events = await collect(runner, plan(dict.fromkeys(names, "A")), ledgers)
    assert sum(codes(panel) == ["ok"] for panel in panels(events).values()) == answered


async def test_a_deadline_from_the_first_call_still_ends_the_call() -> None:
    backend = ScriptedBackend(after({"A": 60}))
    runner = runner_of(backend, [expert("A")])
    ledger = runner.ledger(Budget(deadline_s=0.05), deadline_from="first_call")
    async with asyncio.timeout(20):
        events = await collect(runner, plan({"q": "A"}), {"q": ledger})
    assert codes(panels(events)["q"]) == ["expert_timeout"]
    assert backend.cancelled == ["A"]


# --- money ---------------------------------------------------------------------------------------------------------


async def test_what_does_not_fit_is_refused_before_any_call_and_the_rest_goes_on() -> None:
    backend = ScriptedBackend()
    ledger = Ledger(Budget(max_completions=3))
    runner = runner_of(backend, [expert(e) for e in "ABC"])
    events = await collect(runner, plan({"q": "AABBC"}), {"q": ledger})
    panel = panels(events)["q"]
    assert codes(panel) == ["ok", "ok", "budget_exceeded", "budget_exceeded", "ok"]
    assert "max_completions is 3" in panel[2].error.message
    assert ledger.spent.completions == 3
    assert len(backend.calls) == 2


async def test_the_ledger_holds_what_was_really_used() -> None:
    ledger = Ledger(Budget(max_cost_usd=1.0))
    runner = runner_of(ScriptedBackend(), [expert("A"), expert("B", price=10.0)])
    await collect(runner, plan({"q": "AAB"}), {"q": ledger})
    assert ledger.spent.completions == 3
    assert (ledger.spent.prompt_tokens, ledger.spent.completion_tokens) == (30, 15)
    assert ledger.spent.cost_usd == pytest.approx((2 * 15 + 150) * 1e-6)


async def test_an_unknown_price_is_refused_under_a_limit_in_usd() -> None:
    runner = runner_of(ScriptedBackend(), [expert("A", price=None), expert("B")])
    events = await collect(runner, plan({"q": "AB"}), {"q": Ledger(Budget(max_cost_usd=1.0))})
    assert codes(panels(events)["q"]) == ["budget_exceeded", "ok"]


async def test_failed_tries_are_charged_and_stop_where_the_budget_ends() -> None:
    broken = CompletionError(code="expert_unavailable", message="cut", is_retryable=True)
    usage = Usage(completions=1, prompt_tokens=10, completion_tokens=900, cost_usd=None)
    backend = ScriptedBackend(lambda e, b, n: [said(("q", "A", 0), "", error=broken, usage=usage)])
    ledger = Ledger(Budget(max_output_tokens=2500))
    runner = runner_of(backend, [expert("A", max_attempts=9)], sleep=Sleeper())
    [completion, _] = await collect(runner, plan({"q": "A"}), {"q": ledger})
    # a try is estimated at 1,024 tokens: 900 + 1,024 fit, 900 + 900 + 1,024 do not
    assert len(backend.calls) == 2
    assert completion.usage.completion_tokens == ledger.spent.completion_tokens == 1800
    assert ledger.spent.completions == 1


def times_out_first(times: int) -> ScriptedBackend:
    return ScriptedBackend(lambda e, b, n: [60.0] if n <= times else answer_all(e, b, n))


# one call of an expert at 1 USD a million tokens is estimated at 1,024 output tokens and some 30 of the prompt
@pytest.mark.parametrize(("limit_usd", "tries", "end"), [(0.0012, 1, "expert_timeout"), (0.0035, 3, "ok")])
async def test_a_try_of_unknown_cost_is_charged_as_estimated(limit_usd: float, tries: int, end: str) -> None:
    backend = times_out_first(2)
    ledger = Ledger(Budget(max_cost_usd=limit_usd))
    runner = runner_of(backend, [expert("A", max_attempts=3, timeout_s=0.01)], sleep=Sleeper())
    [completion, _] = await collect(runner, plan({"q": "A"}), {"q": ledger})
    assert (len(backend.calls), *codes((completion,))) == (tries, end)
    assert completion.usage.cost_usd is ledger.spent.cost_usd is None
    charged_usd = limit_usd - ledger.remaining().max_cost_usd
    assert charged_usd == pytest.approx(1.05e-3 if tries == 1 else 2 * 1.05e-3 + 15e-6, rel=0.02)


async def test_a_known_loss_is_charged_although_a_later_one_is_unknown() -> None:
    broken = CompletionError(code="expert_unavailable", message="cut", is_retryable=True)
    usage = Usage(completions=1, prompt_tokens=10, completion_tokens=900, cost_usd=None)
    backend = ScriptedBackend(lambda e, b, n: [said(("q", "A", 0), "", error=broken, usage=usage)] if n < 2 else [60.0])
    ledger = Ledger(Budget(max_cost_usd=0.01))
    runner = runner_of(backend, [expert("A", max_attempts=2, timeout_s=0.01)], sleep=Sleeper())
    [completion, _] = await collect(runner, plan({"q": "A"}), {"q": ledger})
    assert completion.usage.cost_usd is None
    assert 0.01 - ledger.remaining().max_cost_usd == pytest.approx(910e-6 + 1.05e-3, rel=0.01)


@pytest.mark.parametrize("price", [0.0, 1.0])
@pytest.mark.parametrize(
    "script",
    [
        lambda e, b, n: [60.0],  # cut by the deadline
        lambda e, b, n: [RuntimeError("cut")],
        lambda e, b, n: [said(key, usage=Usage(completions=1, cost_usd=None)) for key in keys_of(b)],
    ],
)
async def test_tokens_nobody_counted_are_charged_as_estimated(script, price: float) -> None:
    ledger = Ledger(Budget(max_output_tokens=1500, deadline_s=0.05))
    runner = runner_of(ScriptedBackend(script), [expert("A", price=price)])
    [completion, _] = await collect(runner, plan({"q": "A"}), {"q": ledger})
    assert completion.usage.completion_tokens == ledger.spent.completion_tokens == 0
    assert ledger.remaining().max_output_tokens == 1500 - 1024


async def test_a_call_that_was_refused_charges_nothing_but_itself() -> None:
    ledger = Ledger(Budget(max_output_tokens=1500, max_completions=2))
    backend = ScriptedBackend(lambda e, b, n: [ExpertRefused("bad key", expert_id="A")])
    await collect(runner_of(backend, [expert("A")]), plan({"q": "A"}), {"q": ledger})
    assert ledger.remaining() == Budget(max_output_tokens=1500, max_completions=1)


async def test_the_parents_ledger_pays() -> None:
    from dataclasses import replace

    ledger = Ledger(Budget(max_completions=1))
    asked = [replace(query(f"q/{i}"), parent_id="q") for i in range(2)]
    events = await collect(runner_of(ScriptedBackend(), [expert("A")]), [batch_of("A", *asked)], {"q": ledger})
    assert sorted(code for panel in panels(events).values() for code in codes(panel)) == ["budget_exceeded", "ok"]
    assert ledger.spent.completions == 1


# --- cancelling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend_type", [ScriptedBackend, BatchedBackend])
async def test_closing_the_iterator_cancels_every_open_call_and_waits_for_them(backend_type) -> None:
    quick, slow = ScriptedBackend(), backend_type(after(dict.fromkeys("BCD", 60)))
    experts = [expert("A"), *(expert(e, "slow") for e in "BCD")]
    runner = runner_of({"fake": quick, "slow": slow}, experts)
    ledger = Ledger(Budget(max_completions=10))
    async with aclosing(runner.run(plan({"q": "ABCD"}), {"q": ledger})) as events:
        first = await anext(events)
        assert first.expert_id == "A"
        await asyncio.sleep(0.01)
        running = slow.open
        assert running == (1 if slow.is_batched else 3)
    assert (slow.open, len(slow.cancelled)) == (0, running)
    # what never went out costs nothing; what did is one completion each
    assert ledger.spent.completions == 1 + running
    assert ledger.reserve(Usage(completions=10 - 1 - running))


async def test_cancelling_the_reader_cancels_every_open_call() -> None:
    backend = ScriptedBackend(after(dict.fromkeys("AB", 60)))
    reader = asyncio.create_task(collect(runner_of(backend, [expert("A"), expert("B")]), plan({"q": "AB"})))
    await until(lambda: backend.open >= 2)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert sorted(backend.cancelled) == ["A", "B"]
    assert backend.open == 0


async def test_a_pause_between_tries_is_cancelled_too() -> None:
    backend = ScriptedBackend(lambda e, b, n: [ExpertUnavailable("down", expert_id="A")])
    runner = runner_of(backend, [expert("A")], backoff_initial_s=60, backoff_max_s=60, jitter=0)
    reader = asyncio.create_task(collect(runner, plan({"q": "A"})))
    await until(lambda: bool(backend.calls))
    reader.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await reader
    assert len(backend.calls) == 1


async def test_cancelled_calls_give_their_turn_to_others() -> None:
    backend = BatchedBackend(lambda e, b, n: [60.0] if n == 1 else answer_all(e, b, n))
    runner = runner_of(backend, [expert("A")])
    first = asyncio.create_task(collect(runner, plan({"p": "A"})))
    await until(lambda: bool(backend.open))
    second = asyncio.create_task(collect(runner, plan({"q": "A"})))
    await asyncio.sleep(0.01)
    first.cancel()
    async with asyncio.timeout(20):
        assert codes(panels(await second)["q"]) == ["ok"]


async def test_deltas_stop_with_the_query() -> None:
    def script(e, b, n):
        return [TokenDelta(query_id="q", text="a "), 0.2, TokenDelta(query_id="q", text="b"), *answer_all(e, b, n)]

    runner = runner_of(BatchedBackend(script), [expert("A")])
    batches = [batch_of("A", query("q", deadline_s=0.05), query("other"), streams=True)]
    events = await collect(runner, batches)
    assert [e.text for e in events if isinstance(e, TokenDelta)] == ["a "]
    assert codes(panels(events)["other"]) == ["ok"]


async def test_deltas_nobody_asked_for_are_dropped() -> None:
    backend = ScriptedBackend(lambda e, b, n: [TokenDelta(query_id="q", text="psst"), *answer_all(e, b, n)])
    events = await collect(runner_of(backend, [expert("A")]), plan({"q": "A"}))
    assert not [e for e in events if isinstance(e, TokenDelta)]
