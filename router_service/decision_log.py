"""The decision log: one JSON line per routing decision, appended as it is made, read back strictly."""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from router_service.dispatch.ledger import DeadlinesFrom
from router_service.errors import ConfigError, RouterError, StoreUnavailable, nearest_name
from router_service.files import end_last_line, is_json
from router_service.types import CompletionMemo, DecisionMade, Event, Query, RouteDecision, SkillAnnotation

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["FORMAT_VERSION", "DecisionLog", "DecisionRecord", "LoggingEngine", "read_decisions", "record_line"]

FORMAT_VERSION = 1
"""Raised where a reader of older lines would misread newer ones."""

_PROBLEMS_SHOWN = 10
_EMBEDDING = {"annotation": {"embedding"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision with what it was made on: the query as it came (messages, format, budget, controls, seed), what was
    found in it (without the embedding), and what was decided. `decision.seed` is the seed that was used.

    `time` is UTC, ISO 8601; `artefact` the version of what the recruiter had learnt, None where it had no artefact.
    """

    time: str
    query: Query
    annotation: SkillAnnotation
    decision: RouteDecision
    artefact: str | None = None
    pool: str = ""


def record_line(record: DecisionRecord) -> str:
    """The record as one line of JSON, line break included. What has its default is left out; a score that says nothing
    (not a number) is null."""
    content = _adapter().dump_python(record, mode="json", exclude=_EMBEDDING, exclude_defaults=True)
    text = json.dumps({"format_version": FORMAT_VERSION, **_without_nan(content)}, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can say and UTF-8 cannot
        text = json.dumps(json.loads(text))
    return text + "\n"


class DecisionLog:
    """Appends decisions to a file; used as a context manager, safe between threads and after a kill.

    Each line is written in one step, so that processes sharing a log do not mix their lines. An unfinished last line of
    a killed writer is removed on opening. Raises `ConfigError` where the file cannot be written, and
    `StoreUnavailable` where a line does not fit on the disk; nothing of it is left then.
    """

    def __init__(self, path: Path, *, artefact: str | None = None, pool: str = "") -> None:
        self._artefact = artefact
        self._pool = pool
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as unwritable:
            raise ConfigError(
                f"cannot write the decision log {path}: {unwritable.strerror}; name another file"
            ) from None
        end_last_line(self._file)

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, query: Query, made: DecisionMade) -> None:
        """Note one decision, with the time it is now."""
        record = DecisionRecord(
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            query=query,
            annotation=made.annotation,
            decision=made.decision,
            artefact=self._artefact,
            pool=self._pool,
        )
        line = record_line(record).encode()
        with self._lock:
            self._append(line)

    def _append(self, line: bytes) -> None:
        """Add the whole line, or nothing of it: a half one would spoil the line after it too."""
        written, descriptor = 0, self._file.fileno()
        try:
            while written < len(line):
                written += os.write(descriptor, line[written:])
        except OSError as full:
            if written:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise StoreUnavailable(
                f"cannot write the decision log {self._path}: {full.strerror}; make room, and run the same again"
            ) from full


class StreamingEngine(Protocol):
    """The part of the engine that answers."""

    def stream(self, queries: Sequence[Query], *, deadlines_from: DeadlinesFrom) -> AsyncGenerator[Event, None]:
        """Events as they happen."""
        ...

    def remembering(self, memo: CompletionMemo) -> StreamingEngine:
        """The same engine with a memo of completions."""
        ...


class LoggingEngine:
    """An engine that notes each of its decisions before it passes it on."""

    def __init__(self, engine: StreamingEngine, log: DecisionLog) -> None:
        self._engine = engine
        self._log = log

    def remembering(self, memo: CompletionMemo) -> LoggingEngine:
        """This engine with a memo of completions: none that it keeps is asked for again."""
        return LoggingEngine(self._engine.remembering(memo), self._log)

    async def stream(
        self, queries: Sequence[Query], *, deadlines_from: DeadlinesFrom = "arrival"
    ) -> AsyncGenerator[Event, None]:
        """The engine's events, unchanged."""
        by_id = {query.id: query for query in queries}
        async with aclosing(self._engine.stream(queries, deadlines_from=deadlines_from)) as events:
            async for event in events:
                if isinstance(event, DecisionMade):
                    self._log.write(by_id[event.query_id], event)
                yield event


def read_decisions(path: Path) -> list[DecisionRecord]:
    """The records of a log, in order; the unfinished last line of a writer that was killed is left out.

    Raises one `ConfigError` that names every line that is not a decision of this format (the first ten).
    """
    records, problems = [], []
    for number, line in _lines(path):
        try:
            records.append(_record(line))
        except ConfigError as problem:
            problems.append(f"line {number}: {problem.message}")
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        shown = problems[:_PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ConfigError(f"{path} is no decision log; {len(problems)} line(s) cannot be read:\n" + "\n".join(shown))
    return records


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}") from None
    except OSError as unreadable:
        raise ConfigError(f"cannot read {path}: {unreadable.strerror}") from None
    if not is_json(lines[-1]):
        lines.pop()
    yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _record(line: bytes) -> DecisionRecord:
    from pydantic import ValidationError

    try:
        content = json.loads(line)
    except ValueError as malformed:
        raise ConfigError(f"not JSON: {malformed}") from None
    version = content.pop("format_version", None) if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(f"decision format {version!r}, and this version reads {FORMAT_VERSION}")
    try:
        record = _adapter().validate_python(_with_nan(content))
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except RouterError as invalid:
        raise ConfigError(invalid.message) from None
    _require_known_keys(content, _adapter().dump_python(record, mode="json"), "")
    return record


@functools.cache
def _adapter() -> TypeAdapter[DecisionRecord]:
    from pydantic import TypeAdapter

    return TypeAdapter(DecisionRecord)


def _require_known_keys(given: object, known: object, where: str) -> None:
    """Raise `ConfigError` for a key that was given and not understood, at any depth."""
    if isinstance(given, Mapping) and isinstance(known, Mapping):
        for key, value in given.items():
            if key not in known:
                near = nearest_name(str(key), [str(name) for name in known])
                guess = f"; did you mean {near!r}?" if near else ""
                raise ConfigError(f"{where}{key}: unknown key{guess}")
            _require_known_keys(value, known[key], f"{where}{key}.")
    elif isinstance(given, list) and isinstance(known, list):
        for number, (value, kept) in enumerate(zip(given, known, strict=False)):
            _require_known_keys(value, kept, f"{where}{number}.")


def _without_nan(content: dict[str, Any]) -> dict[str, Any]:
    """The record with null for scores that say nothing: JSON has no word for them."""
    return _with_scores(content, lambda score: score if math.isfinite(score) else None)


def _with_nan(content: dict[str, Any]) -> dict[str, Any]:
    return _with_scores(content, lambda score: math.nan if score is None else score)


def _with_scores(content: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    decision = content.get("decision")
    if not isinstance(decision, dict):
        return content
    changed = dict(decision)
    if isinstance(decision.get("scores"), dict):
        changed["scores"] = {name: change(score) for name, score in decision["scores"].items()}
    if isinstance(decision.get("recruits"), list):
        changed["recruits"] = [_with_score(recruit, change) for recruit in decision["recruits"]]
    return {**content, "decision": changed}


def _with_score(recruit: Any, change: Callable[[Any], Any]) -> Any:
    has_score = isinstance(recruit, dict) and "score" in recruit
    return {**recruit, "score": change(recruit["score"])} if has_score else recruit
