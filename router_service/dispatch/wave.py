"""One wave: which completions are still out, what each assignment costs, and when a query's panel is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from experts_registry.estimate import estimate_usage
from router_service.backends.base import Backend
from router_service.config import DispatchConfig
from router_service.dispatch.ledger import Ledger, Reservation
from router_service.dispatch.planner import SampleKey, keys_of
from router_service.errors import BudgetExceeded, ExpertTimeout, InvalidQuery
from router_service.types import (
    Assignment,
    Completion,
    CompletionError,
    Expert,
    ExpertBatch,
    Query,
    TokenDelta,
    Usage,
)

__all__ = ["Call", "PanelReady", "Wave", "WaveEvent"]

_CANCELLED = "cancelled"
"""Code of a completion that was ended because nobody waits for it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelReady:
    """Every completion of a query's wave is in, failed ones included, in order of recruiting."""

    query_id: str
    completions: tuple[Completion, ...]


WaveEvent = Completion | TokenDelta | PanelReady


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """What one task works off: a whole batch of an embedded engine, or a single assignment of a server."""

    expert: Expert
    backend: Backend
    batch: ExpertBatch
    open: set[SampleKey] = field(default_factory=set)
    streamed: set[str] = field(default_factory=set)
    started: float | None = None
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.open = set(keys_of(self.batch))


class Wave:
    """The state of one run. Everything here happens on one event loop, between two awaits; nothing needs a lock."""

    def __init__(self, calls: Sequence[Call], ledgers: Mapping[str, Ledger], *, settings: DispatchConfig) -> None:
        self._settings = settings
        self._events: asyncio.Queue[WaveEvent | BaseException] = asyncio.Queue()
        self._calls: dict[SampleKey, Call] = {}
        self._bills: dict[SampleKey, _Bill] = {}
        self._lost: dict[SampleKey, Usage] = {}
        self._panels = _panels_of(calls, ledgers)
        self._unready = len(self._panels)
        for call in calls:
            for key in keys_of(call.batch):
                if key in self._calls:
                    raise InvalidQuery(f"query {key[0]!r} asks expert {key[1]!r} twice for sample {key[2]}")
                self._calls[key] = call

    def open(self) -> None:
        """Reserve what every query's assignments need, before any call goes out; what does not fit fails here."""
        for panel in self._panels.values():
            if panel.is_complete:  # nothing was asked
                self._look_at(panel)
                continue
            if panel.ledger.remaining_s() == 0:
                message = "the query's deadline had passed before the call went out"
                self._close_rest(panel, CompletionError(code=ExpertTimeout.code, message=message))
                continue
            if panel.ledger.is_running:
                self._watch_deadline(panel)
            for expert, assignment in panel.assignments:
                self._reserve(panel, expert, assignment)

    def begin(self, batch: ExpertBatch) -> None:
        """A call got its turn and goes out now: the deadlines that are kept from there on begin."""
        for assignment in batch.assignments:
            panel = self._panels[assignment.query.id]
            panel.ledger.start_clock()
            self._watch_deadline(panel)

    async def next(self) -> WaveEvent | None:
        """The next event; None once every panel is complete and told. Raises a defect that `fail` was given."""
        if not self._unready and self._events.empty():
            return None
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def close(self) -> None:
        """End everything that is still out, as cancelled; safe to call at any time."""
        for panel in self._panels.values():
            self._close_rest(panel, CompletionError(code=_CANCELLED, message="the caller went away"))
            panel.stop_timers()

    def fail(self, defect: BaseException) -> None:
        """Let the run end with an exception: the machinery itself broke."""
        self._events.put_nowait(defect)

    def delta(self, delta: TokenDelta) -> None:
        """Pass on a piece of an answer."""
        self._events.put_nowait(delta)

    def finish(self, completion: Completion) -> None:
        """Take the one completion of a sample; one that is already decided is left alone."""
        panel = self._panels[completion.query_id]
        key = (completion.query_id, completion.expert_id, completion.sample)
        if key not in self._calls or key in panel.finished:
            return
        lost = self._lost.pop(key, None)
        if lost is not None:
            completion = replace(completion, usage=completion.usage + lost)
        panel.finished[key] = completion
        self._calls[key].open.discard(key)
        if key in self._bills:
            self._bills.pop(key).add(completion.usage)
        self._events.put_nowait(completion)
        self._look_at(panel)

    def remaining_s(self, query_id: str) -> float | None:
        """Seconds to the query's deadline; None where it has none."""
        return self._panels[query_id].ledger.remaining_s()

    def cover(self, key: SampleKey, lost: Usage) -> bool:
        """Book what a failed try used; False where the budget does not cover it besides the next try."""
        if not lost.completion_tokens and not lost.prompt_tokens:
            return True
        lost = replace(lost, completions=0)
        if key in self._bills and not self._bills[key].cover(lost):
            return False
        self._lost[key] = self._lost.get(key, Usage()) + lost
        return True

    # --- inside ----------------------------------------------------------------------------------------------------

    def _watch_deadline(self, panel: _Panel) -> None:
        """Close the panel when its deadline is over; once."""
        remaining_s = None if panel.is_watched else panel.ledger.remaining_s()
        panel.is_watched = True
        if remaining_s is not None:
            message = f"no answer before the query's deadline ({remaining_s:.3g} s were left when it was asked)"
            self._later(remaining_s, panel, CompletionError(code=ExpertTimeout.code, message=message))

    def _reserve(self, panel: _Panel, expert: Expert, assignment: Assignment) -> None:
        keys = list(keys_of(ExpertBatch(expert_id=expert.id, assignments=(assignment,))))
        estimate = Usage(completions=assignment.samples)
        if panel.ledger.has_limits:
            estimate = estimate_usage(expert, assignment.query, samples=assignment.samples)
        try:
            reservation = panel.ledger.reserve(estimate)
        except BudgetExceeded as refusal:
            for key in keys:
                self.finish(_failed(key, CompletionError(code=refusal.code, message=refusal.message), Usage()))
            return
        self._bills.update(dict.fromkeys(keys, _Bill(panel.ledger, reservation, len(keys))))

    def _look_at(self, panel: _Panel) -> None:
        if panel.is_complete:
            panel.stop_timers()
            self._unready -= 1
            ordered = tuple(panel.finished[key] for key in panel.keys)
            self._events.put_nowait(PanelReady(query_id=panel.query.id, completions=ordered))
            return
        quorum = self._settings.quorum
        if quorum is None or panel.has_quorum or panel.succeeded < quorum:
            return
        panel.has_quorum = True
        grace_s = self._settings.straggler_grace_s
        message = f"left behind: {quorum} of {len(panel.keys)} had answered (the quorum) and {grace_s:g} s had passed"
        self._later(grace_s, panel, CompletionError(code=_CANCELLED, message=message))

    def _later(self, delay_s: float, panel: _Panel, error: CompletionError) -> None:
        panel.timers.append(asyncio.get_running_loop().call_later(delay_s, self._close_rest, panel, error))

    def _close_rest(self, panel: _Panel, error: CompletionError) -> None:
        for key in panel.keys:
            if key not in panel.finished:
                call = self._calls[key]
                self.finish(_failed(key, error, _unknown_usage(call)))
                if not call.open and call.task is not None:
                    call.task.cancel()


class _Panel:
    """One query's completions within a wave."""

    def __init__(self, query: Query, ledger: Ledger, assignments: Iterable[tuple[Expert, Assignment]]) -> None:
        self.query = query
        self.ledger = ledger
        self.assignments = sorted(assignments, key=lambda pair: pair[1].position)
        self.keys = [
            key
            for expert, assignment in self.assignments
            for key in keys_of(ExpertBatch(expert_id=expert.id, assignments=(assignment,)))
        ]
        self.finished: dict[SampleKey, Completion] = {}
        self.timers: list[asyncio.TimerHandle] = []
        self.is_watched = False
        self.has_quorum = False

    @property
    def is_complete(self) -> bool:
        return len(self.finished) == len(self.keys)

    @property
    def succeeded(self) -> int:
        return sum(completion.succeeded for completion in self.finished.values())

    def stop_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()


class _Bill:
    """What one assignment was expected to use, and used; settled when its last sample is in."""

    def __init__(self, ledger: Ledger, reservation: Reservation, samples: int) -> None:
        self._ledger = ledger
        self._reservations = [reservation]
        self._unfinished = samples
        self._usage = Usage()

    def add(self, usage: Usage) -> None:
        self._usage += usage
        self._unfinished -= 1
        if self._unfinished == 0:
            self._ledger.settle(self._reservations[0], self._usage)
            for extra in self._reservations[1:]:
                self._ledger.release(extra)

    def cover(self, lost: Usage) -> bool:
        try:
            self._reservations.append(self._ledger.reserve(lost))
        except BudgetExceeded:
            return False
        return True


def _panels_of(calls: Sequence[Call], ledgers: Mapping[str, Ledger]) -> dict[str, _Panel]:
    """One panel per query; a query whose owner has no ledger runs on its own budget."""
    asked: dict[str, list[tuple[Expert, Assignment]]] = {}
    for call in calls:
        for assignment in call.batch.assignments:
            asked.setdefault(assignment.query.id, []).append((call.expert, assignment))
    own: dict[str, Ledger] = {}
    panels = {}
    for query_id, assignments in asked.items():
        query = assignments[0][1].query
        owner = query.parent_id or query.id
        ledger = ledgers.get(owner) or own.setdefault(owner, Ledger(query.budget))
        panels[query_id] = _Panel(query, ledger, assignments)
    return panels


def _failed(key: SampleKey, error: CompletionError, usage: Usage) -> Completion:
    query_id, expert_id, sample = key
    return Completion(query_id=query_id, expert_id=expert_id, sample=sample, usage=usage, error=error)


def _unknown_usage(call: Call) -> Usage:
    """What a call used that was ended from outside: nothing if it never went out, else a cost nobody knows."""
    if call.started is None:
        return Usage()
    prices = call.expert.prices
    is_free = prices is not None and prices.input_usd_per_mtok == prices.output_usd_per_mtok == 0
    return Usage(completions=1, cost_usd=0.0 if is_free else None)
