"""From the wire to the vocabulary: a checked request becomes a query."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError

from aggregators.schemas import read_schema
from router_service.errors import InvalidQuery
from router_service.http.schemas import (
    ChatRequest,
    EnlistOptions,
    WireContentPart,
    WireJsonSchema,
    WireMessage,
    WireResponseFormat,
)
from router_service.types import (
    ANY_OBJECT,
    AnswerKind,
    AudioPart,
    Budget,
    ContentPart,
    ImagePart,
    Message,
    Query,
    RouteControls,
    Sampling,
    TaskFormat,
    TextPart,
    ToolCall,
)

__all__ = ["controls_of", "query_of", "require_demands"]


def controls_of(request: ChatRequest) -> RouteControls:
    """What the caller decides about routing, the model name aside."""
    enlist = request.enlist
    return RouteControls(
        recruiter=enlist.recruiter,
        aggregator=enlist.aggregator,
        k=enlist.k,
        experts_allowed=tuple(enlist.experts_allowed),
        experts_denied=tuple(enlist.experts_denied),
        streams=request.stream,
        waits_for_all=enlist.waits_for_all,
    )


def query_of(request: ChatRequest, controls: RouteControls, query_id: str) -> Query:
    """The query that the request asks."""
    return Query(
        id=query_id,
        messages=tuple(_message(message) for message in request.messages),
        task_format=_task_format(request.response_format, request.enlist),
        sampling=_sampling(request),
        budget=Budget(**request.enlist.budget.model_dump()),
        controls=controls,
        tools=tuple(json.dumps(tool.model_dump(exclude_none=True)) for tool in request.tools),
        tool_choice=_tool_choice(request),
        seed=request.seed,
        metadata=_metadata(request),
    )


def require_demands(request: ChatRequest) -> None:
    """Raise `RequestValidationError` where a JSON schema of the request, the answer's or a tool's, cannot be held to.

    A large schema takes a second to check the first time: not for the event loop.
    """
    problems = []
    for place, schema in _schemas(request):
        try:
            read_schema(json.dumps(schema))
        except InvalidQuery as wrong:
            problems.append({"type": "invalid_schema", "loc": ("body", *place), "msg": wrong.message})
    if problems:
        raise RequestValidationError(problems)


def _schemas(request: ChatRequest) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """Every JSON schema of the request, with its place."""
    wanted = request.response_format.json_schema if request.response_format is not None else None
    if wanted is not None and wanted.schema_ is not None:
        yield ("response_format", "json_schema", "schema"), wanted.schema_
    for number, tool in enumerate(request.tools):
        if tool.function.parameters is not None:
            yield ("tools", number, "function", "parameters"), tool.function.parameters


def _message(message: WireMessage) -> Message:
    calls = message.tool_calls
    return Message(
        role=message.role,
        content=_content(message.content or _refusal(message)),
        name=message.name,
        tool_calls=tuple(ToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments) for c in calls),
        tool_call_id=message.tool_call_id,
    )


def _refusal(message: WireMessage) -> list[WireContentPart]:
    """What an assistant said when it refused, as its content: the experts must see the turn."""
    return [WireContentPart(type="refusal", refusal=message.refusal)] if message.refusal else []


def _content(parts: list[WireContentPart]) -> str | tuple[ContentPart, ...]:
    """A plain text where there is one text part or none, which every server understands; else the parts."""
    converted = tuple(_part(part) for part in parts)
    if not converted:
        return ""
    if len(converted) == 1 and isinstance(converted[0], TextPart):
        return converted[0].text
    return converted


def _part(part: WireContentPart) -> ContentPart:
    if part.image_url is not None:
        return ImagePart(url=part.image_url.url, detail=part.image_url.detail)
    if part.input_audio is not None:
        return AudioPart(data=part.input_audio.data, format=part.input_audio.format)
    return TextPart(text=part.text or part.refusal or "")


def _task_format(response_format: WireResponseFormat | None, enlist: EnlistOptions) -> TaskFormat:
    if response_format is not None and response_format.type != "text":
        return TaskFormat(kind=AnswerKind.JSON, json_schema=_json_schema(response_format.json_schema))
    if enlist.options:
        return TaskFormat(kind=AnswerKind.CHOICE, options=tuple(enlist.options))
    return TaskFormat(kind=AnswerKind(enlist.answer_kind or AnswerKind.FREE))


def _json_schema(wanted: WireJsonSchema | None) -> str:
    """The whole OpenAI object, name and strictness included; any JSON object where no schema is named."""
    if wanted is None or wanted.schema_ is None:
        return ANY_OBJECT
    given = {"name": wanted.name, "description": wanted.description, "strict": wanted.strict}
    return json.dumps({key: value for key, value in given.items() if value is not None} | {"schema": wanted.schema_})


def _sampling(request: ChatRequest) -> Sampling:
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        stop=tuple(request.stop),
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )


def _tool_choice(request: ChatRequest) -> str | None:
    """The mode as it is; a named function as the JSON text of the OpenAI object."""
    choice = request.tool_choice
    if choice is None:
        return None
    return choice.mode if choice.named is None else json.dumps(choice.named.model_dump())


def _metadata(request: ChatRequest) -> dict[str, str]:
    """What annotators may read besides the messages."""
    return {"skills": json.dumps(request.enlist.skills)} if request.enlist.skills else {}
