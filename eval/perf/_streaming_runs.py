"""The runs of the bench of streaming: when the first byte comes, how long tokens are under way, what stopping saves."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import aiohttp
import numpy as np

from eval.perf._streaming_hosts import Scene, SceneExpert, app_process, scene_config, upstream_process
from eval.perf.timing import machine, today
from router_service.assembly import build_engine
from router_service.config import load_config
from router_service.types import RouteControls, RouteResponse, user_query

__all__ = ["Aim", "StreamingBench", "StreamingReport", "measure"]

T = TypeVar("T")

_EXPERTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingBench:
    """How much is measured: requests of each run, how many at once, how slow the panel is, how late the straggler."""

    requests: int = 200
    at_once: int = 4
    panel_s: float = 1.0
    straggler_s: float = 3.0
    votes: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of many times, in milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStop:
    """A vote of five with one straggler, stopped early and heard out: medians per query, and the upstream's own count
    of the straggler's calls."""

    votes: int
    calls_saved_per_vote: float
    answered_early_s: float
    answered_heard_out_s: float
    straggler_dropped: int
    straggler_finished: int
    answers_equal: int

    @property
    def saved_s(self) -> float:
        """Seconds by which the answer came earlier, in the median."""
        return self.answered_heard_out_s - self.answered_early_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A bar, and whether the figure keeps it: `value` is at most `limit`, or, where that is the wish, at least."""

    what: str
    value: float
    limit: float
    is_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the bar is kept."""
        return self.value >= self.limit if self.is_least else self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingReport:
    """All figures. `first_byte` is from the request going out to its first chunk, while the panel works; `first_token`
    and `all_tokens` from the backend's own clock to the caller."""

    first_byte: Spread
    first_token: Spread
    all_tokens: Spread
    early_stop: EarlyStop

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What is to hold."""
        return (
            Aim(what="first byte p99, ms", value=self.first_byte.p99_ms, limit=50.0),
            Aim(what="first aggregator token p99, ms", value=self.first_token.p99_ms, limit=20.0),
            Aim(what="calls saved per vote", value=self.early_stop.calls_saved_per_vote, limit=1.0, is_least=True),
            Aim(what="seconds saved per vote", value=self.early_stop.saved_s, limit=1.0, is_least=True),
        )

    def as_json(self) -> dict[str, object]:
        """The figures for a file, with the day and the kind of machine."""
        aims = [{**asdict(aim), "is_met": aim.is_met} for aim in self.aims]
        return {
            "date": today(),
            "machine": machine(),
            **asdict(self),
            "saved_s_per_vote": self.early_stop.saved_s,
            "aims": aims,
        }


def measure(bench: StreamingBench, *, progress: Callable[[str], None] = lambda text: None) -> StreamingReport:
    """Run all of it; some three minutes at full size."""
    slow = tuple(SceneExpert(id=f"expert-{n}", says=f"It is {n}.", delay_s=bench.panel_s) for n in range(_EXPERTS))
    progress(f"first bytes of {bench.requests} requests over a panel of {bench.panel_s:g} s")
    first_bytes = _served(Scene(experts=slow), lambda url: _first_bytes(url, bench))
    quick = tuple(SceneExpert(id=f"expert-{n}", says=f"It is {n}.", delay_s=0.01) for n in range(_EXPERTS))
    progress(f"tokens of {bench.requests} answers that an expert writes")
    lags = _served(Scene(experts=quick, aggregator="synthesise"), lambda url: _token_lags(url, bench))
    progress(f"{bench.votes} votes of five with one straggler of {bench.straggler_s:g} s, stopped early and heard out")
    return StreamingReport(
        first_byte=_spread(first_bytes),
        first_token=_spread([each[0] for each in lags]),
        all_tokens=_spread([lag for each in lags for lag in each]),
        early_stop=_early_stop(bench),
    )


def _served(scene: Scene, run: Callable[[str], Coroutine[Any, Any, T]]) -> T:
    with upstream_process(scene) as address, app_process(scene, address) as url:
        return asyncio.run(run(url))


def _spread(times_s: list[float]) -> Spread:
    times_ms = [1000 * each for each in times_s]
    return Spread(
        count=len(times_ms),
        p50_ms=float(np.percentile(times_ms, 50)),
        p99_ms=float(np.percentile(times_ms, 99)),
        max_ms=max(times_ms),
    )


# --- over HTTP -----------------------------------------------------------------------------------------------------


async def _first_bytes(url: str, bench: StreamingBench) -> list[float]:
    """Seconds from each request to its first chunk; every stream is read to its end, which must be a good one."""

    async def one(session: aiohttp.ClientSession, number: int) -> float:
        sent = time.monotonic()
        first: float | None = None
        async with aclosing(_chunks(session, url, number)) as chunks:
            async for _ in chunks:
                first = first or time.monotonic() - sent
        return first or float("inf")

    return await _all(one, bench)


async def _token_lags(url: str, bench: StreamingBench) -> list[list[float]]:
    """Seconds that each token of each answer was under way from the backend, by the backend's own clock."""

    async def one(session: aiohttp.ClientSession, number: int) -> list[float]:
        lags: list[float] = []
        async with aclosing(_chunks(session, url, number)) as chunks:
            async for chunk in chunks:
                now = time.monotonic()
                content = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
                lags += [now - float(said) for said in (content or "").split()]
        return lags

    return await _all(one, bench)


async def _all(one: Callable[[aiohttp.ClientSession, int], Coroutine[Any, Any, T]], bench: StreamingBench) -> list[T]:
    """All requests, so many at once; the connections are opened, and the first ones answered, off the clock."""
    places = asyncio.Semaphore(bench.at_once)

    async def in_place(session: aiohttp.ClientSession, number: int) -> T:
        async with places:
            return await one(session, number)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one(session, -number) for number in range(1, bench.at_once + 1)))
        return await asyncio.gather(*(in_place(session, number) for number in range(bench.requests)))


async def _chunks(session: aiohttp.ClientSession, url: str, number: int) -> AsyncGenerator[dict[str, Any], None]:
    body = {
        "model": "auto",
        "stream": True,
        "messages": [{"role": "user", "content": f"Question {number}: which number is it?"}],
    }
    is_done = False
    async with session.post(f"{url}/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            text = line.decode().strip()
            if text == "data: [DONE]":
                is_done = True
            elif text.startswith("data: "):
                chunk = json.loads(text.removeprefix("data: "))
                if "error" in chunk:
                    raise RuntimeError(f"a stream of the bench failed: {chunk['error']}")
                yield chunk
    if not is_done:
        raise RuntimeError("a stream of the bench broke off")


# --- through the engine --------------------------------------------------------------------------------------------


def _early_stop(bench: StreamingBench) -> EarlyStop:
    experts = [SceneExpert(id=f"expert-{n}", says="Seven.", delay_s=0.05) for n in range(_EXPERTS - 1)]
    straggler = SceneExpert(id="straggler", says="Eight.", delay_s=bench.straggler_s)
    scene = Scene(experts=(*experts, straggler))
    with upstream_process(scene) as address:
        early, counts = asyncio.run(_votes(scene, address, bench=bench, waits_for_all=False))
        heard_out, _ = asyncio.run(_votes(scene, address, bench=bench, waits_for_all=True))
    return EarlyStop(
        votes=bench.votes,
        calls_saved_per_vote=statistics.mean(vote.calls_saved for vote in early),
        answered_early_s=statistics.median(vote.answered_s for vote in early),
        answered_heard_out_s=statistics.median(vote.answered_s for vote in heard_out),
        straggler_dropped=counts["dropped"],
        straggler_finished=counts["finished"],
        answers_equal=sum(one.extracted == other.extracted for one, other in zip(early, heard_out, strict=True)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vote:
    answered_s: float
    calls_saved: int
    extracted: str | None


async def _votes(
    scene: Scene, address: str, *, bench: StreamingBench, waits_for_all: bool
) -> tuple[list[_Vote], dict[str, int]]:
    """The votes, and what the upstream says became of the straggler's calls once none of them is open any more."""
    with scene_config(scene, address) as path:
        engine = build_engine(load_config(path))

    async def vote(number: int) -> _Vote:
        query = replace(user_query(f"q{number}", "How many?"), controls=RouteControls(waits_for_all=waits_for_all))
        began = time.monotonic()
        (end,) = await engine.run([query])
        if not isinstance(end, RouteResponse):
            raise RuntimeError(f"a vote of the bench failed: {end.message}")
        return _Vote(answered_s=time.monotonic() - began, calls_saved=end.calls_saved, extracted=end.answer.extracted)

    try:
        await vote(-1)  # opens the connections
        found = list(await asyncio.gather(*(vote(number) for number in range(bench.votes))))
        return found, await _settled_counts(address)
    finally:
        await engine.aclose()


async def _settled_counts(address: str) -> dict[str, int]:
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{address}/stats") as response:
                counts: dict[str, int] = (await response.json())["straggler"]
            if counts["asked"] == counts["finished"] + counts["dropped"]:
                return counts
            await asyncio.sleep(0.05)
