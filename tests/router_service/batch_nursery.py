"""A process that runs a batch in a forked child per order, so that a test can kill many of them without many start-ups.

Orders come on standard input, one folder each; for each the child's process id is printed, then its exit code. What
experts are asked, and what is kept of it, is noted in the folder's `calls.log`, in the order in which it happens in all
processes together.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.backends.echo import Echo
from router_service.batch import BatchJob, WorkOptions, batch_settings, run_batch
from router_service.config import EngineConfig, PartConfig
from router_service.store.opening import open_store
from router_service.types import Expert, Question, user_query

EXPERTS = ("a", "b", "c")
WORK = WorkOptions(window=64, tick_s=0.05)


class CallLog:
    """Lines between line ends, with a dot last: a line that a kill cut short lacks the dot, and spoils no other."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, what: str, query_id: str, expert_id: str, sample: int) -> None:
        os.write(self._file, f"\n{what} {query_id}/{expert_id}/{sample} .\n".encode())


class LoggedEcho(Echo):
    def __init__(self, log: CallLog) -> None:
        self._log = log

    async def complete(self, expert, batch):
        for assignment in batch.assignments:
            for sample in range(assignment.first_sample, assignment.first_sample + assignment.samples):
                self._log.note("asked", assignment.query.id, expert.id, sample)
        async for event in super().complete(expert, batch):
            yield event


class LoggedMemo:
    def __init__(self, memo, log: CallLog) -> None:
        self._memo = memo
        self._log = log

    async def recall(self, keys):
        return await self._memo.recall(keys)

    async def keep(self, key, completion):
        await self._memo.keep(key, completion)
        self._log.note("kept", completion.query_id, completion.expert_id, completion.sample)


class LoggedEngine:
    def __init__(self, engine, log: CallLog) -> None:
        self._engine = engine
        self._log = log
        self.stream = engine.stream

    def remembering(self, memo):
        return LoggedEngine(self._engine.remembering(LoggedMemo(memo, self._log)), self._log)


def as_query(question: Question):
    return user_query(question.id, question.text)


async def run(folder: Path, url: str | None) -> None:
    """The whole batch of `folder`: three experts, a vote, windows smaller than the file."""
    experts = tuple(Expert(id=name, model=name, backend="echo", options={"latency_s": 0.004}) for name in EXPERTS)
    config = EngineConfig(
        annotator=PartConfig(name="blank"), recruiter=PartConfig(name="all"), aggregator=PartConfig(name="majority")
    )
    log = CallLog(folder / "calls.log")
    engine = build_engine(config, pool=Pool(name="echoes", experts=experts), backends={"echo": LoggedEcho(log)})
    job = BatchJob(
        source=folder / "in.jsonl",
        target=folder / "out.jsonl",
        as_query=as_query,
        as_chat=lambda query_id, body: user_query(query_id, ""),
        settings=batch_settings(config, engine.pool.experts),
        work=WORK,
    )
    async with AsyncExitStack() as stack:
        store = None if url is None else open_store(url)
        if store is not None:
            stack.push_async_callback(store.aclose)
        await run_batch(LoggedEngine(engine, log), job, store=store)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else None
    if url is not None:
        open_store(url)  # imports once what every child would import again
    for order in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(run(Path(order.rstrip("\n")), url))
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
