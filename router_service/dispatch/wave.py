"""One wave: which completions are still out, what each assignment costs, and when a query's panel is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from experts_registry.estimate import estimate_usage
from router_service.backends.base import Backend
from router_service.config import DispatchConfig
from router_service.dispatch.ledger import Ledger
from router_service.dispatch.memo import memo_keys
from router_service.dispatch.planner import SampleKey, keys_of
from router_service.dispatch.verdicts import CANCELLED, charge_of, failed_completion
from router_service.errors import BudgetExceeded, ExpertTimeout, InvalidQuery
from router_service.types import (
    NOT_NEEDED,
    Assignment,
    Completion,
    CompletionError,
    CompletionMemo,
    Expert,
    ExpertBatch,
    Query,
    TokenDelta,
    Usage,
)

__all__ = ["Call", "PanelReady", "Settles", "Wave", "WaveEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelReady:
    """Every completion of a query's wave is in, failed ones included, in order of recruiting."""

    query_id: str
    completions: tuple[Completion, ...]


WaveEvent = Completion | TokenDelta | PanelReady

Settles = Callable[[str, tuple[Completion, ...], tuple[str, ...]], bool]
"""Whether nobody who is still out can change the outcome: the query's id, its completions so far in order of
recruiting, and one expert id per completion still out. Quick, and never raises."""

_LEAST_TO_SETTLE = 2
"""Successes before which no outcome is asked about: one alone settles nothing among several."""


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
    memo_keys: Mapping[SampleKey, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open = set(keys_of(self.batch))


class Wave:
    """The state of one run. Everything here happens on one event loop, between two awaits; nothing needs a lock."""

    def __init__(
        self,
        calls: Sequence[Call],
        ledgers: Mapping[str, Ledger],
        *,
        settings: DispatchConfig,
        memo: CompletionMemo | None = None,
        settles: Settles | None = None,
    ) -> None:
        self._settings = settings
        self._settles = settles
        self._memo = memo
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
            self._close_rest(panel, CompletionError(code=CANCELLED, message="the caller went away"))
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
        if key in self._bills:
            self._bills.pop(key).add(completion)
        lost = self._lost.pop(key, None)
        if lost is not None:
            completion = replace(completion, usage=completion.usage + lost)
        panel.finished[key] = completion
        self._calls[key].open.discard(key)
        self._events.put_nowait(completion)
        self._look_at(panel)

    async def recall(self, call: Call) -> None:
        """Finish what the memo keeps of a call; a memo that cannot be read ends the run."""
        if self._memo is None or not call.open:
            return
        call.memo_keys = memo_keys(call.expert, call.batch)
        names = {key: name for key, name in call.memo_keys.items() if key in call.open}
        try:
            kept = await self._memo.recall(list(names.values()))
        except Exception as lost:
            self.fail(lost)
            return
        for (query_id, expert_id, sample), name in names.items():
            if name in kept:
                self.finish(replace(kept[name], query_id=query_id, expert_id=expert_id, sample=sample))

    async def keep_and_finish(self, call: Call, completion: Completion) -> None:
        """Take what an expert said; where there is a memo, nobody hears of a success before it is kept there. A memo
        that cannot be written ends the run: what nobody keeps would be paid for twice."""
        key = (completion.query_id, completion.expert_id, completion.sample)
        if self._memo is not None and completion.succeeded and key in call.open:
            try:
                await self._memo.keep(call.memo_keys[key], completion)
            except Exception as lost:
                self.fail(lost)
                return
        self.finish(completion)

    def remaining_s(self, query_id: str) -> float | None:
        """Seconds to the query's deadline; None where it has none."""
        return self._panels[query_id].ledger.remaining_s()

    def cover(self, key: SampleKey, failed: Completion) -> bool:
        """Book what a failed try used, or may have used; False where the budget does not cover the next one too."""
        if key not in self._bills or not self._bills[key].cover(failed):
            return False
        self._lost[key] = self._lost.get(key, Usage()) + replace(failed.usage, completions=0)
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
        at_most = estimate_usage(expert, assignment.query) if panel.ledger.has_limits else Usage(completions=1)
        try:
            bill = _Bill(panel.ledger, at_most, samples=len(keys))
        except BudgetExceeded as refusal:
            for key in keys:
                self.finish(_failed(key, CompletionError(code=refusal.code, message=refusal.message), Usage()))
            return
        self._bills.update(dict.fromkeys(keys, bill))

    def _look_at(self, panel: _Panel) -> None:
        if panel.is_complete:
            panel.stop_timers()
            self._unready -= 1
            ordered = tuple(panel.finished[key] for key in panel.keys)
            self._events.put_nowait(PanelReady(query_id=panel.query.id, completions=ordered))
            return
        if self._settles is not None and not panel.is_asked_about and panel.succeeded >= _LEAST_TO_SETTLE:
            panel.is_asked_about = True
            asyncio.get_running_loop().call_soon(self._settle, panel)  # after those who answer in this very moment
        quorum = self._settings.quorum
        if quorum is None or panel.has_quorum or panel.succeeded < quorum or panel.query.controls.waits_for_all:
            return
        panel.has_quorum = True
        grace_s = self._settings.straggler_grace_s
        message = f"left behind: {quorum} of {len(panel.keys)} had answered (the quorum) and {grace_s:g} s had passed"
        self._later(grace_s, panel, CompletionError(code=CANCELLED, message=message))

    def _settle(self, panel: _Panel) -> None:
        """Stop who is still out, where none of them can change the outcome any more."""
        panel.is_asked_about = False
        if panel.is_complete or self._settles is None:
            return
        so_far = tuple(panel.finished[key] for key in panel.keys if key in panel.finished)
        pending = tuple(key[1] for key in panel.keys if key not in panel.finished)
        if self._settles(panel.query.id, so_far, pending):
            message = f"not needed: {len(so_far)} of {len(panel.keys)} had answered, and the rest could change nothing"
            self._close_rest(panel, CompletionError(code=NOT_NEEDED, message=message))

    def _later(self, delay_s: float, panel: _Panel, error: CompletionError) -> None:
        panel.timers.append(asyncio.get_running_loop().call_later(delay_s, self._close_rest, panel, error))

    def _close_rest(self, panel: _Panel, error: CompletionError) -> None:
        for key in panel.keys:
            if key not in panel.finished:
                call = self._calls[key]
                if call.started is None:  # it never went out
                    self.finish(_failed(key, error, Usage()))
                else:
                    self.finish(failed_completion(key, error, expert=call.expert, has_worked=True))
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
        self.is_asked_about = False

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
    """What one assignment was expected to use, and used; settled when its last sample is in.

    `at_most` is the estimate of one sample. Raises `BudgetExceeded` where the ledger does not hold all of them.
    """

    def __init__(self, ledger: Ledger, at_most: Usage, *, samples: int) -> None:
        self._ledger = ledger
        self._at_most = at_most
        self._reservation = ledger.reserve(sum([at_most] * samples, Usage()))
        self._unfinished = samples
        self._used = Usage()
        self._charged = Usage()

    def add(self, completion: Completion) -> None:
        self._used += completion.usage
        self._charged += charge_of(completion, self._at_most)
        self._unfinished -= 1
        if self._unfinished == 0:
            self._ledger.settle(self._reservation, self._used, charged=self._charged)

    def cover(self, failed: Completion) -> bool:
        """Pay for a try that failed; what was set aside stays for the next one. False where that does not fit."""
        charge = replace(charge_of(failed, self._at_most), completions=0)
        if charge == Usage():
            return True
        try:
            reservation = self._ledger.reserve(charge)
        except BudgetExceeded:
            return False
        self._ledger.settle(reservation, replace(failed.usage, completions=0), charged=charge)
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
