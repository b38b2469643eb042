"""The runner: every completion once, limits kept, retries bounded, and one query's trouble its own."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.config import DispatchConfig, parse_model
from router_service.dispatch.planner import keys_of
from router_service.dispatch.runner import PanelReady
from router_service.errors import ConfigError, ExpertRefused, ExpertUnavailable, InvalidQuery, UnknownNameError
from router_service.types import Completion, CompletionError, Secret, TaskFormat, TokenDelta, ToolCall, Usage
from tests.router_service.dispatch.fakes import (
    BatchedBackend,
    ScriptedBackend,
    SelfExtractingBackend,
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
)

DRAWS = st.dictionaries(st.text("pqr", min_size=1, max_size=3), st.text("ABCDE", min_size=1, max_size=5), max_size=6)


def pool(*ids: str, **limits):
    return [expert(expert_id, **limits) for expert_id in ids]


# --- what comes out ------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(DRAWS, st.booleans())
def test_every_sample_comes_once_and_every_panel_after_its_last(draws: dict[str, str], is_batched: bool) -> None:
    backend = BatchedBackend() if is_batched else ScriptedBackend()
    batches = plan(draws)
    events = asyncio.run(collect(runner_of(backend, pool(*"ABCDE")), batches))
    completions = [event for event in events if isinstance(event, Completion)]
    keys = [(c.query_id, c.expert_id, c.sample) for c in completions]
    assert sorted(keys) == sorted(key for batch in batches for key in keys_of(batch))
    assert all(c.succeeded for c in completions)
    for query_id, panel in panels(events).items():
        ready_at = next(i for i, e in enumerate(events) if isinstance(e, PanelReady) and e.query_id == query_id)
        assert all(events.index(completion) < ready_at for completion in panel)
        assert [c.expert_id for c in panel] == [
            e for d in dict.fromkeys(draws[query_id]) for e in draws[query_id] if e == d
        ]


@settings(max_examples=25, deadline=None)
@given(DRAWS, st.booleans())
def test_a_query_gets_the_same_panel_alone_and_in_company(draws: dict[str, str], is_batched: bool) -> None:
    def panels_of(some: dict[str, str]) -> dict[str, tuple[Completion, ...]]:
        backend = BatchedBackend() if is_batched else ScriptedBackend()
        return panels(asyncio.run(collect(runner_of(backend, pool(*"ABCDE")), plan(some))))

    alone = {query_id: panels_of({query_id: drawn})[query_id] for query_id, drawn in draws.items()}
    assert panels_of(draws) == alone


async def test_an_empty_run_ends() -> None:
    assert await collect(runner_of(ScriptedBackend(), []), []) == []


async def test_costs_and_answers_are_filled_in() -> None:
    backend = ScriptedBackend(lambda e, b, n: [said(key, "so the answer is (C)") for key in keys_of(b)])
    choice = query("q")
    object.__setattr__(choice, "task_format", TaskFormat(kind="choice", options=("x", "y", "z")))
    [completion, _] = await collect(runner_of(backend, pool("A")), [batch_of("A", choice)])
    assert completion.extracted == "C"
    assert completion.usage.cost_usd == pytest.approx(15e-6)


async def test_what_the_backend_knows_better_is_kept() -> None:
    usage = Usage(completions=1, prompt_tokens=1, completion_tokens=1, cost_usd=0.25)
    backend = ScriptedBackend(lambda e, b, n: [said(k, "text", usage=usage, extracted="mine") for k in keys_of(b)])
    [completion, _] = await collect(runner_of(backend, pool("A")), [batch_of("A", query("q"))])
    assert (completion.extracted, completion.usage.cost_usd) == ("mine", 0.25)


async def test_an_unknown_price_stays_unknown() -> None:
    experts = [expert("A", price=None), expert("B", price=0.0)]
    events = await collect(runner_of(ScriptedBackend(), experts), plan({"q": "AB"}))
    assert [c.usage.cost_usd for c in panels(events)["q"]] == [None, 0.0]


async def test_tokens_nobody_counted_cost_nobody_knows_what() -> None:
    usage = Usage(completions=1, cost_usd=None)
    backend = ScriptedBackend(lambda e, b, n: [said(k, usage=usage) for k in keys_of(b)])
    [completion, _] = await collect(runner_of(backend, pool("A")), [batch_of("A", query("q"))])
    assert completion.usage.cost_usd is None


async def test_a_recorded_missing_answer_stays_missing() -> None:
    backend = SelfExtractingBackend(lambda e, b, n: [said(k, "") for k in keys_of(b)])
    [completion, _] = await collect(runner_of(backend, pool("A")), [batch_of("A", query("q"))])
    assert completion.succeeded
    assert completion.extracted is None


# --- failures ------------------------------------------------------------------------------------------------------


async def test_a_failing_expert_leaves_the_others_alone() -> None:
    def script(e, b, n):
        return [RuntimeError("kaput")] if e.id == "B" else answer_all(e, b, n)

    events = await collect(runner_of(ScriptedBackend(script), pool(*"ABC")), plan({"q1": "ABC", "q2": "AC"}))
    q1 = panels(events)["q1"]
    assert [c.succeeded for c in q1] == [True, False, True]
    assert q1[1].error is not None
    assert q1[1].error.code == "expert_error"
    assert "RuntimeError: kaput" in q1[1].error.message
    assert all(c.succeeded for c in panels(events)["q2"])


async def test_a_key_in_an_exception_is_not_told() -> None:
    from dataclasses import replace

    keyed = replace(expert("A"), api_key=Secret("sk-hidden"))
    for broke in (RuntimeError("bad header sk-hidden"), ExpertRefused("no sk-hidden here", expert_id="A")):
        backend = ScriptedBackend(lambda e, b, n, broke=broke: [broke])
        [completion, _] = await collect(runner_of(backend, [keyed]), [batch_of("A", query("q"))])
        assert "sk-hidden" not in completion.error.message
        assert "***" in completion.error.message


async def test_a_retryable_failure_is_tried_again_with_growing_pauses() -> None:
    sleeper = Sleeper()

    def script(e, b, n):
        return [ExpertUnavailable("down", expert_id="A")] if n < 4 else answer_all(e, b, n)

    runner = runner_of(
        ScriptedBackend(script),
        pool("A", max_attempts=4),
        sleep=sleeper,
        backoff_initial_s=1,
        backoff_max_s=3,
        jitter=0,
    )
    [completion, _] = await collect(runner, [batch_of("A", query("q"))])
    assert completion.succeeded
    assert sleeper.pauses_s == [1, 2, 3]


async def test_jitter_is_seeded_and_only_shortens() -> None:
    async def pauses(seed: int) -> list[float]:
        sleeper = Sleeper()
        backend = ScriptedBackend(lambda e, b, n: [ExpertUnavailable("down", expert_id="A")])
        runner = runner_of(backend, pool("A"), sleep=sleeper, backoff_initial_s=1, jitter=0.5, jitter_seed=seed)
        await collect(runner, [batch_of("A", query("q"))])
        return sleeper.pauses_s

    first, again, other = await pauses(1), await pauses(1), await pauses(2)
    assert first == again != other
    assert all(0.5 * full <= pause <= full for pause, full in zip(first, (1, 2), strict=True))


async def test_attempts_are_bounded_and_the_last_failure_is_told() -> None:
    backend = ScriptedBackend(lambda e, b, n: [ExpertUnavailable(f"down the {n}. time", expert_id="A")])
    runner = runner_of(backend, pool("A", max_attempts=3), sleep=Sleeper())
    [completion, _] = await collect(runner, [batch_of("A", query("q"))])
    assert len(backend.calls) == 3
    assert completion.error == CompletionError(code="expert_unavailable", message="down the 3. time", is_retryable=True)


async def test_what_was_refused_is_not_tried_again() -> None:
    backend = ScriptedBackend(lambda e, b, n: [ExpertRefused("bad key", expert_id="A")])
    [completion, _] = await collect(runner_of(backend, pool("A"), sleep=Sleeper()), [batch_of("A", query("q"))])
    assert len(backend.calls) == 1
    assert completion.error.code == "expert_refused"
    assert completion.usage.cost_usd == 0.0


async def test_retry_after_is_obeyed() -> None:
    sleeper = Sleeper()

    def script(e, b, n):
        return [ExpertUnavailable("later", expert_id="A", retry_after_s=7)] if n == 1 else answer_all(e, b, n)

    await collect(runner_of(ScriptedBackend(script), pool("A"), sleep=sleeper), [batch_of("A", query("q"))])
    assert sleeper.pauses_s == [7]


@pytest.mark.parametrize(("retry_after_s", "budget"), [(7, {"deadline_s": 5}), (100, {})])
async def test_a_pause_past_the_deadline_or_too_long_is_not_waited_for(retry_after_s: float, budget: dict) -> None:
    sleeper = Sleeper()
    backend = ScriptedBackend(lambda e, b, n: [ExpertUnavailable("later", expert_id="A", retry_after_s=retry_after_s)])
    runner = runner_of(backend, pool("A"), sleep=sleeper)
    [completion, _] = await collect(runner, [batch_of("A", query("q", **budget))])
    assert sleeper.pauses_s == []
    assert completion.error.code == "expert_unavailable"


async def test_a_failed_completion_is_tried_again_too() -> None:
    broken = CompletionError(code="expert_unavailable", message="busy", is_retryable=True)

    def script(e, b, n):
        return [said(k, "", error=broken) for k in keys_of(b)] if n == 1 else answer_all(e, b, n)

    [completion, _] = await collect(
        runner_of(ScriptedBackend(script), pool("A"), sleep=Sleeper()), [batch_of("A", query("q"))]
    )
    assert completion.succeeded
    assert completion.usage == Usage(
        completions=1, prompt_tokens=20, completion_tokens=10, cost_usd=pytest.approx(30e-6)
    )


async def test_nothing_is_repeated_once_a_token_was_shown() -> None:
    def script(e, b, n):
        return [TokenDelta(query_id="q", text="Once "), ExpertUnavailable("cut", expert_id="A")]

    backend = ScriptedBackend(script)
    events = await collect(runner_of(backend, pool("A"), sleep=Sleeper()), [batch_of("A", query("q"), streams=True)])
    assert [type(event) for event in events] == [TokenDelta, Completion, PanelReady]
    assert len(backend.calls) == 1
    assert events[1].usage.cost_usd is None


async def test_an_expert_that_says_nothing_gets_one_more_try_with_another_seed() -> None:
    backend = ScriptedBackend(lambda e, b, n: [said(k, "  ", finish_reason="length") for k in keys_of(b)])
    [completion, _] = await collect(
        runner_of(backend, pool("A", max_attempts=5), sleep=Sleeper()), [batch_of("A", query("q"))]
    )
    assert completion.error.code == "empty_completion"
    assert "length" in completion.error.message
    assert len({batch.assignments[0].seed for batch in backend.calls}) == len(backend.calls) == 2


async def test_a_tool_call_without_text_is_an_answer() -> None:
    call = ToolCall(id="1", name="f", arguments="{}")
    backend = ScriptedBackend(lambda e, b, n: [said(k, "", tool_calls=(call,)) for k in keys_of(b)])
    [completion, _] = await collect(runner_of(backend, pool("A")), [batch_of("A", query("q"))])
    assert completion.succeeded


async def test_a_call_that_hangs_is_a_timeout() -> None:
    backend = ScriptedBackend(after({"A": 60}))
    runner = runner_of(backend, pool("A", timeout_s=0.02, max_attempts=2), sleep=Sleeper())
    [completion, _] = await collect(runner, [batch_of("A", query("q"))])
    assert completion.error.code == "expert_timeout"
    assert "0.02 s" in completion.error.message
    assert backend.cancelled == ["A", "A"]
    assert backend.open == 0


async def test_samples_the_backend_forgets_are_failures() -> None:
    backend = ScriptedBackend(lambda e, b, n: answer_all(e, b, n)[:1])
    events = await collect(runner_of(backend, pool("A")), [batch_of("A", query("q"), samples=3)])
    panel = panels(events)["q"]
    assert [c.succeeded for c in panel] == [True, False, False]
    assert "ended without sample 2 of query 'q'" in panel[2].error.message


async def test_what_was_not_asked_for_is_dropped() -> None:
    def script(e, b, n):
        return [said(("other", "A", 0)), said(("q", "A", 9)), *answer_all(e, b, n), *answer_all(e, b, n)]

    events = await collect(runner_of(ScriptedBackend(script), pool("A")), [batch_of("A", query("q"))])
    assert [type(event) for event in events] == [Completion, PanelReady]


async def test_a_backend_that_cancels_itself_does_not_hang_the_run() -> None:
    class Cancelling(ScriptedBackend):
        async def complete(self, expert, batch):
            raise asyncio.CancelledError
            yield

    async with asyncio.timeout(20):
        [completion, _] = await collect(runner_of(Cancelling(), pool("A")), [batch_of("A", query("q"))])
    assert completion.error.code == "expert_error"


async def test_a_broken_set_up_raises() -> None:
    with pytest.raises(UnknownNameError, match="unknown expert 'Z'"):
        await collect(runner_of(ScriptedBackend(), pool("A")), [batch_of("Z", query("q"))])
    with pytest.raises(UnknownNameError, match="unknown backend 'fake'"):
        await collect(runner_of({"echo": ScriptedBackend()}, pool("A")), [batch_of("A", query("q"))])
    with pytest.raises(InvalidQuery, match="twice"):
        await collect(runner_of(ScriptedBackend(), pool("A")), [batch_of("A", query("q"), query("q"))])
    with pytest.raises(ConfigError, match="quorum"):
        parse_model(DispatchConfig, {"quorum": 0}, "dispatch")


async def test_closing_the_runner_closes_every_backend() -> None:
    class Stuck(ScriptedBackend):
        async def aclose(self) -> None:
            raise OSError("stuck")

    well = ScriptedBackend()
    await runner_of({"stuck": Stuck(), "well": well}, []).aclose()
    assert well.is_closed


# --- embedded engines ----------------------------------------------------------------------------------------------


async def test_an_engine_sees_whole_batches_one_at_a_time_in_order() -> None:
    backend = BatchedBackend(after(dict.fromkeys("ABC", 0.01)))
    events = await collect(runner_of(backend, pool(*"ABC")), plan({"q1": "CA", "q2": "BA", "q3": "CC"}))
    assert [(b.expert_id, len(b.assignments)) for b in backend.calls] == [("C", 2), ("A", 2), ("B", 1)]
    assert backend.most_open == 1
    assert len(panels(events)) == 3


async def test_turns_hold_over_several_runs_and_backends() -> None:
    x, y = BatchedBackend(after({"A": 0.02})), BatchedBackend(after({"B": 0.02}))
    experts = [expert("A", "x"), expert("B", "y")]
    for most, expected in ((1, 1), (2, 2)):
        runner = runner_of({"x": x, "y": y}, experts, max_parallel_batched=most)
        at_once: list[int] = []

        async def watch(at_once: list[int] = at_once) -> None:
            while True:
                at_once.append(x.open + y.open)
                await asyncio.sleep(0.001)

        watcher = asyncio.create_task(watch())
        runs = (collect(runner, [batch_of(e, query(f"{e}{i}"))]) for i in range(2) for e in "AB")
        await asyncio.gather(*runs)
        watcher.cancel()
        assert max(at_once) == expected


async def test_a_crash_midway_keeps_what_was_finished_and_retries_the_rest() -> None:
    def script(e, b, n):
        return (
            [answer_all(e, b, n)[0], ExpertUnavailable("out of memory", expert_id="A")]
            if n == 1
            else answer_all(e, b, n)
        )

    backend = BatchedBackend(script)
    events = await collect(
        runner_of(backend, pool("A"), sleep=Sleeper()), [batch_of("A", *map(query, "pqr"), samples=2)]
    )
    assert all(c.succeeded for panel in panels(events).values() for c in panel)
    assert [next(keys_of(batch)) for batch in backend.calls] == [("p", "A", 0), ("p", "A", 1)]


async def test_a_crash_for_good_fails_only_the_rest() -> None:
    def script(e, b, n):
        return [*answer_all(e, b, n)[:2], RuntimeError("segfault")]

    backend = BatchedBackend(script)
    events = await collect(runner_of(backend, pool("A")), [batch_of("A", *map(query, "pqr"))])
    assert [panels(events)[q][0].succeeded for q in "pqr"] == [True, True, False]
    assert len(backend.calls) == 1


@pytest.mark.parametrize(
    ("odd", "words"),
    [({"text": None}, "its text is None"), ({"usage": Usage(completions=1, prompt_tokens=None)}, "NoneType")],
)
@pytest.mark.parametrize("is_extracting", [False, True])
async def test_one_odd_completion_spoils_itself_alone(odd: dict, words: str, is_extracting: bool) -> None:
    def script(e, b, n):
        _, *rest = answer_all(e, b, n)
        return [said(("p", "A", 0), **odd), *rest]

    class Odd(BatchedBackend):
        extracts_answers = is_extracting

    events = await collect(runner_of(Odd(script), pool("A")), [batch_of("A", *map(query, "pqr"))])
    [failed] = panels(events)["p"]
    assert failed.error.code == "expert_error" and words in failed.error.message
    assert all(panels(events)[name][0].succeeded for name in "qr")


async def test_an_engine_has_its_timeout_per_sample() -> None:
    slow = BatchedBackend(lambda e, b, n: [0.03, *answer_all(e, b, n)])
    events = await collect(
        runner_of(slow, pool("A", timeout_s=0.02, max_attempts=1)), [batch_of("A", *map(query, "pqr"))]
    )
    assert all(panel[0].succeeded for panel in panels(events).values())


# --- limits --------------------------------------------------------------------------------------------------------


async def test_an_expert_is_never_asked_more_at_once_than_it_bears() -> None:
    backend = ScriptedBackend(after({"A": 0.005}))
    runner = runner_of(backend, pool("A", max_concurrency=3))
    runs = (collect(runner, [batch_of("A", *(query(f"{run}-{i}") for i in range(5)))]) for run in range(3))
    await asyncio.gather(*runs)
    assert backend.most_open == 3
    assert len(backend.calls) == 15


def test_one_runner_serves_several_event_loops() -> None:
    runner = runner_of(ScriptedBackend(after({"A": 0.001})), pool("A", max_concurrency=1))
    for _ in range(2):
        events = asyncio.run(collect(runner, [batch_of("A", *map(query, "pqr"))]))
        assert len(panels(events)) == 3
