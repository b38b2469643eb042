"""Jobs in one SQLite file: for one machine, any number of processes; every result is synced before it counts."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from router_service.errors import ConfigError
from router_service.store._sqlite_file import SqliteFile
from router_service.store._sqlite_rows import (
    JOB_COLUMNS,
    claim_lines,
    insert_entries,
    insert_job,
    job_key,
    job_of,
    progress_of,
)
from router_service.store.base import (
    STORES,
    ClaimedLine,
    FinishedEntry,
    Job,
    JobLine,
    JobProgress,
    JobState,
    JobStore,
)
from router_service.store.gathering import Gathering
from router_service.store.records import (
    completion_from_json,
    completion_to_json,
    dump_json,
    entry_from_json,
    entry_to_json,
)
from router_service.types import Completion, CompletionMemo

__all__ = ["Sqlite"]

T = TypeVar("T")

_PAGE = 256


@STORES.register("sqlite")
class Sqlite(JobStore):
    """A store in a file, given as a path or as `sqlite:///relative/path` (four slashes: from the root).

    The file is made where it is not there. It must lie on a disk of this machine: SQLite's locks do not hold over
    network file systems. `max_bytes` limits its size, `busy_s` is how long to wait for another process that writes;
    `clock` gives seconds since 1970 and is replaceable, for tests.
    """

    def __init__(
        self, url: str, *, max_bytes: int | None = None, busy_s: float = 30.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = SqliteFile(_path_of(url), max_bytes=max_bytes, busy_s=busy_s)
        self._clock = clock

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    async def create(self, job: Job, lines: Iterable[JobLine], *, entries: Iterable[FinishedEntry] = ()) -> bool:
        """Add a job with all its lines in one transaction."""
        return await self._write(lambda db: insert_job(db, job, lines=lines, entries=entries, now=self._clock()))

    async def job(self, job_id: str) -> Job:
        """The job as it stands."""

        def work(db: sqlite3.Connection) -> Job:
            job_key(db, job_id)
            return job_of(db.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone())

        return await self._read(work)

    async def jobs(self) -> list[Job]:
        """All jobs, newest first."""

        def work(db: sqlite3.Connection) -> list[Job]:
            return [
                job_of(row) for row in db.execute(f"SELECT {JOB_COLUMNS} FROM jobs ORDER BY created_s DESC, key DESC")
            ]

        return await self._read(work)

    async def set_state(self, job_id: str, state: JobState, *, unless: Sequence[JobState] = ()) -> bool:
        """Move a job on."""

        def work(db: sqlite3.Connection) -> bool:
            key = job_key(db, job_id)
            marks = ", ".join("?" * len(unless))
            ended_s = self._clock() if state.is_end else None
            is_open = "SELECT 1 FROM open_lines WHERE job = ?"
            if state is JobState.COMPLETED and db.execute(f"{is_open} LIMIT 1", (key,)).fetchone():
                return False
            return bool(
                db.execute(
                    f"UPDATE jobs SET state = ?, ended_s = ? WHERE key = ? AND state NOT IN ({marks})",
                    (state.value, ended_s, key, *(other.value for other in unless)),
                ).rowcount
            )

        return await self._write(work)

    async def claim(self, job_id: str, *, worker: str, limit: int, lease_s: float) -> list[ClaimedLine]:
        """Lines for this worker alone."""

        def work(db: sqlite3.Connection) -> list[ClaimedLine]:
            return claim_lines(db, job_id, worker=worker, limit=limit, now=self._clock(), lease_s=lease_s)

        return await self._write(work)

    async def renew(self, job_id: str, *, worker: str, lease_s: float) -> set[int]:
        """Prolong this worker's leases."""

        def work(db: sqlite3.Connection) -> set[int]:
            key = job_key(db, job_id)
            until_s = self._clock() + lease_s
            db.execute("UPDATE open_lines SET lease_until_s = ? WHERE job = ? AND worker = ?", (until_s, key, worker))
            held = db.execute("SELECT number FROM open_lines WHERE job = ? AND worker = ?", (key, worker))
            return {number for (number,) in held}

        return await self._write(work)

    async def give_back(self, job_id: str, *, worker: str, is_lost: bool = False) -> int:
        """End a worker's leases."""

        def work(db: sqlite3.Connection) -> int:
            key = job_key(db, job_id)
            count = db.execute(
                "UPDATE open_lines SET worker = NULL, attempts = attempts - ? WHERE job = ? AND worker = ?",
                (int(not is_lost), key, worker),
            ).rowcount
            db.execute("UPDATE jobs SET reclaimed = reclaimed + ? WHERE key = ?", (count * is_lost, key))
            return count

        return await self._write(work)

    async def workers(self, job_id: str) -> list[str]:
        """Who holds leases that have not ended."""

        def work(db: sqlite3.Connection) -> list[str]:
            rows = db.execute(
                "SELECT DISTINCT worker FROM open_lines WHERE job = ? AND worker IS NOT NULL AND lease_until_s > ?",
                (job_key(db, job_id), self._clock()),
            )
            return sorted(worker for (worker,) in rows)

        return await self._read(work)

    async def finish(self, job_id: str, entry: FinishedEntry, *, worker: str | None = None) -> bool:
        """Keep a line's end, once."""
        text = entry_to_json(entry)

        def work(db: sqlite3.Connection) -> bool:
            key = job_key(db, job_id)
            is_mine = "" if worker is None else " AND worker = ?"
            mine = () if worker is None else (worker,)
            where = f"DELETE FROM open_lines WHERE job = ? AND number = ?{is_mine}"
            if not db.execute(where, (key, entry.number, *mine)).rowcount:
                return False
            insert_entries(db, key, [(entry, text)])
            return True

        return await self._write(work)

    async def reopen(self, job_id: str, *, retryable_only: bool = True) -> int:
        """Take failed lines back."""

        def work(db: sqlite3.Connection) -> int:
            key = job_key(db, job_id)
            which = "job = ? AND failed" + (" AND retryable" if retryable_only else "")
            db.execute(f"INSERT INTO open_lines (job, number) SELECT job, number FROM entries WHERE {which}", (key,))
            count = db.execute(f"DELETE FROM entries WHERE {which}", (key,)).rowcount
            state = JobState.IN_PROGRESS.value
            db.execute("UPDATE jobs SET state = ?, ended_s = NULL WHERE key = ?", (state, key))
            return count

        return await self._write(work)

    async def progress(self, job_id: str) -> JobProgress:
        """Counts and usage so far."""
        return await self._read(lambda db: progress_of(db, job_id, now=self._clock()))

    async def lines(self, job_id: str) -> AsyncIterator[JobLine]:
        """The input lines in order."""
        async for number, payload in self._paged(job_id, "SELECT number, payload FROM lines"):
            yield JobLine(number=number, payload=payload)

    async def entries(self, job_id: str) -> AsyncIterator[FinishedEntry]:
        """The finished lines in order."""
        async for number, text in self._paged(job_id, "SELECT number, entry FROM entries"):
            yield entry_from_json(number, text)

    async def remove(self, job_id: str) -> None:
        """Forget a job."""

        def work(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT key FROM jobs WHERE id = ?", (job_id,)).fetchone()
            for table in ("lines", "open_lines", "entries", "completions") if row else ():
                db.execute(f"DELETE FROM {table} WHERE job = ?", row)
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

        await self._write(work)

    def memo(self, job_id: str) -> CompletionMemo:
        """The job's completions."""
        return _Memo(self._file, job_id)

    async def drop_memo(self, job_id: str) -> None:
        """Forget the job's completions."""
        await self._write(
            lambda db: db.execute("DELETE FROM completions WHERE job = ?", (job_key(db, job_id),)).rowcount
        )

    async def aclose(self) -> None:
        """Close the file."""
        await self._file.aclose()

    async def discard(self) -> bool:
        """Close the file and delete it, unless it holds jobs or another process has it open; True where it is gone."""
        return await self._file.discard()

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return cast(T, await self._file.read(work))

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return cast(T, await self._file.write(work))

    async def _paged(self, job_id: str, select: str) -> AsyncIterator[tuple[int, Any]]:
        """Rows by number, a page at a time, so that others have their turn in between."""
        after = 0
        while True:

            def page(db: sqlite3.Connection, after: int = after) -> list[tuple[int, Any]]:
                sql = f"{select} WHERE job = ? AND number > ? ORDER BY number LIMIT {_PAGE}"
                return db.execute(sql, (job_key(db, job_id), after)).fetchall()

            rows = await self._read(page)
            for row in rows:
                yield row
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]


class _Memo:
    """The completions of one job in the file. Calls that come together become one statement: between two statements the
    file's thread would wait its turn with the busy one that runs the engine."""

    def __init__(self, file: SqliteFile, job_id: str) -> None:
        self._file = file
        self._job_id = job_id
        self._recalls: Gathering[Sequence[str]] = Gathering(self._recall_groups)
        self._keeps: Gathering[tuple[str, str]] = Gathering(self._keep_all)

    async def recall(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Those of the keys that are kept."""
        kept = cast(dict[str, str], await self._recalls(keys))
        return {key: completion_from_json(kept[key]) for key in keys if key in kept}

    async def keep(self, key: str, completion: Completion) -> None:
        """Keep a completion; the first one of a key stays."""
        await self._keeps((key, completion_to_json(completion)))

    async def _recall_groups(self, groups: Sequence[Sequence[str]]) -> list[dict[str, str]]:
        keys = dump_json([key for group in groups for key in group])

        def work(db: sqlite3.Connection) -> dict[str, str]:
            job = job_key(db, self._job_id)
            wanted = "SELECT value FROM json_each(?)"
            sql = f"SELECT key, completion FROM completions WHERE job = ? AND key IN ({wanted})"
            return dict(db.execute(sql, (job, keys)))

        kept = cast(dict[str, str], await self._file.read(work))
        return [kept] * len(groups)

    async def _keep_all(self, kept: Sequence[tuple[str, str]]) -> list[None]:
        rows = dump_json(kept)

        def work(db: sqlite3.Connection) -> None:
            values = "SELECT ?, value ->> 0, value ->> 1 FROM json_each(?)"
            db.execute(f"INSERT OR IGNORE INTO completions {values}", (job_key(db, self._job_id), rows))

        await self._file.write(work)
        return [None] * len(kept)


def _path_of(url: str) -> Path:
    if not url.lower().startswith("sqlite:"):
        return Path(url)
    path = url[len("sqlite:///") :]
    if url[: len("sqlite:///")].lower() != "sqlite:///" or not path or "?" in path:
        raise ConfigError(
            "a SQLite store's address is sqlite:///relative/path or sqlite:////absolute/path, without a host or "
            f"options; got {url!r}"
        )
    return Path(unquote(path))
