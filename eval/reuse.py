"""A backend that remembers: comparing many strategies on one set of questions asks each expert each question once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import aclosing
from dataclasses import replace

from router_service.backends.base import Backend
from router_service.types import Assignment, Completion, Expert, ExpertBatch, TokenDelta

__all__ = ["ReusingBackend"]


class ReusingBackend(Backend):
    """Passes on what was not asked before and repeats what was; failures are asked again.

    Two requests are the same where expert, messages, answer format and sampling are, and, unless decoding is greedy
    (temperature 0), seed and sample number too: then the inner backend would say the same again.
    `asked` counts the completions that the inner backend really made.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._known: dict[Hashable, Completion] = {}
        self.asked = 0
        self.is_batched = inner.is_batched  # type: ignore[misc]  # as the wrapped one is
        self.extracts_answers = inner.extracts_answers  # type: ignore[misc]

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Completion | TokenDelta]:
        """What is known at once, the rest from the inner backend."""
        unknown = []
        for assignment in batch.assignments:
            samples = range(assignment.first_sample, assignment.first_sample + assignment.samples)
            known = [self._recall(expert, assignment, sample) for sample in samples]
            if None in known:
                unknown.append(assignment)
            for completion in known if assignment not in unknown else []:
                assert completion is not None
                yield completion
        if not unknown:
            return
        by_id = {assignment.query.id: assignment for assignment in unknown}
        inner = self._inner.complete(expert, ExpertBatch(expert_id=expert.id, assignments=tuple(unknown)))
        async with aclosing(inner) as events:  # type: ignore[type-var]  # every backend's iterator is a generator
            async for event in events:
                if isinstance(event, Completion):
                    self._learn(expert, by_id[event.query_id], event)
                yield event

    def check(self, expert: Expert) -> None:
        """As the inner backend checks it."""
        self._inner.check(expert)

    async def aclose(self) -> None:
        """Close the inner backend."""
        await self._inner.aclose()

    def _recall(self, expert: Expert, assignment: Assignment, sample: int) -> Completion | None:
        known = self._find(_key(expert, assignment, sample))
        return None if known is None else replace(known, query_id=assignment.query.id, sample=sample)

    def _learn(self, expert: Expert, assignment: Assignment, completion: Completion) -> None:
        self.asked += 1
        if completion.succeeded:
            self._keep(_key(expert, assignment, completion.sample), completion)

    def _find(self, key: Hashable) -> Completion | None:
        """What was said under this key."""
        return self._known.get(key)

    def _keep(self, key: Hashable, completion: Completion) -> None:
        """Remember what was said."""
        self._known[key] = completion


def _key(expert: Expert, assignment: Assignment, sample: int) -> Hashable:
    query = assignment.query
    sampling = query.sampling.over(expert.sampling)
    draw = None if sampling.temperature == 0 else (assignment.seed, sample)
    return expert.id, query.messages, query.task_format, query.tools, sampling, draw
