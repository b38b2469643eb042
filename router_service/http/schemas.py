"""What a request looks like on the wire: the OpenAI chat format, plus the `enlist` object; checked before any work."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from router_service.http.catalogue import MODEL_AUTO
from router_service.http.parameters import IGNORED, drop_harmless, unknown_parameter
from router_service.types import MAX_K

__all__ = [
    "BudgetOptions",
    "ChatRequest",
    "EnlistOptions",
    "RouteRequest",
    "WireContentPart",
    "WireJsonSchema",
    "WireMessage",
    "WireModel",
    "WireResponseFormat",
    "WireTool",
]


_INT64 = 2**63
_SURROGATE = re.compile(r"[\ud800-\udfff]")

Kind = Literal["free", "choice", "number", "literal", "code", "json"]


def _wrong(reason: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{reason}", {"reason": reason})


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _is_unicode(value: Any) -> bool:
    """False for a text, or a list with one, that UTF-8 cannot write: tokenizers and servers break on it."""
    texts = value if isinstance(value, list) else [value]
    return not any(isinstance(text, str) and not text.isascii() and _SURROGATE.search(text) for text in texts)


class WireModel(BaseModel):
    """Base of what is read from the wire: strict types, null means left out, an unknown key names the nearest one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = cls._supported({name: value for name, value in data.items() if value is not None})
        allowed = [field.alias or name for name, field in cls.model_fields.items()]
        for name in given:
            if name not in allowed:
                raise unknown_parameter(name, allowed)
        for name, value in given.items():
            if not _is_unicode(value):
                raise PydanticCustomError("invalid_text", "text holds half a surrogate pair", {"name": name})
        return given

    @classmethod
    def _supported(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What is left once parameters known elsewhere but not here are dealt with."""
        return given


# --- messages ------------------------------------------------------------------------------------------------------


class WireImage(WireModel):
    """An image by URL or data URL."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high", "original"] | None = None


class WireAudio(WireModel):
    """Audio as base64 text."""

    data: str = Field(min_length=1)
    format: str = Field(min_length=1)


class WireContentPart(WireModel):
    """One part of a message's content: exactly the field that its `type` names."""

    type: Literal["text", "image_url", "input_audio", "refusal"]
    text: str | None = None
    image_url: WireImage | None = None
    input_audio: WireAudio | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _matches_type(self) -> WireContentPart:
        given = self.model_fields_set - {"type"}
        if given != {self.type}:
            raise _wrong(f"a part of type {self.type!r} holds {self.type!r} and nothing else, not {sorted(given)}")
        return self


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class WireFunctionCall(WireModel):
    """The name and the JSON text of the arguments of a proposed call."""

    name: str = Field(min_length=1)
    arguments: str


class WireToolCall(WireModel):
    """A call of a tool, as an assistant message carries it."""

    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: WireFunctionCall


class WireMessage(WireModel):
    """One message; a reply of ours can be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[WireContentPart], BeforeValidator(_as_parts)] = Field(default_factory=list)
    name: str | None = None
    tool_calls: list[WireToolCall] = Field(default_factory=list)
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[Any] = Field(default_factory=list)

    @model_validator(mode="after")
    def _suits_role(self) -> WireMessage:
        if self.tool_calls and self.role != "assistant":
            raise _wrong(f"tool_calls belong to an assistant message, not to one of role {self.role!r}")
        if (self.tool_call_id is None) == (self.role == "tool"):
            raise _wrong("tool_call_id belongs to every message of role 'tool', and to no other")
        is_complete = "content" in self.model_fields_set or (
            self.role == "assistant" and (self.tool_calls or self.refusal)
        )
        if not is_complete:
            raise _wrong(f"a message of role {self.role!r} needs content: a text, or a list of parts")
        return self


# --- tools and formats ---------------------------------------------------------------------------------------------


class WireFunction(WireModel):
    """A function that experts may propose to call."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class WireTool(WireModel):
    """A tool; functions are the only type."""

    type: Literal["function"]
    function: WireFunction


class WireFunctionName(WireModel):
    """A function by name."""

    name: str = Field(min_length=1)


class WireToolChoice(WireModel):
    """The one function that must be called."""

    type: Literal["function"]
    function: WireFunctionName


def _as_choice(value: Any) -> Any:
    return {"mode": value} if isinstance(value, str) else {"named": value}


class WireToolChoiceOption(WireModel):
    """A mode, or the one function that must be called."""

    mode: Literal["none", "auto", "required"] | None = None
    named: WireToolChoice | None = None


class WireJsonSchema(WireModel):
    """A named JSON schema."""

    name: str = Field(min_length=1)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class WireResponseFormat(WireModel):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: WireJsonSchema | None = None

    @model_validator(mode="after")
    def _matches_type(self) -> WireResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise _wrong("json_schema is given with type 'json_schema', and only then")
        return self


class WireStreamOptions(WireModel):
    """What else a stream carries."""

    include_usage: bool = False
    include_obfuscation: bool = False


# --- what only this service understands ----------------------------------------------------------------------------


class BudgetOptions(WireModel):
    """Limits over everything done for the request; left out means no limit."""

    max_completions: int | None = Field(default=None, ge=0)
    max_cost_usd: float | None = Field(default=None, ge=0)
    max_output_tokens: int | None = Field(default=None, ge=0)
    deadline_s: float | None = Field(default=None, ge=0)


class EnlistOptions(WireModel):
    """How this request is routed; the OpenAI client sends it with `extra_body={"enlist": {...}}`."""

    recruiter: str | None = None
    aggregator: str | None = None
    k: int | None = Field(default=None, ge=1, le=MAX_K)
    budget: BudgetOptions = BudgetOptions()
    experts_allowed: list[str] = Field(default_factory=list, min_length=1)
    """Nobody else is asked; left out, everybody may be."""
    experts_denied: list[str] = Field(default_factory=list)
    skills: list[str] = Field(default_factory=list)
    """Skills the question is known to need; left out, the annotator says."""
    answer_kind: Kind | None = None
    options: list[str] = Field(default_factory=list)
    """The options of a multiple-choice question, in order."""
    waits_for_all: bool = False
    """Every expert is heard to the end, also those who can no longer change the answer."""

    @model_validator(mode="after")
    def _is_consistent(self) -> EnlistOptions:
        if self.options and self.answer_kind not in (None, "choice"):
            raise _wrong(f"options belong to answer_kind 'choice', not to {self.answer_kind!r}")
        return self


# --- the requests --------------------------------------------------------------------------------------------------


class ChatRequest(WireModel):
    """Body of `POST /v1/chat/completions`."""

    model: str = Field(min_length=1)
    """`auto`, `auto/<recruiter>`, or a registered expert's id, which bypasses routing."""
    messages: list[WireMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: WireStreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=list, max_length=4)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    tools: list[WireTool] = Field(default_factory=list)
    tool_choice: Annotated[WireToolChoiceOption | None, BeforeValidator(_as_choice)] = None
    response_format: WireResponseFormat | None = None
    enlist: EnlistOptions = EnlistOptions()
    metadata: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None
    verbosity: Any = None

    @classmethod
    def _supported(cls, given: dict[str, Any]) -> dict[str, Any]:
        return drop_harmless(given)

    @model_validator(mode="after")
    def _has_no_contradiction(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise _wrong("stream_options is only allowed with stream true")
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise _wrong("max_tokens and max_completion_tokens differ; send one of them")
        is_json = self.response_format is not None and self.response_format.type != "text"
        if is_json and (self.enlist.answer_kind not in (None, "json") or self.enlist.options):
            raise _wrong("response_format asks for JSON, enlist.answer_kind for something else; send one of them")
        return self

    @model_validator(mode="after")
    def _chooses_known_tool(self) -> ChatRequest:
        names = [tool.function.name for tool in self.tools]
        choice = self.tool_choice or WireToolChoiceOption()
        if choice.named is not None and choice.named.function.name not in names:
            raise _wrong(f"tool_choice names {choice.named.function.name!r}; tools has {names}")
        if choice.mode == "required" and not names:
            raise _wrong("tool_choice 'required' needs at least one tool in tools")
        if len(set(names)) < len(names):
            raise _wrong(f"two tools have one name; tools has {names}")
        return self

    @property
    def includes_usage(self) -> bool:
        """True where the stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each parameter that was sent and is ignored."""
        sent = {name: reason for name, reason in IGNORED.items() if getattr(self, name) not in (None, False)}
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            sent["stream_options.include_obfuscation"] = "chunks are as long as their text"
        return tuple(f"{name} is ignored: {reason}" for name, reason in sent.items())


class RouteRequest(ChatRequest):
    """Body of `POST /v1/route`: a chat request, or just `{"question": "..."}`; `model` is `auto` where left out."""

    model: str = Field(default=MODEL_AUTO, min_length=1)
    messages: list[WireMessage] = Field(default_factory=list)
    question: str | None = None
    """The short way: one user message."""

    @classmethod
    def _supported(cls, given: dict[str, Any]) -> dict[str, Any]:
        given = drop_harmless(given)
        if "question" in given and "messages" in given:
            raise _wrong("send either question or messages, not both")
        if isinstance(given.get("question"), str):
            given["messages"] = [{"role": "user", "content": given["question"]}]
        return given

    @model_validator(mode="after")
    def _asks_one_thing(self) -> RouteRequest:
        if not self.messages:
            raise _wrong("send a question, or messages")
        if self.stream:
            raise _wrong("stream is not allowed here: a route is one object")
        return self
