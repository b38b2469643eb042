"""Tries: works one call off, again where that may help, within its limits, its deadline and its budget."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from router_service.backends.base import DeviceLost
from router_service.config import DispatchConfig
from router_service.dispatch._closing import closing
from router_service.dispatch.planner import SampleKey, keys_of, remaining
from router_service.dispatch.residency import Residency
from router_service.dispatch.verdicts import EMPTY, error_of, failed_completion, finished_completion
from router_service.dispatch.wave import Call, Wave
from router_service.errors import ExpertError, ExpertUnavailable
from router_service.types import Assignment, Completion, CompletionError, Expert, ExpertBatch, TokenDelta, stable_seed

__all__ = ["Tries"]


@dataclass(slots=True, kw_only=True)
class _Try:
    """One try of a call: what it still has to bring, what failed but may be tried again, and how it broke off.

    `limit_s` is how long it may take, 0 until it goes out; `lost` names the device that was lost under it.
    """

    expected: set[SampleKey]
    assignments: Mapping[str, Assignment]
    failed: dict[SampleKey, Completion] = field(default_factory=dict)
    error: CompletionError | None = None
    limit_s: float = 0.0
    lost: str | None = None


class Tries:
    """How calls are worked off: each in its turn, with pauses between tries."""

    def __init__(
        self,
        settings: DispatchConfig,
        *,
        residency: Residency,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._residency = residency
        self._clock = clock
        self._sleep = sleep

    async def work(self, call: Call, wave: Wave) -> None:
        """Bring every open completion of the call to an end, good or bad."""
        await wave.recall(call)
        if not call.open:
            return
        batch = remaining(call.batch, call.open)
        for attempt in range(1, call.expert.limits.max_attempts + 1):
            failed = await self._try(call, batch, wave)
            again, pause_s = self._again(call, failed, attempt=attempt, wave=wave)
            for key, completion in failed.items():
                if key not in again:
                    wave.finish(completion)
            if not again:
                break
            emptied = {key for key in again if (error := failed[key].error) is not None and error.code == EMPTY}
            await self._sleep(pause_s)
            batch = _next_batch(call.batch, again - emptied, emptied)

    async def _try(self, call: Call, batch: ExpertBatch, wave: Wave) -> dict[SampleKey, Completion]:
        """One try; completions that are final go to the wave, the failures that may be retried come back.

        What a lost device leaves undone is done on another one within the same try, once per device, unless a part of
        it was shown already.
        """
        lost: set[str] = set()
        failed: dict[SampleKey, Completion] = {}
        asked_s = self._clock()
        while True:
            this = await self._once(call, batch, wave, asked_s=asked_s)
            undone = {key for key in this.expected & call.open if key[0] not in call.streamed}
            if this.lost is None or this.lost in lost or not undone:
                break
            lost.add(this.lost)
            self._miss(call, replace(this, expected=this.expected - undone))
            failed |= this.failed
            batch = remaining(batch, undone)
        self._miss(call, this)
        return failed | this.failed

    async def _once(self, call: Call, batch: ExpertBatch, wave: Wave, *, asked_s: float) -> _Try:
        """Ask once, when the call has its turn; says what came, and what did not and why."""
        this = _try_of(remaining(batch, call.open))
        try:
            async with self._residency.turn(call.expert, call.backend, batch, arrived_s=asked_s) as turn:
                batch = remaining(batch, call.open)  # some may have been decided while this call stood in line
                this = _try_of(batch)
                if not this.expected:
                    return this
                wave.begin(batch)
                call.started = self._clock() if call.started is None else call.started
                this.limit_s = call.expert.limits.timeout_s * turn.samples
                async with asyncio.timeout(this.limit_s):
                    await self._read(call, replace(batch, device=turn.device), this=this, wave=wave)
        except DeviceLost as gone:
            this.lost = gone.device
            this.error = error_of(_unavailable(call.expert, gone), call.expert, limit_s=this.limit_s)
        except Exception as broke:
            if not (this.limit_s or isinstance(broke, ExpertError)):
                raise  # the machinery broke, not the backend
            this.error = error_of(broke, call.expert, limit_s=this.limit_s)
        return this

    async def _read(self, call: Call, batch: ExpertBatch, *, this: _Try, wave: Wave) -> None:
        async with closing(call.backend.complete(call.expert, batch)) as items:
            async for item in items:
                if isinstance(item, TokenDelta):
                    self._pass_on(call, item, this=this, wave=wave)
                else:
                    await self._take(call, item, this=this, wave=wave)
                if this.expected and call.open.isdisjoint(this.expected):
                    return  # what is still to come was given up meanwhile: closing ends the upstream work

    def _pass_on(self, call: Call, delta: TokenDelta, *, this: _Try, wave: Wave) -> None:
        assignment = this.assignments.get(delta.query_id)
        is_wanted = assignment is not None and assignment.streams
        if is_wanted and any(key[0] == delta.query_id for key in call.open):
            call.streamed.add(delta.query_id)
            wave.delta(delta)

    async def _take(self, call: Call, completion: Completion, *, this: _Try, wave: Wave) -> None:
        key = (completion.query_id, completion.expert_id, completion.sample)
        if key not in this.expected:
            return
        completion = finished_completion(
            completion,
            expert=call.expert,
            query=this.assignments[completion.query_id].query,
            extracts_answers=call.backend.extracts_answers,
        )
        if completion.error is not None and completion.error.is_retryable:
            this.failed[key] = completion
        else:
            await wave.keep_and_finish(call, completion)
        this.expected.discard(key)  # only now: the time limit may end the keeping

    def _miss(self, call: Call, this: _Try) -> None:
        """What the call did not bring failed with its error, or because the backend left it out."""
        latency_s = 0.0 if call.started is None else self._clock() - call.started
        for key in keys_of(call.batch):
            if key in this.expected and key in call.open:
                why = this.error or CompletionError(
                    code=ExpertError.code,
                    message=f"backend {call.expert.backend!r} ended without sample {key[2]} of query {key[0]!r}",
                )
                has_worked = key[0] in call.streamed
                this.failed[key] = failed_completion(
                    key, why, expert=call.expert, latency_s=latency_s, has_worked=has_worked
                )

    def _again(
        self, call: Call, failed: Mapping[SampleKey, Completion], *, attempt: int, wave: Wave
    ) -> tuple[set[SampleKey], float]:
        """Which failures are tried again, and after how many seconds."""
        candidates = {key for key, completion in failed.items() if self._is_worth_it(call, completion, attempt)}
        asked = [error.retry_after_s or 0.0 for key in candidates if (error := failed[key].error) is not None]
        pause_s = max([self._backoff_s(call, attempt), *asked])
        again = set()
        for key in failed:
            left_s = wave.remaining_s(key[0])
            if key in candidates and (left_s is None or left_s > pause_s) and wave.cover(key, failed[key]):
                again.add(key)
        return again, pause_s

    def _is_worth_it(self, call: Call, completion: Completion, attempt: int) -> bool:
        error = completion.error
        if error is None or not error.is_retryable or completion.query_id in call.streamed:
            return False
        tries = 2 if error.code == EMPTY else call.expert.limits.max_attempts
        is_soon = (error.retry_after_s or 0.0) <= self._settings.retry_after_max_s
        return attempt < min(tries, call.expert.limits.max_attempts) and is_soon

    def _backoff_s(self, call: Call, attempt: int) -> float:
        """Exponential back-off with seeded jitter; the draw depends on expert, query and attempt alone."""
        settings = self._settings
        full_s: float = min(settings.backoff_max_s, settings.backoff_initial_s * 2.0 ** (attempt - 1))
        first = call.batch.assignments[0].query.id
        draw = random.Random(stable_seed(settings.jitter_seed, call.expert.id, first, attempt)).random()
        return full_s * (1 - settings.jitter * draw)


def _try_of(batch: ExpertBatch) -> _Try:
    assignments = {assignment.query.id: assignment for assignment in batch.assignments}
    return _Try(expected=set(keys_of(batch)), assignments=assignments)


def _unavailable(expert: Expert, gone: DeviceLost) -> ExpertUnavailable:
    message = f"expert {expert.id!r}: device {gone.device!r} was lost while it answered ({gone.message}); ask again"
    return ExpertUnavailable(message, expert_id=expert.id, retryable=True)


def _next_batch(batch: ExpertBatch, missing: Collection[SampleKey], emptied: Collection[SampleKey]) -> ExpertBatch:
    """What the next try asks for. Who said nothing gets another seed, or it would say nothing again."""
    reseeded = (replace(a, seed=stable_seed(a.seed, "again")) for a in remaining(batch, emptied).assignments)
    return replace(batch, assignments=(*remaining(batch, missing).assignments, *reseeded))
