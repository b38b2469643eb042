"""What is asked: messages, answer formats, sampling, budgets and queries. Import it from `router_service.types`."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from router_service.errors import InvalidQuery

__all__ = [
    "ANY_OBJECT",
    "MAX_K",
    "AnswerKind",
    "AudioPart",
    "Budget",
    "ContentPart",
    "ImagePart",
    "Message",
    "Query",
    "Question",
    "Role",
    "RouteControls",
    "Sampling",
    "Secret",
    "TaskFormat",
    "TextPart",
    "ToolCall",
    "Usage",
    "stable_seed",
    "user_query",
]

MAX_K = 64
"""Most completions that a configuration or a query may ask for: recruiting takes time and memory for each of them."""

ANY_OBJECT = '{"type":"object"}'
"""The JSON schema of an answer that may be any JSON object (OpenAI's `json_object`)."""

Role = Literal["system", "developer", "user", "assistant", "tool"]


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on the parts' texts alone: same parts, same seed, on any machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Secret:
    """A text that never shows itself: `repr`, `str` and comparison messages hide it; `reveal()` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself; call it only where it leaves for its destination."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """An image by URL or data URL."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioPart:
    """Audio as base64 text in the named format (wav, mp3)."""

    data: str
    format: str


ContentPart = TextPart | ImagePart | AudioPart


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool that a model proposes; `arguments` is JSON text, as in the OpenAI API."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str | tuple[ContentPart, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the message, parts joined by line breaks, images and audio left out."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))


class AnswerKind(enum.StrEnum):
    """How an answer is written, which decides how it is extracted, compared and graded."""

    FREE = "free"
    CHOICE = "choice"
    NUMBER = "number"
    LITERAL = "literal"
    CODE = "code"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFormat:
    """What an answer must look like: its kind, the options of a choice, the schema (JSON text) of a JSON answer.

    `json_schema` is the schema itself, or OpenAI's object around it: its name, perhaps a description, and the schema.
    With it the answer is that JSON value and nothing else, or there is none; without it, kind JSON only says how an
    answer is read and compared.
    """

    kind: AnswerKind = AnswerKind.FREE
    options: tuple[str, ...] = ()
    json_schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings; None leaves the choice to the next in line: query, then expert, then backend.

    Raises `InvalidQuery` where `max_tokens` is below 1.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidQuery(f"max_tokens is {self.max_tokens}; ask for 1 or more, or leave it out")

    def over(self, default: Sampling) -> Sampling:
        """These settings where given, else those of `default`."""

        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(default, **{name: value for name, value in given.items() if value not in (None, ())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one query over everything done for it; None is no limit."""

    max_completions: int | None = None
    max_cost_usd: float | None = None
    max_output_tokens: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was spent; adds up. `cost_usd` is None as soon as one part of it is unknown."""

    completions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        cost = None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd
        return Usage(
            completions=self.completions + other.completions,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=cost,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteControls:
    """What a caller decides for one query; None leaves it to the engine's configuration.

    `expert` names one registered expert and bypasses annotation and recruiting.
    `streams` asks for token deltas of the text that becomes the answer. `waits_for_all` has every recruited expert
    heard to the end, whatever `dispatch.stops_early` and `dispatch.quorum` say. Raises `InvalidQuery` where
    `k` is above `MAX_K`.
    """

    recruiter: str | None = None
    aggregator: str | None = None
    k: int | None = None
    expert: str | None = None
    experts_allowed: tuple[str, ...] = ()
    experts_denied: tuple[str, ...] = ()
    streams: bool = False
    waits_for_all: bool = False

    def __post_init__(self) -> None:
        if self.k is not None and self.k > MAX_K:
            raise InvalidQuery(f"k is {self.k}; ask for 1 to {MAX_K} completions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question with all that is known of how to answer it. `tools` holds each tool definition as JSON text.

    `parent_id` names the query on whose budget this one runs: what an annotator or aggregator asks of an LLM.
    """

    id: str
    messages: tuple[Message, ...]
    task_format: TaskFormat = TaskFormat()
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    controls: RouteControls = RouteControls()
    tools: tuple[str, ...] = ()
    tool_choice: str | None = None
    seed: int | None = None
    parent_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text of the last user message: what annotators and embedders read."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return ""

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content in the messages: text, and image or audio where a part holds one."""
        kinds = {"text"}
        for message in self.messages:
            for part in () if isinstance(message.content, str) else message.content:
                kinds.add({"ImagePart": "image", "AudioPart": "audio"}.get(type(part).__name__, "text"))
        return frozenset(kinds)


def user_query(query_id: str, text: str, *, task_format: TaskFormat | None = None, seed: int | None = None) -> Query:
    """A query of one user message: the short way for scripts and tests."""
    message = Message(role="user", content=text)
    return Query(id=query_id, messages=(message,), task_format=task_format or TaskFormat(), seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One benchmark or fit question, with its reference answer where there is one (None where not)."""

    id: str
    text: str
    benchmark: str = ""
    category: str | None = None
    subject: str | None = None
    options: tuple[str, ...] = ()
    answer: str | None = None
    answer_kind: AnswerKind = AnswerKind.FREE
    split: str = "fit"
    skills: tuple[str, ...] = ()
