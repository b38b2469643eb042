"""How stores write things down: jobs' texts, finished entries and completions as JSON that reads back the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from router_service.store.base import FinishedEntry
from router_service.types import Completion, CompletionError, ToolCall, Usage

__all__ = [
    "completion_from_json",
    "completion_to_json",
    "dump_json",
    "entry_from_json",
    "entry_to_json",
    "usage_from_parts",
    "usage_parts",
]


def dump_json(record: object) -> str:
    """One value as one line of JSON, keys in the order given; half a surrogate pair (JSON can say it, UTF-8 cannot) is
    escaped."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(record)
    return text


def usage_parts(usage: Usage) -> list[Any]:
    """Completions, prompt tokens, completion tokens and cost."""
    return [usage.completions, usage.prompt_tokens, usage.completion_tokens, usage.cost_usd]


def usage_from_parts(parts: Sequence[Any]) -> Usage:
    """The usage that `usage_parts` took apart."""
    completions, prompt_tokens, completion_tokens, cost_usd = parts
    return Usage(
        completions=completions, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_usd=cost_usd
    )


def entry_to_json(entry: FinishedEntry) -> str:
    """A finished line without its number, under which it is kept."""
    return dump_json(
        {
            "failed": entry.has_failed,
            "retryable": entry.is_retryable,
            "attempts": entry.attempts,
            "usage": usage_parts(entry.usage),
            "route": entry.route,
            "output": entry.output,
        }
    )


def entry_from_json(number: int, text: str | bytes) -> FinishedEntry:
    """The entry of that number again."""
    kept = json.loads(text)
    return FinishedEntry(
        number=number,
        output=kept["output"],
        has_failed=kept["failed"],
        is_retryable=kept["retryable"],
        usage=usage_from_parts(kept["usage"]),
        route=kept["route"],
        attempts=kept["attempts"],
    )


def completion_to_json(completion: Completion) -> str:
    """A completion, failed ones included; what is at its default is left out."""
    error = completion.error
    fields: dict[str, Any] = {
        "query": completion.query_id,
        "expert": completion.expert_id,
        "sample": completion.sample,
        "text": completion.text,
        "usage": usage_parts(completion.usage),
        "latency_s": completion.latency_s,
        "extracted": completion.extracted,
        "finish_reason": completion.finish_reason,
        "logprob": completion.logprob,
    }
    if completion.tool_calls:
        fields["tool_calls"] = [[call.id, call.name, call.arguments] for call in completion.tool_calls]
    if error is not None:
        fields["error"] = [error.code, error.message, error.is_retryable, error.retry_after_s]
    return dump_json(fields)


def completion_from_json(text: str | bytes) -> Completion:
    """The completion again."""
    kept = json.loads(text)
    return Completion(
        query_id=kept["query"],
        expert_id=kept["expert"],
        sample=kept["sample"],
        text=kept["text"],
        extracted=kept["extracted"],
        finish_reason=kept["finish_reason"],
        tool_calls=tuple(ToolCall(id=i, name=n, arguments=a) for i, n, a in kept.get("tool_calls", ())),
        usage=usage_from_parts(kept["usage"]),
        latency_s=kept["latency_s"],
        logprob=kept["logprob"],
        error=_error(kept),
    )


def _error(kept: Mapping[str, Any]) -> CompletionError | None:
    if "error" not in kept:
        return None
    code, message, is_retryable, retry_after_s = kept["error"]
    return CompletionError(code=code, message=message, is_retryable=is_retryable, retry_after_s=retry_after_s)
