"""The backend `echo`: its template, its words, and its failures by seed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from router_service.backends.echo import Echo
from router_service.errors import ConfigError
from router_service.types import Assignment, Completion, Expert, Query, Sampling, TokenDelta, user_query
from tests.router_service.backends.cases import pieces


def expert(**options) -> Expert:
    return Expert(id="E", model="none", backend="echo", options=options)


async def say(expert: Expert, query: Query, **fields) -> list[Completion | TokenDelta]:
    Echo().check(expert)
    return await pieces(Echo(), expert, Assignment(query=query, **fields))


async def test_it_says_what_was_said() -> None:
    [completion] = await say(expert(), user_query("q", "two words"))
    assert completion.text == "two words"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (2, 2)
    assert completion.usage.cost_usd is None
    assert completion.finish_reason == "stop"


async def test_the_template_knows_who_and_which() -> None:
    template = expert(reply="{expert_id}/{query_id}/{sample}: {text} {{ok}}")
    completions = await say(template, user_query("q", "{hi}"), samples=2, first_sample=1)
    assert [c.text for c in completions] == ["E/q/1: {hi} {ok}", "E/q/2: {hi} {ok}"]


async def test_a_stop_sequence_ends_it_streamed_or_not() -> None:
    query = replace(user_query("q", "one two HALT three, four"), sampling=Sampling(stop=(",", "HALT")))
    *deltas, completion = await say(expert(), query, streams=True)
    assert (completion.text, completion.finish_reason, completion.usage.completion_tokens) == ("one two ", "stop", 3)
    assert "".join(delta.text for delta in deltas) == completion.text
    configured = replace(expert(), sampling=Sampling(stop=("two",)))
    assert (await say(configured, user_query("q", "one two")))[0].text == "one "


async def test_the_token_limit_cuts() -> None:
    query = replace(user_query("q", "one two three four"), sampling=Sampling(max_tokens=2))
    [completion] = await say(expert(), query)
    assert (completion.text, completion.finish_reason) == ("one two", "length")


async def test_a_stream_comes_word_by_word_in_its_own_time() -> None:
    started = time.perf_counter()
    items = await say(expert(per_token_s=0.02, latency_s=0.02), user_query("q", " a  b\nc "), streams=True)
    assert [item.text for item in items] == [" a", "  b", "\nc", " ", " a  b\nc "]
    assert time.perf_counter() - started >= 0.1
    assert items[-1].latency_s >= 0.1


async def test_failures_are_drawn_by_seed() -> None:
    flaky = expert(fail_rate=0.5, fail_code="expert_timeout")
    runs = [await say(flaky, user_query("q", "hi"), samples=50, seed=seed) for seed in (1, 1, 2)]
    failed = [[c.sample for c in run if not c.succeeded] for run in runs]
    assert failed[0] == failed[1] != failed[2]
    assert 10 < len(failed[0]) < 40
    assert all(c.error is None or (c.error.code, c.error.is_retryable) == ("expert_timeout", True) for c in runs[0])


async def test_refusals_are_not_worth_a_retry() -> None:
    [completion] = await say(expert(fail_rate=1.0, fail_code="expert_refused"), user_query("q", "hi"))
    assert not completion.error.is_retryable


async def test_cancelling_ends_the_wait() -> None:
    task = asyncio.create_task(say(expert(latency_s=60), user_query("q", "hi")))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"replay": "x"}, "no option 'replay'. Did you mean 'reply'"),
        ({"reply": "{who}"}, "unknown field 'who'; allowed: expert_id"),
        ({"reply": "{text"}, "not a template"),
        ({"fail_rate": 1.5}, "'fail_rate' is 1.5"),
        ({"latency_s": -1.0}, "'latency_s' is -1.0"),
        ({"fail_code": "expert_unavailble"}, "error code 'expert_unavailble'. Did you mean 'expert_unavailable'"),
        ({"latency_s": "slow"}, "must be of type float"),
        ({"reply": True}, "must be of type str"),
    ],
)
def test_bad_options_are_named(options: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Echo().check(expert(**options))
