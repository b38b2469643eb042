"""What the door counts, for Prometheus: who was asked, what came of it, what it cost; never any content."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from router_service.types import Completion, RouteDecision, RouteFailure, RouteResponse, Usage

__all__ = ["DoorMetrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OVERHEAD_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class DoorMetrics:
    """One app's metrics in a registry of its own, so that two apps in one process never mix."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter("enlist_requests", "Requests by route and status.", ["route", "status"], registry=own)
        self._inflight = Gauge("enlist_requests_inflight", "Requests under way.", registry=own)
        self._latency = Histogram(
            "enlist_request_duration_seconds",
            "Whole request, stream included.",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self._overhead = Histogram(
            "enlist_overhead_seconds", "Time of a query not spent in experts.", buckets=_OVERHEAD_SECONDS, registry=own
        )
        self._first_token = Histogram(
            "enlist_time_to_first_token_seconds", "First text of a stream.", buckets=_SECONDS, registry=own
        )
        self._decisions = Counter(
            "enlist_decisions", "Times an expert was recruited.", ["expert", "recruiter"], registry=own
        )
        self._completions = Counter(
            "enlist_completions",
            "Completions by outcome: ok, not_needed (stopped early), or the error code.",
            ["expert", "outcome"],
            registry=own,
        )
        self._completion_latency = Histogram(
            "enlist_completion_duration_seconds", "One completion.", ["expert"], buckets=_SECONDS, registry=own
        )
        self._tokens = Counter("enlist_tokens", "Tokens by expert and kind.", ["expert", "kind"], registry=own)
        self._cost = Counter("enlist_completion_cost_usd", "Known cost in USD.", ["expert"], registry=own)
        self._total_cost = Counter(
            "enlist_query_cost_usd",
            "Known cost in USD of whole queries, annotator and aggregator included.",
            registry=own,
        )
        self._unknown_cost = Counter(
            "enlist_queries_of_unknown_cost", "Queries with a part of unknown price.", registry=own
        )
        self._queries = Counter(
            "enlist_queries", "Queries by outcome: ok, or the error code.", ["outcome"], registry=own
        )

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)

    def request_started(self) -> None:
        """A request came in."""
        self._inflight.inc()

    def request_ended(self, route: str, status: int, duration_s: float) -> None:
        """A request is over, one way or the other; status 499 is a caller that left."""
        self._inflight.dec()
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(duration_s)

    def first_token(self, waited_s: float) -> None:
        """A stream shows its first text."""
        self._first_token.observe(waited_s)

    def overhead(self, overhead_s: float) -> None:
        """What the service itself took for an answered query."""
        self._overhead.observe(overhead_s)

    def query_ended(self, end: RouteResponse | RouteFailure) -> None:
        """A query is answered or failed."""
        self._queries.labels(end.code if isinstance(end, RouteFailure) else "ok").inc()
        self._count_decision(end.decision)
        self._count_completions(end.completions)
        self._count_cost(end.usage)

    def query_abandoned(self) -> None:
        """The caller left before the end; what was under way is cancelled."""
        self._queries.labels("client_disconnected").inc()

    def _count_decision(self, decision: RouteDecision | None) -> None:
        for recruit in decision.recruits if decision is not None else ():
            self._decisions.labels(recruit.expert_id, decision.recruiter if decision else "").inc()

    def _count_completions(self, completions: Iterable[Completion]) -> None:
        for completion in completions:
            expert_id, usage = completion.expert_id, completion.usage
            self._completions.labels(expert_id, completion.error.code if completion.error else "ok").inc()
            if completion.was_needed:  # a call that was stopped says nothing of how long its expert takes
                self._completion_latency.labels(expert_id).observe(completion.latency_s)
            self._tokens.labels(expert_id, "prompt").inc(usage.prompt_tokens)
            self._tokens.labels(expert_id, "completion").inc(usage.completion_tokens)
            if usage.cost_usd is not None:
                self._cost.labels(expert_id).inc(usage.cost_usd)

    def _count_cost(self, usage: Usage) -> None:
        if usage.cost_usd is None:
            self._unknown_cost.inc()
        else:
            self._total_cost.inc(usage.cost_usd)
