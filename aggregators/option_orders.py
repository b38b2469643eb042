"""Finds the options that a question shows and writes the question anew with them in another order.

Where there is any doubt which options these are, or one of them speaks of the others by letter or place ("both A and
B", "all of the above" elsewhere than at the end), there is no other order.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["ShownOptions", "find_options", "other_orders"]

_FEWEST, _MOST = 2, 26
_MAX_CHARS = 20_000
_MAX_LISTED = 5_000
"""Orders written out to draw from; of longer lists orders are drawn one by one."""

_LINE_LABEL = re.compile(
    r"^[ \t]*(?:[-*][ \t]+)?(?:\*\*)?(?:(?:Option|Choice)[ \t]+)?[(\[]?([A-Z])(?:[)\].:]|[ \t]+-)(?:\*\*)?[ \t]+",
    re.MULTILINE,
)
_INLINE_LABEL = re.compile(r"(?:(?<=\s)|(?<=^)|(?<=[(\[,;:]))[(\[]?([A-Z])[)\].:]\s+", re.MULTILINE)
_SEPARATOR = re.compile(r"(?:[ \t]*[,;])?(?:[ \t]+(?:or|and))?[ \t]*\Z", re.IGNORECASE)
_LAST_STOP = re.compile(r"[ \t]*[.?!]?[ \t]*\Z")
_OF_ALL = re.compile(
    r"\b(?:above|preceding|previous|foregoing|other options|other answers|other choices)\b", re.IGNORECASE
)
_OF_SOME = re.compile(
    r"\b(?:below|following|former|latter)\b"
    r"|\b(?:both|neither|either|only|options?|answers?|choices?|statements?|and|or|nor)\s+\(?[A-Z]\b\)?(?!\.)"
    r"|(?<![A-Za-z])\(?[A-Z]\)?\s*(?:,|&|\band\b|\bor\b|\bnor\b|\bonly\b)",
)
_OWN_LABEL = re.compile(r"(?:Option|Choice)[ \t]+[(\[]?A\W*\Z")
_NAMED_OUTSIDE = re.compile(
    r"\b(?:[Oo]ptions?|[Cc]hoices?|[Aa]nswers?|[Aa]lternatives?)\s+\(?[A-Z]\b\)?(?!\s*[,/.]\s*\(?[B-Z]\b)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownOptions:
    """A text with options in it: where each option's own text stands, from start to end. `is_last_fixed` where the last
    one speaks of all above it, and so stays where it is."""

    text: str
    spans: tuple[tuple[int, int], ...]
    is_last_fixed: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The options' texts, in the order shown."""
        return tuple(self.text[start:end] for start, end in self.spans)

    def reordered(self, order: Sequence[int]) -> str:
        """The text with option `order[i]` (counted from 0) shown in place i; all else, letters too, as it was."""
        pieces, position = [], 0
        for (start, end), source in zip(self.spans, order, strict=True):
            pieces += [self.text[position:start], self.options[source]]
            position = end
        return "".join([*pieces, self.text[position:]])


def find_options(text: str, options: Sequence[str] = ()) -> ShownOptions | None:
    """The lettered options that `text` shows, on lines of their own or in one; None where that is in doubt.

    `options` are those it must be, in their order, where they are known. Else there must be one list of letters from A
    on, and nothing else in the text that could be one.
    """
    if len(text) > _MAX_CHARS:
        return None
    lists = list(_lists(text, _LINE_LABEL)) or list(_lists(text, _INLINE_LABEL))
    wanted = [_words(option) for option in options] if options else None
    cut = [_cut(text, spans, wanted) for spans in lists]
    found = [spans for spans in cut if spans is not None]
    return _movable(text, found[0]) if len(found) == 1 else None


_Spans = list[tuple[int, int]]


def _lists(text: str, label: re.Pattern[str]) -> Iterator[_Spans]:
    """Every run of labels A, B, C ... as the spans that follow them; the last one ends with its line."""
    run: list[re.Match[str]] = []
    for found in (*label.finditer(text), None):
        if found is not None and len(run) < _MOST and found[1] == string.ascii_uppercase[len(run)]:
            run.append(found)
            continue
        if len(run) >= _FEWEST:
            ends = [following.start() for following in run[1:]]
            line_end = text.find("\n", run[-1].end())
            yield list(zip([m.end() for m in run], [*ends, len(text) if line_end < 0 else line_end], strict=True))
        run = [found] if found is not None and found[1] == "A" else []


def _cut(text: str, spans: _Spans, wanted: Sequence[str] | None) -> _Spans | None:
    """The spans cut down to the options' own texts; None where one is empty, or they are not the wanted ones, or where
    one takes several lines, so that nobody can tell where the last one ends."""
    if wanted is not None and len(wanted) != len(spans):
        return None
    cut = [_cut_one(text, span, wanted[place] if wanted else None) for place, span in enumerate(spans)]
    kept = [span for span in cut if span is not None]
    if wanted is None and any("\n" in text[start:end] for start, end in kept):
        return None
    return kept if len(kept) == len(spans) else None


def _cut_one(text: str, span: tuple[int, int], wanted: str | None) -> tuple[int, int] | None:
    """A span without the white space, comma and "or" that separate options in a sentence, nor its full stop."""
    start = span[0]
    inner = text[start : span[1]].rstrip()
    plain = _SEPARATOR.sub("", inner)
    for said in (plain, inner) if wanted is None else (inner, plain, _LAST_STOP.sub("", plain)):
        if said and (wanted is None or _words(said) == wanted):
            return start, start + len(said)
    return None


def _movable(text: str, spans: _Spans) -> ShownOptions | None:
    """What is shown, unless the options or the question speak of options by letter or place."""
    options = [text[start:end] for start, end in spans]
    *others, last = options
    outside = _OWN_LABEL.sub("", text[: spans[0][0]]) + text[spans[-1][1] :]
    is_last_fixed = bool(_OF_ALL.search(last))
    if any(map(_OF_ALL.search, others)) or any(map(_OF_SOME.search, options)) or _NAMED_OUTSIDE.search(outside):
        return None
    if len(set(map(_words, options))) < len(options):
        return None
    return ShownOptions(text=text, spans=tuple(spans), is_last_fixed=is_last_fixed)


def _words(text: str) -> str:
    return " ".join(text.split())


def other_orders(shown: ShownOptions, how_many: int, *, seed: int) -> tuple[tuple[int, ...], ...]:
    """Up to `how_many` different orders for `ShownOptions.reordered`, none of them the one shown, drawn by `seed`."""
    count = len(shown.spans)
    movable = count - shown.is_last_fixed
    tail = tuple(range(movable, count))
    given = tuple(range(movable))
    wanted = min(how_many, math.factorial(movable) - 1)
    drawn = random.Random(seed)
    if math.factorial(movable) <= _MAX_LISTED:
        orders = [order for order in itertools.permutations(given) if order != given]
        return tuple((*order, *tail) for order in drawn.sample(orders, wanted))
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < wanted:
        order = tuple(drawn.sample(given, movable))
        if order != given:
            chosen[order] = None
    return tuple((*order, *tail) for order in chosen)
