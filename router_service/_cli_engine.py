"""Runs a coroutine on an engine that is closed whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from router_service.config import EngineConfig
    from router_service.engine import Engine

__all__ = ["with_engine"]

T = TypeVar("T")


def with_engine(config: EngineConfig, work: Callable[[Engine], Awaitable[T]]) -> T:
    """Build the configured engine, await `work` on it, and give back what its backends hold."""
    from router_service.assembly import build_engine

    engine = build_engine(config)

    async def run() -> T:
        try:
            return await work(engine)
        finally:
            await engine.aclose()

    return asyncio.run(run())
