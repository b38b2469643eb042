"""Calls of the embedded engine on their way to the thread that works: what waits for one adapter is done together.

Each caller gets the pieces of its own rows; one that goes away takes its rows along and nobody else's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from router_service.backends._text_requests import refusals_of
from router_service.backends._transformers_bases import Bases
from router_service.backends._transformers_decode import Row, decode, micro_batches
from router_service.backends._transformers_files import base_reference
from router_service.backends._transformers_model import ResidentBase
from router_service.backends._transformers_reading import ReadRow, read, read_rows_of
from router_service.backends._transformers_rows import completions_of, rows_of
from router_service.errors import ConfigError, ExpertRefused, ExpertUnavailable, RouterError
from router_service.types import Completion, Expert, ExpertBatch, Query, TextScore, TokenDelta

__all__ = ["Call", "Calls", "Piece", "Reading", "Writing", "closed", "work_together"]

Piece = Completion | TokenDelta
T = TypeVar("T")


@dataclass(slots=True, kw_only=True, eq=False)
class Call(Generic[T]):
    """One call in progress: who is asked, and where what comes of it goes, piece by piece."""

    expert: Expert
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[T | BaseException | None] = field(default_factory=asyncio.Queue)
    is_ended: bool = False
    _stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def is_stopped(self) -> bool:
        """True once its rows are not to be worked on any further."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """From now on nothing is done for it; safe from any thread."""
        self._stopped.set()

    def put(self, piece: T) -> None:
        """Hand a piece over, from the working thread."""
        if not self.is_stopped:
            self._send(piece)

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come; only the first end counts."""
        if not self.is_ended:
            self.is_ended = True
            self._send(error)

    def _send(self, item: T | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop was closed, and nobody waits any more
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, item)


@dataclass(slots=True, kw_only=True, eq=False)
class Writing(Call[Piece]):
    """One `complete`; `rows_left` are still to be written."""

    batch: ExpertBatch
    rows_left: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Reading(Call[TextScore]):
    """One `score`: its pieces are the scores of its texts, in their order."""

    texts: tuple[tuple[Query, str], ...]


class Calls:
    """The line of calls; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Call[Any]] = deque()
        self._open: set[Call[Any]] = set()

    def enter(self, call: Call[Any]) -> None:
        """Stand in line."""
        with self._lock:
            self._waiting.append(call)
            self._open.add(call)

    def leave(self, call: Call[Any]) -> None:
        """The caller is served, or went away: nothing is done for it any further."""
        call.stop()
        with self._lock:
            self._open.discard(call)
            with suppress(ValueError):
                self._waiting.remove(call)

    def take(self) -> list[Call[Any]]:
        """The first call in line, and all others that one adapter of one base serves too; none where nobody waits."""
        with self._lock:
            if not self._waiting:
                return []
            about = _adapter_of(self._waiting[0].expert)
            taken = [call for call in self._waiting if _adapter_of(call.expert) == about]
            self._waiting = deque(call for call in self._waiting if _adapter_of(call.expert) != about)
            return taken

    def stop_all(self) -> None:
        """Let every call that is under way stop at its next token."""
        with self._lock:
            for call in self._open:
                call.stop()

    def end_all(self) -> None:
        """Tell everybody who still waits that nothing will come."""
        with self._lock:
            self._waiting.clear()
            for call in self._open:
                call.end(closed(call.expert))


def closed(expert: Expert) -> ExpertUnavailable:
    """The error of a call that was open when the engine was closed."""
    return ExpertUnavailable(
        f"expert {expert.id!r} was stopped before it had answered: the embedded engine was closed; ask again",
        expert_id=expert.id,
        retryable=True,
    )


def work_together(calls: Sequence[Call[Any]], bases: Bases, *, size: int, max_tokens: int) -> None:
    """Do all that calls to one adapter ask for, and end each call as soon as its own is done; never raises."""
    wanted = [call for call in calls if not call.is_stopped]
    if wanted:
        try:
            with bases.using(wanted[0].expert) as base:
                readings = [call for call in wanted if isinstance(call, Reading)]
                _read(readings, base, size=size, max_tokens=max_tokens)
                writings = [call for call in wanted if isinstance(call, Writing)]
                _write(writings, base, size=size, max_tokens=max_tokens)
        except Exception as error:  # torch and its loaders raise of every kind, out of memory among them
            for call in wanted:
                call.end(_as_expert_error(error, call.expert))
    for call in calls:
        call.end(closed(call.expert))


def _read(readings: Sequence[Reading], base: ResidentBase, *, size: int, max_tokens: int) -> None:
    rows: dict[Reading, list[ReadRow]] = {}
    for call in readings:
        try:
            rows[call] = read_rows_of(call.expert, call.texts, base)
        except Exception as error:
            call.end(_as_expert_error(error, call.expert))
    owners = {row: call for call, own in rows.items() for row in own if row.text}
    for group in micro_batches(owners, size=size, max_tokens=max_tokens):
        live = [row for row in group if not owners[row].is_stopped]
        if live:
            read(base, live, is_cancelled=lambda row: owners[row].is_stopped)
    for call, own in rows.items():
        for row in own:
            call.put(row.score)
        if not call.is_stopped:
            call.end()


def _write(calls: Sequence[Writing], base: ResidentBase, *, size: int, max_tokens: int) -> None:
    owners = {row: call for call in calls for row in _rows(call, base)}
    for call in calls:
        if not call.rows_left:
            call.end()

    def is_cancelled(row: Row) -> bool:
        return owners[row].is_stopped

    for group in micro_batches(owners, size=size, max_tokens=max_tokens):
        live = [row for row in group if not is_cancelled(row)]
        if live:
            report = partial(_report, owners, began=time.perf_counter())
            decode(base, live, on_progress=report, is_cancelled=is_cancelled)


def _rows(call: Writing, base: ResidentBase) -> list[Row]:
    """The call's rows; what this expert cannot serve is refused here, and what breaks is this call's end alone."""
    rows: list[Row] = []
    try:
        for assignment in call.batch.assignments:
            try:
                rows += rows_of(call.expert, assignment, base)
            except ExpertRefused as refused:
                for refusal in refusals_of(assignment, refused):
                    call.put(refusal)
    except Exception as error:
        call.end(_as_expert_error(error, call.expert))
        return []
    call.rows_left = len(rows)
    return rows


def _report(owners: dict[Row, Writing], row: Row, *, began: float) -> None:
    """Pass on a row's new text where it is streamed, and its completions once it is finished."""
    call = owners[row]
    query = row.assignment.query
    is_first = row.samples[0] == row.assignment.first_sample
    if row.assignment.streams and is_first and (text := row.new_text()):
        call.put(TokenDelta(query_id=query.id, text=text))
    if row.finish_reason is not None:
        for completion in completions_of(row, expert_id=call.expert.id, latency_s=time.perf_counter() - began):
            call.put(completion)
        call.rows_left -= 1
        if not call.rows_left:
            call.end()


def _as_expert_error(error: Exception, expert: Expert) -> RouterError:
    if isinstance(error, ConfigError):
        return ExpertUnavailable(error.message, expert_id=expert.id, retryable=False)
    if isinstance(error, RouterError):
        return error
    detail = str(error).strip() or "no message"
    return ExpertUnavailable(
        f"expert {expert.id!r} failed in the embedded engine ({type(error).__name__}: {detail}); where memory "
        "ran out, lower the backend's batch_size or max_batch_tokens, or choose a smaller model",
        expert_id=expert.id,
        retryable=False,
    )


def _adapter_of(expert: Expert) -> tuple[str, str]:
    """What has to be in memory and active for the expert."""
    return base_reference(expert), expert.adapter or ""
