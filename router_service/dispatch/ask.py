"""The right to ask an expert: on the query's budget, and in one batch with whoever asks the same expert just now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from router_service.dispatch.ledger import Ledger
from router_service.dispatch.runner import Runner
from router_service.errors import BudgetExceeded
from router_service.types import Assignment, Completion, ExpertBatch, Query, TokenDelta, Usage, stable_seed

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
    """Implements `Ask`. The ledger of `query.parent_id`, else of `query.id`, pays.

    `on_delta` gets (id of the paying query, text) for every piece of a visible completion. Calls to an expert of an
    embedded engine wait `window_s` seconds for others to the same expert, so that the engine sees one batch.
    """

    def __init__(
        self,
        runner: Runner,
        ledgers: Mapping[str, Ledger],
        *,
        on_delta: Callable[[str, str], None] | None = None,
        window_s: float = 0.002,
    ) -> None:
        self._runner = runner
        self._ledgers = ledgers
        self._on_delta = on_delta
        self._window_s = window_s
        self._gathering: dict[str, _Group] = {}
        self._usage: dict[str, Usage] = {}
        self._waits: dict[str, _Wait] = {}

    async def __call__(self, expert_id: str, query: Query, *, is_visible: bool = False) -> Completion:
        """One completion; raises `BudgetExceeded`, and `UnknownNameError` for an expert that is not registered."""
        is_batched = self._runner.is_batched(expert_id)
        seed = stable_seed(query.id if query.seed is None else query.seed, expert_id)
        assignment = Assignment(query=query, seed=seed, streams=is_visible)
        owner = query.parent_id or query.id
        with self._out(owner):
            if is_batched:
                completion = await self._together(expert_id, assignment)
            else:
                completion = (await self._run(expert_id, {query.id: assignment}))[query.id]
        self._usage[owner] = self.usage(owner) + completion.usage
        if completion.error is not None and completion.error.code == BudgetExceeded.code:
            raise BudgetExceeded(completion.error.message)
        return completion

    def usage(self, query_id: str) -> Usage:
        """What the calls paid by this query have used so far."""
        return self._usage.get(query_id, Usage())

    def waited_s(self, query_id: str) -> float:
        """Seconds during which at least one finished call of this query was out; overlapping calls count once."""
        return self._waits.get(query_id, _Wait()).total_s

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
                    self._on_delta(query.parent_id or query.id, event.text)
        return completions

    @contextmanager
    def _out(self, owner: str) -> Iterator[None]:
        wait = self._waits.setdefault(owner, _Wait())
        if wait.out == 0:
            wait.since = time.perf_counter()
        wait.out += 1
        try:
            yield
        finally:
            wait.out -= 1
            if wait.out == 0:
                wait.total_s += time.perf_counter() - wait.since
