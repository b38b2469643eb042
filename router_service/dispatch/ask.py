"""The right to ask an expert: on the query's budget, and in one batch with whoever asks the same expert just now."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from router_service.dispatch.ledger import Ledger
from router_service.dispatch.runner import Runner
from router_service.errors import BudgetExceeded, NoExpertAvailable
from router_service.types import (
    Assignment,
    Completion,
    Execution,
    ExpertBatch,
    Program,
    Query,
    RouteControls,
    TextScore,
    TokenDelta,
    Usage,
    stable_seed,
)

__all__ = ["BudgetedAsk"]


@dataclass(slots=True, kw_only=True, eq=False)
class _Group:
    """Calls to one expert that go out together, by query id."""

    expert_id: str
    assignments: dict[str, Assignment] = field(default_factory=dict)
    waiting: dict[str, asyncio.Future[Completion]] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, kw_only=True)
class _Wait:
    """Time during which at least one call of a query was out."""

    out: int = 0
    since: float = 0.0
    total_s: float = 0.0


class BudgetedAsk:
    """Implements `ScoringAsk`. The ledger of `query.parent_id`, else of `query.id`, pays; its `controls` hold here too.

    `on_delta` gets (id of the paying query, text) for every piece of a visible completion. Calls to an expert of an
    embedded engine wait `window_s` seconds for others to the same expert, so that the engine sees one batch.
    """

    def __init__(
        self,
        runner: Runner,
        ledgers: Mapping[str, Ledger],
        *,
        controls: Mapping[str, RouteControls] | None = None,
        on_delta: Callable[[str, str], None] | None = None,
        window_s: float = 0.002,
    ) -> None:
        self._runner = runner
        self._ledgers = ledgers
        self._controls = controls or {}
        self._on_delta = on_delta
        self._window_s = window_s
        self._gathering: dict[str, _Group] = {}
        self._allowed: dict[str, int] = {}
        self._usage: dict[str, Usage] = {}
        self._waits: dict[str, _Wait] = {}
        self._said: list[tuple[Query, Completion]] = []
        self._kept: dict[tuple[str, str], list[tuple[Query, Completion]]] = defaultdict(list)
        self._out_now = 0
        self._nobody_out = asyncio.Event()
        self._nobody_out.set()

    async def __call__(self, expert_id: str, query: Query, *, is_visible: bool = False) -> Completion:
        """One completion; raises `BudgetExceeded`, `UnknownNameError` for an expert that is not registered, and
        `NoExpertAvailable` for one that is switched off or that the paying query's controls rule out."""
        owner = _owner(query)
        self._require_askable(expert_id, self._controls.get(owner, RouteControls()))
        self._take_allowed(owner, 1)
        kept = self._take_kept(expert_id, query)
        if kept is not None:
            return kept
        is_batched = self._runner.is_batched(expert_id)
        seed = stable_seed(query.id if query.seed is None else query.seed, expert_id)
        assignment = Assignment(query=query, seed=seed, streams=is_visible)
        with self._out(owner):
            if is_batched:
                completion = await self._together(expert_id, assignment)
            else:
                completion = (await self._run(expert_id, {query.id: assignment}))[query.id]
        self._usage[owner] = self.usage(owner) + completion.usage
        if completion.error is not None and completion.error.code == BudgetExceeded.code:
            raise BudgetExceeded(completion.error.message)
        self._said.append((query, completion))
        return completion

    def can_score(self, expert_id: str) -> bool:
        """Whether the expert's backend reads texts; raises `UnknownNameError`."""
        return self._runner.can_score(expert_id)

    async def score(self, expert_id: str, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        """How likely the expert finds each text as the answer to its query, in order; the first query's budget pays one
        completion a text. Raises what asking raises, and an `ExpertError` where the expert cannot. Scores are not kept
        in a memo: who asks anew pays anew."""
        if not texts:
            return []
        query = texts[0][0]
        owner = _owner(query)
        self._require_askable(expert_id, self._controls.get(owner, RouteControls()))
        self._take_allowed(owner, len(texts))
        ledger = self._ledgers.get(owner) or Ledger(query.budget)

        def spends(usage: Usage) -> None:
            self._usage[owner] = self.usage(owner) + usage

        with self._out(owner):
            return await self._runner.score(expert_id, texts, ledger=ledger, spends=spends)

    def allow(self, query_id: str, *, calls: int) -> None:
        """Let this query pay for so many more calls and no more: what its aggregator planned, and was found to fit."""
        self._allowed[query_id] = calls

    async def execute(self, query: Query, programs: Sequence[Program]) -> list[Execution]:
        """How each program ended in the sandbox, in order; those for which the deadline of the paying query leaves no
        time are stopped by `time`. Raises `ConfigError` where this machine has no sandbox, or it is switched off."""
        owner = query.parent_id or query.id
        ledger = self._ledgers.get(owner) or Ledger(query.budget)
        with self._out(owner):
            ledger.start_clock()
            return await self._runner.sandbox.run_all(programs, deadline_s=ledger.remaining_s())

    async def rewind(self) -> None:
        """See the open calls ended, and keep all answers: who asks the same once more gets one, and pays nothing."""
        await self._nobody_out.wait()
        for query, completion in self._said:
            self._kept[completion.expert_id, query.id].append((query, completion))
        self._said = []

    def usage(self, query_id: str) -> Usage:
        """What the calls paid by this query have used so far."""
        return self._usage.get(query_id, Usage())

    def waited_s(self, query_id: str) -> float:
        """Seconds during which at least one finished call of this query was out; overlapping calls count once."""
        return self._waits.get(query_id, _Wait()).total_s

    def _require_askable(self, expert_id: str, controls: RouteControls) -> None:
        reason = None
        if not self._runner.expert(expert_id).is_enabled:
            reason = "it is switched off in the pool file, or was left out when the engine started; enable or mend it"
        elif expert_id in controls.experts_denied:
            reason = "the query's experts_denied names it; take it out there"
        elif controls.experts_allowed and expert_id not in controls.experts_allowed:
            reason = "the query's experts_allowed does not name it; add it there"
        if reason is not None:
            raise NoExpertAvailable(f"expert {expert_id!r} may not be asked: {reason}, or configure another expert")

    def _take_allowed(self, owner: str, calls: int) -> None:
        left = self._allowed.get(owner)
        if left is None:
            return
        if calls > left:
            raise BudgetExceeded(
                f"query {owner!r}: its aggregator asks for {calls} more, and {left} are left of the calls that it "
                "planned; `plan` must count every call that `aggregate` may make"
            )
        self._allowed[owner] = left - calls

    def _take_kept(self, expert_id: str, query: Query) -> Completion | None:
        answers = self._kept.get((expert_id, query.id), [])
        for place, (asked, completion) in enumerate(answers):
            if asked == query:
                del answers[place]
                self._said.append((query, completion))
                return completion
        return None

    async def _together(self, expert_id: str, assignment: Assignment) -> Completion:
        group = self._gathering.get(expert_id)
        query_id = assignment.query.id
        if group is None or query_id in group.assignments:  # a query's second call goes into a batch of its own
            group = self._gathering[expert_id] = _Group(expert_id=expert_id)
            group.task = asyncio.create_task(self._flush(group), name=f"gather calls of {expert_id}")
        group.assignments[query_id] = assignment
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        group.waiting[query_id] = answer
        try:
            return await answer
        finally:
            del group.waiting[query_id]
            if not group.waiting and group.task is not None and not group.task.done():
                await self._stop(group)

    async def _flush(self, group: _Group) -> None:
        try:
            await asyncio.sleep(self._window_s)
            self._close(group)
            # who gave up meanwhile is not asked for
            asked = {query_id: group.assignments[query_id] for query_id in group.waiting}
            completions = await self._run(group.expert_id, asked)
        except Exception as error:
            for answer in group.waiting.values():
                if not answer.done():
                    answer.set_exception(error)
        else:
            for query_id, answer in group.waiting.items():
                if not answer.done():
                    answer.set_result(completions[query_id])

    async def _stop(self, group: _Group) -> None:
        """End a batch that nobody waits for any more, and see it ended."""
        self._close(group)
        if group.task is not None:
            group.task.cancel()
            await asyncio.wait([group.task])

    def _close(self, group: _Group) -> None:
        if self._gathering.get(group.expert_id) is group:
            del self._gathering[group.expert_id]

    async def _run(self, expert_id: str, assignments: Mapping[str, Assignment]) -> dict[str, Completion]:
        batch = ExpertBatch(expert_id=expert_id, assignments=tuple(assignments.values()))
        completions: dict[str, Completion] = {}
        async with aclosing(self._runner.run([batch], self._ledgers)) as events:
            async for event in events:
                if isinstance(event, Completion):
                    completions[event.query_id] = event
                elif isinstance(event, TokenDelta) and self._on_delta is not None:
                    query = assignments[event.query_id].query
                    self._on_delta(_owner(query), event.text)
        return completions

    @contextmanager
    def _out(self, owner: str) -> Iterator[None]:
        wait = self._waits.setdefault(owner, _Wait())
        if wait.out == 0:
            wait.since = time.perf_counter()
        wait.out += 1
        self._out_now += 1
        self._nobody_out.clear()
        try:
            yield
        finally:
            wait.out -= 1
            if wait.out == 0:
                wait.total_s += time.perf_counter() - wait.since
            self._out_now -= 1
            if self._out_now == 0:
                self._nobody_out.set()


def _owner(query: Query) -> str:
    """Whose budget pays."""
    return query.parent_id or query.id
