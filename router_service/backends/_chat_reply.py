"""What an expert sent back: the OpenAI chat reply, whole or in chunks, read into completions with care."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from router_service.errors import ExpertRefused
from router_service.types import Assignment, Completion, CompletionError, Expert, ToolCall, Usage

__all__ = ["StreamedReply", "read_replies"]

JsonObject = Mapping[str, Any]


def read_replies(body: JsonObject, *, expert: Expert, assignment: Assignment, first: int) -> list[Completion]:
    """One completion per choice, numbered from `first`, never more than the assignment still wants.

    The prompt is counted in the first one only, for it was sent once; the completion tokens of all choices are shared
    out by the length of their texts. Raises `ValueError` where the body is no chat reply.
    """
    choices = [choice for choice in _list(body.get("choices")) if isinstance(choice, Mapping)]
    if not choices:
        raise ValueError("the reply has no choices")
    wanted = assignment.first_sample + assignment.samples - first
    ordered = sorted(choices, key=lambda choice: _count(choice.get("index")))[:wanted]
    completions = [
        _completion(choice, expert=expert, assignment=assignment, sample=first + number)
        for number, choice in enumerate(ordered)
    ]
    return _with_usage(completions, body.get("usage"))


@dataclass(slots=True, kw_only=True)
class StreamedReply:
    """A reply that comes in chunks: `add` gives the new text of each; `completion` is there once it `is_finished`."""

    expert: Expert
    assignment: Assignment
    finish_reason: str | None = None
    _texts: list[str] = field(default_factory=list)
    _refusals: list[str] = field(default_factory=list)
    _calls: dict[int, dict[str, str]] = field(default_factory=dict)
    _usage: object = None

    @property
    def is_finished(self) -> bool:
        """True once the expert said why it stopped."""
        return self.finish_reason is not None

    def add(self, chunk: JsonObject) -> str:
        """Take a chunk; returns the text it adds."""
        self._usage = chunk.get("usage") or self._usage
        added = ""
        for choice in _list(chunk.get("choices")):
            if not isinstance(choice, Mapping) or _count(choice.get("index")) != 0:
                continue
            delta = choice.get("delta")
            delta = delta if isinstance(delta, Mapping) else {}
            added += _text(delta.get("content"))
            self._refusals.append(_text(delta.get("refusal")))
            self._add_calls(_list(delta.get("tool_calls")))
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        self._texts.append(added)
        return added

    def completion(self) -> Completion:
        """All chunks together."""
        message = {
            "content": "".join(self._texts),
            "refusal": "".join(self._refusals),
            "tool_calls": [
                {"id": call["id"], "function": call}
                for _, call in sorted(self._calls.items(), key=lambda item: item[0])
            ],
        }
        choice = {"message": message, "finish_reason": self.finish_reason or "stop"}
        sample = self.assignment.first_sample
        completion = _completion(choice, expert=self.expert, assignment=self.assignment, sample=sample)
        return _with_usage([completion], self._usage)[0]

    def _add_calls(self, pieces: Sequence[object]) -> None:
        for piece in pieces:
            if isinstance(piece, Mapping):
                call = self._calls.setdefault(_count(piece.get("index")), {"id": "", "name": "", "arguments": ""})
                function = piece.get("function")
                function = function if isinstance(function, Mapping) else {}
                call["id"] = _text(piece.get("id")) or call["id"]
                call["name"] += _text(function.get("name"))
                call["arguments"] += _text(function.get("arguments"))


def _completion(choice: JsonObject, *, expert: Expert, assignment: Assignment, sample: int) -> Completion:
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    finish_reason = _text(choice.get("finish_reason")) or None
    text = _text(message.get("content"))
    return Completion(
        query_id=assignment.query.id,
        expert_id=expert.id,
        sample=sample,
        text=text,
        finish_reason=finish_reason,
        tool_calls=tuple(_tool_calls(message)),
        logprob=_mean_logprob(choice.get("logprobs")),
        error=_refusal(_text(message.get("refusal")), text=text, finish_reason=finish_reason, expert=expert),
    )


def _refusal(refusal: str, *, text: str, finish_reason: str | None, expert: Expert) -> CompletionError | None:
    if refusal:
        return CompletionError(code=ExpertRefused.code, message=f"{expert.id} refused: {refusal}")
    if finish_reason == "content_filter" and not text:
        return CompletionError(code=ExpertRefused.code, message=f"{expert.id}'s content filter left nothing to say")
    return None


def _tool_calls(message: JsonObject) -> list[ToolCall]:
    calls = []
    for call in _list(message.get("tool_calls")):
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(call, Mapping) and isinstance(function, Mapping):
            calls.append(
                ToolCall(
                    id=_text(call.get("id")),
                    name=_text(function.get("name")),
                    arguments=_text(function.get("arguments")),
                )
            )
    return calls


def _with_usage(completions: Sequence[Completion], usage: object) -> list[Completion]:
    """Share the reply's usage out; where it has none the tokens stay 0 and the cost unknown."""
    told = usage if isinstance(usage, Mapping) else {}
    prompt = _count(told.get("prompt_tokens"))
    shares = _shared_out(_count(told.get("completion_tokens")), [len(c.text) + 1 for c in completions])
    return [
        replace(
            completion,
            usage=Usage(completions=1, prompt_tokens=0 if number else prompt, completion_tokens=share, cost_usd=None),
        )
        for number, (completion, share) in enumerate(zip(completions, shares, strict=True))
    ]


def _shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to the weights; they add up to it exactly."""
    shares, given, seen, whole = [], 0, 0, sum(weights)
    for weight in weights:
        seen += weight
        share = total * seen // whole - given
        given += share
        shares.append(share)
    return shares


def _mean_logprob(logprobs: object) -> float | None:
    content = _list(logprobs.get("content")) if isinstance(logprobs, Mapping) else []
    values = [token.get("logprob") for token in content if isinstance(token, Mapping)]
    known = [float(value) for value in values if isinstance(value, int | float)]
    return sum(known) / len(known) if known else None


def _text(value: object) -> str:
    """A text, or the texts of content parts joined; anything else is no text."""
    if isinstance(value, str):
        return value
    parts = [part.get("text") for part in _list(value) if isinstance(part, Mapping)]
    return "".join(part for part in parts if isinstance(part, str))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
