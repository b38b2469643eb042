"""A process that runs a batch in a forked child per order, so that a test can kill many of them without many start-ups.

Orders come on standard input, one line each; for each the child's process id is printed, then its exit code.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.backends.echo import Echo
from router_service.batch import BatchJob, batch_settings, run_batch
from router_service.config import EngineConfig, PartConfig
from router_service.types import Expert, Question, user_query


class LoggedEcho(Echo):
    """Echo that notes every query it is asked, in a file that outlives the process."""

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def complete(self, expert, batch):
        for assignment in batch.assignments:
            os.write(self._log, f"{assignment.query.id} {expert.id}\n".encode())
        async for event in super().complete(expert, batch):
            yield event


def run(folder: Path) -> None:
    """The whole batch of `folder`: two experts, a vote, a window smaller than the file."""
    experts = tuple(Expert(id=name, model=name, backend="echo", options={"latency_s": 0.004}) for name in ("a", "b"))
    config = EngineConfig(
        annotator=PartConfig(name="blank"), recruiter=PartConfig(name="all"), aggregator=PartConfig(name="majority")
    )
    engine = build_engine(
        config, pool=Pool(name="echoes", experts=experts), backends={"echo": LoggedEcho(folder / "asked.log")}
    )

    def as_query(question: Question):
        return user_query(question.id, question.text)

    job = BatchJob(
        source=folder / "in.jsonl",
        target=folder / "out.jsonl",
        as_query=as_query,
        as_chat=lambda query_id, body: user_query(query_id, ""),
        settings=batch_settings(config, engine.pool.experts),
        window=50,
    )
    asyncio.run(run_batch(engine, job))


def main() -> None:
    folder = Path(sys.argv[1])
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(folder)
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
