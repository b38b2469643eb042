"""Turns assignments into rows to be written by an embedded model, and written rows into completions."""

from __future__ import annotations

from collections.abc import Sequence

from experts_registry.estimate import max_output_tokens
from router_service.backends._text_requests import (
    require_text_alone,
    sample_groups,
    template_refusal,
    window_refusal,
)
from router_service.backends._transformers_decode import Row
from router_service.backends._transformers_model import ResidentBase
from router_service.types import Assignment, Completion, Expert, Query, Usage, stable_seed

__all__ = ["completions_of", "prompt_of", "room_after", "rows_of"]


def rows_of(expert: Expert, assignment: Assignment, base: ResidentBase) -> list[Row]:
    """The rows that answer one assignment: one per sample, or one for all samples where the choice is greedy.

    No row is longer than the limit that was reserved for it (`max_output_tokens`), nor than its prompt leaves room for.
    Raises `ExpertRefused` where this expert cannot serve the query (image, audio, tools, a conversation that its chat
    template does not take, more tokens than its window).
    """
    query = assignment.query
    require_text_alone(expert, query)
    prompt = prompt_of(expert, query, base)
    sampling = query.sampling.over(expert.sampling)
    limit = min(max_output_tokens(expert, query), room_after(expert, base, n_prompt=len(prompt)))
    return [
        Row(
            assignment=assignment,
            samples=group,
            prompt=prompt,
            sampling=sampling,
            limit=limit,
            seed=stable_seed(assignment.seed, group[0]),
        )
        for group in sample_groups(assignment, sampling)
    ]


def prompt_of(expert: Expert, query: Query, base: ResidentBase) -> tuple[int, ...]:
    """The query's tokens as this expert reads them; raises `ExpertRefused` where its chat template does not take it."""
    from jinja2 import TemplateError

    try:
        return base.encode(query.messages, persona=expert.persona)
    except TemplateError as error:
        raise template_refusal(expert, query, error) from error


def room_after(expert: Expert, base: ResidentBase, *, n_prompt: int) -> int:
    """The tokens that the prompt leaves in the window, at least 1; raises `ExpertRefused` where it leaves none."""
    known = [tokens for tokens in (expert.context_window, base.window_tokens) if tokens]
    window = min(known, default=1 << 30)
    if n_prompt >= window:
        raise window_refusal(expert, window=window, n_prompt=n_prompt)
    return window - n_prompt


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
