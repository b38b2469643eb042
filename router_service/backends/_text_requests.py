"""What engines that run open models themselves take of a query: its text, a persona first, no more than the window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from router_service.errors import ExpertError, ExpertRefused
from router_service.types import Assignment, Completion, CompletionError, Expert, Message, Query, Sampling, Usage

__all__ = [
    "is_greedy",
    "refusal",
    "refusals_of",
    "require_text_alone",
    "sample_groups",
    "samples_of",
    "template_refusal",
    "turns_of",
    "window_refusal",
]

_ROLES = {"developer": "system"}
_TOOLS = "leave them out, or ask an expert behind a server (backend openai or litellm)"


def turns_of(messages: Sequence[Message], *, persona: str | None) -> list[dict[str, str]]:
    """The conversation as a chat template takes it: roles and texts, the persona put first as system text."""
    turns = [{"role": _ROLES.get(m.role, m.role), "content": m.text} for m in messages]
    if persona:
        if turns and turns[0]["role"] == "system":
            turns[0] = {"role": "system", "content": f"{persona}\n\n{turns[0]['content']}"}
        else:
            turns.insert(0, {"role": "system", "content": persona})
    return turns


def require_text_alone(expert: Expert, query: Query) -> None:
    """Raise `ExpertRefused` for what would be left out of the prompt: images, audio, tools, earlier calls of tools."""
    unserved = query.modalities - {"text"}
    if unserved:
        raise refusal(expert, f"reads text only, and the query holds {', '.join(sorted(unserved))}")
    offers_tools = bool(query.tools) and query.tool_choice != "none"
    if offers_tools or query.tool_choice not in (None, "none", "auto"):
        what = "tools" if query.tools else f"tool_choice {query.tool_choice!r}"
        raise refusal(expert, f"runs in the embedded engine, which calls no tools, and the query has {what}; {_TOOLS}")
    if any(message.tool_calls for message in query.messages):
        raise refusal(expert, f"runs in the embedded engine, which reads no tool_calls in messages; {_TOOLS}")


def is_greedy(sampling: Sampling) -> bool:
    """True where the most probable token is always taken: no temperature, or none above 0."""
    return not sampling.temperature or sampling.temperature <= 0


def samples_of(assignment: Assignment) -> tuple[int, ...]:
    """The numbers of the samples that an assignment asks for."""
    return tuple(range(assignment.first_sample, assignment.first_sample + assignment.samples))


def sample_groups(assignment: Assignment, sampling: Sampling) -> list[tuple[int, ...]]:
    """The samples in groups that come out the same: all of them where the choice is greedy, else each alone."""
    samples = samples_of(assignment)
    return [samples] if is_greedy(sampling) else [(sample,) for sample in samples]


def refusal(expert: Expert, reason: str) -> ExpertRefused:
    """The error of an expert that cannot serve a query; `reason` goes on where its name ends."""
    return ExpertRefused(f"expert {expert.id!r} {reason}", expert_id=expert.id)


def template_refusal(expert: Expert, query: Query, complaint: object) -> ExpertRefused:
    """The error for a conversation that the model's chat template does not take."""
    roles = ", ".join(message.role for message in query.messages)
    return refusal(expert, f"has a chat template that does not take a conversation of the roles {roles} ({complaint})")


def window_refusal(expert: Expert, *, window: int, n_prompt: int) -> ExpertRefused:
    """The error for a prompt of `n_prompt` tokens that leaves none to answer with."""
    return refusal(
        expert,
        f"has a context window of {window} tokens, and the query has {n_prompt} (with persona and chat "
        "template), which leaves no token to answer; shorten it, or allow an expert with a larger context_window",
    )


def refusals_of(assignment: Assignment, refused: ExpertError) -> Iterator[Completion]:
    """One failed completion per sample of an assignment that cannot be served."""
    error = CompletionError(code=refused.code, message=refused.message, is_retryable=refused.retryable)
    for sample in samples_of(assignment):
        yield Completion(
            query_id=assignment.query.id,
            expert_id=refused.expert_id,
            sample=sample,
            error=error,
            usage=Usage(completions=1),
        )
