"""Reads a conductor's turns and tells them back to it: whom it calls with which instruction, or its final answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aggregators.endings import after_last
from aggregators.extract import without_thoughts
from aggregators.quoting import clean
from router_service.types import Expert

__all__ = ["Consultation", "ExpertCall", "FinalAnswer", "experts_text", "history_text", "read_turn", "rounds_text"]

_FINAL = re.compile(
    r">>\s{0,3}final\s+answer[*_]{0,3}\s{0,3}:?[*_]{0,3}|\bFINAL ANSWER[*_]{0,3}\s{0,3}:[*_]{0,3}", re.IGNORECASE
)
_CALL_TEXT = r"\bexpert[\s_]{0,3}\#?(\d{1,3})\b[^:\n]{0,80}:[*_]{0,3}\s*"
_CALL = re.compile(_CALL_TEXT, re.IGNORECASE)
_QUOTES = ('"""', "'''")
_QUOTED_CALL = re.compile(
    _CALL_TEXT + r"""(?P<quotes>\"{3}|'{3}|`{3})(?P<instruction>.*?)(?:(?P=quotes)|\Z)""", re.IGNORECASE | re.DOTALL
)
_PARAGRAPH = re.compile(r"\n\s*\n")

_MOST_CALLS = 20
"""Places looked at for a call."""

_INSTRUCTION_CHARS = 4000
_TOLD_BACK_CHARS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCall:
    """The conductor asks: which expert, by its number, and what."""

    number: int
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalAnswer:
    """The conductor has settled."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Consultation:
    """One round that is over: the call (None where none could be read), and what came of it, in words that go on where
    "Round n: " ends."""

    call: ExpertCall | None
    outcome: str


def read_turn(text: str) -> ExpertCall | FinalAnswer | None:
    """What a turn asks for: the last final answer (one inside a quoted instruction is none), else the first call whose
    instruction is quoted, else the first without quotes, up to the next empty line; None where there is neither."""
    said = without_thoughts(text)
    calls, rest = _quoted_calls(said)
    final = after_last(rest, _FINAL)
    if final is not None:
        return FinalAnswer(text=_unquoted(final))
    if calls:
        return calls[0]
    for call in list(_CALL.finditer(rest))[:_MOST_CALLS]:
        instruction = _PARAGRAPH.split(rest[call.end() :], maxsplit=1)[0].strip()
        if instruction:
            return ExpertCall(number=int(call[1]), instruction=instruction[:_INSTRUCTION_CHARS])
    return None


def _quoted_calls(said: str) -> tuple[list[ExpertCall], str]:
    """The calls whose instruction is quoted, and the text without any of these."""
    calls: list[ExpertCall] = []
    rest: list[str] = []
    end = 0
    while len(calls) < _MOST_CALLS and (found := _QUOTED_CALL.search(said, end)) is not None:
        instruction = found["instruction"].strip()
        if instruction:
            calls.append(ExpertCall(number=int(found[1]), instruction=instruction[:_INSTRUCTION_CHARS]))
        rest.append(said[end : found.start()])
        end = found.end()
    return calls, "\n".join([*rest, said[end:]])


def _unquoted(text: str) -> str:
    """What stands between the triple quotes that a text begins with, to their end or the text's; the text where there
    are none. Fences of code stay: they are part of an answer."""
    for quotes in _QUOTES:
        if text.startswith(quotes):
            return text[len(quotes) :].split(quotes, 1)[0].strip()
    return text.strip()


def experts_text(experts: Sequence[Expert | None]) -> str:
    """The list of experts under numbers from 1, with what each is good at where somebody said; no names."""
    described = [expert.description if expert is not None else None for expert in experts]
    return "\n".join(f"Expert {number}: {text or 'a language model'}" for number, text in enumerate(described, start=1))


def history_text(rounds: Sequence[Consultation]) -> str:
    """What happened in each round, one line each; instructions are told back cut, on one line, as data."""
    if not rounds:
        return "Nothing yet."
    return "\n".join(f"Round {number}: {_told(one)}" for number, one in enumerate(rounds, start=1))


def _told(one: Consultation) -> str:
    if one.call is None:
        return one.outcome
    asked = " ".join(clean(one.call.instruction).split())
    cut = asked if len(asked) <= _TOLD_BACK_CHARS else asked[:_TOLD_BACK_CHARS] + " [...]"
    return f'you asked Expert {one.call.number}: "{cut}"; {one.outcome}'


def rounds_text(left: int) -> str:
    """How often the conductor may still speak after this turn."""
    if left == 0:
        return "No round is left: give the final answer now, and ask nobody."
    return f"After this reply you have {left} more." if left > 1 else "After this reply you have one more."
