"""One SQLite file: opened and checked, its writes grouped into commits, its faults named with the next step."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from router_service.errors import ConfigError, RouterError, StoreUnavailable
from router_service.store.gathering import Gathering

__all__ = ["SqliteFile", "Work"]

Work = Callable[[sqlite3.Connection], object]
"""What is done on the connection, in the file's own thread."""

_APPLICATION_ID = 0x656E6C73
"""`enls`, by which SQLite files say whose they are."""
_FORMAT = 1

_SCHEMA = """
CREATE TABLE jobs (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, header TEXT NOT NULL, metadata TEXT NOT NULL,
    state TEXT NOT NULL, n_lines INTEGER NOT NULL, created_s REAL NOT NULL, ended_s REAL,
    reclaimed INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE lines (job INTEGER NOT NULL, number INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (job, number));
CREATE TABLE open_lines (
    job INTEGER NOT NULL, number INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, worker TEXT,
    lease_until_s REAL NOT NULL DEFAULT 0, PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE INDEX open_lines_by_attempts ON open_lines (job, attempts, number);
CREATE INDEX open_lines_by_worker ON open_lines (job, worker) WHERE worker IS NOT NULL;
CREATE TABLE entries (
    job INTEGER NOT NULL, number INTEGER NOT NULL, failed INTEGER NOT NULL, retryable INTEGER NOT NULL,
    completions INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL,
    entry TEXT NOT NULL, PRIMARY KEY (job, number)
);
CREATE TABLE completions (
    job INTEGER NOT NULL, key TEXT NOT NULL, completion TEXT NOT NULL, PRIMARY KEY (job, key)
) WITHOUT ROWID;
"""


_STATEMENT_FAULTS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
"""What is wrong with what one caller gave, not with the file; its neighbours in the commit are kept."""


@dataclass(frozen=True, slots=True)
class _Op:
    work: Work
    writes: bool


class SqliteFile:
    """Runs work on the file in one thread; writes that are asked for at the same time share one commit (and one sync).

    What `write` returned is on disk. Raises `StoreUnavailable` where the file cannot be written now (disk full, locked,
    read errors), `ConfigError` where it never will be (no such folder, not ours, damaged, of a newer version).
    """

    def __init__(self, path: Path, *, max_bytes: int | None = None, busy_s: float = 30.0) -> None:
        self.path = path
        self._busy_s = busy_s
        self._max_bytes = max_bytes
        self._db: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job store")
        self._gather: Gathering[_Op] = Gathering(self._perform)

    async def read(self, work: Work) -> object:
        """The result of work that changes nothing."""
        return await self._gather(_Op(work, writes=False))

    async def write(self, work: Work) -> object:
        """The result of work that changes something, once that is on disk; where it raises, nothing of it is."""
        return await self._gather(_Op(work, writes=True))

    async def aclose(self) -> None:
        """Close the file after what is under way."""
        await self._gather.settled()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)

    async def discard(self) -> bool:
        """Close the file and delete it, unless it holds jobs or another process has it open; True where it is gone."""
        await self._gather.settled()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._discard)

    async def _perform(self, ops: Sequence[_Op]) -> Sequence[object]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, ops)

    # --- in the file's thread --------------------------------------------------------------------------------------

    def _commit(self, ops: Sequence[_Op]) -> list[object]:
        try:
            db = self._opened()
            is_writing = any(op.writes for op in ops)
            if is_writing:
                db.execute("BEGIN IMMEDIATE")
            results = [_in_savepoint(op.work, db) if op.writes else _attempt(op.work, db) for op in ops]
            if is_writing:
                db.execute("COMMIT")
        except sqlite3.Error as error:
            self._close()  # takes back what is not committed
            raise self._fault(error) from error
        return [self._fault(result) if isinstance(result, sqlite3.Error) else result for result in results]

    def _opened(self) -> sqlite3.Connection:
        """The connection. A file that another process deleted while it was being opened is made anew."""
        if not self.path.parent.is_dir():
            raise ConfigError(f"cannot write {self.path}: its folder is not there; choose a folder that exists")
        if self.path.is_dir():
            raise ConfigError(f"cannot write {self.path}: it is a folder; name a file for the job store")
        while self._db is None:
            before = _inode(self.path)
            db = sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(db)
                after = _inode(self.path)
                if after is not None and before in (None, after):
                    self._db = db
            finally:
                if self._db is None:
                    db.close()
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
        self._check_format(db)
        _switch_to_wal(db, self._busy_s)
        db.execute("PRAGMA synchronous=FULL")
        if self._max_bytes is not None:
            page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
            db.execute(f"PRAGMA max_page_count={self._max_bytes // page_bytes}")
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # no other process was faster
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={_FORMAT}")
        db.execute("COMMIT")

    def _check_format(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        is_empty = version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if is_empty:
            return
        if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise ConfigError(f"{self.path} is another program's database, not a job store; name another file")
        if version > _FORMAT:
            raise ConfigError(
                f"{self.path} is a job store of format {version}, and this version of enlist reads {_FORMAT}; upgrade "
                "enlist, or name another file"
            )

    def _discard(self) -> bool:
        try:
            db = self._opened()
            db.execute("PRAGMA busy_timeout=0")
            if db.execute("SELECT 1 FROM jobs LIMIT 1").fetchone() is not None:
                return False
            db.execute("PRAGMA journal_mode=DELETE")  # refused while any other connection is open
            db.execute("BEGIN EXCLUSIVE")
            self.path.unlink(missing_ok=True)
        except (sqlite3.Error, RouterError):  # what is wrong with the file was told where it was used
            return False
        finally:
            self._close()
        return True

    def _close(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = None

    def _fault(self, error: sqlite3.Error) -> RouterError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if isinstance(error, _STATEMENT_FAULTS):
            return ConfigError(
                f"{self.path} cannot keep this ({error}); each line of a job has a number of its own and less than 1 GB"
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return ConfigError(
                f"{self.path} is damaged, or not a job store ({error}); restore it from a copy, or move it away and "
                "begin anew"
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return ConfigError(
                f"cannot write {self.path}: {error}; give this user the right to write it and its folder, or choose "
                "another place"
            )
        if code == sqlite3.SQLITE_FULL:
            return StoreUnavailable(
                f"cannot write {self.path}: the disk, or the file's limit, is full; free some space and run the same "
                "again: what was finished is kept"
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreUnavailable(
                f"{self.path} has been locked by another process for {self._busy_s:g} s; see what holds it, and run "
                "the same again"
            )
        return StoreUnavailable(
            f"cannot read or write {self.path}: {error}; check its disk and run the same again: what was finished is "
            "kept"
        )


def _attempt(work: Work, db: sqlite3.Connection) -> object:
    try:
        return work(db)
    except _STATEMENT_FAULTS as error:
        return error
    except sqlite3.Error:
        raise
    except Exception as error:
        return error


def _in_savepoint(work: Work, db: sqlite3.Connection) -> object:
    """The result, or what was raised, with everything that the work had changed by then taken back."""
    db.execute("SAVEPOINT work")
    result = _attempt(work, db)
    if isinstance(result, Exception):
        db.execute("ROLLBACK TO work")
    db.execute("RELEASE work")
    return result


def _switch_to_wal(db: sqlite3.Connection, busy_s: float) -> None:
    """Let readers and one writer work at once; SQLite does not wait by itself where two switch at the same time."""
    deadline = time.monotonic() + busy_s
    while db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as busy:
            is_busy = busy.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
