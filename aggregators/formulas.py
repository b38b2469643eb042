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

__all__ = ["number_value", "plain_formula", "same_formula"]

_MAX_NUMBER_CHARS = 400
_MAX_EXPONENT = 400
"""A longer number, or a larger power of ten, is compared as text: its value could fill the memory."""

_MAX_FORMULA_CHARS = 300
_COMPARISON_TIMEOUT_S = 3.0

_FUNCTIONS = frozenset({"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "pmod", "mod", "gcd", "lcm"})

_LATEX_NOISE = re.compile(r"\\[,!;: ]|\\(?:left|right|displaystyle)\b|\\?[$€£¥%]|[*_]{2}|~")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\{[^{}]*\}|\^\{?\\circ\}?|°")
_UNIT_WORDS = re.compile(r"(?<=\d)\s+[A-Za-z][A-Za-z ]+$")
_NAME = re.compile(r"^[A-Za-z](?:_\w+)?\s*=\s*(?=[^=]+$)")
_FRACTION = re.compile(r"(?P<sign>-?)\s*\\[dt]?frac\s*\{?(?P<top>-?[\d.]+)\}?\s*\{?(?P<bottom>-?[\d.]+)\}?")
_TEN = re.compile(r"\s*(?:[×x*·]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?\s*([-+]?\d+)\s*\}?$")
_SHORT_FRACTION = re.compile(r"\\([dt]?)frac\s*(\d)\s*(\d)(?!\d)")


def plain_formula(answer: str) -> str:
    """`answer` without LaTeX spacing, currency, percent signs, units in `\\text{}` and a leading "x ="."""
    said = _UNIT.sub("", answer.replace("−", "-").replace("–", "-"))
    said = _LATEX_NOISE.sub("", said).strip().rstrip(".")
    said = _SHORT_FRACTION.sub(r"\\\1frac{\2}{\3}", _NAME.sub("", said))
    return re.sub(r"\\[dt]frac", r"\\frac", re.sub(r"\s+", " ", said)).strip()


def number_value(answer: str) -> Fraction | None:
    """The value of a plain number, fraction or power-of-ten number; None for anything else."""
    if len(answer) > _MAX_NUMBER_CHARS:
        return None
    said = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain_formula(answer).replace("{,}", ","))
    said = _TEN.sub(r"e\1", _UNIT_WORDS.sub("", said))
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
        return bool(verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None))

    return _within(_COMPARISON_TIMEOUT_S, compare)


def _is_formula(text: str) -> bool:
    """True for what a maths library should read: no prose, and no tower or huge power that could fill the memory."""
    has_tower = re.search(r"\^\s*\{?[^{}]*\^|\*\*.*\*\*|(?:\^|\*\*)\s*\{?\s*\d{4,}|!\s*!|\d{4,}\s*!", text)
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
