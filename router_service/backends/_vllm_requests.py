"""What an engine process is asked for an assignment, and what its words mean: completions, token deltas, refusals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from experts_registry.estimate import max_output_tokens
from router_service.backends._text_requests import (
    is_greedy,
    refusal,
    refusals_of,
    require_text_alone,
    sample_groups,
    template_refusal,
    turns_of,
    window_refusal,
)
from router_service.errors import ExpertError, ExpertUnavailable
from router_service.types import (
    ANY_OBJECT,
    AnswerKind,
    Assignment,
    Completion,
    Expert,
    Query,
    Sampling,
    TaskFormat,
    TokenDelta,
    Usage,
    stable_seed,
)

__all__ = ["Asked", "add_order", "pieces_of", "refused_by", "score_order"]

Word = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Asked:
    """An assignment under way: its samples in groups that come out the same, and those groups that are still out."""

    assignment: Assignment
    groups: list[tuple[int, ...]]
    began_s: float
    open: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.open = set(range(len(self.groups)))

    def close(self, word: Word) -> Assignment:
        """What of the assignment is over with this word: the group that it names, or all that was still out."""
        index = word.get("index")
        samples = [sample for i in self.open if index in (None, i) for sample in self.groups[i]]
        self.open -= self.open if index is None else {index}
        if not samples:
            return replace(self.assignment, samples=0)
        return replace(self.assignment, first_sample=min(samples), samples=len(samples))


def add_order(expert: Expert, assignment: Assignment, *, adapter: Word | None) -> Word:
    """The order that has an assignment answered, but for its `id`.

    Each sample gets a seed of its own, that of the sample by its number: the same whether it is asked for with others
    or alone. Samples that come out the same are written once. Raises `ExpertRefused` where the query holds more than
    text, or a JSON schema that is no JSON.
    """
    query = assignment.query
    require_text_alone(expert, query)
    sampling = query.sampling.over(expert.sampling)
    return {
        "op": "add",
        **_prompt_of(expert, query, adapter),
        "seeds": [stable_seed(assignment.seed, group[0]) for group in sample_groups(assignment, sampling)],
        "sampling": _sampling_of(sampling),
        "limit": max_output_tokens(expert, query),
        "schema": _schema_of(query.task_format, expert),
        "streams": assignment.streams,
    }


def score_order(expert: Expert, query: Query, text: str, *, adapter: Word | None) -> Word:
    """The order that has a text scored as the answer to a query, but for its `id`; raises `ExpertRefused`."""
    require_text_alone(expert, query)
    return {"op": "score", **_prompt_of(expert, query, adapter), "text": text}


def pieces_of(asked: Asked, word: Word, *, expert: Expert, now_s: float) -> list[Completion | TokenDelta]:
    """What a word about an assignment comes to; a `KeyError` or `TypeError` where it is none."""
    query = asked.assignment.query
    if word["op"] == "delta":
        return [TokenDelta(query_id=query.id, text=word["text"])]
    if word["op"] == "failed":
        refused = refused_by(word, expert=expert, query=query)
        return [*refusals_of(asked.close(word), refused)]
    if word["op"] == "done" and word["index"] in asked.open:
        asked.open.discard(word["index"])
        tokens = word["completion_tokens"]
        completion = Completion(
            query_id=query.id,
            expert_id=expert.id,
            text=word["text"],
            finish_reason=word["finish_reason"],
            usage=Usage(completions=1, prompt_tokens=word["prompt_tokens"], completion_tokens=tokens, cost_usd=None),
            latency_s=now_s - asked.began_s,
            logprob=word["logprob_sum"] / tokens if tokens and word["logprob_sum"] is not None else None,
        )
        return [replace(completion, sample=sample) for sample in asked.groups[word["index"]]]
    return []


def refused_by(word: Word, *, expert: Expert, query: Query) -> ExpertError:
    """The error that a `failed` word about a request means."""
    code, message = word["code"], word["message"]
    if code == "too_long":
        return window_refusal(expert, window=word["window"], n_prompt=word["n_prompt"])
    if code == "template":
        return template_refusal(expert, query, message)
    if code == "stopped":
        return ExpertUnavailable(f"expert {expert.id!r} was not answered to the end: {message}", expert_id=expert.id)
    if code == "adapter":
        return refusal(expert, f"has an adapter that the engine cannot take: {expert.adapter} ({message})")
    return refusal(expert, f"was asked what its engine cannot do: {message}")


def _prompt_of(expert: Expert, query: Query, adapter: Word | None) -> Word:
    return {
        "turns": turns_of(query.messages, persona=expert.persona),
        "adapter": adapter,
        "window": expert.context_window,
    }


def _sampling_of(sampling: Sampling) -> Word:
    """vLLM's sampling parameters; what nobody asked for is left to their defaults, but greedy is ours."""
    given = {
        "temperature": 0.0 if is_greedy(sampling) else sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": list(sampling.stop) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _schema_of(task_format: TaskFormat, expert: Expert) -> Word | None:
    """What the answer must be: None is anything, `{"schema": None}` is any JSON object."""
    if task_format.kind is not AnswerKind.JSON:
        return None
    if task_format.json_schema is None or task_format.json_schema == ANY_OBJECT:
        return {"schema": None}
    try:
        schema = orjson.loads(task_format.json_schema)
    except orjson.JSONDecodeError as malformed:
        raise refusal(expert, f"was not asked: the query's json_schema is not JSON ({malformed})") from None
    is_named = isinstance(schema, dict) and {"name", "schema"} <= schema.keys()
    return {"schema": schema["schema"] if is_named else schema}
