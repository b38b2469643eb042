"""Fakes of the dispatch tests: a backend that does what a script says and records it, and small value builders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from router_service.backends.base import Backend
from router_service.config import DispatchConfig
from router_service.dispatch.ledger import Ledger
from router_service.dispatch.planner import keys_of, plan_batches
from router_service.dispatch.runner import PanelReady, Runner, Settles, WaveEvent
from router_service.types import (
    Assignment,
    Budget,
    Completion,
    Expert,
    ExpertBatch,
    ExpertLimits,
    Prices,
    Query,
    Recruit,
    RouteDecision,
    TokenDelta,
    Usage,
    user_query,
)

Item = Completion | TokenDelta | Exception | float
"""What a script yields: a completion or delta is handed over, an exception is raised, a number is slept."""
Script = Callable[[Expert, ExpertBatch, int], Sequence[Item]]


class ScriptedBackend(Backend):
    """Does what `script(expert, batch, call number)` lists; counts what is open, and keeps what was cancelled."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or answer_all
        self.calls: list[ExpertBatch] = []
        self.open = 0
        self.most_open = 0
        self.cancelled: list[str] = []
        self.is_closed = False

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        self.calls.append(batch)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            for item in self.script(expert, batch, len(self.calls)):
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, int | float):
                    await asyncio.sleep(item)
                else:
                    yield item
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(expert.id)
            raise
        finally:
            self.open -= 1

    async def aclose(self) -> None:
        self.is_closed = True


class BatchedBackend(ScriptedBackend):
    """The same as an embedded engine: whole batches in one call."""

    is_batched = True


class SelfExtractingBackend(ScriptedBackend):
    """The same, with answers that are extracted already."""

    extracts_answers = True


def said(key: tuple[str, str, int], text: str = "42", **fields) -> Completion:
    query_id, expert_id, sample = key
    usage = fields.pop("usage", Usage(completions=1, prompt_tokens=10, completion_tokens=5, cost_usd=None))
    return Completion(query_id=query_id, expert_id=expert_id, sample=sample, text=text, usage=usage, **fields)


def answer_all(expert: Expert, batch: ExpertBatch, call: int) -> list[Item]:
    return [said(key, f"{key[1]} on {key[0]} #{key[2]}") for key in keys_of(batch)]


def after(delays_s: Mapping[str, float]) -> Script:
    """Everybody answers after the expert's own delay."""

    def script(expert: Expert, batch: ExpertBatch, call: int) -> list[Item]:
        return [delays_s.get(expert.id, 0.0), *answer_all(expert, batch, call)]

    return script


def expert(expert_id: str, backend: str = "fake", *, price: float | None = 1.0, **limits) -> Expert:
    prices = None if price is None else Prices(input_usd_per_mtok=price, output_usd_per_mtok=price)
    return Expert(
        id=expert_id, model=f"model-{expert_id}", backend=backend, prices=prices, limits=ExpertLimits(**limits)
    )


def query(query_id: str, **budget) -> Query:
    return replace(user_query(query_id, f"What is {query_id}?"), budget=Budget(**budget))


def plan(draws: Mapping[str, str], **budget) -> list[ExpertBatch]:
    """Batches for draws such as {"q1": "BBA"}: one letter per completion."""
    return plan_batches([(query(query_id, **budget), decision(query_id, drawn)) for query_id, drawn in draws.items()])


def decision(query_id: str, drawn: str, seed: int = 0) -> RouteDecision:
    recruits = tuple(Recruit(expert_id=e, samples=drawn.count(e)) for e in dict.fromkeys(drawn))
    return RouteDecision(query_id=query_id, recruits=recruits, recruiter="test", seed=seed)


def batch_of(expert_id: str, *queries: Query, samples: int = 1, streams: bool = False) -> ExpertBatch:
    return ExpertBatch(
        expert_id=expert_id, assignments=tuple(Assignment(query=q, samples=samples, streams=streams) for q in queries)
    )


class Sleeper:
    """A sleep that records how long it was asked for, and takes no time."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        await asyncio.sleep(0)


def runner_of(
    backend: Backend | Mapping[str, Backend],
    experts: Sequence[Expert],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    **settings,
) -> Runner:
    backends = {"fake": backend} if isinstance(backend, Backend) else backend
    return Runner(
        experts={e.id: e for e in experts}, backends=backends, settings=DispatchConfig(**settings), sleep=sleep
    )


async def collect(
    runner: Runner,
    batches: Sequence[ExpertBatch],
    ledgers: Mapping[str, Ledger] | None = None,
    *,
    settles: Settles | None = None,
) -> list[WaveEvent]:
    async with aclosing(runner.run(batches, ledgers or {}, settles=settles)) as events:
        return [event async for event in events]


def panels(events: Sequence[WaveEvent]) -> dict[str, tuple[Completion, ...]]:
    return {event.query_id: event.completions for event in events if isinstance(event, PanelReady)}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something became true, 5 s at most."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)
