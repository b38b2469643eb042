"""Turns assignments into rows to be written by an embedded model, and written rows into completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experts_registry.estimate import ASSUMED_OUTPUT_TOKENS
from router_service.backends._transformers_decode import Row
from router_service.backends._transformers_model import ResidentBase
from router_service.errors import ExpertRefused
from router_service.types import Assignment, Completion, CompletionError, Expert, Usage, stable_seed

__all__ = ["completions_of", "refusals_of", "rows_of"]


def rows_of(expert: Expert, assignment: Assignment, base: ResidentBase) -> list[Row]:
    """The rows that answer one assignment: one per sample, or one for all samples where the choice is greedy.

    Raises `ExpertRefused` where this expert cannot serve the query (image, audio, a conversation that its chat
    template does not take, more tokens than its window).
    """
    query = assignment.query
    unserved = query.modalities - {"text"}
    if unserved:
        raise _refusal(expert, f"reads text only, and the query holds {', '.join(sorted(unserved))}")
    prompt = _prompt(expert, assignment, base)
    sampling = query.sampling.over(expert.sampling)
    room = _window(expert, base) - len(prompt)
    limit = _limit(expert, sampling.max_tokens, room=room, n_prompt=len(prompt))
    limit = min(limit, max(1, query.budget.max_output_tokens or limit))
    samples = tuple(range(assignment.first_sample, assignment.first_sample + assignment.samples))
    is_greedy = not sampling.temperature or sampling.temperature <= 0
    return [
        Row(
            assignment=assignment,
            samples=group,
            prompt=prompt,
            sampling=sampling,
            limit=limit,
            seed=stable_seed(assignment.seed, group[0]),
        )
        for group in ([samples] if is_greedy else [(sample,) for sample in samples])
    ]


def _prompt(expert: Expert, assignment: Assignment, base: ResidentBase) -> tuple[int, ...]:
    from jinja2 import TemplateError

    try:
        return base.encode(assignment.query.messages, persona=expert.persona)
    except TemplateError as error:
        roles = ", ".join(message.role for message in assignment.query.messages)
        raise _refusal(
            expert, f"has a chat template that does not take a conversation of the roles {roles} ({error})"
        ) from error


def _window(expert: Expert, base: ResidentBase) -> int:
    known = [tokens for tokens in (expert.context_window, base.window_tokens) if tokens]
    return min(known, default=1 << 30)


def _limit(expert: Expert, asked: int | None, *, room: int, n_prompt: int) -> int:
    if room <= 0:
        raise _refusal(
            expert,
            f"has a context window of {n_prompt + room} tokens, and the query has {n_prompt} (with persona and chat "
            "template), which leaves no token to answer; shorten it, or allow an expert with a larger context_window",
        )
    if asked is not None and asked < 1:
        raise _refusal(expert, f"cannot answer in max_tokens={asked}; ask for 1 or more")
    limits = [tokens for tokens in (asked, expert.max_output_tokens) if tokens is not None]
    return min(*(limits or [ASSUMED_OUTPUT_TOKENS]), room)


def _refusal(expert: Expert, reason: str) -> ExpertRefused:
    return ExpertRefused(f"expert {expert.id!r} {reason}", expert_id=expert.id)


def refusals_of(assignment: Assignment, refused: ExpertRefused) -> Iterator[Completion]:
    """One failed completion per sample of an assignment that cannot be served."""
    error = CompletionError(code=refused.code, message=refused.message, is_retryable=refused.retryable)
    for sample in range(assignment.first_sample, assignment.first_sample + assignment.samples):
        yield Completion(
            query_id=assignment.query.id,
            expert_id=refused.expert_id,
            sample=sample,
            error=error,
            usage=Usage(completions=1),
        )


def completions_of(row: Row, *, expert_id: str, latency_s: float) -> Sequence[Completion]:
    """What a written row says, once per sample that it stands for.

    The tokens counted include the end token; latency is the time since the row's micro-batch began.
    """
    usage = Usage(completions=1, prompt_tokens=len(row.prompt), completion_tokens=row.n_written, cost_usd=None)
    return [
        Completion(
            query_id=row.assignment.query.id,
            expert_id=expert_id,
            sample=sample,
            text=row.text,
            finish_reason=row.finish_reason,
            usage=usage,
            latency_s=latency_s,
            logprob=row.logprob_sum / row.n_written,
        )
        for sample in row.samples
    ]
