"""The engine in your own process, no server: three experts that echo, one vote.

Run it with `python examples/in_process.py`; replace the pool by your own and it asks real models.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from experts_registry.pool import parse_pool
from router_service import RouteResponse, build_engine, user_query
from router_service.config import EngineConfig, PartConfig

POOL = {
    "experts": [
        {"id": "a", "model": "echo", "backend": "echo", "options": {"reply": "42"}},
        {"id": "b", "model": "echo", "backend": "echo", "options": {"reply": "The answer is 42"}},
        {"id": "c", "model": "echo", "backend": "echo", "options": {"reply": "41"}},
    ]
}


async def main() -> str:
    """Ask everybody, print who agreed, return the answer."""
    from router_service import AnswerKind, TaskFormat

    config = EngineConfig(recruiter=PartConfig(name="all"), aggregator=PartConfig(name="majority"))
    engine = build_engine(config, pool=parse_pool(POOL, "example", Path()))
    number = TaskFormat(kind=AnswerKind.NUMBER)
    (end,) = await engine.run([user_query("q1", "What is six times seven?", task_format=number)])
    await engine.aclose()
    assert isinstance(end, RouteResponse), end
    print(f"{end.answer.extracted}, says {' and '.join(end.answer.supporters)}; {end.usage.completions} completions")
    return end.answer.extracted or ""


if __name__ == "__main__":
    asyncio.run(main())
