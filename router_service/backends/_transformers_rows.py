"""Turns assignments into rows to be written by an embedded model, and written rows into completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experts_registry.estimate import max_output_tokens
from router_service.backends._transformers_decode import Row
from router_service.backends._transformers_model import ResidentBase
from router_service.errors import ExpertRefused
from router_service.types import Assignment, Completion, CompletionError, Expert, Query, Usage, stable_seed

__all__ = ["completions_of", "refusals_of", "rows_of"]

_TOOLS = "leave them out, or ask an expert behind a server (backend openai or litellm)"


def rows_of(expert: Expert, assignment: Assignment, base: ResidentBase) -> list[Row]:
    """The rows that answer one assignment: one per sample, or one for all samples where the choice is greedy.

    No row is longer than the limit that was reserved for it (`max_output_tokens`), nor than its prompt leaves room for.
    Raises `ExpertRefused` where this expert cannot serve the query (image, audio, tools, a conversation that its chat
    template does not take, more tokens than its window).
    """
    query = assignment.query
    _require_text_alone(expert, query)
    prompt = _prompt(expert, assignment, base)
    sampling = query.sampling.over(expert.sampling)
    limit = min(max_output_tokens(expert, query), _room(expert, base, n_prompt=len(prompt)))
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


def _require_text_alone(expert: Expert, query: Query) -> None:
    """Refuse what would be left out of the prompt: images, audio, tools, and calls of tools earlier on."""
    unserved = query.modalities - {"text"}
    if unserved:
        raise _refusal(expert, f"reads text only, and the query holds {', '.join(sorted(unserved))}")
    offers_tools = bool(query.tools) and query.tool_choice != "none"
    if offers_tools or query.tool_choice not in (None, "none", "auto"):
        what = "tools" if query.tools else f"tool_choice {query.tool_choice!r}"
        raise _refusal(expert, f"runs in the embedded engine, which calls no tools, and the query has {what}; {_TOOLS}")
    if any(message.tool_calls for message in query.messages):
        raise _refusal(expert, f"runs in the embedded engine, which reads no tool_calls in messages; {_TOOLS}")


def _room(expert: Expert, base: ResidentBase, *, n_prompt: int) -> int:
    """The tokens that the prompt leaves in the window, at least 1; raises `ExpertRefused` where it leaves none."""
    known = [tokens for tokens in (expert.context_window, base.window_tokens) if tokens]
    window = min(known, default=1 << 30)
    if n_prompt >= window:
        raise _refusal(
            expert,
            f"has a context window of {window} tokens, and the query has {n_prompt} (with persona and chat "
            "template), which leaves no token to answer; shorten it, or allow an expert with a larger context_window",
        )
    return window - n_prompt


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
