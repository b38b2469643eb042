"""Fakes for batches: an engine that asks a counting expert by its memo, stores that fail, and jobs to work on."""

from __future__ import annotations

import asyncio
import json

from router_service._batch_lines import LineParser, read_lines
from router_service.batch import submit
from router_service.errors import StoreUnavailable
from router_service.store.base import Job
from router_service.store.memory import Memory
from router_service.types import (
    Answer,
    Answered,
    Completion,
    Recruit,
    RouteDecision,
    RouteResponse,
    SkillAnnotation,
    Usage,
    user_query,
)

__all__ = ["FailingStore", "MemoEngine", "job_in", "parser"]


def as_query(question):
    return user_query(question.id, question.text)


parser = LineParser(as_query=as_query, as_chat=lambda query_id, body: user_query(query_id, "chat"))


class MemoEngine:
    """Asks two experts per query, each completion kept in its memo; `hold` keeps a query open until it is cancelled."""

    def __init__(self, asked=None, memo=None, hold=(), on_ask=None):
        self.asked = [] if asked is None else asked
        self.memo = memo
        self.hold = hold
        self.on_ask = on_ask
        self.cancelled = []

    def remembering(self, memo):
        engine = MemoEngine(self.asked, memo, self.hold, self.on_ask)
        engine.cancelled = self.cancelled
        return engine

    async def stream(self, queries, *, deadlines_from):
        for query in queries:
            completions = [await self._ask(query, expert) for expert in ("a", "b")]
            yield Answered(query_id=query.id, response=response_of(query, completions))

    async def _ask(self, query, expert):
        key = f"{query.id}/{expert}"
        kept = await self.memo.recall([key])
        if key in kept:
            return kept[key]
        self.asked.append(key)
        if self.on_ask is not None:
            await self.on_ask(key)
        if key in self.hold:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled.append(key)
                raise
        completion = Completion(
            query_id=query.id,
            expert_id=expert,
            text=query.text,
            usage=Usage(completions=1, prompt_tokens=1, completion_tokens=1, cost_usd=0.5),
        )
        await self.memo.keep(key, completion)
        return completion


def response_of(query, completions):
    return RouteResponse(
        query_id=query.id,
        annotation=SkillAnnotation(query_id=query.id),
        decision=RouteDecision(
            query_id=query.id,
            recruits=(Recruit(expert_id="a"), Recruit(expert_id="b")),
            recruiter="fixed",
            aggregator="majority",
            is_fallback=True,
            fallback_reason="nothing fitted",
        ),
        completions=tuple(completions),
        answer=Answer(text=query.text, aggregator="majority"),
        usage=sum((completion.usage for completion in completions), Usage()),
    )


async def job_in(store, folder, n_lines, *, job_id="j", header=None):
    """A job of so many questions, its last line malformed, in a store."""
    source = folder / f"{job_id}.jsonl"
    rows = [json.dumps({"id": f"q{n}", "question": f"question {n}"}) for n in range(1, n_lines)]
    source.write_text("".join(f"{row}\n" for row in [*rows, "{oops"]))
    lines = read_lines(source, as_query=parser.as_query, as_chat=parser.as_chat)
    await submit(store, Job(id=job_id, header=header or {"input": "abc"}), lines)
    return store


class FailingStore(Memory):
    """A store that is out of reach `n_failures` times from the call of that name on, before it does what it is told;
    with `answers_lost` it does it and the answer is lost."""

    def __init__(self, name, n_failures, *, answers_lost=False):
        super().__init__()
        self.left = n_failures
        self.n_failed = 0
        inner = getattr(self, name)

        async def failing(*args, **kwargs):
            if self.left > 0:
                self.left -= 1
                self.n_failed += 1
                if answers_lost:
                    await inner(*args, **kwargs)
                raise StoreUnavailable("out of reach")
            return await inner(*args, **kwargs)

        setattr(self, name, failing)
