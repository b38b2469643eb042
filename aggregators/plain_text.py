"""Short answers in words without what does not tell them apart: case, articles, punctuation, forms of characters."""

from __future__ import annotations

import functools
import re
import unicodedata

__all__ = ["plain_text"]

_MAX_CHARS = 300
"""A longer answer is a text, not a short answer: the same only word for word."""

_FORMAL = re.compile(r"[{}\[\]<>=\\_`|~@#^*+/]|\w\(")
"""Marks of code and formulas, in which case and every sign may count."""

_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴-⁹⁻ⁿ₀-₉]")
_QUOTES = str.maketrans("‘’‚“”„«»′″", '\'\'""""""\'"')
_DASHES = str.maketrans("‐‑‒–—―−", "-------")
_EMPHASISED = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
_OUTER = "\"'.,;:?"
_SHORT_WORDS = frozenset(
    {
        *(
            "ah",
            "am",
            "an",
            "as",
            "at",
            "be",
            "by",
            "do",
            "eh",
            "go",
            "he",
            "hi",
            "if",
            "in",
            "is",
            "it",
            "me",
            "mr",
            "ms",
        ),
        *("my", "no", "of", "oh", "ok", "on", "or", "so", "st", "to", "up", "us", "we", "ye"),
    }
)
"""Words of two letters; any other capitals of that length may be a symbol: CO is not Co, MW is not mW."""
_JOINED_BY = frozenset({"and", "or", "is", "&", "-"})
_SAID_IN_ANY_CASE = frozenset({"yes", "no", "true", "false"})


def plain_text(answer: str) -> str:
    """The words of a short answer by which it is compared; a long or formal text comes back with single spaces.

    Articles go ("the" anywhere, "a" and "an" where they stand as such), and so do outer punctuation, emphasis, and
    capitals, except where these may mean something: single letters, symbols of two letters (CO, pH), units (MHz).
    Signs stay: "-5", "A+", "5!". Superscripts are never turned into plain digits.
    """
    said = " ".join(answer.split())
    return said if len(said) > _MAX_CHARS else _compared(said)


@functools.lru_cache(maxsize=4096)
def _compared(said: str) -> str:
    """The words of a short answer that has single spaces."""
    said = _EMPHASISED.sub(r"\2", said)
    if _FORMAL.search(said) or _SUPERSCRIPT.search(said):
        return said
    if not said.isascii():
        said = " ".join(unicodedata.normalize("NFKC", said.translate(_QUOTES).translate(_DASHES)).split())
    words = [word for raw in said.split(" ") if (word := _bare(raw))]
    if len(words) == 1 and words[0].lower() in _SAID_IN_ANY_CASE:
        return words[0].lower()
    kept = [_lowered(word) for place, word in enumerate(words) if not _is_article(words, place)]
    return " ".join(kept) or said


def _bare(raw: str) -> str:
    """A word without the punctuation around it; what stands before a digit (".5", "-5") or counts as a sign stays."""
    word = raw.rstrip(_OUTER + "!)") if not re.search(r"(?:^\W*\w|\d)!+\W*$", raw) else raw.rstrip(_OUTER)
    if word.startswith((".", ",")) and word[1:2].isdigit():
        return word
    return word.lstrip(_OUTER + "(!")


def _is_article(words: list[str], place: int) -> bool:
    word = words[place]
    if word.lower() == "the":
        return len(words) > 1
    if place == len(words) - 1:
        return False
    following = words[place + 1]
    if word in ("a", "an"):
        return following.lower() not in _JOINED_BY
    return word in ("A", "An") and place == 0 and following[0].islower() and following not in _JOINED_BY


def _lowered(word: str) -> str:
    letters = [c for c in word if c.isalpha()]
    if len(letters) == 1:
        return word
    if len(word) == 2 and (word[1].isupper() or word.lower() not in _SHORT_WORDS):
        return word
    if len(word) == 3 and word[0].islower() != word[1:].islower() and not word.istitle():
        return word  # mHz and MHz, kPa; not USA, which is all capitals
    return word.casefold()
