"""A backend that says what was recorded: the completions behind an artefact, put through an engine once more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

from router_service.backends.base import Backend
from router_service.types import Completion, CompletionError, Expert, ExpertBatch, TokenDelta, Usage

__all__ = ["RecordedCalls"]


class RecordedCalls(Backend):
    """Answers a query with what its expert said to the question of that id; samples beyond the recorded ones repeat
    them in turn, and what was never recorded is a failed completion."""

    is_batched: ClassVar[bool] = True
    extracts_answers: ClassVar[bool] = True

    def __init__(self, completions: Mapping[str, Iterable[Completion]]) -> None:
        """`completions` by question id, with their answers extracted."""
        self._said: dict[tuple[str, str], list[Completion]] = {}
        for question_id, said in completions.items():
            for completion in sorted(said, key=lambda completion: completion.sample):
                self._said.setdefault((question_id, completion.expert_id), []).append(completion)

    def recorded(self, question_id: str, expert_id: str) -> int:
        """How many samples are recorded."""
        return len(self._said.get((question_id, expert_id), ()))

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        """Everything at once, in order."""
        for assignment in batch.assignments:
            query_id = assignment.query.id
            said = self._said.get((query_id, expert.id), [])
            for sample in range(assignment.first_sample, assignment.first_sample + assignment.samples):
                if said:
                    yield replace(said[sample % len(said)], query_id=query_id, sample=sample)
                else:
                    message = f"nothing is recorded of expert {expert.id!r} on question {query_id!r}"
                    error = CompletionError(code="no_recorded_outcome", message=message)
                    yield Completion(query_id=query_id, expert_id=expert.id, sample=sample, usage=Usage(), error=error)
