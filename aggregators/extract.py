"""Reads the answer out of what an expert wrote, by the kind of answer that was asked for; None where there is none.

The choice and number rules grow out of Symbolic-MoE's released extraction (last `X)` in the option range, else the last
bare capital; last `\\boxed{}`), with explicit statements ("the answer is X") first, as MMLU-Pro's own scorer has it.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator

from aggregators.formulas import MAGNITUDE_WORDS
from router_service.types import AnswerKind, TaskFormat

__all__ = ["boxed", "extract", "fenced_blocks", "without_thoughts"]

_LETTERS_WITHOUT_OPTIONS = 10
"""Where the options are not told, letters A to J count, the widest range of the usual benchmarks (MMLU-Pro)."""

_MAX_JSON_STARTS = 1000
"""Places tried for a JSON value; keeps the scan linear on texts of nothing but brackets."""

_MAX_BOXES = 20
"""Boxes looked at from the end; keeps the search linear on a text that repeats an open box for ever."""

_MAX_STATEMENTS = 20
_MAX_STATEMENT_CHARS = 4000
"""Statements looked at from the end, and how far each is read."""

_MAX_WRAPPINGS = 20
"""Layers of quotes, emphasis and full stops taken off an answer."""

_MAX_LETTER_CHARS = 40
"""A longer text, decoration and all, is not a letter standing alone."""

_SHORT_KINDS = frozenset({AnswerKind.CHOICE, AnswerKind.NUMBER, AnswerKind.LITERAL})

_THOUGHT_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_THOUGHT_START = re.compile(r"<think(?:ing)?>", re.IGNORECASE)


def extract(text: str, task_format: TaskFormat) -> str | None:
    """The answer in `text`, or None where none can be read; a choice comes back as its capital letter.

    Thoughts are left out first: everything up to the last `</think>`, and from a `<think>` that is never closed. So is
    a discussion with oneself that ends with "Finish collaboration!" (Solo Performance Prompting).
    """
    said = _after_collaboration(without_thoughts(text), task_format.kind)
    if not said:
        return None
    if task_format.kind in _SHORT_KINDS:
        said = _without_run_on(said)
    found = _EXTRACTORS[task_format.kind](said, task_format)
    return found.strip() or None if found is not None else None


def without_thoughts(text: str) -> str:
    """What is left of `text` when reasoning blocks are taken out, stripped."""
    said = _THOUGHT_END.split(text)[-1]
    return _THOUGHT_START.split(said, maxsplit=1)[0].strip()


_COLLABORATED = re.compile(
    r"^[\W_]{0,8}finish(?:ed)?\s{1,3}collaboration\b[\s!.:*_]{0,12}", re.IGNORECASE | re.MULTILINE
)
_FINAL_LABEL = re.compile(r"[\s*_#]{0,8}final\s{1,3}answer[*_]{0,3}\s{0,3}:[*_]{0,3}", re.IGNORECASE)


def _after_collaboration(said: str, kind: AnswerKind) -> str:
    """What follows the last "Finish collaboration!", without the label "Final answer:" where that says nothing of where
    in the text the answer stands; all where nothing follows."""
    ends = list(_COLLABORATED.finditer(said))
    rest = said[ends[-1].end() :] if ends else ""
    label = _FINAL_LABEL.match(rest) if kind not in _SHORT_KINDS else None
    return (rest[label.end() :] if label else rest).strip() or said


def boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` with balanced braces, or None."""
    starts = [m.end() for m in re.finditer(r"\\f?boxed\s*\{", text)]
    for start in reversed(starts[-_MAX_BOXES:]):
        depth = 1
        for position in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start:position].strip()
    return None


# --- statements such as "the answer is ..." ------------------------------------------------------------------------

_MARKER = re.compile(
    r"""\banswers?(?P<key>["'])?[*_]*\s*(?:is|are|:|=|would\ be|will\ be|should\ be)(?![a-z])[\s:]*|\#{4}\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_RUN_ON = re.compile(r"\n[^\S\n]*\n(?:Question|Q)\s*:")


def _without_run_on(text: str) -> str:
    """`text` up to where a model, its answer given, goes on to invent the next question of a list."""
    stated = _MARKER.search(text)
    next_question = _RUN_ON.search(text, stated.start()) if stated else None
    return text[: next_question.start()].rstrip() if next_question else text


def _statements(text: str) -> Iterator[str]:
    """What stands after each "answer is", "Answer:" or "####", to the end of its line, last one first.

    After a JSON key ("answer": ...) it is the JSON value, a string without its quotes.
    """
    for marker in reversed(list(_MARKER.finditer(text))[-_MAX_STATEMENTS:]):
        line = text[marker.end() : marker.end() + _MAX_STATEMENT_CHARS].split("\n", 1)[0]
        if marker["key"]:
            line = _json_statement(line)
        if re.search(r"[^\W_]|[^\w\s*`\"'$]", line):
            yield line


def _json_statement(line: str) -> str:
    try:
        value, _ = _DECODER.raw_decode(line)
        return value if isinstance(value, str) else _compact(value)
    except (ValueError, RecursionError):
        return line.rstrip(" ,}")


def _bare(text: str) -> str:
    """`text` without emphasis, quotes and backticks around it, and without the full stop of its sentence."""
    said = text.strip()
    for _ in range(_MAX_WRAPPINGS):
        trimmed = said
        for mark in ("**", "__", "```", "`", "$$", "$"):
            if len(trimmed) > 2 * len(mark) and trimmed.startswith(mark) and trimmed.endswith(mark):
                trimmed = trimmed[len(mark) : -len(mark)].strip()
        for opening, closing in ('""', "''", "“”", "‘’", "«»"):
            inner = trimmed[1:-1]
            is_quoted = len(trimmed) > 2 and trimmed[0] == opening and trimmed[-1] == closing
            if is_quoted and opening not in inner and closing not in inner:
                trimmed = inner.strip()
        if re.search(r"[^.]\.$", trimmed):
            trimmed = trimmed[:-1].rstrip()
        if trimmed == said:
            break
        said = trimmed
    return said


# --- choice --------------------------------------------------------------------------------------------------------

_ALONE = re.compile(r"[\W_]*(?:option\s+|choice\s+)?[\W_]*([A-Za-z])[\W_]*", re.IGNORECASE)
_STATED = (
    re.compile(  # what may repeat is possessive (*+): it is never given back, or a long run of blanks costs its square
        r"""\b(?:answers?|options?|choices?)["'*_]*+\s*+(?:(?:is|:|=|would\ be|will\ be|should\ be|must\ be)[\s:]*+)?
        (?:(?:option|choice)\s++)?[\s*_"'`(\[{$]*+(?:\\(?:boxed|text|mathrm|mathbf)\{[\s(]*+)*+
        (?:(?P<upper>[A-Z])|(?P<lower>[a-z])(?=\s*(?:[).,;:!?"'*_`\]}$]|$)))(?![A-Za-z0-9'’])""",
        re.VERBOSE | re.MULTILINE,
    )
)
_MARKED = re.compile(r"(?<![A-Za-z0-9(\\])\(?([A-Z])\)")
_LEADING = re.compile(r"[\s*_\"'(\[]*([A-Za-z])[)\].:]")
_CAPITAL = re.compile(r"(?<![A-Za-z0-9'’\\])([A-Z])(?![A-Za-z0-9'’])")
_FINAL_LINE = re.compile(rf"^{_FINAL_LABEL.pattern}", re.IGNORECASE | re.MULTILINE)
_PRONOUN_OR_ARTICLE = re.compile(r"[AI]\s+[a-z]")


def _choice(text: str, task_format: TaskFormat) -> str | None:
    count = len(task_format.options) or _LETTERS_WITHOUT_OPTIONS
    in_range = {chr(ord("A") + i) for i in range(min(count, 26))}
    final = list(_FINAL_LINE.finditer(text))
    if final and (quoted := _quoted_option(text[final[-1].end() :].strip().split("\n", 1)[0], task_format.options)):
        return quoted
    alone = _letter_alone(text)
    if alone in in_range:
        return alone
    if (quoted := _quoted_option(text, task_format.options)) is not None:
        return quoted
    for finder in (_stated_letters, _marked_letters, _leading_letter):
        letters = [letter for letter in finder(text) if letter in in_range]
        if letters:
            return letters[-1]
    if (quoted := _quoted_option(_literal(text, task_format) or "", task_format.options)) is not None:
        return quoted
    capitals = [m[1] for m in _CAPITAL.finditer(text) if not _PRONOUN_OR_ARTICLE.match(text, m.start())]
    return next((letter for letter in reversed(capitals) if letter in in_range), None)


def _letter_alone(text: str) -> str | None:
    alone = _ALONE.fullmatch(text) if len(text) <= _MAX_LETTER_CHARS else None
    return alone[1].upper() if alone else None


def _stated_letters(text: str) -> list[str]:
    alone = _letter_alone(re.sub(r"\\(?:text|mathrm|mathbf)", "", boxed(text) or ""))
    if alone:
        return [alone]
    return [(m["upper"] or m["lower"]).upper() for m in _STATED.finditer(text)]


def _marked_letters(text: str) -> list[str]:
    return [m[1] for m in _MARKED.finditer(text)]


def _leading_letter(text: str) -> list[str]:
    leading = _LEADING.match(text)
    return [leading[1].upper()] if leading else []


def _quoted_option(text: str, options: tuple[str, ...]) -> str | None:
    said = _option_key(text)
    matches = [i for i, option in enumerate(options) if said and _option_key(option) == said]
    return chr(ord("A") + matches[0]) if len(matches) == 1 and matches[0] < 26 else None


def _option_key(text: str) -> str:
    return " ".join(_bare(text).casefold().split())


# --- number --------------------------------------------------------------------------------------------------------

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_POWER = r"(?:[eE][-+]?\d+(?![\w])|\s*(?:[×x*·]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?\s*[-+−]?\d+\s*\}?)"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>(?<![)\]}}])[-+−–](?=[\s]?[$€£¥]?[\d.]))?\s?[$€£¥]?\s?"
    rf"(?P<body>(?:{_DIGITS}){_POWER}?(?:\s*/\s*\d+(?:\.\d+)?(?![\d/]))?)"
    rf"(?P<magnitude>{MAGNITUDE_WORDS}+)?(?P<percent>\s?\\?%)?"
)
_LATEX = re.compile(r"\\(?:d?t?frac|sqrt|pi|infty|binom|begin|left)|\^|\bsqrt\(")
_PROSE = re.compile(r"\s(?=[A-Za-z]{3,}\b)(?!\\)|[.,;](?=\s|$)")


def _number(text: str, task_format: TaskFormat) -> str | None:
    inside = boxed(text)
    if inside:
        return inside
    for statement in _statements(text):
        found = _expression(statement) or _first_number(statement)
        if found is not None:
            return found
    numbers = list(_NUMBER.finditer(text))
    if numbers:
        return _written(numbers[-1])
    return _expression(text) if len(text) < 100 else None


def _expression(statement: str) -> str | None:
    """A formula at the start of a statement: what stands in dollars, else up to the first word of prose."""
    said = statement.strip(" *_\"'`")
    dollars = re.match(r"\$+([^$]+)\$+", said) or re.match(r"\\[(\[](.+?)\\[)\]]", said)
    formula = dollars[1] if dollars and not re.match(r"\$\d", said) else _PROSE.split(said, maxsplit=1)[0]
    formula = formula.strip(" *$.")
    return formula if _LATEX.search(formula) else None


def _first_number(statement: str) -> str | None:
    first = _NUMBER.search(statement)
    if first is None:
        return None
    equals = statement.rfind("=", first.end())
    after = _NUMBER.search(statement, equals) if equals >= 0 else None
    return _written(after or first)


def _written(number: re.Match[str]) -> str:
    """The number as one token: no currency, no thousands commas, an ASCII minus; percent and "million" are kept."""
    sign = "-" if number["sign"] in ("-", "−", "–") else ""
    body = re.sub(r"(?<=\d),(?=\d{3})", "", number["body"]).replace("−", "-")
    body = re.sub(r"\s*(?:[×x*·]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?\s*([-+]?\d+)\s*\}?", r"e\1", body)
    words = " ".join(["", *(number["magnitude"] or "").lower().split()])
    return sign + re.sub(r"\s+", "", body) + words + ("%" if number["percent"] else "")


# --- literal, code, JSON, free -------------------------------------------------------------------------------------


def _literal(text: str, task_format: TaskFormat) -> str | None:
    inside = boxed(text)
    if inside:
        return _bare(re.sub(r"^\\text\{(.*)\}$", r"\1", inside))
    for statement in _statements(text):
        return _bare(re.sub(r"[*_]{2}", "", statement))
    lines = [line for line in text.splitlines() if line.strip(" `*_")]
    return _bare(lines[-1]) if lines else None


_FENCE = re.compile(r"^[ \t]*```([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def fenced_blocks(text: str) -> list[str]:
    """What stands in the fenced blocks of `text`, in order; the last may lack its closing fence."""
    return [m[2] for m in _FENCE.finditer(text)]


def _code(text: str, task_format: TaskFormat) -> str | None:
    """The last fenced block, also one that was cut off; a text without fences is code as a whole."""
    blocks = [block for block in fenced_blocks(text) if block.strip()]
    return textwrap.dedent(blocks[-1]).strip("\n") if blocks else text.strip("`")


def _json(text: str, task_format: TaskFormat) -> str | None:
    """The last JSON object or array, in fenced blocks first; a bare scalar only where it is the whole text."""
    for part in (*reversed(fenced_blocks(text)), text):
        values = list(_json_values(part))
        if values:
            return _compact(values[-1])
    try:
        return _compact(_DECODER.decode(text))
    except (ValueError, RecursionError):
        return None


def _json_values(text: str) -> Iterator[object]:
    position = 0
    for _ in range(_MAX_JSON_STARTS):
        start = re.compile(r"[\[{]").search(text, position)
        if start is None:
            return
        try:
            value, position = _DECODER.raw_decode(text, start.start())
            yield value
        except (ValueError, RecursionError):
            position = start.end()


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _free(text: str, task_format: TaskFormat) -> str | None:
    return text


_EXTRACTORS: dict[AnswerKind, Callable[[str, TaskFormat], str | None]] = {
    AnswerKind.FREE: _free,
    AnswerKind.CHOICE: _choice,
    AnswerKind.NUMBER: _number,
    AnswerKind.LITERAL: _literal,
    AnswerKind.CODE: _code,
    AnswerKind.JSON: _json,
}
