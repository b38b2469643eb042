"""Which proposed tool calls may come out: tools that were offered, arguments that fit, and the caller's choice kept."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from aggregators.json_answers import mend_json, parsed_json
from aggregators.schemas import JsonSchema, read_schema
from router_service.errors import InvalidQuery
from router_service.types import ToolCall, stable_seed

__all__ = ["ToolOffer", "offer_of", "with_own_ids"]

_ANY_ARGUMENTS = '{"type": "object"}'
"""What a tool without `parameters` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOffer:
    """The tools of a query by name, each with the schema of its arguments, and what the caller chose of them.

    `named` is the one function that must be called. `is_required`: some call must come; `is_forbidden`: none may.
    """

    parameters: Mapping[str, JsonSchema]
    named: str | None = None
    is_required: bool = False
    is_forbidden: bool = False

    def violation(self, calls: Sequence[ToolCall]) -> str | None:
        """Why these calls (none, where the reply is text) may not come out; None where they may."""
        if not calls and self.named is not None:
            return f"it does not call {self.named!r}, which tool_choice demands"
        if not calls:
            return "it calls no tool, and tool_choice demands a call" if self.is_required else None
        if self.is_forbidden:
            return f"it calls {calls[0].name!r}, and tool_choice is 'none'"
        return next((wrong for call in calls if (wrong := self._violation(call)) is not None), None)

    def mended(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """The calls with such arguments mended as are nearly JSON; whether they may come out now is for `violation`."""
        return tuple(self._mended(call) for call in calls)

    def _violation(self, call: ToolCall) -> str | None:
        if self.named is not None and call.name != self.named:
            return f"it calls {call.name!r}, and tool_choice demands {self.named!r}"
        schema = self.parameters.get(call.name)
        if schema is None:
            offered = ", ".join(sorted(self.parameters)) or "none"
            return f"it calls {call.name!r}, which is not among the tools offered ({offered})"
        try:
            arguments = parsed_json(call.arguments)
        except ValueError as malformed:
            return f"its arguments for {call.name!r} are not JSON: {malformed}"
        if not isinstance(arguments, dict):
            return f"its arguments for {call.name!r} are no JSON object"
        wrong = schema.violation(arguments)
        return None if wrong is None else f"its arguments for {call.name!r} do not fit, {wrong}"

    def _mended(self, call: ToolCall) -> ToolCall:
        schema = self.parameters.get(call.name)
        if schema is None or self._violation(call) is None:
            return call
        if not call.arguments.strip():
            return replace(call, arguments="{}")
        mended = mend_json(call.arguments, schema)
        return call if mended is None else replace(call, arguments=mended.text)


@functools.lru_cache(maxsize=256)
def offer_of(tools: tuple[str, ...], tool_choice: str | None) -> ToolOffer:
    """A query's tools and its choice; raises `InvalidQuery`, naming the tool, for a definition nothing fits."""
    parameters: dict[str, JsonSchema] = {}
    for definition in tools:
        function = _function(definition)
        name = str(function["name"])
        if name in parameters:
            raise InvalidQuery(f"two tools have the name {name!r}; give each tool a name of its own")
        try:
            parameters[name] = read_schema(json.dumps(function.get("parameters") or json.loads(_ANY_ARGUMENTS)))
        except InvalidQuery as wrong:
            raise InvalidQuery(f"the parameters of tool {name!r}: {wrong.message}") from None
    named = _named(tool_choice)
    if named is not None and named not in parameters:
        raise InvalidQuery(f"tool_choice names {named!r}; the tools are {', '.join(sorted(parameters)) or 'none'}")
    return ToolOffer(
        parameters=parameters,
        named=named,
        is_required=tool_choice == "required" or named is not None,
        is_forbidden=tool_choice == "none",
    )


def with_own_ids(calls: Sequence[ToolCall], *, taken: Collection[str], query_id: str) -> tuple[ToolCall, ...]:
    """The calls, each with an id of its own: one that is empty, or known already, is replaced."""
    known = {"", *taken}
    own = []
    for place, call in enumerate(calls):
        fresh = f"call_{stable_seed(query_id, place, call.name, call.arguments):016x}"
        own.append(replace(call, id=fresh) if call.id in known else call)
        known.add(own[-1].id)
    return tuple(own)


def _function(definition: str) -> Mapping[str, object]:
    try:
        given = json.loads(definition)
    except (ValueError, RecursionError) as malformed:
        raise InvalidQuery(f"a tool definition is not JSON ({malformed}); send OpenAI's object as JSON text") from None
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or not function.get("name"):
        raise InvalidQuery(
            'a tool definition names no function; send {"type": "function", "function": {"name": "...", ...}}'
        )
    return function


def _named(tool_choice: str | None) -> str | None:
    if tool_choice is None or not tool_choice.lstrip().startswith("{"):
        return None
    try:
        name = json.loads(tool_choice)["function"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidQuery(f"tool_choice {tool_choice!r} names no function; name one, or send a mode") from None
    return str(name)
