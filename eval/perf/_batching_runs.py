"""The ways to answer the same questions that the bench of batching compares, on real engines, with every load counted.

`naive` is the loop over questions: each one's experts are loaded anew, one after the other, and nothing is kept. The
others give all questions to the engine as one wave.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from eval.perf._batching_scene import BatchingScale, config_of
from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.backends.base import Device, Footprint, ResidentBackend
from router_service.engine import Engine
from router_service.types import Completion, Expert, ExpertBatch, Query, RouteFailure, RouteResponse, TokenDelta

__all__ = ["MeteredBackend", "Run", "same_texts", "time_grouped", "time_naive", "warm_up"]

Texts = Mapping[tuple[str, str, int], str]
"""What each completion said, by query, expert and sample."""


class MeteredBackend(ResidentBackend):
    """A resident backend that holds at most `max_models` per device here, with its loads counted and timed."""

    def __init__(self, inner: ResidentBackend, *, max_models: int = 1) -> None:
        self._inner = inner
        self.max_models = max_models
        self.loads_s: list[float] = []
        self.models: set[str] = set()

    def devices(self) -> tuple[Device, ...]:
        """The inner backend's, with room for fewer models."""
        return tuple(replace(device, max_models=self.max_models) for device in self._inner.devices())

    def footprint(self, expert: Expert) -> Footprint:
        """As the inner backend says."""
        return self._inner.footprint(expert)

    def check(self, expert: Expert) -> None:
        """As the inner backend checks it."""
        self._inner.check(expert)

    async def load(self, expert: Expert, *, device: str) -> None:
        """Load it there, on the clock."""
        began = time.perf_counter()
        await self._inner.load(expert, device=device)
        self.loads_s.append(time.perf_counter() - began)
        self.models.add(self._inner.footprint(expert).model)

    async def release(self, model: str, *, device: str, sleeps: bool = False) -> None:
        """Give it back; nothing is kept asleep, so that a load is a load."""
        await self._inner.release(model, device=device)

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Completion | TokenDelta]:
        """As the inner backend answers."""
        async with aclosing(self._inner.complete(expert, batch)) as items:  # type: ignore[type-var]  # generators
            async for item in items:
                yield item

    async def aclose(self) -> None:
        """Close the inner backend."""
        await self._inner.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way's figures. `wall_s` is for the `measured` questions; `all_s` for all of them, in proportion where only
    some were measured. `cpu_s` is what this process and the ended ones of its engines worked, which other load on the
    machine mostly spares."""

    name: str
    questions: int
    measured: int
    wall_s: float
    cpu_s: float
    loads: int
    distinct_models: int
    load_s_mean: float
    failed: int
    texts: Texts = field(repr=False)
    answers: Mapping[str, str | None] = field(repr=False)

    @property
    def all_s(self) -> float:
        """Seconds for all questions."""
        return self.wall_s * self.questions / self.measured

    @property
    def all_cpu_s(self) -> float:
        """Seconds of work for all questions."""
        return self.cpu_s * self.questions / self.measured

    def as_json(self) -> dict[str, object]:
        """The figures; what was said is left out."""
        return {
            "name": self.name,
            "questions": self.questions,
            "measured_questions": self.measured,
            "wall_s": round(self.wall_s, 3),
            "wall_s_all_questions": round(self.all_s, 3),
            "cpu_s_all_questions": round(self.all_cpu_s, 3),
            "s_per_question": round(self.all_s / self.questions, 4),
            "loads": self.loads,
            "distinct_models": self.distinct_models,
            "load_s_mean": round(self.load_s_mean, 3),
            "failed_completions": self.failed,
        }


async def warm_up(pool: Pool, backend: MeteredBackend, query: Query, *, scale: BatchingScale) -> None:
    """Load and ask one expert, so that no run pays for imports and for reading the weights' file the first time."""
    small = replace(pool, experts=pool.experts[:1])
    engine = build_engine(config_of(replace(scale, k=1), prefetches=False), pool=small, backends=_named(pool, backend))
    await engine.run([query])
    await engine.aclose()


async def time_naive(
    pool: Pool,
    backend: MeteredBackend,
    queries: Sequence[Query],
    *,
    scale: BatchingScale,
    limit_s: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Run:
    """Question after question, everything released after each; stops after the question that passes the limit."""
    clock = _Clock("naive", backend, max_models=1)
    for number, query in enumerate(queries, start=1):
        engine = build_engine(config_of(scale, prefetches=False), pool=pool, backends=_named(pool, backend))
        await clock.answer(engine, [query])
        if number % 10 == 0:
            progress(f"naive: {number} of {len(queries)} questions in {clock.wall_s:.0f} s")
        if clock.wall_s > limit_s:
            break
    return clock.run(len(queries))


async def time_grouped(
    pool: Pool, backend: MeteredBackend, queries: Sequence[Query], *, scale: BatchingScale, prefetches: bool
) -> Run:
    """All questions as one wave; with room for a second model where the next one is loaded beside the running one."""
    clock = _Clock("grouped + prefetch" if prefetches else "grouped", backend, max_models=2 if prefetches else 1)
    engine = build_engine(config_of(scale, prefetches=prefetches), pool=pool, backends=_named(pool, backend))
    await clock.answer(engine, queries)
    return clock.run(len(queries))


def same_texts(one: Run, other: Run) -> tuple[int, int, int, int]:
    """Of the completions that both runs have: how many say the same, and how many there are; then the same for the
    questions' answers."""
    both = one.texts.keys() & other.texts.keys()
    asked = one.answers.keys() & other.answers.keys()
    equal = sum(one.texts[key] == other.texts[key] for key in both)
    return equal, len(both), sum(one.answers[key] == other.answers[key] for key in asked), len(asked)


class _Clock:
    """Gathers one run: time, loads and what was said."""

    def __init__(self, name: str, backend: MeteredBackend, *, max_models: int) -> None:
        self.name = name
        self.backend = backend
        self.wall_s = self.cpu_s = 0.0
        self.ends: list[RouteResponse | RouteFailure] = []
        backend.max_models = max_models
        backend.loads_s.clear()
        backend.models.clear()

    async def answer(self, engine: Engine, queries: Sequence[Query]) -> None:
        """Answer these and close the engine, on the clock."""
        began, worked = time.perf_counter(), sum(os.times()[:4])
        self.ends += await engine.run(queries)
        await engine.aclose()
        self.wall_s += time.perf_counter() - began
        self.cpu_s += sum(os.times()[:4]) - worked

    def run(self, questions: int) -> Run:
        """The figures so far."""
        completions = [completion for end in self.ends for completion in end.completions]
        loads_s = self.backend.loads_s
        return Run(
            name=self.name,
            questions=questions,
            measured=len(self.ends),
            wall_s=self.wall_s,
            cpu_s=self.cpu_s,
            loads=len(loads_s),
            distinct_models=len(self.backend.models),
            load_s_mean=sum(loads_s) / max(1, len(loads_s)),
            failed=sum(not completion.succeeded for completion in completions),
            texts={(c.query_id, c.expert_id, c.sample): c.text for c in completions if c.succeeded},
            answers={e.query_id: e.answer.text for e in self.ends if isinstance(e, RouteResponse)},
        )


def _named(pool: Pool, backend: MeteredBackend) -> dict[str, MeteredBackend]:
    return {expert.backend: backend for expert in pool.experts}
