"""Panels whose outcome is settled: who is still out is stopped, upstream too, paid for right, and holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from router_service.dispatch.ledger import Ledger
from router_service.types import NOT_NEEDED, Budget, Completion, Usage
from tests.router_service.dispatch.fakes import (
    BatchedBackend,
    ScriptedBackend,
    after,
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
from tests.router_service.dispatch.resident_fakes import ResidentFake, footprint, gpus

SLOW_S = 60.0


class Enough:
    """Says that `n` successes settle it, and keeps what it was asked."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, query_id: str, completions: Sequence[Completion], pending: Sequence[str]) -> bool:
        self.asked.append((query_id, "".join(c.expert_id for c in completions), "".join(pending)))
        return sum(c.succeeded for c in completions) >= self.n


def codes(panel: Sequence[Completion]) -> list[str]:
    return [c.error.code if c.error else "ok" for c in panel]


async def test_a_straggler_that_can_change_nothing_is_stopped_upstream_and_charged() -> None:
    backend = ScriptedBackend(after({"B": SLOW_S}))
    ledger = Ledger(Budget(max_completions=3, max_output_tokens=5000))
    async with asyncio.timeout(20):
        events = await collect(
            runner_of(backend, [expert(e) for e in "ABC"]), plan({"q": "ABC"}), {"q": ledger}, settles=Enough(2)
        )
    panel = panels(events)["q"]
    assert codes(panel) == ["ok", NOT_NEEDED, "ok"] and not panel[1].was_needed and panel[0].was_needed
    assert "2 of 3 had answered" in panel[1].error.message
    assert (backend.cancelled, backend.open) == (["B"], 0)
    assert panel[1].usage == Usage(completions=1, cost_usd=None)
    assert ledger.remaining().max_completions == 0
    assert ledger.remaining().max_output_tokens == 5000 - 2 * 5 - 1024  # nobody knows what it wrote: the most it may


async def test_who_had_not_been_asked_yet_costs_nothing() -> None:
    backend, ledger = ScriptedBackend(after({"B": SLOW_S})), Ledger(Budget(max_completions=5))
    runner = runner_of(backend, [expert("A"), expert("B", max_concurrency=1)])
    holding = asyncio.create_task(collect(runner, plan({"other": "B"})))
    await until(lambda: backend.open == 1)
    async with asyncio.timeout(20):
        events = await collect(runner, plan({"q": "AABB"}), {"q": ledger}, settles=Enough(2))
    holding.cancel()
    await asyncio.wait([holding])
    panel = panels(events)["q"]
    assert codes(panel) == ["ok", "ok", NOT_NEEDED, NOT_NEEDED]
    assert [c.usage for c in panel[2:]] == [Usage(), Usage()]
    assert ledger.remaining().max_completions == 3


async def test_one_alone_settles_nothing() -> None:
    enough = Enough(1)
    events = await collect(
        runner_of(ScriptedBackend(after({"B": 0.02})), [expert(e) for e in "AB"]), plan({"q": "AB"}), settles=enough
    )
    assert codes(panels(events)["q"]) == ["ok", "ok"] and enough.asked == []


async def test_it_is_asked_as_completions_come_in_and_only_from_two_on() -> None:
    backend = ScriptedBackend(after({"A": 0.06, "B": 0.02, "C": 0.04, "D": 0.08}))
    enough = Enough(9)
    await collect(runner_of(backend, [expert(e) for e in "ABCD"]), plan({"q": "ABCD"}), settles=enough)
    assert enough.asked == [("q", "BC", "AD"), ("q", "ABC", "D")]


async def test_those_who_answer_in_the_same_moment_are_all_heard() -> None:
    enough = Enough(2)
    events = await collect(
        runner_of(ScriptedBackend(), [expert(e) for e in "ABCDE"]), plan({"q": "ABCDE"}), settles=enough
    )
    assert codes(panels(events)["q"]) == ["ok"] * 5
    assert enough.asked == []


async def test_it_can_be_switched_off() -> None:
    backend, enough = ScriptedBackend(after({"B": 0.03})), Enough(2)
    runner = runner_of(backend, [expert(e) for e in "ABC"], stops_early=False)
    assert codes(panels(await collect(runner, plan({"q": "ABC"}), settles=enough))["q"]) == ["ok"] * 3
    assert enough.asked == []


async def test_failures_settle_nothing() -> None:
    def script(e, b, n):
        return [RuntimeError("no")] if e.id in "AB" else [0.02, *(said((a.query.id, e.id, 0)) for a in b.assignments)]

    enough = Enough(1)
    events = await collect(
        runner_of(ScriptedBackend(script), [expert(e) for e in "ABCD"]), plan({"q": "ABCD"}), settles=enough
    )
    assert codes(panels(events)["q"]) == ["expert_error", "expert_error", "ok", "ok"]


async def test_an_engine_goes_on_for_those_who_still_need_it() -> None:
    slow = BatchedBackend(lambda e, b, n: [0.05, said(("settled", "S", 0)), said(("open", "S", 0))])
    runner = runner_of({"fake": ScriptedBackend(), "slow": slow}, [expert("A"), expert("B"), expert("S", "slow")])
    batches = [
        batch_of("S", query("settled"), query("open")),
        batch_of("A", query("settled")),
        batch_of("B", query("settled")),
    ]
    async with asyncio.timeout(20):
        events = await collect(runner, batches, settles=Enough(2))
    assert sorted(codes(panels(events)["settled"])) == [NOT_NEEDED, "ok", "ok"]
    assert codes(panels(events)["open"]) == ["ok"]
    assert slow.cancelled == []
    order = [event.query_id for event in events if not isinstance(event, Completion)]
    assert order == ["settled", "open"]  # the settled one did not wait for the engine


@pytest.mark.parametrize("backend_type", [ScriptedBackend, BatchedBackend])
async def test_an_engine_that_nobody_needs_is_stopped(backend_type) -> None:
    slow = backend_type(after({"S": SLOW_S}))
    experts = [expert("A"), expert("B"), expert("S", "slow")]
    runner = runner_of({"fake": ScriptedBackend(), "slow": slow}, experts)
    async with asyncio.timeout(20):
        events = await collect(runner, plan({"q1": "ABS", "q2": "SAB"}), settles=Enough(2))
    assert codes(panels(events)["q1"]) == ["ok", "ok", NOT_NEEDED]
    assert codes(panels(events)["q2"]) == [NOT_NEEDED, "ok", "ok"]
    assert set(slow.cancelled) == {"S"} and slow.open == 0


async def test_a_model_that_nobody_needs_is_not_loaded() -> None:
    resident = ResidentFake({e: footprint(f"model-{e}") for e in "ABC"}, gpus(1, 4.0))
    runner = runner_of({"fake": resident}, [expert(e) for e in "ABC"], window_s=0.0)
    async with asyncio.timeout(20):
        events = await collect(runner, plan({f"q{i}": "ABC" for i in range(4)}), settles=Enough(2))
    assert all(sorted(codes(panel)) == [NOT_NEEDED, "ok", "ok"] for panel in panels(events).values())
    assert len(resident.loads) == 2 and not resident.violations
    stopped = [c for panel in panels(events).values() for c in panel if not c.was_needed]
    assert [c.usage for c in stopped] == [Usage()] * 4
