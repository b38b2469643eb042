"""Runs a coroutine on an engine that is closed whatever happens, and opens the log of what the engine decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from router_service.config import EngineConfig
    from router_service.decision_log import DecisionLog
    from router_service.engine import Engine

__all__ = ["LogOption", "opened_log", "with_engine"]

LogOption = Annotated[
    Path | None, typer.Option("--log", help="Add each decision to this JSONL file.", show_default=False)
]

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


def opened_log(path: Path, config: EngineConfig, engine: Engine) -> DecisionLog:
    """The decision log at `path`, which names the engine's pool and artefact in each line."""
    from experts_registry.artefact import artefact_version
    from router_service.assembly import artefact_folder
    from router_service.decision_log import DecisionLog

    folder = artefact_folder(config)
    version = None if folder is None else artefact_version(folder)
    return DecisionLog(path, artefact=version, pool=engine.pool.name)
