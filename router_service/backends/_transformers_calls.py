"""Calls of the embedded engine on their way to the thread that writes: what waits for one adapter is written together.

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

from router_service.backends._text_requests import refusals_of
from router_service.backends._transformers_bases import Bases
from router_service.backends._transformers_decode import Row, decode, micro_batches
from router_service.backends._transformers_files import base_reference
from router_service.backends._transformers_model import ResidentBase
from router_service.backends._transformers_rows import completions_of, rows_of
from router_service.errors import ConfigError, ExpertRefused, ExpertUnavailable, RouterError
from router_service.types import Completion, Expert, ExpertBatch, TokenDelta

__all__ = ["Call", "Calls", "Piece", "closed", "write_together"]

Piece = Completion | TokenDelta


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One `complete` in progress: who is asked what, and where the pieces go; `rows_left` are still to be written."""

    expert: Expert
    batch: ExpertBatch
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[Piece | BaseException | None] = field(default_factory=asyncio.Queue)
    rows_left: int = 0
    is_ended: bool = False
    _stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def is_stopped(self) -> bool:
        """True once its rows are not to be written any further."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """From now on no row is written for it; safe from any thread."""
        self._stopped.set()

    def put(self, piece: Piece) -> None:
        """Hand a piece over, from the writing thread."""
        if not self.is_stopped:
            self._send(piece)

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come; only the first end counts."""
        if not self.is_ended:
            self.is_ended = True
            self._send(error)

    def _send(self, item: Piece | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop was closed, and nobody waits any more
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, item)


class Calls:
    """The line of calls; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Call] = deque()
        self._open: set[Call] = set()

    def enter(self, call: Call) -> None:
        """Stand in line."""
        with self._lock:
            self._waiting.append(call)
            self._open.add(call)

    def leave(self, call: Call) -> None:
        """The caller is served, or went away: it is not written for any further."""
        call.stop()
        with self._lock:
            self._open.discard(call)
            with suppress(ValueError):
                self._waiting.remove(call)

    def take(self) -> list[Call]:
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


def write_together(calls: Sequence[Call], bases: Bases, *, size: int, max_tokens: int) -> None:
    """Write all rows of calls to one adapter, and end each call as soon as its own are written; never raises."""
    wanted = [call for call in calls if not call.is_stopped]
    if wanted:
        try:
            with bases.using(wanted[0].expert) as base:
                _write(wanted, base, size=size, max_tokens=max_tokens)
        except Exception as error:  # torch and its loaders raise of every kind, out of memory among them
            for call in wanted:
                call.end(_as_expert_error(error, call.expert))
    for call in calls:
        call.end(closed(call.expert))


def _write(calls: Sequence[Call], base: ResidentBase, *, size: int, max_tokens: int) -> None:
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


def _rows(call: Call, base: ResidentBase) -> list[Row]:
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


def _report(owners: dict[Row, Call], row: Row, *, began: float) -> None:
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
