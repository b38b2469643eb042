"""From a panel to its answer: by an aggregator that the budget affords, no later than the outcome is settled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from aggregators.base import Aggregator, SettlingAggregator
from aggregators.contract import binds, changes_members, contract_members, hold_to_contract, holds_back, planned_repair
from router_service._answering_plan import affordable
from router_service._engine_parts import Parts
from router_service.dispatch.ask import BudgetedAsk
from router_service.dispatch.runner import Settles
from router_service.errors import AggregationError, RouterError
from router_service.flight import Emit, Flight, as_router_error
from router_service.types import Answer, Completion, TokenDelta

__all__ = ["Answering", "shows"]

_log = logging.getLogger(__name__)


class Answering:
    """Has the queries' aggregators make answers of their panels."""

    def __init__(self, aggregators: Parts[Aggregator]) -> None:
        self._aggregators = aggregators

    def streams(self, flight: Flight) -> bool:
        """Whether the one completion asked for is the answer, so that its tokens may be shown as they come."""
        alone = sum(recruit.samples for recruit in flight.decision.recruits) == 1
        is_wanted = alone and not flight.asks_on and _shows_tokens(flight)
        return is_wanted and self._aggregators.get(flight.aggregator).keeps_text

    def settles(self, flights: Mapping[str, Flight]) -> Settles | None:
        """Tells of these flights, by query id, whether the completions so far settle the outcome; None where nobody
        need be asked: their callers wait for all, their recruiters may ask on, or their aggregators cannot tell."""
        able = {query_id: found for query_id, flight in flights.items() if (found := self._settling(flight))}

        def is_settled(query_id: str, completions: tuple[Completion, ...], pending: Sequence[str]) -> bool:
            aggregator = able.get(query_id)
            if aggregator is None:
                return False
            flight = flights[query_id]
            panel = replace(flight.panel, completions=(*flight.completions, *completions))
            try:
                return not changes_members(panel) and aggregator.is_settled(panel, pending)
            except Exception:  # whoever cannot tell is not asked again; the query waits for everybody
                _log.exception("aggregator %r cannot tell whether query %s is settled", flight.aggregator, query_id)
                del able[query_id]
                return False

        return is_settled if able else None

    async def answer(self, flight: Flight, ask: BudgetedAsk, emit: Emit) -> None:
        """End a flight whose panel is complete, well or badly."""
        if not flight.panel.members:
            emit(flight.all_failed())
            return
        part = f"aggregator {flight.aggregator!r}"
        try:
            answer = await self._aggregated(flight, ask)
            if flight.shown in ("", answer.text):  # what a caller has seen cannot be taken back
                emit(flight.answered(answer, ask.waited_s(flight.query.id)))
                return
            error: RouterError = flight.contradiction(answer)
        except Exception as broke:  # a foreign aggregator's bug is this query's failure, not the batch's
            if not isinstance(broke, RouterError):
                _log.exception("%s broke on query %s", part, flight.query.id)
            error = as_router_error(broke, part, kind=AggregationError)
        flight.overhead_usage += ask.usage(flight.query.id)
        emit(flight.failed(error))

    async def _aggregated(self, flight: Flight, ask: BudgetedAsk) -> Answer:
        """The answer of the aggregator that was wanted, or of the one that stands in for it, which it then says."""
        panel = await contract_members(flight.panel, shown=flight.shown)
        found = await affordable(self._aggregators.get(flight.aggregator), panel, flight.ledger)
        if found.calls is not None:
            ask.allow(panel.query.id, calls=found.calls + len(planned_repair(panel)))
        answer = await found.aggregator.aggregate(panel, ask=ask)
        if found.shortfall is not None:
            lacked = f"aggregator {flight.aggregator} was not affordable ({found.shortfall})"
            answer = replace(answer, notes=(f"{lacked}; {answer.aggregator} stood in", *answer.notes))
        return await hold_to_contract(answer, panel, ask=ask, shown=flight.shown)

    def _settling(self, flight: Flight) -> SettlingAggregator | None:
        if flight.query.controls.waits_for_all or flight.asks_on or binds(flight.query):
            return None
        aggregator = self._aggregators.get(flight.aggregator)
        return aggregator if isinstance(aggregator, SettlingAggregator) else None


def _shows_tokens(flight: Flight) -> bool:
    """Whether the caller wants the answer's tokens as they come, and nothing in it has to be checked first."""
    return flight.query.controls.streams and not holds_back(flight.query)


def shows(by_id: Mapping[str, Flight], emit: Emit) -> Callable[[str, str], None] | None:
    """What an aggregator's visible calls do with their tokens: on to the callers who asked for a stream, if any."""
    if not any(_shows_tokens(flight) for flight in by_id.values()):
        return None

    def show(query_id: str, text: str) -> None:
        flight = by_id[query_id]
        if _shows_tokens(flight):
            flight.shown += text
            emit(TokenDelta(query_id=query_id, text=text))

    return show
