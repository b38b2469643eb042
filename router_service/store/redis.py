"""Jobs in Redis or Valkey: for workers on many machines; leases run by the server's clock."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from router_service.errors import UnknownNameError
from router_service.store._redis_calls import RedisCalls, ScriptCall
from router_service.store._redis_scripts import JOB_KEYS
from router_service.store.base import STORES, ClaimedLine, FinishedEntry, Job, JobLine, JobProgress, JobState, JobStore
from router_service.store.records import (
    completion_from_json,
    completion_to_json,
    dump_json,
    entry_from_json,
    entry_to_json,
    usage_parts,
)
from router_service.types import Completion, CompletionMemo, Usage

__all__ = ["Redis"]

_PAGE = 256
_STAGED_S = 24 * 3600
"""After so long the server forgets lines of a job whose creation was cut off."""


@STORES.register("redis")
class Redis(JobStore):
    """A store on a server (extra `redis`), given as `redis://[user:password@]host:port/number[?prefix=NAME]`.

    Its keys begin with `{NAME}`, `{enlist}` where nothing says. What it was told survives the server's death where the
    server keeps an append-only file (`appendonly yes`); with `appendfsync always` also a power cut.
    """

    def __init__(self, url: str) -> None:
        self._calls = RedisCalls(url)

    async def create(self, job: Job, lines: Iterable[JobLine], *, entries: Iterable[FinishedEntry] = ()) -> bool:
        """Add a job: its lines are staged beside, and become the job in one step."""
        token = secrets.token_hex(8)
        staged = {name: self._calls.key("staged", token, name) for name in JOB_KEYS}
        await self._stage(staged, lines, entries)
        texts = (job.id, dump_json(dict(job.header)), dump_json(dict(job.metadata)), JobState.IN_PROGRESS.value)
        moved = tuple(staged[name] for name in JOB_KEYS if name != "meta")
        call = ScriptCall("create", (*self._keys(job.id), *moved), texts)
        return bool(await self._calls.run(call))

    async def job(self, job_id: str) -> Job:
        """The job as it stands."""
        return _job(await self._run("job", job_id))

    async def jobs(self) -> list[Job]:
        """All jobs, newest first."""
        found = []
        for job_id in await self._ids():
            try:
                found.append(await self.job(job_id))
            except UnknownNameError:  # removed just now
                continue
        return found

    async def set_state(self, job_id: str, state: JobState, *, unless: Sequence[JobState] = ()) -> bool:
        """Move a job on."""
        others = (other.value for other in unless)
        needs_all = int(state is JobState.COMPLETED)
        return bool(await self._run("set_state", job_id, state.value, int(state.is_end), needs_all, *others))

    async def claim(self, job_id: str, *, worker: str, limit: int, lease_s: float) -> list[ClaimedLine]:
        """Lines for this worker alone."""
        state = JobState.IN_PROGRESS.value
        found = await self._run("claim", job_id, worker, limit, round(lease_s * 1000), state)
        return [
            ClaimedLine(number=int(number), payload=payload, attempts=int(found[0]))
            for number, payload in zip(found[1::2], found[2::2], strict=True)
        ]

    async def renew(self, job_id: str, *, worker: str, lease_s: float) -> set[int]:
        """Prolong this worker's leases."""
        return {int(number) for number in await self._run("renew", job_id, worker, round(lease_s * 1000))}

    async def give_back(self, job_id: str, *, worker: str, is_lost: bool = False) -> int:
        """End a worker's leases."""
        return int(await self._run("give_back", job_id, worker, int(is_lost)))

    async def workers(self, job_id: str) -> list[str]:
        """Who holds leases that have not ended."""
        return sorted(worker.decode() for worker in await self._run("workers", job_id))

    async def finish(self, job_id: str, entry: FinishedEntry, *, worker: str | None = None) -> bool:
        """Keep a line's end, once."""
        return bool(
            await self._run("finish", job_id, entry.number, worker or "", entry_to_json(entry), _usage_text(entry))
        )

    async def reopen(self, job_id: str, *, retryable_only: bool = True) -> int:
        """Take failed lines back."""
        return int(await self._run("reopen", job_id, int(retryable_only), JobState.IN_PROGRESS.value))

    async def progress(self, job_id: str) -> JobProgress:
        """Counts and usage so far."""
        *counts, cost_usd = await self._run("progress", job_id)
        finished, claimed, lines, failed, retryable, reclaimed, *spent, unpriced = map(int, counts)
        completions, prompt_tokens, completion_tokens = spent
        return JobProgress(
            lines=lines,
            finished=finished,
            failed=failed,
            retryable=retryable,
            claimed=claimed,
            reclaimed=reclaimed,
            usage=Usage(
                completions=completions,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cost_usd=None if unpriced else float(cost_usd),
            ),
        )

    async def lines(self, job_id: str) -> AsyncIterator[JobLine]:
        """The input lines in order."""
        async for number, payload in self._paged("lines", job_id):
            yield JobLine(number=number, payload=payload)

    async def entries(self, job_id: str) -> AsyncIterator[FinishedEntry]:
        """The finished lines in order."""
        async for number, text in self._paged("entries", job_id):
            yield entry_from_json(number, text)

    async def remove(self, job_id: str) -> None:
        """Forget a job."""
        await self._run("remove", job_id, job_id)

    def memo(self, job_id: str) -> CompletionMemo:
        """The job's completions."""
        return _Memo(self, job_id)

    async def drop_memo(self, job_id: str) -> None:
        """Forget the job's completions."""
        await self._run("drop_memo", job_id)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._calls.aclose()

    async def recalled(self, job_id: str, keys: Sequence[str]) -> list[bytes | None]:
        """What the job's memo keeps under each key."""
        found: list[bytes | None] = await self._run("recall", job_id, *keys)
        return found

    async def kept(self, job_id: str, key: str, text: str) -> None:
        """Put a completion into the job's memo."""
        await self._run("keep", job_id, key, text)

    async def _run(self, script: str, job_id: str, *arguments: str | bytes | int) -> Any:
        from redis.exceptions import ResponseError

        try:
            return await self._calls.run(ScriptCall(script, self._keys(job_id), arguments))
        except ResponseError as not_there:
            raise UnknownNameError("job", job_id, await self._ids()) from not_there

    def _keys(self, job_id: str) -> tuple[str, ...]:
        return (*(self._calls.key("job", job_id, name) for name in JOB_KEYS), self._calls.key("jobs"))

    async def _ids(self) -> list[str]:
        """The ids of all jobs, newest first."""
        (ids,) = await self._calls.send([("ZREVRANGE", self._calls.key("jobs"), 0, -1)])
        return [job_id.decode() for job_id in ids]

    async def _stage(
        self, staged: Mapping[str, str], lines: Iterable[JobLine], entries: Iterable[FinishedEntry]
    ) -> None:
        commands: list[tuple[str | bytes | int, ...]] = []
        for line in lines:
            number = line.number
            commands.append(("HSET", staged["lines"], number, line.payload))
            commands += [("ZADD", staged[name], number, number) for name in ("numbers", "free")]
            commands = await self._sent(commands, staged, at=4 * _PAGE)
        for entry in entries:
            number = entry.number
            commands.append(("ZREM", staged["free"], number))
            commands.append(("ZADD", staged["finished"], number, number))
            commands.append(("HSET", staged["entries"], number, entry_to_json(entry)))
            commands.append(("HSET", staged["usages"], number, _usage_text(entry)))
            commands = await self._sent(commands, staged, at=4 * _PAGE)
        await self._sent(commands, staged)

    async def _sent(
        self, commands: list[tuple[str | bytes | int, ...]], staged: Mapping[str, str], *, at: int = 0
    ) -> list[tuple[str | bytes | int, ...]]:
        """What is left to send: nothing, once there are `at` commands. What was sent passes unless it becomes a job."""
        if len(commands) < at:
            return commands
        await self._calls.send([*commands, *(("EXPIRE", key, _STAGED_S) for key in staged.values())])
        return []

    async def _paged(self, script: str, job_id: str) -> AsyncIterator[tuple[int, bytes]]:
        after = 0
        while True:
            found = await self._run(script, job_id, after, _PAGE)
            for number, content in zip(found[::2], found[1::2], strict=True):
                after = int(number)
                yield after, content
            if len(found) < 2 * _PAGE:
                return


class _Memo:
    """The completions of one job on the server."""

    def __init__(self, store: Redis, job_id: str) -> None:
        self._store = store
        self._job_id = job_id

    async def recall(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Those of the keys that are kept."""
        kept = zip(keys, await self._store.recalled(self._job_id, keys), strict=True)
        return {key: completion_from_json(text) for key, text in kept if text is not None}

    async def keep(self, key: str, completion: Completion) -> None:
        """Keep a completion; the first one of a key stays."""
        await self._store.kept(self._job_id, key, completion_to_json(completion))


def _usage_text(entry: FinishedEntry) -> str:
    *counts, cost_usd = usage_parts(entry.usage)
    if cost_usd is not None and not math.isfinite(cost_usd):  # no sum for the server to keep
        cost_usd = None
    return " ".join(map(str, (*counts, cost_usd, int(entry.has_failed), int(entry.is_retryable))))


def _job(fields: Sequence[bytes]) -> Job:
    job_id, header, metadata, state, n_lines, created, ended = (field.decode() for field in fields)
    return Job(
        id=job_id,
        header=json.loads(header),
        metadata=json.loads(metadata),
        state=JobState(state),
        n_lines=int(n_lines),
        created_s=int(created) / 1e6,
        ended_s=int(ended) / 1e6 if ended else None,
    )
