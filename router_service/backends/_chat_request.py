"""What an expert is sent: the OpenAI chat request, as every compatible server and litellm understand it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from experts_registry.estimate import max_output_tokens
from router_service.errors import ExpertRefused
from router_service.types import (
    ANY_OBJECT,
    AnswerKind,
    Assignment,
    AudioPart,
    ContentPart,
    Expert,
    ImagePart,
    Message,
    Query,
    TaskFormat,
    stable_seed,
)

__all__ = ["chat_messages", "chat_request", "request_seed"]

JsonObject = dict[str, Any]

_SEED_MASK = 0x7FFF_FFFF
"""Some servers keep a seed in 32 bits, signed or not: 31 bits fit all of them."""


def chat_request(expert: Expert, query: Query, *, max_tokens_field: str = "max_tokens") -> JsonObject:
    """The request without model, seed, n and stream: messages, sampling, tools and the format of the answer.

    Raises `ExpertRefused` where a tool, tool choice or JSON schema is not JSON.
    """
    sampling = query.sampling.over(expert.sampling)
    request: JsonObject = {
        "messages": chat_messages(expert, query),
        max_tokens_field: max_output_tokens(expert, query),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": list(sampling.stop) or None,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "tools": [_parsed(tool, "tool", expert) for tool in query.tools] or None,
        "tool_choice": _tool_choice(query, expert),
        "response_format": _response_format(query.task_format, expert),
    }
    return {key: value for key, value in request.items() if value is not None}


def chat_messages(expert: Expert, query: Query) -> list[JsonObject]:
    """The messages, the expert's persona first: joined with the query's own system message, as many chat templates
    take only one."""
    messages = [_message(message) for message in query.messages]
    if not expert.persona:
        return messages
    first = messages[0] if messages else {}
    if first.get("role") in ("system", "developer") and isinstance(first["content"], str):
        return [{**first, "content": f"{expert.persona}\n\n{first['content']}"}, *messages[1:]]
    return [{"role": "system", "content": expert.persona}, *messages]


def request_seed(assignment: Assignment, first: int) -> int:
    """The seed of a request for the samples from `first` on; no two samples asked for apart share it."""
    return (stable_seed(assignment.seed, first) if first else assignment.seed) & _SEED_MASK


def _message(message: Message) -> JsonObject:
    content = message.content if isinstance(message.content, str) else [_part(part) for part in message.content]
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    wire: JsonObject = {"role": message.role, "content": None if calls and not content else content}
    optional = {"name": message.name, "tool_calls": calls or None, "tool_call_id": message.tool_call_id}
    return {**wire, **{key: value for key, value in optional.items() if value is not None}}


def _part(part: ContentPart) -> JsonObject:
    if isinstance(part, ImagePart):
        detail = {"detail": part.detail} if part.detail else {}
        return {"type": "image_url", "image_url": {"url": part.url, **detail}}
    if isinstance(part, AudioPart):
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    return {"type": "text", "text": part.text}


def _tool_choice(query: Query, expert: Expert) -> object:
    choice = query.tool_choice
    return _parsed(choice, "tool_choice", expert) if choice and choice.lstrip().startswith("{") else choice


def _response_format(task_format: TaskFormat, expert: Expert) -> JsonObject | None:
    if task_format.kind is not AnswerKind.JSON:
        return None
    if task_format.json_schema is None or task_format.json_schema == ANY_OBJECT:
        return {"type": "json_object"}
    schema = _parsed(task_format.json_schema, "json_schema", expert)
    is_named = isinstance(schema, Mapping) and {"name", "schema"} <= schema.keys()
    return {"type": "json_schema", "json_schema": schema if is_named else {"name": "answer", "schema": schema}}


def _parsed(text: str, what: str, expert: Expert) -> object:
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError as malformed:
        raise ExpertRefused(
            f"{expert.id} was not asked: the query's {what} is not JSON ({malformed})", expert_id=expert.id
        ) from None
    return parsed
