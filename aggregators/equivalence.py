"""When two answers are the same one: a cheap key to vote with, and a slower comparison for formulas.

What counts as the same, by kind of answer:

- number: the same value, however written ("1,000", "1e3", "1000.0", "2000/2", "1 thousand"), to 6 decimals and, below
  0.1, to 6 significant digits; currency, units in `\\text{}`, a leading "x =" and the percent sign are dropped (so 50 %
  is 50, as in the usual references). Formulas are compared by math-verify where it is installed.
- choice: the same letter.
- literal: the same text but for white space, quotes around it and a closing full stop. Case counts, because it is
  often the very point (what a program prints, a word to be spelt); only yes, no, true and false are the same in any
  case.
- json: the same value, whatever the order of keys. code: the same lines but for white space at their ends.
- free: the same quantity ("3 km", "3000 m"; see `quantities`) or, for a short answer, the same words but for case,
  articles and punctuation (see `plain_text`); a longer text is the same word for word.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aggregators.extract import extract
from aggregators.formulas import number_value, plain_formula, rounded, same_formula
from aggregators.plain_text import plain_text
from aggregators.quantities import quantity_key
from router_service.types import AnswerKind, Completion, TaskFormat, ToolCall

__all__ = ["AnswerGroup", "canonical", "group_answers", "held_answer", "same_answer", "vote_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerGroup:
    """The members that hold one answer, in order of recruiting."""

    key: str
    members: tuple[Completion, ...]

    @property
    def first(self) -> Completion:
        """The earliest member."""
        return self.members[0]

    @property
    def supporters(self) -> tuple[str, ...]:
        """The experts behind the members, each once, in order."""
        return tuple(dict.fromkeys(member.expert_id for member in self.members))


def held_answer(completion: Completion, task_format: TaskFormat) -> str | None:
    """The answer a completion holds: the extracted one, or the whole text where the format is free; None without."""
    if completion.extracted is not None and completion.extracted.strip():
        return completion.extracted
    return extract(completion.text, task_format) if task_format.kind is AnswerKind.FREE else None


def group_answers(members: Sequence[Completion], kind: AnswerKind) -> tuple[AnswerGroup, ...]:
    """The members gathered by answer, earliest group first; a member without an answer is in no group.

    Proposed tool calls are an answer too: the same tools with the same arguments, in any order.
    """
    gathered: dict[str, list[Completion]] = {}
    for member in members:
        key = vote_key(member, kind)
        if key is None:
            continue
        if key not in gathered and kind is AnswerKind.NUMBER and not member.tool_calls:
            key = _key_of_its_formula(member, gathered) or key
        gathered.setdefault(key, []).append(member)
    return tuple(AnswerGroup(key=key, members=tuple(group)) for key, group in gathered.items())


def vote_key(member: Completion, kind: AnswerKind) -> str | None:
    """The key of what a member votes for: its tool calls, else the answer it holds; None where it holds none. Cheap."""
    if member.tool_calls:
        return "tools:" + _json_key([_tool_key(call) for call in member.tool_calls])
    answer = held_answer(member, TaskFormat(kind=kind))
    return None if answer is None else f"answer:{canonical(answer, kind)}"


def _key_of_its_formula(member: Completion, gathered: Mapping[str, Sequence[Completion]]) -> str | None:
    """The group whose first member holds the same number in other words; as they were said, for a key is rounded."""
    for key, (first, *_) in gathered.items():
        if not first.tool_calls and same_answer(member.extracted or "", first.extracted or "", AnswerKind.NUMBER):
            return key
    return None


def _tool_key(call: ToolCall) -> str:
    return f"{call.name}({canonical(call.arguments, AnswerKind.JSON)})"


def canonical(answer: str, kind: AnswerKind) -> str:
    """The key of `answer`: equal keys are the same answer. Cheap; it never runs a maths library."""
    return _CANONICAL[kind](answer)


def same_answer(a: str, b: str, kind: AnswerKind) -> bool:
    """True where `a` and `b` are the same answer: equal keys or, for numbers, equal formulas.

    A formula that takes too long to compare, or that cannot be read, is the same only by its key.
    """
    if canonical(a, kind) == canonical(b, kind):
        return True
    if kind is not AnswerKind.NUMBER:
        return False
    are_numbers = number_value(a) is not None and number_value(b) is not None
    return not are_numbers and same_formula(*sorted((a, b)))


# --- keys ----------------------------------------------------------------------------------------------------------


def _choice_key(answer: str) -> str:
    letters = re.fullmatch(r"\W*([A-Za-z])\W*", answer)
    return letters[1].upper() if letters else _words(answer)


def _number_key(answer: str) -> str:
    value = number_value(answer)
    return str(rounded(value)) if value is not None else plain_formula(answer)


def _literal_key(answer: str) -> str:
    said = re.sub(r"\s+", " ", answer).strip()
    said = re.sub(r"(?<=[^.])\.$", "", said).rstrip()
    while len(said) > 1 and said[0] + said[-1] in ('""', "''", "``", "“”", "‘’") and said[0] not in said[1:-1]:
        said = said[1:-1].strip()
    if said.lower() in {"yes", "no", "true", "false"}:
        return said.lower()
    return re.sub(r"\s*([,:;\[\](){}])\s*", r"\1", said.replace('"', "'"))


def _code_key(answer: str) -> str:
    lines = textwrap.dedent(answer.strip("\r\n")).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _json_text_key(answer: str) -> str:
    try:
        return _json_key(json.loads(answer))
    except (ValueError, RecursionError):
        return _words(answer)


def _json_key(value: object) -> str:
    return json.dumps(_whole_floats(value), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _whole_floats(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_floats(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole_floats(inner) for inner in value]
    return value


def _free_key(answer: str) -> str:
    return quantity_key(answer) or plain_text(answer)


def _words(answer: str) -> str:
    return " ".join(answer.split())


_CANONICAL: dict[AnswerKind, Callable[[str], str]] = {
    AnswerKind.FREE: _free_key,
    AnswerKind.CHOICE: _choice_key,
    AnswerKind.NUMBER: _number_key,
    AnswerKind.LITERAL: _literal_key,
    AnswerKind.CODE: _code_key,
    AnswerKind.JSON: _json_text_key,
}
