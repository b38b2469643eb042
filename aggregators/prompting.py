"""Prompts of aggregators: versioned files, filled exactly once, and the queries that carry them to an expert."""

from __future__ import annotations

import functools
import importlib.resources
import json
import string
from dataclasses import dataclass, replace

from router_service.errors import ConfigError
from router_service.prompt_tokens import estimate_tokens, persona_tokens
from router_service.types import (
    AnswerKind,
    Message,
    Panel,
    Query,
    RouteControls,
    TaskFormat,
    TextPart,
    stable_seed,
)

__all__ = [
    "Stage",
    "answer_format",
    "child_query",
    "fill_prompt",
    "prompt_parts",
    "prompt_room",
    "prompt_text",
    "reply_tokens",
]

_FOLDER = importlib.resources.files("aggregators").joinpath("prompts")

_ANSWER_FORMATS = {
    AnswerKind.CHOICE: 'End with a line that reads "The answer is (X)", X being the letter of the right option.',
    AnswerKind.NUMBER: 'End with a line that reads "The answer is N", N being the number or formula alone.',
    AnswerKind.LITERAL: 'End with a line that reads "Answer: ...", with nothing but the answer after the colon.',
    AnswerKind.CODE: "End with the complete code in one fenced block.",
    AnswerKind.JSON: "Reply with one JSON value and nothing else.",
}

_ASSUMED_WINDOW_TOKENS = 8192
"""Context window of an expert that names none: what open models of the last years take at the least."""

_ASSUMED_OUTPUT_TOKENS = 1024
"""What is left free for the reply where nobody limits it."""

_SLACK_TOKENS = 32
"""Left free for the marks of a chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One kind of call that an aggregator makes: its name (part of the call's id, so distinct within one query), its
    prompt, and how the reply is to be sampled. `max_tokens`, `temperature` and `top_p` None leave it to the query and
    the expert.

    `keeps_format` tells that the reply is the answer itself, in the query's own format; else it is plain text, which
    no schema or stop sequence of the query's may cut. `is_guarded` has drafts marked and quoted as data; without it
    only where that is to be measured.
    """

    name: str
    prompt: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    keeps_format: bool = False
    is_guarded: bool = True


@functools.lru_cache(maxsize=256)
def prompt_text(name: str) -> str:
    """The prompt file `prompts/NAME.txt`; its name carries its version, as in `synthesise_v2`.

    Raises `ConfigError` where there is none.
    """
    try:
        return _FOLDER.joinpath(f"{name}.txt").read_text("utf-8")
    except FileNotFoundError as missing:
        raise ConfigError(f"there is no prompt {name!r} in the package; was it installed whole?") from missing


def prompt_parts(name: str) -> frozenset[str]:
    """The names of the parts that a prompt is filled with."""
    return frozenset(string.Template(prompt_text(name)).get_identifiers())


def fill_prompt(name: str, **parts: str) -> str:
    """The prompt with every `$part` filled in, once: what is filled in is never read as template again.

    Raises `ConfigError` where a part of the file is not given, or a given one is not in the file.
    """
    wanted = prompt_parts(name)
    if wanted != parts.keys():
        raise ConfigError(f"prompt {name!r} has the parts {sorted(wanted)}, given are {sorted(parts)}")
    return string.Template(prompt_text(name)).substitute(parts).strip()


def child_query(panel: Panel, text: str, *, stage: Stage) -> Query:
    """The query that asks an expert `text` on the budget of the panel's query.

    Earlier turns stay as they are. The last user message is replaced (its images and audio kept), or, where the
    conversation ends on another role, one is added. Tools may be called no more: what is wanted is written. The seed
    is the panel's and the stage's.
    """
    query = panel.query
    sampling = query.sampling if stage.keeps_format else replace(query.sampling, stop=(), max_tokens=None)
    if stage.max_tokens is not None:
        limit = stage.max_tokens if sampling.max_tokens is None else min(stage.max_tokens, sampling.max_tokens)
        sampling = replace(sampling, max_tokens=limit)
    if stage.temperature is not None:
        sampling = replace(sampling, temperature=stage.temperature)
    if stage.top_p is not None:
        sampling = replace(sampling, top_p=stage.top_p)
    return replace(
        query,
        id=f"{query.id}/{stage.name}",
        parent_id=query.id,
        messages=_with_last_user_text(query.messages, text),
        task_format=query.task_format if stage.keeps_format else TaskFormat(),
        sampling=sampling,
        tool_choice="none" if query.tools else None,
        controls=RouteControls(streams=query.controls.streams),
        seed=stable_seed(panel.decision.seed, stage.name),
        metadata={},
    )


def reply_tokens(panel: Panel, expert_id: str, *, stage: Stage) -> int:
    """How long a stage's reply may get: the least of what query, stage and expert allow; 1024 where nobody says."""
    asked = child_query(panel, "", stage=stage).sampling.max_tokens
    expert = panel.experts.get(expert_id)
    limits = [asked]
    if expert is not None:
        limits += [expert.sampling.max_tokens if asked is None else None, expert.max_output_tokens]
    return min((limit for limit in limits if limit is not None), default=_ASSUMED_OUTPUT_TOKENS)


def prompt_room(panel: Panel, expert_id: str, *, stage: Stage, fixed: str) -> int:
    """How many tokens of an expert's window are left for drafts, beside `fixed` (the filled prompt without them), the
    conversation before it and the reply; at least 0. Estimated on the careful side (`router_service.prompt_tokens`)."""
    query = child_query(panel, fixed, stage=stage)
    expert = panel.experts.get(expert_id)
    window = (expert.context_window if expert is not None else None) or _ASSUMED_WINDOW_TOKENS
    persona = persona_tokens(expert) if expert is not None else 0
    reply = reply_tokens(panel, expert_id, stage=stage)
    return max(0, window - estimate_tokens(query) - persona - reply - _SLACK_TOKENS)


def answer_format(task_format: TaskFormat) -> str:
    """The sentence that asks for an answer that can be read back; empty where any text will do."""
    wanted = _ANSWER_FORMATS.get(task_format.kind, "")
    if task_format.json_schema:
        wanted += f" It must match this JSON schema: {_bare_schema(task_format.json_schema)}"
    return wanted


def _bare_schema(json_schema: str) -> str:
    """The schema without OpenAI's object around it; a text that is not JSON as it is, since its backend refuses it."""
    try:
        given = json.loads(json_schema)
    except ValueError:
        return json_schema
    is_wrapped = isinstance(given, dict) and {"name", "schema"} <= given.keys()
    return json.dumps(given["schema"]) if is_wrapped else json_schema


def _with_last_user_text(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    if not messages or messages[-1].role != "user":
        return (*messages, Message(role="user", content=text))
    last = messages[-1]
    if isinstance(last.content, str):
        return (*messages[:-1], replace(last, content=text))
    others = tuple(part for part in last.content if not isinstance(part, TextPart))
    return (*messages[:-1], replace(last, content=(TextPart(text=text), *others)))
