"""One query under way: what is known of it so far, and how it ends as a response or as a failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from router_service import errors
from router_service.dispatch.ask import BudgetedAsk
from router_service.dispatch.ledger import Ledger
from router_service.dispatch.runner import Runner
from router_service.errors import AggregationError, BudgetExceeded, ExpertError, RouterError, RoutingError
from router_service.recruit.base import ConsultingRecruiter, Recruiter, RecruitRequest, SequentialRecruiter
from router_service.recruit.eligibility import explain_empty
from router_service.types import (
    Answer,
    Answered,
    Ask,
    Completion,
    CompletionError,
    Event,
    Expert,
    Failed,
    Panel,
    Query,
    Recruit,
    RouteControls,
    RouteDecision,
    RouteFailure,
    RouteResponse,
    SkillAnnotation,
    Usage,
)

__all__ = [
    "Emit",
    "Flight",
    "as_router_error",
    "asking",
    "by_recruiter",
    "controls_of",
    "ledgers_of",
    "together_or_alone",
    "without_lost",
]

Emit = Callable[[Event], None]
T = TypeVar("T")

_log = logging.getLogger(__name__)

_TREE_CODES = frozenset(
    kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RouterError)
)
_REASONS_SHOWN = 5


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """The state of one query between its admission and its answer; lives and dies inside one engine call. `experts`
    are those its aggregator may ask."""

    query: Query
    recruiter: Recruiter
    recruiter_name: str
    aggregator_name: str
    ledger: Ledger
    annotation: SkillAnnotation
    decision: RouteDecision
    experts: Mapping[str, Expert] = field(default_factory=dict)
    advice: str | None = None
    completions: tuple[Completion, ...] = ()
    wave: tuple[Recruit, ...] = ()
    shown: str = ""
    overhead_usage: Usage = Usage()
    waited_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    wave_started: float = 0.0

    @property
    def aggregator(self) -> str:
        """The name of the aggregator that makes the answer."""
        return self.decision.aggregator or self.aggregator_name

    @property
    def asks_on(self) -> bool:
        """Whether the recruiter may ask further experts after this wave: it asks in waves, and does not say that it
        will not."""
        is_final = getattr(self.recruiter, "is_final", None)
        return isinstance(self.recruiter, SequentialRecruiter) and not (is_final and is_final(self.decision))

    @property
    def query_left(self) -> Query:
        """The query with what is left of its budget."""
        return replace(self.query, budget=self.ledger.remaining())

    @property
    def request(self) -> RecruitRequest:
        """What the recruiter is shown."""
        return RecruitRequest(
            query=self.query_left,
            annotation=self.annotation,
            seed=self.query.seed or 0,
            completions=self.completions,
            advice=self.advice,
        )

    @property
    def panel(self) -> Panel:
        """What the aggregator is shown."""
        return Panel(
            query=self.query,
            annotation=self.annotation,
            decision=self.decision,
            completions=self.completions,
            experts=self.experts,
        )

    @property
    def usage(self) -> Usage:
        """Spent so far by the experts and, as `overhead_usage`, by the annotator, by an expert that the recruiter
        consulted and by an aggregator that failed."""
        return sum((completion.usage for completion in self.completions), self.overhead_usage)

    def samples_of(self, expert_id: str) -> int:
        """How many samples the expert has given this query already."""
        return sum(completion.expert_id == expert_id for completion in self.completions)

    def start_wave(self, recruits: Sequence[Recruit]) -> None:
        """Ask these experts next."""
        self.wave = tuple(recruits)
        self.wave_started = time.perf_counter()

    def end_wave(self, completions: Sequence[Completion]) -> None:
        """Take what this wave's experts said."""
        self.completions += tuple(completions)
        self.waited_s += time.perf_counter() - self.wave_started

    def widen(self, recruits: Sequence[Recruit]) -> None:
        """Add recruits to the decision and ask them next."""
        samples = {recruit.expert_id: recruit for recruit in self.decision.recruits}
        for recruit in recruits:
            known = samples.get(recruit.expert_id)
            samples[recruit.expert_id] = replace(recruit, samples=recruit.samples + (known.samples if known else 0))
        self.decision = replace(self.decision, recruits=tuple(samples.values()))
        self.start_wave(recruits)

    def answered(self, answer: Answer, waited_s: float) -> Event:
        """The event that ends the query well; `waited_s` is what the aggregator waited for its own calls."""
        elapsed_s = time.perf_counter() - self.started
        response = RouteResponse(
            query_id=self.query.id,
            annotation=self.annotation,
            decision=self.decision,
            completions=self.completions,
            answer=answer,
            usage=self.usage + answer.usage,
            overhead_s=max(0.0, elapsed_s - self.waited_s - waited_s),
        )
        return Answered(query_id=self.query.id, response=response)

    def failed(self, error: RouterError) -> Event:
        """The event that ends the query badly, with all that was finished."""
        return self._failed(error.code, error.message)

    def nobody(self) -> Event:
        """The event for a decision without recruits: who was ruled out by what."""
        error = explain_empty(self.decision, self.query_left)
        taken = self.overhead_usage.completions
        if taken and isinstance(error, BudgetExceeded):
            consulted = "annotator's and the consulted expert"
            who = consulted if isinstance(self.recruiter, ConsultingRecruiter) else "annotator"
            note = f"this is what is left after the {who}'s {taken} completions, which the same budget pays for"
            error = BudgetExceeded(f"{error.message} ({note})")
        return self.failed(error)

    def all_failed(self) -> Event:
        """The event for a panel of which nobody said anything usable: one reason for all, or each one's."""
        failures = [(c.expert_id, c.error) for c in self.completions if c.error is not None]
        codes = {error.code if error.code in _TREE_CODES else ExpertError.code for _, error in failures}
        reasons = [f"{expert_id}: {_reason(error)}" for expert_id, error in failures[:_REASONS_SHOWN]]
        more = f" (and {len(failures) - _REASONS_SHOWN} more)" if len(failures) > _REASONS_SHOWN else ""
        message = f"no recruited expert answered: {'; '.join(reasons)}{more}"
        return self._failed(codes.pop() if len(codes) == 1 else AggregationError.code, message)

    def contradiction(self, answer: Answer) -> AggregationError:
        """The error for an answer that is not what was streamed: its writer broke off, and another one took over."""
        return AggregationError(
            f"the text streamed so far was broken off and cannot be taken back; aggregator {answer.aggregator!r} "
            "made another answer, which the same request without streaming gets",
        )

    def _failed(self, code: str, message: str) -> Event:
        failure = RouteFailure(
            query_id=self.query.id,
            code=code,
            message=message,
            annotation=self.annotation,
            decision=self.decision if self.decision.recruits or self.decision.eliminated else None,
            completions=self.completions,
            usage=self.usage,
        )
        return Failed(query_id=self.query.id, failure=failure)


def _reason(error: CompletionError) -> str:
    return error.message if error.code in _TREE_CODES else f"{error.message} ({error.code})"


def as_router_error(error: Exception, part: str, *, kind: type[RouterError] = RoutingError) -> RouterError:
    """The error as one of the tree; what a part was not meant to raise is that part's defect, an error of this kind."""
    return error if isinstance(error, RouterError) else kind(f"{part} broke: {error!r}")


async def together_or_alone(
    flights: Sequence[Flight], work: Callable[[Sequence[Flight]], Awaitable[Sequence[T]]], *, part: str, emit: Emit
) -> list[tuple[Flight, T]]:
    """Each flight with what `work` gives for it. Where that raises for all at once, each is tried alone, and those that
    still raise fail by themselves; `part` says for their messages and the log who works."""
    done: list[tuple[Flight, T]] = []
    groups = [flights] if flights else []
    is_logged = False
    while groups:
        group = groups.pop(0)
        try:
            done += list(zip(group, await work(group), strict=True))
        except Exception as error:  # a foreign part's bug is one query's failure, not the batch's
            if not is_logged and not isinstance(error, RouterError):
                _log.exception("%s broke on query %s", part, ", ".join(flight.query.id for flight in group[:3]))
                is_logged = True
            if len(group) > 1:
                groups = [[flight] for flight in group]
            else:
                emit(group[0].failed(as_router_error(error, part)))
    return done


async def asking(
    runner: Runner,
    flights: Sequence[Flight],
    work: Callable[[Sequence[Flight], Ask], Awaitable[Sequence[T]]],
    *,
    part: str,
    emit: Emit,
) -> list[tuple[Flight, T]]:
    """`together_or_alone` for work that asks experts: the queries' budgets pay, and it counts with their overheads."""
    ask = BudgetedAsk(runner, ledgers_of(flights), controls=controls_of(flights))
    before = {flight.query.id: (flight.overhead_usage, flight.waited_s) for flight in flights}

    async def attempt(group: Sequence[Flight]) -> Sequence[T]:
        try:
            return await work(group, ask)
        except Exception:
            await ask.rewind()  # who is tried again has paid for these answers
            raise
        finally:
            for flight in group:
                usage, waited_s = before[flight.query.id]
                flight.overhead_usage = usage + ask.usage(flight.query.id)
                flight.waited_s = waited_s + ask.waited_s(flight.query.id)
                flight.ledger.stop_clock()

    return await together_or_alone(flights, attempt, part=part, emit=emit)


def without_lost(flights: list[Flight], todo: Sequence[Flight], done: Sequence[tuple[Flight, object]]) -> list[Flight]:
    """The flights without those of `todo` that are not among the `done`: they have ended."""
    lost = set(todo) - {flight for flight, _ in done}
    return [flight for flight in flights if flight not in lost]


def by_recruiter(flights: Sequence[Flight]) -> list[list[Flight]]:
    """The flights in groups of one recruiter each, in order."""
    groups: dict[str, list[Flight]] = {}
    for flight in flights:
        groups.setdefault(flight.recruiter_name, []).append(flight)
    return list(groups.values())


def ledgers_of(flights: Iterable[Flight]) -> dict[str, Ledger]:
    """The ledgers by query id."""
    return {flight.query.id: flight.ledger for flight in flights}


def controls_of(flights: Iterable[Flight]) -> dict[str, RouteControls]:
    """The callers' controls by query id."""
    return {flight.query.id: flight.query.controls for flight in flights}
