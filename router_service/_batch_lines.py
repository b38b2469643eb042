"""Reads a batch file: each line, plain or OpenAI's, as a question to run or as what is wrong with it."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from router_service.errors import ConfigError, InvalidQuery, RouterError, nearest_name
from router_service.types import AnswerKind, Query, Question

__all__ = ["BatchLine", "ChatParser", "LineParser", "QuestionReader", "fingerprint_file", "identify_line", "read_lines"]

Form = Literal["plain", "openai"]
ChatParser = Callable[[str, Mapping[str, Any]], Query]
"""A query made of an id and the body of a chat request; raises `InvalidQuery` or `UnknownNameError`."""

QuestionReader = Callable[[Question], Query]
"""A query made of a plain line's question."""

_PLAIN_KEYS = (
    "id",
    "question",
    "answer_kind",
    "options",
    "skills",
    "answer",
    "benchmark",
    "category",
    "subject",
    "split",
)
_OPTIONAL_KEYS = ("answer_kind", "options", "skills")
_MISSPELT = 0.8
"""Likeness (difflib ratio) from which a key counts as a misspelt one: `optoins` does, a caller's own `position` not."""
_OPENAI_KEYS = ("custom_id", "method", "url", "body")
_CHAT_URL = "/v1/chat/completions"
_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One input line: `query` where it can be run, else `problem`.

    `id` is as the line gives it (None where it has none), `model` what a chat body asks for. `number` counts from 1,
    and empty lines count too, as an editor shows them. `raw` is the line itself, without its break.
    """

    number: int
    form: Form
    id: str | int | None = None
    query: Query | None = None
    model: str | None = None
    problem: str | None = None
    problem_code: str = InvalidQuery.code
    raw: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineParser:
    """Makes a question of one line by itself; `as_query` and `as_chat` know the engine that will answer it."""

    as_query: QuestionReader
    as_chat: ChatParser

    def __call__(
        self, number: int, raw: bytes, *, form: Form = "plain", seen: dict[str, int] | None = None
    ) -> BatchLine:
        """The line, or what is wrong with it. `form` is that of the line before, for one that says nothing of its own;
        `seen` holds the ids so far with their lines, and gets this one's."""
        line_id: str | int | None = None
        try:
            data = _parse(raw)
            form = _form(data)
            line_id = _line_id(data, form)
            first = number if seen is None else seen.setdefault(str(line_id), number)
            if first != number:
                raise InvalidQuery(f"id {line_id!r} is already that of line {first}; give each line an id of its own")
            query = _openai_query(data, self.as_chat) if form == "openai" else self.as_query(_question(data))
        except RouterError as wrong:
            problem = f"line {number}: {wrong.message}"
            return BatchLine(number=number, form=form, id=line_id, problem=problem, problem_code=wrong.code, raw=raw)
        model = data["body"].get("model") if form == "openai" else None
        return BatchLine(number=number, form=form, id=line_id, query=query, model=model, raw=raw)


def fingerprint_file(path: Path) -> str:
    """The SHA-256 of a file's content; raises `ConfigError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as unreadable:
        raise ConfigError(f"cannot read {path}: {unreadable.strerror}; name a JSONL file") from unreadable


def read_lines(path: Path, *, as_query: QuestionReader, as_chat: ChatParser) -> Iterator[BatchLine]:
    """Every line that is not blank, in order; a malformed one, or a second one of an id, says what is wrong with it."""
    parse = LineParser(as_query=as_query, as_chat=as_chat)
    seen: dict[str, int] = {}
    form: Form = "plain"
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            line = parse(number, raw.rstrip(b"\r\n"), form=form, seen=seen)
            form = line.form
            yield line


def identify_line(number: int, raw: bytes) -> BatchLine:
    """The form and the id of a line that is not going to be run."""
    data = _parse(raw)
    form = _form(data)
    return BatchLine(number=number, form=form, id=_line_id(data, form), raw=raw)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as malformed:
        shown = raw.decode("utf-8", "replace").strip()[:_SHOWN]
        raise InvalidQuery(f"not valid JSON ({malformed}): {shown!r}; write one JSON object per line") from malformed
    if not isinstance(data, dict):
        raise InvalidQuery(
            f"got {type(data).__name__} {_shown(data)}; a line is one JSON object with id and question, "
            "or with custom_id, method, url and body"
        )
    return data


def _form(data: Mapping[str, Any]) -> Form:
    return "openai" if {"custom_id", "body"} & data.keys() else "plain"


def _line_id(data: Mapping[str, Any], form: Form) -> str | int:
    key = "custom_id" if form == "openai" else "id"
    value = data.get(key)
    is_id = isinstance(value, int | str) and not isinstance(value, bool) and value != ""
    if not is_id:
        raise InvalidQuery(
            f"{key} is {_shown(value)}; it must be a text that is not empty, or a whole number{_guess(data, key)}"
        )
    assert isinstance(value, int | str)
    return value


def _guess(data: Mapping[str, Any], key: str) -> str:
    near = nearest_name(key, [name for name in data if name not in (*_PLAIN_KEYS, *_OPENAI_KEYS)])
    return f"; did you mean {near!r} to be {key!r}?" if near and key not in data else ""


def _question(data: Mapping[str, Any]) -> Question:
    """A plain line as a question; reference answer and labels are left out, so they cannot reach an expert."""
    _check_keys(data)
    text = data.get("question")
    if not isinstance(text, str) or not text.strip():
        raise InvalidQuery(f"question is {_shown(text)}; it must be a text that is not empty{_guess(data, 'question')}")
    options, skills = _texts(data, "options"), _texts(data, "skills")
    default = AnswerKind.CHOICE if options else AnswerKind.FREE
    kind = data.get("answer_kind") or default.value
    if kind not in list(AnswerKind):
        raise InvalidQuery(f"answer_kind is {_shown(kind)}; allowed: {', '.join(AnswerKind)}")
    if options and kind != AnswerKind.CHOICE:
        raise InvalidQuery(f"options belong to answer_kind 'choice', not to {kind!r}; leave one of them out")
    return Question(id=str(data["id"]), text=text, options=options, answer_kind=AnswerKind(kind), skills=skills)


def _texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = data.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidQuery(f"{key} is {_shown(texts)}; it must be a list of texts")
    return tuple(texts)


def _check_keys(data: Mapping[str, Any]) -> None:
    """Refuse a key that looks like a misspelt optional one; other keys of the caller's own are left alone."""
    for key in data:
        near = difflib.get_close_matches(key.lower(), _OPTIONAL_KEYS, n=1, cutoff=_MISSPELT)
        if key not in _PLAIN_KEYS and near and near[0] not in data:
            raise InvalidQuery(f"unknown key {key!r}; did you mean {near[0]!r}? Keys read: {', '.join(_PLAIN_KEYS)}")


def _openai_query(data: Mapping[str, Any], as_chat: ChatParser) -> Query:
    if data.get("method", "POST") != "POST":
        raise InvalidQuery(f"method is {_shown(data['method'])}; only 'POST' is allowed")
    if data.get("url") != _CHAT_URL:
        raise InvalidQuery(f"url is {_shown(data.get('url'))}; only {_CHAT_URL!r} can be run in a batch")
    body = data.get("body")
    if not isinstance(body, dict):
        raise InvalidQuery(f"body is {_shown(body)}; it must be the JSON object of a chat request")
    if body.get("stream"):
        raise InvalidQuery("body.stream is true; a batch answers in a file, leave stream out")
    return as_chat(str(data["custom_id"]), body)


def _shown(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
