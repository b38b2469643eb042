"""The statements behind the SQLite store: jobs, lines and entries as rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from router_service.errors import UnknownNameError
from router_service.store.base import ClaimedLine, FinishedEntry, Job, JobLine, JobProgress, JobState, claim_limit
from router_service.store.records import dump_json, entry_to_json, usage_parts
from router_service.types import Usage

__all__ = ["JOB_COLUMNS", "claim_lines", "insert_entries", "insert_job", "job_key", "job_of", "progress_of"]

JOB_COLUMNS = "id, header, metadata, state, n_lines, created_s, ended_s"
"""What `job_of` reads a job from, in this order."""


def job_key(db: sqlite3.Connection, job_id: str) -> int:
    """The number under which the file keeps a job; raises `UnknownNameError`."""
    row = db.execute("SELECT key FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise UnknownNameError("job", job_id, [known for (known,) in db.execute("SELECT id FROM jobs")])
    return int(row[0])


def job_of(row: Sequence[Any]) -> Job:
    """The job of a row of `JOB_COLUMNS`."""
    job_id, header, metadata, state, n_lines, created_s, ended_s = row
    return Job(
        id=job_id,
        header=json.loads(header),
        metadata=json.loads(metadata),
        state=JobState(state),
        n_lines=n_lines,
        created_s=created_s,
        ended_s=ended_s,
    )


def insert_job(
    db: sqlite3.Connection, job: Job, *, lines: Iterable[JobLine], entries: Iterable[FinishedEntry], now: float
) -> bool:
    """Add a job, its lines and what is finished of them; False where the id is there already."""
    if db.execute("SELECT 1 FROM jobs WHERE id = ?", (job.id,)).fetchone() is not None:
        return False
    texts = (job.id, dump_json(dict(job.header)), dump_json(dict(job.metadata)), JobState.IN_PROGRESS.value)
    insert = "INSERT INTO jobs (id, header, metadata, state, n_lines, created_s) VALUES (?, ?, ?, ?, 0, ?)"
    key = db.execute(insert, (*texts, now)).lastrowid
    assert key is not None
    count = db.executemany(
        "INSERT INTO lines VALUES (?, ?, ?)", ((key, line.number, line.payload) for line in lines)
    ).rowcount
    db.execute("UPDATE jobs SET n_lines = ? WHERE key = ?", (max(0, count), key))
    insert_entries(db, key, ((entry, entry_to_json(entry)) for entry in entries))
    db.execute(
        "INSERT INTO open_lines (job, number) SELECT job, number FROM lines WHERE job = ?1 "
        "AND number NOT IN (SELECT number FROM entries WHERE job = ?1)",
        (key,),
    )
    return True


def insert_entries(db: sqlite3.Connection, key: int, entries: Iterable[tuple[FinishedEntry, str]]) -> None:
    """Add finished lines, each with its JSON."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for entry, text in entries:
            yield (key, entry.number, entry.has_failed, entry.is_retryable, *usage_parts(entry.usage), text)

    db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows())


def claim_lines(
    db: sqlite3.Connection, job_id: str, *, worker: str, limit: int, now: float, lease_s: float
) -> list[ClaimedLine]:
    """Hand lines out, see `JobStore.claim`."""
    key = job_key(db, job_id)
    if db.execute("SELECT state FROM jobs WHERE key = ?", (key,)).fetchone()[0] != JobState.IN_PROGRESS.value:
        return []
    free = "open_lines.job = ? AND (worker IS NULL OR lease_until_s <= ?)"
    by_attempts = f"FROM open_lines INDEXED BY open_lines_by_attempts WHERE {free}"
    first = db.execute(f"SELECT attempts {by_attempts} ORDER BY attempts, number LIMIT 1", (key, now)).fetchone()
    if first is None:
        return []
    rows = db.execute(
        f"SELECT number, worker, payload FROM open_lines JOIN lines USING (job, number) WHERE {free} AND attempts = ? "
        "ORDER BY number LIMIT ?",
        (key, now, first[0], claim_limit(limit, first[0])),
    ).fetchall()
    db.executemany(
        "UPDATE open_lines SET worker = ?, lease_until_s = ?, attempts = attempts + 1 WHERE job = ? AND number = ?",
        ((worker, now + lease_s, key, number) for number, _, _ in rows),
    )
    n_lost = sum(previous is not None for _, previous, _ in rows)
    if n_lost:
        db.execute("UPDATE jobs SET reclaimed = reclaimed + ? WHERE key = ?", (n_lost, key))
    return [ClaimedLine(number=number, payload=payload, attempts=first[0] + 1) for number, _, payload in rows]


def progress_of(db: sqlite3.Connection, job_id: str, *, now: float) -> JobProgress:
    """Counts and usage of a job so far."""
    key = job_key(db, job_id)
    n_lines, reclaimed = db.execute("SELECT n_lines, reclaimed FROM jobs WHERE key = ?", (key,)).fetchone()
    finished, failed, retryable, priced, *spent, cost_usd = db.execute(
        "SELECT count(*), total(failed), total(failed AND retryable), count(cost_usd), total(completions), "
        "total(prompt_tokens), total(completion_tokens), total(cost_usd) FROM entries WHERE job = ?",
        (key,),
    ).fetchone()
    claimed = db.execute(
        "SELECT count(*) FROM open_lines WHERE job = ? AND worker IS NOT NULL AND lease_until_s > ?", (key, now)
    ).fetchone()[0]
    completions, prompt_tokens, completion_tokens = map(int, spent)
    return JobProgress(
        lines=n_lines,
        finished=finished,
        failed=int(failed),
        retryable=int(retryable),
        claimed=claimed,
        reclaimed=reclaimed,
        usage=Usage(
            completions=completions,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=cost_usd if priced == finished else None,
        ),
    )
