"""A backend `vllm` whose engines are of straw, its experts, and what tests ask of both."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from router_service.backends.vllm import Vllm
from router_service.types import Assignment, Completion, Expert, ExpertBatch, Sampling, TokenDelta, user_query
from tests.router_service.backends import fake_engine

PATIENCE_S = 20.0


@asynccontextmanager
async def straw(**options: object) -> AsyncIterator[Vllm]:
    """A backend on engines of straw, closed in the end."""
    given = {"devices": [{"name": "cpu", "memory_gib": 64}], "threads": 1, **options}
    backend = Vllm(worker=fake_engine.SCRIPT, **given)
    try:
        yield backend
    finally:
        await backend.aclose()


def expert_on(base: str, name: str = "E", **fields: object) -> Expert:
    given = {"memory_gib": 1.0, "sampling": Sampling(max_tokens=8), **fields}
    lora_base = base if given.get("adapter") else None
    return Expert(id=name, model=base, backend="vllm", lora_base=lora_base, **given)


def ask(text: str, *, sampling: Sampling | None = None, **fields: object) -> Assignment:
    query = replace(user_query(text, text), sampling=sampling or Sampling())
    return Assignment(query=query, **fields)


async def pieces(
    backend: Vllm, expert: Expert, *assignments: Assignment, device: str | None = None
) -> list[Completion | TokenDelta]:
    asked = ExpertBatch(expert_id=expert.id, assignments=assignments, device=device)
    return [piece async for piece in backend.complete(expert, asked)]


async def texts(backend: Vllm, expert: Expert, *assignments: Assignment, device: str | None = None) -> list[str]:
    """What was said, in order of assignments and samples; every completion a success."""
    found = [p for p in await pieces(backend, expert, *assignments, device=device) if isinstance(p, Completion)]
    assert all(completion.succeeded for completion in found), found
    order = [assignment.query.id for assignment in assignments]
    return [c.text for c in sorted(found, key=lambda c: (order.index(c.query_id), c.sample))]


def is_running(pid: int) -> bool:
    """True for a process that exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def engine_pids() -> set[int]:
    """The engine processes of straw that this process has."""
    own = f"{os.getpid()}"
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_running(int(entry.name)):
            try:
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if parent == own and fake_engine.SCRIPT in command:
                found.add(int(entry.name))
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)
