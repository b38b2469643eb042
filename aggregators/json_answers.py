"""Finds the JSON value in what an expert wrote, and mends it by rule where it is nearly one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from aggregators.extract import fenced_blocks, without_thoughts
from aggregators.schemas import MAX_DEPTH, JsonSchema, Work

__all__ = ["MAX_ANSWER_CHARS", "JsonReading", "mend_json", "parsed_json", "read_json"]

MAX_ANSWER_CHARS = 1_000_000
"""A longer text is no JSON answer."""
MAX_MENDED_CHARS = 200_000
"""A longer text is not mended."""
_MAX_STARTS = 1000
"""Places tried for a value in one part of a text."""

_LOOKS_LIKE_JSON = re.compile(
    r"""\{\s*(?:["'“}]|[\w$-]+\s*:|//|/\*|\Z)|\[\s*(?:[\[{"'“\]\d-]|true|false|null|//|/\*|\Z)"""
)
_OPENING = re.compile(r"[\[{]")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonReading:
    """A value found in a text: as JSON text, where it breaks the schema (None where it does not), and what had to be
    done to read it, in words (None where it stood there by itself)."""

    text: str
    violation: str | None = None
    done: str | None = None

    @property
    def compact(self) -> str:
        """The same value without white space: what is extracted, and compared."""
        return json.dumps(json.loads(self.text), ensure_ascii=False, separators=(",", ":"))


def read_json(text: str, schema: JsonSchema) -> JsonReading | None:
    """The value that `text` holds: all of it, or in a fence, or with prose around it; None where there is none.

    One that satisfies the schema is preferred, then the latest. A piece of a value that is broken is never taken for
    the whole.
    """
    return _best(_found(text), schema)


def mend_json(text: str, schema: JsonSchema) -> JsonReading | None:
    """The value of a broken text that satisfies the schema: commas, quotes and closings mended, nothing made up."""
    mended = (JsonReading(text=found, done="its JSON was mended") for found in _mended(text))
    best = _best(mended, schema)
    return best if best is not None and best.violation is None else None


def parsed_json(text: str) -> object:
    """The value of a JSON text; raises `ValueError` for what is none, also NaN, infinities and too deep a nesting."""
    if len(text) > MAX_ANSWER_CHARS:
        raise ValueError(f"it has {len(text)} characters; at most {MAX_ANSWER_CHARS} are read")
    try:
        value: object = _DECODER.decode(text.strip())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _require_depth(value)
    return value


def _best(readings: Iterator[JsonReading], schema: JsonSchema) -> JsonReading | None:
    last, work = None, Work()
    for reading in readings:
        violation = schema.violation(parsed_json(reading.text), work)
        found = JsonReading(text=reading.text, violation=violation, done=reading.done)
        if violation is None:
            return found
        last = last or found
    return last


# --- values as they stand ------------------------------------------------------------------------------------------


def _found(text: str) -> Iterator[JsonReading]:
    said = without_thoughts(text)
    try:
        parsed_json(said)
    except ValueError:
        pass
    else:
        yield JsonReading(text=said)
        return
    if len(said) > MAX_ANSWER_CHARS:
        return
    for part in (*reversed(fenced_blocks(said)), said):
        values, _ = _values(part)
        for value in reversed(values):
            yield JsonReading(text=value, done="its JSON was taken out of the text around it")


def _values(part: str) -> tuple[list[str], str | None]:
    """The JSON objects and lists in a text, each as its text, up to the first broken one; and the text from there."""
    values: list[str] = []
    position = 0
    for _ in range(_MAX_STARTS):
        start = _OPENING.search(part, position)
        if start is None:
            break
        try:
            value, position = _DECODER.raw_decode(part, start.start())
            _require_depth(value)
            values.append(part[start.start() : position])
        except (ValueError, RecursionError):
            if _LOOKS_LIKE_JSON.match(part, start.start()):
                return values, part[start.start() :]
            position = start.end()
    return values, None


# --- values that are nearly there ----------------------------------------------------------------------------------


def _mended(text: str) -> Iterator[str]:
    said = without_thoughts(text)
    if len(said) > MAX_MENDED_CHARS:
        return
    for part in (*reversed(fenced_blocks(said)), said):
        _, broken = _values(part)
        if broken is None:
            continue
        for piece in dict.fromkeys([broken[: _last_closing(broken)], broken]):
            mended = _mended_piece(piece)
            if mended is not None:
                yield mended


def _last_closing(broken: str) -> int:
    return max(broken.rfind("}"), broken.rfind("]")) + 1


def _mended_piece(piece: str) -> str | None:
    """Strictly: where a value or a colon is missing, or two values stand side by side, nothing is guessed."""
    import json_repair

    try:
        value = json_repair.loads(piece, strict=True)
        _require_depth(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return text if isinstance(value, dict | list) and value else None
    except (ValueError, TypeError, RecursionError):
        return None


def _require_depth(value: object) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number[:20]} is too large a number")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
