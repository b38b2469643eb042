"""Numbers with units as values: "3 km" is "3000 m", "1 h 30 min" is "90 minutes", "$5" is "5 dollars".

What is compared is the whole of a short answer, so a text that holds any word besides is no quantity. Percent is a unit
of its own: 5 % is neither 5 nor 0.05, for whoever writes which of the two is meant does not say so. A month and a year
are no fixed number of days, and units of which there are several sizes (gallons, tons, cups, calories) or several
meanings ("C", "K" after a number without a space) are no units here: such an answer is compared by its words.

The factors are those of the SI brochure (9th edition) and of the international yard and pound (1959), exact.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from aggregators.formulas import MAGNITUDE_WORDS, number_value, rounded

__all__ = ["NUMBER_WORDS", "Unit", "quantity_key", "unit_named"]

_MAX_CHARS = 60
_MAX_TERMS = 4
_MAX_POWER = 9

_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS: Mapping[str, int] = MappingProxyType(
    {word: value for value, word in enumerate([*_SMALL.split(), "seventeen", "eighteen", "nineteen"])}
    | {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
)
"""Numbers that are one word."""

Powers = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as a multiple of base units: `factor` times the product of the bases to their powers, which are sorted;
    `zero` is what 0 of it is worth (temperatures)."""

    factor: Fraction
    powers: Powers
    zero: Fraction = Fraction(0)

    def times(self, other: Unit, power: int) -> Unit:
        """This unit times `other` to the power."""
        powers = dict(self.powers)
        for base, exponent in other.powers:
            powers[base] = powers.get(base, 0) + exponent * power
        kept = tuple(sorted((base, exponent) for base, exponent in powers.items() if exponent))
        return Unit(self.factor * other.factor**power, kept)


_ONE = Unit(Fraction(1), ())


def _unit(factor: str | int | Fraction, zero: str | int = 0, /, **powers: int) -> Unit:
    return Unit(Fraction(factor), tuple(sorted(powers.items())), Fraction(zero))


_PREFIXES = {  # symbol: (word, power of ten)
    "p": ("pico", -12),
    "n": ("nano", -9),
    "µ": ("micro", -6),
    "m": ("milli", -3),
    "c": ("centi", -2),
    "d": ("deci", -1),
    "k": ("kilo", 3),
    "M": ("mega", 6),
    "G": ("giga", 9),
    "T": ("tera", 12),
}
_PREFIXED = {  # symbol: (words, the prefixes it is used with, the unit)
    "m": ("metre meter", "pnµmcdk", _unit(1, m=1)),
    "g": ("gram gramme", "nµmk", _unit("1/1000", kg=1)),
    "s": ("second", "pnµm", _unit(1, s=1)),
    "A": ("ampere amp", "nµmk", _unit(1, A=1)),
    "mol": ("mole", "nµmk", _unit(1, mol=1)),
    "Hz": ("hertz", "kMGT", _unit(1, s=-1)),
    "N": ("newton", "mkM", _unit(1, kg=1, m=1, s=-2)),
    "Pa": ("pascal", "kMG", _unit(1, kg=1, m=-1, s=-2)),
    "J": ("joule", "mkMG", _unit(1, kg=1, m=2, s=-2)),
    "W": ("watt", "µmkMGT", _unit(1, kg=1, m=2, s=-3)),
    "Wh": ("", "mkMGT", _unit(3600, kg=1, m=2, s=-2)),
    "V": ("volt", "nµmkM", _unit(1, A=-1, kg=1, m=2, s=-3)),
    "Ω": ("ohm", "mkM", _unit(1, A=-2, kg=1, m=2, s=-3)),
    "C_": ("coulomb", "nµm", _unit(1, A=1, s=1)),
    "L": ("litre liter", "µmcd", _unit("1/1000", m=3)),
    "eV": ("electronvolt", "mkMGT", _unit("1.602176634e-19", kg=1, m=2, s=-2)),
    "B": ("byte", "kMGT", _unit(8, bit=1)),
    "bit": ("bit", "kMG", _unit(1, bit=1)),
}
_SYMBOLS: dict[str, Unit] = {
    "l": _unit("1/1000", m=3),
    "ml": _unit("1/1000000", m=3),
    "cl": _unit("1/100000", m=3),
    "dl": _unit("1/10000", m=3),
    "hPa": _unit(100, kg=1, m=-1, s=-2),
    "kcal": _unit(4184, kg=1, m=2, s=-2),
    "mAh": _unit("18/5", A=1, s=1),
    "h": _unit(3600, s=1),
    "°C": _unit(1, "273.15", K=1),
    "°F": _unit("5/9", "45967/180", K=1),
    "K": _unit(1, K=1),
    "KiB": _unit(2**13, bit=1),
    "MiB": _unit(2**23, bit=1),
    "GiB": _unit(2**33, bit=1),
    "%": _unit(1, percent=1),
    "°": _unit(1, degree=1),
    "$": _unit(1, dollar=1),
    "€": _unit(1, euro=1),
    "£": _unit(1, sterling=1),
    "¥": _unit(1, yen=1),
}
_WORDS: dict[str, Unit] = {  # without their plural s, in any case
    "sec": _unit(1, s=1),
    "min": _unit(60, s=1),
    "minute": _unit(60, s=1),
    "hr": _unit(3600, s=1),
    "hour": _unit(3600, s=1),
    "day": _unit(86400, s=1),
    "week": _unit(604800, s=1),
    "month": _unit(1, month=1),
    "year": _unit(12, month=1),
    "yr": _unit(12, month=1),
    "in": _unit("0.0254", m=1),
    "inch": _unit("0.0254", m=1),
    "inche": _unit("0.0254", m=1),
    "ft": _unit("0.3048", m=1),
    "foot": _unit("0.3048", m=1),
    "feet": _unit("0.3048", m=1),
    "yd": _unit("0.9144", m=1),
    "yard": _unit("0.9144", m=1),
    "mi": _unit("1609.344", m=1),
    "mile": _unit("1609.344", m=1),
    "lb": _unit("0.45359237", kg=1),
    "pound": _unit("0.45359237", kg=1),
    "oz": _unit("0.028349523125", kg=1),
    "ounce": _unit("0.028349523125", kg=1),
    "tonne": _unit(1000, kg=1),
    "hectare": _unit(10000, m=2),
    "ha": _unit(10000, m=2),
    "acre": _unit("4046.8564224", m=2),
    "mph": _unit("0.44704", m=1, s=-1),
    "kph": _unit("5/18", m=1, s=-1),
    "kmh": _unit("5/18", m=1, s=-1),
    "knot": _unit("463/900", m=1, s=-1),
    "bar": _unit(100000, kg=1, m=-1, s=-2),
    "atm": _unit(101325, kg=1, m=-1, s=-2),
    "atmosphere": _unit(101325, kg=1, m=-1, s=-2),
    "kelvin": _unit(1, K=1),
    "celsius": _unit(1, "273.15", K=1),
    "fahrenheit": _unit("5/9", "45967/180", K=1),
    "percent": _unit(1, percent=1),
    "degree": _unit(1, degree=1),
    "dollar": _unit(1, dollar=1),
    "usd": _unit(1, dollar=1),
    "euro": _unit(1, euro=1),
    "eur": _unit(1, euro=1),
    "gbp": _unit(1, sterling=1),
    "yen": _unit(1, yen=1),
}


def _add_prefixed_units() -> None:
    """The table of units with every prefix that they are used with."""
    for symbol, (words, prefixes, unit) in _PREFIXED.items():
        if not symbol.endswith("_"):
            _SYMBOLS[symbol] = unit
        _WORDS.update(dict.fromkeys(words.split(), unit))
        for prefix in prefixes:
            name, power = _PREFIXES[prefix]
            prefixed = Unit(unit.factor * Fraction(10) ** power, unit.powers)
            if not symbol.endswith("_"):
                _SYMBOLS[prefix + symbol] = prefixed
            _WORDS.update({name + word: prefixed for word in words.split()})


_add_prefixed_units()

_NUMBER = (
    r"[-+−]?(?:\d+\s\d+/\d+|\d+/\d+|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d+|\s*[×x*·]\s*10\s*(?:\^|\*\*)\s*\{?[-+−]?\d+\}?)?(?![\d.,]\d)"
)
_TERM = re.compile(
    rf"(?P<money>[-+−]?[$€£¥]\s*)?(?P<number>(?:{_NUMBER}|(?i:{'|'.join(NUMBER_WORDS)})\b)(?:{MAGNITUDE_WORDS})*)"
    r"(?P<space>\s*)(?P<unit>[^\d\s,;](?:(?<=[A-Za-z^*])-?\d|[^\d,;])*)?"
)
_BETWEEN_TERMS = re.compile(r"\s*(?:,|and\b)?\s*", re.IGNORECASE)
_LEADING_ZERO = re.compile(r"[-+−]?0\d")
_POWER = re.compile(r"(?P<name>[A-Za-zµΩ°%$€£¥]+)(?:(?:\^|\*\*)?(?P<power>-?\d))?")
_POWER_WORDS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3}
_TEMPERATURES = re.compile(r"(?:°|degrees?)\s*(c|f)(?:elsius|ahrenheit)?", re.IGNORECASE)
_SPELLINGS = (
    ("μ", "µ"),
    ("\N{OHM SIGN}", "Ω"),
    ("²", "^2"),
    ("³", "^3"),
    ("⁻¹", "^-1"),
    ("⁻²", "^-2"),
    ("per cent", "percent"),
    ("US$", "$"),
)


@functools.lru_cache(maxsize=4096)
def quantity_key(text: str) -> str | None:
    """The value of a number with or without a unit, in base units, as a key ("= 3000 m"); None for any other text.

    Terms of one unit's kind add up ("5 ft 3 in"). Values are compared as numbers are elsewhere (`formulas.rounded`).
    """
    if len(text) > _MAX_CHARS:
        return None
    said = text.strip().rstrip(".").rstrip()
    for spelling, usual in _SPELLINGS:
        said = said.replace(spelling, usual)
    terms = list(_terms(said))
    if not terms or any(term is None for term in terms):
        return None
    known = [term for term in terms if term is not None]
    powers = known[0][1].powers
    if len(known) > 1 and not _adds_up(known):
        return None
    total = sum((value * unit.factor + unit.zero for value, unit in known), Fraction(0))
    bases = "·".join(base if exponent == 1 else f"{base}^{exponent}" for base, exponent in powers)
    return f"= {rounded(total)} {bases}".rstrip()


def _adds_up(terms: list[tuple[Fraction, Unit]]) -> bool:
    """True for terms such as "5 ft 3 in": of one kind, the units getting smaller, none below 0, no temperature."""
    units = [unit for _, unit in terms]
    is_one_kind = all(unit.powers == units[0].powers and unit.powers and not unit.zero for unit in units)
    gets_smaller = all(unit.factor < larger.factor for larger, unit in itertools.pairwise(units))
    return is_one_kind and gets_smaller and all(value >= 0 for value, _ in terms)


def _terms(said: str) -> Iterator[tuple[Fraction, Unit] | None]:
    """Each number of `said` with its unit; None for what is neither."""
    position = 0
    for _ in range(_MAX_TERMS):
        term = _TERM.match(said, position)
        if term is None:
            break
        yield _read(term)
        position = term.end()
        if position == len(said):
            return
        between = _BETWEEN_TERMS.match(said, position)
        position = between.end() if between else position
    yield None


def _read(term: re.Match[str]) -> tuple[Fraction, Unit] | None:
    value = _value(term["number"])
    money, name = (term["money"] or "").strip(), re.sub(r"\s+(?:and)?\s*$", "", term["unit"] or "")
    if value is None or (money and name):
        return None
    if money:
        return (-value if money[0] in "-−" else value), _SYMBOLS[money[-1]]
    if name == "K" and not term["space"]:
        return None  # 5K may be five thousand
    unit = unit_named(name)
    return None if unit is None else (value, unit)


def _value(number: str) -> Fraction | None:
    if _LEADING_ZERO.match(number):
        return None  # a code, not a value
    first, *rest = number.split(maxsplit=1)
    word = NUMBER_WORDS.get(first.lower())
    return number_value(" ".join([str(word), *rest]) if word is not None else number)


@functools.lru_cache(maxsize=1024)
def unit_named(name: str) -> Unit | None:
    """The unit of this name, symbol or product of such ("km/h", "metres per second squared"); None for an unknown one,
    and a pure number's for an empty name."""
    said = _TEMPERATURES.sub(lambda found: f"°{found[1].upper()}", name.strip())
    unit, sign, power_next = _ONE, 1, 1
    words = re.sub(r"\s*/\s*", " per ", re.sub(r"[·*](?!\*)(?<!\*\*)", " ", said)).split()
    last: Unit | None = None
    for word in words:
        if word.lower() == "per" and sign == 1 and last is not None:
            sign = -1
        elif word.lower() in ("squared", "cubed") and last is not None:
            unit = unit.times(last, sign * (_POWER_WORDS[word.lower()] - 1))
        elif word.lower() in _POWER_WORDS:
            power_next = _POWER_WORDS[word.lower()]
        elif (found := _simple_unit(word, is_alone=len(words) == 1)) is not None:
            last, power = found
            if len(words) == 1 and power == 1:
                return last
            unit, power_next = unit.times(last, sign * power * power_next), 1
        else:
            return None
    return unit if power_next == 1 and (last is not None or not words) else None


def _simple_unit(word: str, *, is_alone: bool) -> tuple[Unit, int] | None:
    found = _POWER.fullmatch(word)
    if found is None:
        return None
    name, power = found["name"], int(found["power"] or 1)
    lower = name.lower()
    unit = _SYMBOLS.get(name) or _WORDS.get(lower) or (_WORDS.get(lower[:-1]) if lower.endswith("s") else None)
    if unit is None or power == 0 or (unit.zero and not (is_alone and power == 1)):
        return None
    return unit, power
