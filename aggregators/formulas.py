"""Numbers and formulas as values: what a written number is worth, and whether two formulas are equal."""

from __future__ import annotations

import ctypes
import functools
import logging
import re
import threading
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

__all__ = ["MAGNITUDE_WORDS", "number_value", "plain_formula", "rounded", "same_formula"]

_MAX_NUMBER_CHARS = 400
_MAX_EXPONENT = 400
"""A longer number, or a larger power of ten, is compared as text: its value could fill the memory."""

_DECIMALS_COMPARED = 6
"""Decimals to which a rounded number equals an exact one, the default of math-verify (`float_rounding`); below 0.1 as
many significant digits, so that a small number is never equal to 0 or to any other small one."""

_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Words that multiply, as powers of ten. A dozen is a unit like any other: what is asked for in dozens is said so."""

MAGNITUDE_WORDS = rf"(?i:\s+(?:{'|'.join(_MAGNITUDES)})s?(?![\w-]))"
"""Pattern of one such word after a number; in "5 hundred-dollar notes" it belongs to the notes."""

_MAX_FORMULA_CHARS = 300
_DIGITS_EVALUATED = 30
_COMPARISON_TIMEOUT_S = 3.0

_FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "pmod", "mod", "gcd", "lcm"})

_LATEX_NOISE = re.compile(r"\\[,!;: ]|\\(?:left|right|displaystyle)\b|\\?[$€£¥%]|~")
_EMPHASIS = re.compile(r"(?<!\S)(?:\*\*|__)(?=\S)|(?<=\S)(?:\*\*|__)(?=[.,;:]?(?:\s|$))")
_MAGNITUDE = re.compile(rf"(?<=\d){MAGNITUDE_WORDS}+")
_MAGNITUDE_AS_TEXT = re.compile(rf"\\(?:text|mathrm|mbox)\{{({MAGNITUDE_WORDS}+)[^{{}}]*\}}")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\{[^{}]*\}|\^\{?\\circ\}?|°")
_UNIT_WORDS = re.compile(r"(?<=\d)\s+[A-Za-z][A-Za-z ]+$")
_NAME = re.compile(r"^[A-Za-z](?:_\w+)?\s*=\s*(?=[^=]+$)")
_FRACTION = re.compile(r"(?P<sign>-?)\s*\\[dt]?frac\s*\{?(?P<top>-?[\d.]+)\}?\s*\{?(?P<bottom>-?[\d.]+)\}?")
_TEN = re.compile(r"(?:(^[-+]?)|\s*(?:[×x*·]|\\times|\\cdot)\s*)10\s*\^\s*\{?\s*([-+]?\d+)\s*\}?$")
_SHORT_FRACTION = re.compile(r"\\([dt]?)frac\s*(\d)\s*(\d)(?!\d)")


def plain_formula(answer: str) -> str:
    """`answer` without emphasis, LaTeX spacing, currency, percent signs, units in `\\text{}` and a leading "x =".

    A power is written with `^`: two stars between two operands are one, at the edge of a word they are emphasis.
    """
    said = _MAGNITUDE_AS_TEXT.sub(r"\1", answer.replace("−", "-").replace("–", "-"))
    said = _UNIT.sub("", said)
    said = _EMPHASIS.sub("", _LATEX_NOISE.sub("", said).strip()).replace("**", "^").rstrip(".")
    said = _SHORT_FRACTION.sub(r"\\\1frac{\2}{\3}", _NAME.sub("", said))
    return re.sub(r"\\[dt]frac", r"\\frac", re.sub(r"\s+", " ", said)).strip()


def number_value(answer: str) -> Fraction | None:
    """The value of a plain number, fraction or power-of-ten number, also in millions; None for anything else."""
    if len(answer) > _MAX_NUMBER_CHARS:
        return None
    said = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain_formula(answer).replace("{,}", ","))
    said, zeros = _without_magnitude(said)
    value = _plain_value(_TEN.sub(_power_of_ten, _UNIT_WORDS.sub("", said)))
    return value * 10**zeros if value is not None else None


def _without_magnitude(said: str) -> tuple[str, int]:
    """`said` without its "million" or "hundred thousand", and how many zeros that stands for."""
    found = _MAGNITUDE.search(said)
    if found is None:
        return said, 0
    zeros = sum(_MAGNITUDES[word.removesuffix("s")] for word in found[0].lower().split())
    return said[: found.start()] + said[found.end() :], zeros


def _power_of_ten(found: re.Match[str]) -> str:
    return f"e{found[2]}" if found[1] is None else f"{found[1]}1e{found[2]}"


def _plain_value(said: str) -> Fraction | None:
    fraction = _FRACTION.fullmatch(said)
    parts = [fraction["sign"] + fraction["top"], fraction["bottom"]] if fraction else said.split("/")
    mixed = re.fullmatch(r"(-?)(\d+) (\d+)\s*/\s*(\d+)", said)
    if mixed:
        sign, whole, top, bottom = mixed[1], int(mixed[2]), int(mixed[3]), int(mixed[4])
        parts = [f"{sign}{whole * bottom + top}", str(bottom)]
    values = [_decimal(part) for part in parts]
    if len(values) > 2 or None in values:
        return None
    top_value, bottom_value = (values[0] or Fraction(0)), (values[1] if len(values) == 2 else Fraction(1))
    return top_value / bottom_value if bottom_value else None


def _decimal(text: str) -> Fraction | None:
    said = text.strip().strip("()")
    if not re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", said, re.ASCII):
        return None
    try:
        number = Decimal(said)
    except InvalidOperation:
        return None
    return Fraction(number) if abs(number.adjusted()) <= _MAX_EXPONENT else None


def rounded(value: Fraction) -> Fraction:
    """`value` as it is compared: to 6 decimals, and to no fewer than 6 significant digits; only 0 becomes 0."""
    if value.denominator == 1:
        return value
    first_digit = -(Decimal(abs(value.numerator)) / value.denominator).adjusted()
    return round(value, _DECIMALS_COMPARED - 1 + max(1, first_digit))


# --- formulas ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def same_formula(a: str, b: str) -> bool:
    """True where math-verify finds `a` and `b` equal; False where it is missing, cannot read them or takes long."""
    if max(len(a), len(b)) > _MAX_FORMULA_CHARS or not (_is_formula(a) and _is_formula(b)):
        return False
    try:
        from math_verify import parse, verify
    except ImportError:
        return False
    # math-verify warns that its own timer is off; ours (see `_within`) takes its place.
    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def compare() -> bool:
        left, right = (parse(f"${plain_formula(text)}$", parsing_timeout=None) for text in (a, b))
        is_same = verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None)
        return bool(is_same) and _values_agree(left, right)

    return _within(_COMPARISON_TIMEOUT_S, compare)


def _values_agree(left: list[Any], right: list[Any]) -> bool:
    """False for two real numbers that differ when rounded: math-verify compares by absolute difference, so that all
    tiny ones are equal. Both sides are as math-verify parses them, a sympy expression first."""
    values = [
        rounded(Fraction(str(side[0].evalf(_DIGITS_EVALUATED))))
        for side in (left, right)
        if getattr(side[0], "is_number", False) and side[0].is_real
    ]
    return len(values) < 2 or values[0] == values[1]


def _is_formula(text: str) -> bool:
    """True for what a maths library should read: no prose, and no tower or huge power that could fill the memory."""
    has_tower = re.search(r"\^\s*\{?[^{}]*\^|\^\s*\{?\s*\d{4,}|!\s*!|\d{4,}\s*!", plain_formula(text))
    words = {word.lower() for word in re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", text)}
    return bool(text.strip()) and has_tower is None and words <= _FUNCTIONS


class _Abandoned(Exception):
    """Thrown into a comparison that ran out of time."""


def _within(timeout_s: float, compare: Callable[[], bool]) -> bool:
    """`compare()`, or False where it fails or takes longer; works in any thread, where signal timers do not.

    The comparison runs in a thread of its own. One that is late gets an exception thrown in, which ends pure-Python
    work such as sympy's; math-verify's own timer uses SIGALRM and works in the main thread only.
    """
    results: list[bool] = []

    def work() -> None:
        try:
            results.append(compare())
        except (Exception, _Abandoned):
            results.append(False)

    thread = threading.Thread(target=work, daemon=True, name="formula-comparison")
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Abandoned))
    return bool(results) and results[0]
