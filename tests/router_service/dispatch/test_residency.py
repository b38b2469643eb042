"""Residency: models are there when their calls run, faults stay where they happen, and every call ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.backends.base import Device, DeviceLost, Footprint
from router_service.dispatch._residency_experience import Experience
from router_service.dispatch.planner import in_parts, keys_of
from router_service.dispatch.runner import Runner
from router_service.types import Completion, ExpertBatch
from tests.router_service.dispatch.fakes import (
    BatchedBackend,
    Sleeper,
    after,
    batch_of,
    collect,
    expert,
    panels,
    plan,
    query,
    runner_of,
    until,
)
from tests.router_service.dispatch.resident_fakes import GIB, Faults, ResidentFake, footprint, gpus

LETTERS = "ABCDE"
OWN_MODEL = {letter: footprint(f"model-{letter}") for letter in LETTERS}


def pool(ids: str = LETTERS, **limits):
    return [expert(expert_id, **limits) for expert_id in ids]


def runner_for(backend: ResidentFake, *, limits: Mapping[str, float] | None = None, **given) -> Runner:
    given = {"window_s": 0.0, **given}
    return runner_of(backend, pool(**(limits or {})), sleep=Sleeper(), **given)


def completions_of(events) -> list[Completion]:
    return [event for event in events if isinstance(event, Completion)]


# --- turns ---------------------------------------------------------------------------------------------------------


async def test_a_wave_loads_each_model_once() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 4.0))
    events = await collect(runner_for(backend), plan({f"q{i}": "ABCDE"[i % 3 :] for i in range(9)}))
    assert len(panels(events)) == 9 and all(c.succeeded for c in completions_of(events))
    assert sorted(model for _, model in backend.loads) == sorted(f"model-{letter}" for letter in LETTERS)
    assert not backend.violations


async def test_experts_of_one_model_share_its_load_and_take_turns() -> None:
    backend = ResidentFake({letter: footprint("base", turn=letter) for letter in LETTERS})
    events = await collect(runner_for(backend), plan({f"q{i}": "ABC" for i in range(4)}))
    assert all(c.succeeded for c in completions_of(events))
    assert backend.loads == [("gpu0", "base")]
    assert not backend.violations


async def test_what_is_loaded_stays_for_the_next_run() -> None:
    backend = ResidentFake(OWN_MODEL)
    runner = runner_for(backend)
    for number in range(3):
        await collect(runner, plan({f"q{number}": "A"}))
    assert backend.loads == [("gpu0", "model-A")]


def test_what_is_loaded_stays_for_the_next_event_loop() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 4.0))
    runner = runner_for(backend)
    for number, drawn in enumerate("AABA"):
        assert completions_of(asyncio.run(collect(runner, plan({f"q{number}": drawn}))))[0].succeeded
    assert [model for _, model in backend.loads] == ["model-A", "model-B", "model-A"]
    assert not backend.violations


def test_a_loop_that_ends_in_the_middle_leaves_nothing_stuck() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 4.0))
    runner = runner_for(backend)

    async def leave_in_the_middle(condition) -> None:
        task = asyncio.create_task(collect(runner, plan({"p": "AB"})))
        await until(condition)
        assert not task.done()  # asyncio.run cancels it

    backend.gate = asyncio.Event()
    asyncio.run(leave_in_the_middle(lambda: backend.loads))
    backend.gate, backend.hold = None, asyncio.Event()
    asyncio.run(leave_in_the_middle(lambda: backend.open))
    backend.hold = None
    events = asyncio.run(asyncio.wait_for(collect(runner, plan({"q": "ABC"})), 5))
    assert all(c.succeeded for c in completions_of(events))
    assert not backend.violations


async def test_the_next_model_is_loaded_while_one_runs_where_memory_allows() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 8.0))
    backend.hold = asyncio.Event()
    run = asyncio.create_task(collect(runner_for(backend), plan({"q": "AB"})))
    await until(lambda: backend.open == 1 and len(backend.loads) == 2)
    backend.hold.set()
    await run
    assert not backend.violations


async def test_a_device_that_goes_by_a_count_holds_so_many_models_of_unknown_size() -> None:
    sizes = {letter: footprint(f"model-{letter}", gib=None) for letter in LETTERS}
    backend = ResidentFake(sizes, gpus(1, None, max_models=2))
    runner = runner_for(backend)
    for number, letter in enumerate("ABAB"):
        await collect(runner, plan({f"q{number}": letter}))
    assert backend.loads == [("gpu0", "model-A"), ("gpu0", "model-B")]
    assert not backend.violations


async def test_no_model_is_loaded_beside_a_running_one_unless_it_may() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 8.0))
    backend.hold = asyncio.Event()
    run = asyncio.create_task(collect(runner_for(backend, prefetches=False), plan({"q": "AB"})))
    await until(lambda: backend.open == 1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(backend.loads) == 1
    backend.hold.set()
    assert len(completions_of(await run)) == 2


async def test_callers_of_one_expert_run_together_up_to_its_limit() -> None:
    backend = ResidentFake({letter: footprint(letter, max_works=3) for letter in LETTERS})
    runner = runner_for(backend)
    await asyncio.gather(*(collect(runner, plan({f"q{i}": "A"})) for i in range(10)))
    assert backend.most_at_once == {"A": 3}
    assert not backend.violations


async def test_the_device_is_named_to_the_backend() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1))
    await collect(runner_for(backend), plan({"q": "A"}))
    assert [batch.device for batch in backend.calls] == ["gpu0"]


# --- splitting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "max_works", "calls"), [(1, 1, 1), (2, 1, 3), (1, 4, 3)], ids=["indivisible", "devices", "works"]
)
async def test_a_batch_is_split_where_that_can_help(devices: int, max_works: int, calls: int) -> None:
    backend = ResidentFake({"A": footprint("A", max_works=max_works)}, gpus(devices))
    runner = runner_for(backend, max_assignments=4)
    events = await collect(runner, [batch_of("A", *(query(f"q{i}") for i in range(10)))])
    assert len(backend.calls) == calls
    assert len(panels(events)) == 10


@given(st.integers(0, 50), st.integers(1, 20))
def test_parts_are_the_whole_and_even(count: int, most: int) -> None:
    whole = batch_of("A", *(query(f"q{i}") for i in range(count)))
    parts = in_parts(whole, most)
    assert [a for part in parts for a in part.assignments] == list(whole.assignments)
    sizes = [len(part.assignments) for part in parts]
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1
    assert len(parts) == max(1, -(-count // most))


DRAWS = st.dictionaries(st.text("pqr", min_size=1, max_size=3), st.text(LETTERS, min_size=1, max_size=4), max_size=8)


@settings(max_examples=30, deadline=None)
@given(DRAWS, st.integers(1, 4), st.integers(1, 3))
def test_no_answer_depends_on_the_split(draws: dict[str, str], most: int, devices: int) -> None:
    def texts(max_assignments: int, count: int) -> dict[str, list[str]]:
        backend = ResidentFake({e: footprint(e, max_works=2) for e in LETTERS}, gpus(count))
        events = asyncio.run(collect(runner_for(backend, max_assignments=max_assignments), plan(draws)))
        assert not backend.violations
        return {query_id: [c.text for c in panel] for query_id, panel in panels(events).items()}

    assert texts(most, devices) == texts(1000, 1)


# --- the place among other engines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2)])
async def test_engines_with_devices_take_turns_with_others(most: int, expected: int) -> None:
    resident = ResidentFake({"A": footprint("A", max_works=2)})
    plain = BatchedBackend(after({"B": 0.001}))
    experts = [expert("A", "resident"), expert("B", "plain")]
    runner = runner_of({"resident": resident, "plain": plain}, experts, max_parallel_batched=most, window_s=0.0)
    at_once: list[int] = []

    async def watch() -> None:
        while True:
            at_once.append((resident.open > 0) + (plain.open > 0))
            await asyncio.sleep(0)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(collect(runner, [batch_of(e, query(f"{e}{i}"))]) for i in range(5) for e in "AB"))
    watcher.cancel()
    assert max(at_once) == expected


async def test_an_engine_that_is_always_asked_lets_another_have_its_turn() -> None:
    busy, other = ResidentFake({"A": footprint("A", max_works=2)}), ResidentFake({"B": footprint("B")})
    runner = runner_of({"busy": busy, "other": other}, [expert("A", "busy"), expert("B", "other")], window_s=0.0)
    is_over = False

    async def ask_on(name: str) -> None:
        number = 0
        while not is_over:
            number += 1
            await collect(runner, [batch_of("A", query(f"{name}{number}"))])

    asking = [asyncio.create_task(ask_on(name)) for name in "xyz"]
    await until(lambda: len(busy.calls) > 3)
    await asyncio.wait_for(collect(runner, [batch_of("B", query("b"))]), 5)
    is_over = True
    await asyncio.gather(*asking)
    assert not busy.violations and not other.violations


# --- faults --------------------------------------------------------------------------------------------------------


async def test_a_failed_load_fails_its_expert_and_nothing_else() -> None:
    from router_service.errors import ExpertUnavailable

    def refuse_b(asked, device: str) -> None:
        if asked.id == "B":
            raise ExpertUnavailable("weights are missing", expert_id="B", retryable=False)

    backend = ResidentFake(OWN_MODEL, gpus(2, 4.0))
    backend.on_load = refuse_b
    events = await collect(runner_for(backend), plan({"p": "ABC", "q": "BC"}))
    failed = [c for c in completions_of(events) if not c.succeeded]
    assert {(c.query_id, c.expert_id) for c in failed} == {("p", "B"), ("q", "B")}
    assert {c.error.code for c in failed} == {"expert_unavailable"}
    assert "weights are missing" in failed[0].error.message
    assert all(c.latency_s == 0 for c in failed)


async def test_a_load_that_breaks_is_an_unavailable_expert() -> None:
    def break_down(asked, device: str) -> None:
        raise ZeroDivisionError("by zero")

    backend = ResidentFake(OWN_MODEL)
    backend.on_load = break_down
    [completion] = completions_of(await collect(runner_for(backend), plan({"q": "A"})))
    assert completion.error.code == "expert_unavailable"
    assert "ZeroDivisionError: by zero" in completion.error.message


async def test_a_model_larger_than_any_device_says_so() -> None:
    backend = ResidentFake(OWN_MODEL | {"A": footprint("A", gib=20.0)}, gpus(2))
    events = await collect(runner_for(backend), plan({"q": "AB"}))
    large, small = panels(events)["q"]
    assert large.error.code == "expert_unavailable" and small.succeeded
    assert "needs 20 GiB" in large.error.message and f"'gpu0', has {GIB:g} GiB" in large.error.message
    assert backend.loads == [("gpu0", "model-B")]


async def test_a_backend_without_devices_says_so() -> None:
    backend = ResidentFake(OWN_MODEL, ())
    [completion] = completions_of(await collect(runner_for(backend), plan({"q": "A"})))
    assert completion.error.code == "expert_unavailable" and "no device left" in completion.error.message


async def test_what_a_lost_device_leaves_undone_is_done_elsewhere() -> None:
    backend = ResidentFake({"A": footprint("A", max_works=2)}, gpus(2))
    lost: list[str] = []

    def lose_first(asked, batch: ExpertBatch) -> None:
        if not lost:
            lost.append(str(batch.device))
            asyncio.get_running_loop().call_later(0.01, backend.lose, lost[0])

    backend.on_call = lose_first
    backend.faults = Faults(steps=0)
    backend.hold = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, backend.hold.set)
    runner = runner_for(backend, limits={"max_attempts": 1})
    events = await collect(runner, [batch_of("A", *map(query, "pqr"))])
    assert all(c.succeeded for c in completions_of(events))
    assert sorted(backend.delivered) == [("p", "A", 0), ("q", "A", 0), ("r", "A", 0)]
    assert {batch.device for batch in backend.calls} == {"gpu0", "gpu1"}
    assert not backend.violations


async def test_what_came_before_the_device_was_lost_is_not_asked_again() -> None:
    class LosesMidway(ResidentFake):
        async def complete(self, asked, batch):
            count = 0
            async for completion in super().complete(asked, batch):
                if len(self.calls) == 1 and count == 1:
                    self.lose(str(batch.device))
                    raise DeviceLost(str(batch.device), "its node died")
                count += 1
                yield completion

    backend = LosesMidway({"A": footprint("A")}, gpus(2))
    events = await collect(runner_for(backend), [batch_of("A", *map(query, "pqr"))])
    assert all(c.succeeded for c in completions_of(events))
    assert [[a.query.id for a in batch.assignments] for batch in backend.calls] == [["p", "q", "r"], ["q", "r"]]


async def test_the_last_device_lost_is_named() -> None:
    backend = ResidentFake(OWN_MODEL)
    backend.on_call = lambda asked, batch: backend.lose("gpu0")
    [completion] = completions_of(await collect(runner_for(backend), plan({"q": "A"})))
    assert completion.error.code == "expert_unavailable"
    assert "gpu0" in completion.error.message or "no device left" in completion.error.message


async def test_a_device_that_is_lost_again_and_again_uses_up_the_attempts() -> None:
    backend = ResidentFake(OWN_MODEL, faults=Faults(comes_back=1.0))
    backend.on_call = lambda asked, batch: backend.lose("gpu0")
    runner = runner_for(backend, limits={"max_attempts": 2})
    [completion] = completions_of(await collect(runner, plan({"q": "A"})))
    assert completion.error.code == "expert_unavailable" and "device 'gpu0' was lost" in completion.error.message
    assert len(backend.calls) == 4  # twice in each of two attempts


async def test_a_crashed_model_is_loaded_again_for_the_next_try() -> None:
    backend = ResidentFake({"A": footprint("A", max_works=4)})
    backend.on_call = lambda asked, batch: backend.crash("gpu0", "A") if len(backend.calls) <= 3 else None
    runner = runner_for(backend)
    runs = await asyncio.gather(*(collect(runner, [batch_of("A", query(name))]) for name in "pqr"))
    events = [event for events in runs for event in events]
    assert all(c.succeeded for c in completions_of(events))
    assert backend.loads == [("gpu0", "A")] * 2
    assert not backend.violations


async def test_a_device_that_comes_later_is_used() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 4.0))
    runner = runner_for(backend)
    backend.hold = asyncio.Event()
    first = asyncio.create_task(collect(runner, plan({"p": "A"})))
    await until(lambda: backend.open == 1)
    backend.all_devices["late"] = backend.there["late"] = Device(name="late", memory_gib=4.0)
    second = asyncio.create_task(collect(runner, plan({"q": "B"})))
    await until(lambda: backend.open == 2)
    backend.hold.set()
    await asyncio.gather(first, second)
    assert {batch.device for batch in backend.calls} == {"gpu0", "late"}


async def test_a_device_that_left_quietly_is_not_used_again() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(2, 4.0))
    runner = runner_for(backend)
    await collect(runner, plan({"p": "AB"}))
    backend.there.pop("gpu0")
    backend.calls.clear()
    events = await collect(runner, plan({"q": "ABC"}))
    assert all(c.succeeded for c in completions_of(events))
    assert {batch.device for batch in backend.calls} == {"gpu1"}


# --- going away ----------------------------------------------------------------------------------------------------


async def cancelled(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.wait([task])


async def test_who_goes_away_while_waiting_is_forgotten() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 4.0))
    runner = runner_for(backend)
    backend.hold = asyncio.Event()
    first = asyncio.create_task(collect(runner, plan({"p": "A"})))
    await until(lambda: backend.open == 1)
    waiting = asyncio.create_task(collect(runner, plan({"q": "B"})))
    await asyncio.sleep(0.01)
    await cancelled(waiting)
    backend.hold.set()
    await first
    assert completions_of(await collect(runner, plan({"r": "A"})))[0].succeeded
    assert backend.loads == [("gpu0", "model-A")]


async def test_going_away_during_the_load_leaves_the_schedule_going() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 4.0))
    runner = runner_for(backend)
    backend.gate = asyncio.Event()
    waiting = asyncio.create_task(collect(runner, plan({"q": "A"})))
    await until(lambda: backend.loads)
    await cancelled(waiting)
    backend.gate.set()
    events = await asyncio.wait_for(collect(runner, plan({"r": "BA"})), 5)
    assert all(c.succeeded for c in completions_of(events))
    assert not backend.violations


async def test_closing_ends_what_waits_and_refuses_what_comes() -> None:
    backend = ResidentFake(OWN_MODEL, gpus(1, 4.0))
    runner = runner_for(backend)
    backend.gate = asyncio.Event()
    waiting = asyncio.create_task(collect(runner, plan({"q": "AB"})))
    await until(lambda: backend.loads)
    await runner.aclose()
    events = await asyncio.wait_for(waiting, 5)
    late = await collect(runner, plan({"r": "A"}))
    for completion in completions_of([*events, *late]):
        assert completion.error.code == "expert_unavailable" and "closed" in completion.error.message
    assert not backend.places and backend.is_closed


def test_closing_works_where_a_loop_ended_with_calls_that_wait() -> None:
    backend = ResidentFake(OWN_MODEL)
    runner = runner_for(backend)
    backend.gate = asyncio.Event()

    async def wait_for_it() -> None:
        async with runner._residency.turn(expert("A"), backend, batch_of("A", query("q"))):
            pass

    loop = asyncio.new_event_loop()
    waiting = loop.create_task(wait_for_it())
    loop.run_until_complete(until(lambda: backend.loads))
    loop.close()
    asyncio.run(runner.aclose())
    assert backend.is_closed and not waiting.done()
    backend.gate = None


async def test_an_engine_has_its_timeout_for_all_that_runs_beside_it() -> None:
    backend = ResidentFake({"A": footprint("A", max_works=3)})
    backend.hold = asyncio.Event()
    runner = runner_for(backend, limits={"timeout_s": 0.05, "max_attempts": 1})
    asyncio.get_running_loop().call_later(0.08, backend.hold.set)
    runs = [collect(runner, [batch_of("A", query(name))]) for name in "pqr"]
    ends = completions_of(event for events in await asyncio.gather(*runs) for event in events)
    assert [c.succeeded for c in ends] == [False, True, True] or all(c.succeeded for c in ends)
    assert any(c.succeeded for c in ends)


# --- whatever happens ----------------------------------------------------------------------------------------------

CHANCE = st.sampled_from([0.0, 0.1, 0.4])
FAULTS = st.builds(
    Faults,
    seed=st.integers(0, 10_000),
    load_fails=CHANCE,
    load_loses=CHANCE,
    crashes=CHANCE,
    loses=CHANCE,
    comes_back=st.sampled_from([0.0, 0.5, 1.0]),
    refuses=CHANCE,
)
TURNS = st.fixed_dictionaries({e: st.sampled_from(["m", "n", "o"]) for e in LETTERS})
RUNS = st.lists(
    st.tuples(st.text(LETTERS, min_size=1, max_size=6), st.integers(0, 30), st.booleans()), min_size=1, max_size=6
)


@settings(max_examples=150, deadline=None)
@given(
    faults=FAULTS,
    models=TURNS,
    sizes=st.fixed_dictionaries({m: st.sampled_from([None, 2.0, 4.0, 8.0, 9.0]) for m in "mno"}),
    works=st.integers(1, 3),
    devices=st.integers(1, 3),
    runs=RUNS,
)
def test_every_call_ends_and_nothing_runs_where_it_cannot(
    faults: Faults, models: dict[str, str], sizes: dict[str, float | None], works: int, devices: int, runs: list
) -> None:
    """Runs of several callers begin and go away at any time, while loads fail, models crash and devices are lost."""
    takes = {e: footprint(m, turn=f"{m} {e}", gib=sizes[m], max_works=works) for e, m in models.items()}
    backend = ResidentFake(takes, gpus(devices), faults)
    runner = runner_for(backend, max_assignments=2)

    async def one(number: int, drawn: str, steps: int, *, leaves: bool) -> None:
        batches = plan({f"r{number}-{i}": drawn[i:] for i in range(len(drawn))})
        for _ in range(steps if not leaves else 0):
            await asyncio.sleep(0)
        task = asyncio.create_task(collect(runner, batches))
        if leaves:
            for _ in range(steps):
                await asyncio.sleep(0)
            await cancelled(task)
            return
        completions = completions_of(await task)
        keys = [(c.query_id, c.expert_id, c.sample) for c in completions]
        assert sorted(keys) == sorted(key for batch in batches for key in keys_of(batch))
        assert faults != replace(Faults(), seed=faults.seed, comes_back=faults.comes_back) or all(
            c.succeeded or sizes[models[c.expert_id]] == 9.0 for c in completions
        )

    async def all_of_them() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(
                *(one(n, drawn, steps, leaves=leaves) for n, (drawn, steps, leaves) in enumerate(runs))
            )
            await until(lambda: backend.open == 0)
            await runner.aclose()

    asyncio.run(all_of_them())
    assert not backend.violations
    assert len(set(backend.delivered)) == len(backend.delivered)
    assert not backend.places


# --- experience ----------------------------------------------------------------------------------------------------


def test_estimates_follow_what_was_measured() -> None:
    guess = Footprint(model="m", turn="t", load_s=10.0, tokens_per_s=100.0)
    experience = Experience()
    assert experience.informed(guess) == guess
    for _ in range(20):
        experience.loaded("m", 3.0, woke=False)
    experience.loaded("m", 0.5, woke=True)
    experience.began("gpu0", "m", now=0.0)
    experience.began("gpu0", "m", now=0.5)
    experience.ended("gpu0", "m", tokens=300.0, now=0.9)
    experience.ended("gpu0", "m", tokens=700.0, now=2.0)
    informed = experience.informed(guess)
    assert informed.load_s == pytest.approx(3.0)
    assert informed.tokens_per_s == pytest.approx(500.0)  # both together, over the two seconds
    assert informed.wake_s is None  # it cannot sleep there
    assert experience.informed(Footprint(model="n", turn="t")).load_s == 10.0


async def test_the_runner_learns_from_its_loads() -> None:
    from router_service.dispatch._residency_driver import Driver

    backend = ResidentFake(OWN_MODEL, gpus(1, 4.0))
    runner = runner_for(backend)
    await collect(runner, plan({"p": "A"}))
    [[driver]] = runner._residency._drivers.values()
    assert isinstance(driver, Driver)
    learned = driver.footprint(expert("A"))
    assert 0 < learned.load_s < 1.0 and learned.tokens_per_s > 1000
