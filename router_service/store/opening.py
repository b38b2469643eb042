"""Opens a job store by its address."""

from __future__ import annotations

import re
from pathlib import Path

from router_service.errors import ConfigError
from router_service.store.base import STORES, JobStore

__all__ = ["FILE_SUFFIXES", "open_store"]

FILE_SUFFIXES = (".sqlite", ".sqlite3", ".job")
"""A path that ends so is taken for a SQLite file without its saying so."""

_SCHEME = re.compile(r"([A-Za-z][\w+.-]*):")
_SAME_STORE = {"rediss": "redis", "valkey": "redis", "valkeys": "redis"}
_EXAMPLES = "sqlite:///jobs.sqlite, sqlite:////data/jobs.sqlite, redis://host:6379/0, or a path that ends in .sqlite"


def open_store(url: str) -> JobStore:
    """The store at an address: `sqlite:///relative/path`, `sqlite:////absolute/path`, a path that ends in `.sqlite` or
    `.job`, `redis://...`, `rediss://...` or `memory:`.

    Nothing is opened or reached before the first call. Raises `UnknownNameError` for a scheme that is not there and
    `ConfigError` for what is no address; neither repeats the address, which may hold a password.
    """
    if Path(url).suffix in FILE_SUFFIXES and "://" not in url:
        return STORES.create("sqlite", {"url": url})
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise ConfigError(f"a job store's address needs a scheme; write {_EXAMPLES}")
    name = scheme[1].lower()
    return STORES.create(_SAME_STORE.get(name, name), {"url": url})
