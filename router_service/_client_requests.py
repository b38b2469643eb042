"""What the SDK sends: options checked by name, bodies as the service reads them, and when to try again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from router_service.errors import nearest_name
from router_service.types import AudioPart, Budget, ContentPart, ImagePart, Message, TextPart

__all__ = ["AskOptions", "Call", "Question", "RetryPolicy", "chat_call", "route_call"]

Question = str | Sequence[Message]
"""What may be asked: a text, or a conversation."""


class AskOptions(TypedDict, total=False):
    """How one question is answered; what is left out is the service's choice."""

    model: str
    temperature: float
    top_p: float
    max_tokens: int
    stop: Sequence[str]
    presence_penalty: float
    frequency_penalty: float
    seed: int
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    response_format: Mapping[str, Any]
    user: str
    recruiter: str
    aggregator: str
    k: int
    budget: Budget
    experts_allowed: Sequence[str]
    experts_denied: Sequence[str]
    skills: Sequence[str]
    answer_kind: str
    options: Sequence[str]
    waits_for_all: bool


_ENLIST = frozenset(
    {
        "recruiter",
        "aggregator",
        "k",
        "budget",
        "experts_allowed",
        "experts_denied",
        "skills",
        "answer_kind",
        "options",
        "waits_for_all",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the service."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


def chat_call(question: Question, options: AskOptions, *, stream: bool = False) -> Call:
    """The call that asks for an answer; raises `TypeError` for an option that does not exist."""
    body = _body(question, options)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Call(method="POST", path="/v1/chat/completions", body=body)


def route_call(question: Question, options: AskOptions) -> Call:
    """The call that asks who would be asked; raises `TypeError` for an option that does not exist."""
    return Call(method="POST", path="/v1/route", body=_body(question, options))


def _body(question: Question, options: AskOptions) -> dict[str, Any]:
    for name in options:
        if name not in AskOptions.__annotations__:
            near = nearest_name(name, AskOptions.__annotations__)
            guess = f" Did you mean {near!r}?" if near else ""
            raise TypeError(
                f"there is no option {name!r}.{guess} Allowed: {', '.join(sorted(AskOptions.__annotations__))}."
            )
    given = {name: _plain(value) for name, value in options.items() if value is not None}
    enlist = {name: value for name, value in given.items() if name in _ENLIST}
    body = {"model": "auto", "messages": _messages(question)}
    body |= {name: value for name, value in given.items() if name not in _ENLIST}
    return body | ({"enlist": enlist} if enlist else {})


def _plain(value: Any) -> Any:
    """The value as JSON has it: a budget without its open limits, sequences as lists."""
    if isinstance(value, Budget):
        return {name: limit for name, limit in asdict(value).items() if limit is not None}
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _messages(question: Question) -> list[dict[str, Any]]:
    if isinstance(question, str):
        return [{"role": "user", "content": question}]
    return [_message(message) for message in question]


def _message(message: Message) -> dict[str, Any]:
    content = message.content if isinstance(message.content, str) else [_part(part) for part in message.content]
    wire = {
        "role": message.role,
        "content": content,
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ],
    }
    return {name: value for name, value in wire.items() if value not in (None, [])}


def _part(part: ContentPart) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ImagePart(url=url, detail=detail):
            return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}
        case AudioPart(data=data, format=audio_format):
            return {"type": "input_audio", "input_audio": {"data": data, "format": audio_format}}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed call is sent again, and after how many seconds.

    A response is tried again where its `x-should-retry` says so, or, without that header, where its status tells that
    the work was not done (408, 429, 502, 503, 504). `retry-after` is honoured up to `wait_max_s`; a longer wish is not
    waited for. The pause doubles from `wait_initial_s`; `jitter` in [0, 1] shortens it by up to a quarter.
    """

    max_retries: int = 2
    wait_initial_s: float = 0.5
    wait_max_s: float = 30.0

    def wait_s(self, attempt: int, *, jitter: float, retry_after_s: float | None = None) -> float | None:
        """Seconds before try number `attempt + 2` (`attempt` counts from 0); None where there is none."""
        if attempt >= self.max_retries or (retry_after_s or 0.0) > self.wait_max_s:
            return None
        if retry_after_s is not None:
            return retry_after_s
        return min(self.wait_max_s, self.wait_initial_s * 2.0**attempt) * (1 - 0.25 * jitter)

    def allows(self, status: int, should_retry: str | None) -> bool:
        """True where a response of that status may be better next time."""
        if should_retry in ("true", "false"):
            return should_retry == "true"
        return status in _RETRYABLE


_RETRYABLE = frozenset({408, 429, 502, 503, 504})
