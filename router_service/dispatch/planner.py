"""The planner: from decisions per query to batches per expert, so that every expert is loaded once a wave; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from router_service.errors import InvalidQuery
from router_service.types import Assignment, ExpertBatch, Query, RouteDecision, stable_seed

__all__ = ["SampleKey", "in_parts", "keys_of", "plan_batches", "remaining"]

SampleKey = tuple[str, str, int]
"""What names one completion of a wave: query id, expert id, sample number."""


def plan_batches(
    decisions: Sequence[tuple[Query, RouteDecision]],
    *,
    streaming_ids: Collection[str] = (),
    first_samples: Mapping[tuple[str, str], int] | None = None,
) -> list[ExpertBatch]:
    """One batch per expert, experts and queries in order of first appearance (Symbolic-MoE, section 3.3).

    An expert drawn n times for a query is one assignment of n samples. Its seed depends on the decision's seed and
    the expert alone, so no answer depends on what else is in the wave. `streaming_ids` names the queries whose single
    completion is the answer; `first_samples` says, per (query id, expert id), how many samples earlier waves took.
    Raises `InvalidQuery` where two decisions are for one query id.
    """
    by_expert: dict[str, list[Assignment]] = {}
    seen: set[str] = set()
    for query, decision in decisions:
        if query.id in seen:
            raise InvalidQuery(f"two queries of one wave share the id {query.id!r}; give each query an id of its own")
        seen.add(query.id)
        for position, (expert_id, samples) in enumerate(_samples(decision).items()):
            assignment = Assignment(
                query=query,
                samples=samples,
                first_sample=(first_samples or {}).get((query.id, expert_id), 0),
                seed=stable_seed(decision.seed, expert_id),
                streams=query.id in streaming_ids,
                position=position,
            )
            by_expert.setdefault(expert_id, []).append(assignment)
    return [ExpertBatch(expert_id=expert_id, assignments=tuple(items)) for expert_id, items in by_expert.items()]


def in_parts(batch: ExpertBatch, most: int) -> list[ExpertBatch]:
    """The batch in parts of at most `most` assignments, in order; as even as possible."""
    count = len(batch.assignments)
    parts = max(1, -(-count // most))
    bounds = [count * number // parts for number in range(parts + 1)]
    return [replace(batch, assignments=batch.assignments[a:b]) for a, b in pairwise(bounds)]


def keys_of(batch: ExpertBatch) -> Iterator[SampleKey]:
    """The completions a batch asks for, in order."""
    for assignment in batch.assignments:
        first = assignment.first_sample
        for sample in range(first, first + assignment.samples):
            yield assignment.query.id, batch.expert_id, sample


def remaining(batch: ExpertBatch, missing: Collection[SampleKey]) -> ExpertBatch:
    """The part of a batch that asks for the missing completions only; neighbouring samples stay one assignment."""
    if all(key in missing for key in keys_of(batch)):
        return batch
    kept: list[Assignment] = []
    for assignment in batch.assignments:
        first = assignment.first_sample
        last_taken: int | None = None
        for sample in range(first, first + assignment.samples):
            if (assignment.query.id, batch.expert_id, sample) not in missing:
                continue
            if last_taken == sample - 1:
                kept[-1] = replace(kept[-1], samples=kept[-1].samples + 1)
            else:
                kept.append(replace(assignment, first_sample=sample, samples=1))
            last_taken = sample
    return replace(batch, assignments=tuple(kept))


def _samples(decision: RouteDecision) -> dict[str, int]:
    """Samples per expert in order of recruiting; an expert that is listed twice is asked once, for the sum."""
    samples: dict[str, int] = {}
    for recruit in decision.recruits:
        if recruit.samples > 0:
            samples[recruit.expert_id] = samples.get(recruit.expert_id, 0) + recruit.samples
    return samples
