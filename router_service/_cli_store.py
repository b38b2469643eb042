"""The option that names a job store, and the store that it opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from router_service.errors import ConfigError

if TYPE_CHECKING:
    from router_service.store.base import JobStore

__all__ = ["MaxClaimsOption", "StoreOption", "opened_store"]

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="ENLIST_STORE",
        help="Job store: sqlite:///FILE, a path ending in .sqlite or .job, redis://HOST:PORT.",
        show_default=False,
    ),
]

MaxClaimsOption = Annotated[
    int, typer.Option("--max-claims", min=1, help="Workers that may die over a line before it is given up as failed.")
]


@asynccontextmanager
async def opened_store(url: str | None) -> AsyncIterator[JobStore]:
    """The store of that address, closed at the end; raises `ConfigError` where there is no address, or no such file."""
    from router_service.store.opening import open_store
    from router_service.store.sqlite import Sqlite

    if url is None:
        raise ConfigError(
            "which job store? Give --store (or set ENLIST_STORE): the file beside a running batch is OUT.jsonl.job"
        )
    store = open_store(url)
    try:
        if isinstance(store, Sqlite) and not store.path.exists():
            raise ConfigError(
                f"there is no job store {store.path}; a batch without --store has one beside its output while it runs"
            )
        yield store
    finally:
        await store.aclose()
