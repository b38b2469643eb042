"""In what two answers differ so that they cannot mean the same, however alike they sound.

Sentence embeddings put "The bridge is open" right beside "The bridge is not open". What decides is told apart here by
rule, in English: a negation, a number, a name, an option's letter, a word that has an opposite, and, where a sentence
says who did what to whom, the order of the names. In doubt two answers differ.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aggregators.quantities import NUMBER_WORDS, quantity_key, unit_named

__all__ = ["Signature", "conflict", "ordinary_words", "rest", "signature"]

_WORD = re.compile(r"[^\W\d_]+(?:[.'’\-&][^\W\d_]+)*'?|\d+(?:[.,:/]\d+)*", re.UNICODE)
_SMALL_WORD = re.compile(r"\b[^\W\d_A-Z][\w'’-]*")
_NUMBER = re.compile(r"[-+−]?[$€£¥]?\d+(?:[.,:/]\d+)*(?:[eE][-+]?\d+)?\s?[%°]?")
_SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+|\n\s*(?:[-*]\s+)?|[\"“]\s*)$")
_NEGATION_WORDS = (
    "no not never none neither nor nobody nothing nowhere cannot without hardly barely scarcely lacks lack lacking "
    "fails fail failed refuses refused denies denied unable false incorrect wrong untrue rather instead except"
)
_PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "anti", "mis")
_OPPOSITES = (
    "yes yeah/no nope",
    "true correct right/false incorrect wrong",
    "increase increases increased increasing rise rises rose rising grow grows grew more higher up upward larger"
    " greater above gain gains/decrease decreases decreased decreasing fall falls fell falling shrink shrinks shrank"
    " fewer less lower down downward smaller below lose loses",
    "before earlier prior/after later following",
    "all every everyone always/some sometimes few several/most mostly usually/never none",
    "first/last final/second/third/fourth/fifth",
    "north northern/south southern/east eastern/west western",
    "male man men boy father he him his/female woman women girl mother she her hers",
    "positive/negative",
    "maximum most highest largest longest best/minimum least lowest smallest shortest worst",
    "accept accepts accepted allow allows allowed legal/reject rejects rejected forbid forbids forbidden illegal",
    "hot hotter warm warmer/cold colder cool cooler",
    "open opens opened/close closes closed shut",
    "win wins won/lose loses lost",
    "buy buys bought/sell sells sold",
    "left/right",
    "inside within/outside",
    "start starts started begin begins began/end ends ended stop stops stopped",
    "with/without",
    "old older oldest/young younger youngest new newer newest",
    "fast faster quickly/slow slower slowly",
    "must required mandatory/may optional",
    "day daily/week weekly/month monthly/year yearly annual annually/hour hourly",
    "black/white/red/green/blue/yellow/orange/purple/brown",
    "monday/tuesday/wednesday/thursday/friday/saturday/sunday",
    "january/february/march/april/june/july/august/september/october/november/december",
)
_ORDERING_WORDS = (
    "by than from to over into before after above below behind defeated beat beats gave gives taught teaches"
)
_COPULAS = frozenset({"is", "are", "was", "were", "be"})
_USUAL_OPENERS = (
    "i a an the it its this that these those there here they he she we you his her their our my your in on at of to by"
    " for from with about around roughly approximately nearly almost over under after before since when while where"
    " what who which why how yes no not because if as so but and or both all most some many each every one two three"
    " first second then thus therefore hence however also only just is are was were has have had do does did can could"
    " will would should may might must during between among through until people answer"
)
_ENDINGS = ("'s", "ing", "ies", "ied", "ed", "es", "s", "e", "y")
_SHORTEST_STEM = 3
_LONGEST_FRAME = 60
"""Words of an answer up to which it is looked at word by word."""
_LONGEST_SLOT = 3
"""Words that one word, or a name of several, may stand in the place of."""
_NEGATIONS = frozenset(_NEGATION_WORDS.split())
_ORDERED_BY = frozenset(_ORDERING_WORDS.split())
_NEVER_NAMES = frozenset(_USUAL_OPENERS.split())


def _poles() -> dict[str, list[tuple[int, int]]]:
    """Of each word that has an opposite: in which families, and on which side."""
    found: dict[str, list[tuple[int, int]]] = {}
    for family, line in enumerate(_OPPOSITES):
        for side, words in enumerate(line.split("/")):
            for word in words.split():
                found.setdefault(word, []).append((family, side))
    return found


_POLES = _poles()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What must agree in two answers that mean the same: quantities and names, in order of mention, how many negations,
    the sides taken in each family of opposites; `words` are all words, in small letters and in order."""

    anchors: tuple[str, ...]
    negations: int
    sides: frozenset[tuple[int, int]]
    words: tuple[str, ...]


def signature(text: str, *, ordinary: frozenset[str] = frozenset()) -> Signature:
    """The signature of an answer. A capital at the start of a sentence makes a name too, unless the word is among the
    `ordinary_words` of the texts around it."""
    words = [(found.start(), found[0]) for found in _WORD.finditer(text)]
    lower = [word.lower().replace("’", "'") for _, word in words]
    negations = sum(word in _NEGATIONS or word.endswith("n't") for word in lower)
    sides = frozenset(pole for word in lower for pole in _POLES.get(word, ()))
    numbers = _quantities(text)
    names = [
        (at, re.sub(r"['’]s?$", "", word.lower())) for at, word in words if _is_name(text, at, word, ordinary=ordinary)
    ]
    anchors = tuple(anchor for _, anchor in sorted([*numbers, *names]))
    return Signature(anchors=anchors, negations=negations, sides=sides, words=tuple(lower))


def ordinary_words(texts: Iterable[str]) -> frozenset[str]:
    """The stems of the words that some text has in small letters: no names, where they begin a sentence."""
    return frozenset(_stem(word) for text in texts for word in _SMALL_WORD.findall(text))


def _quantities(text: str) -> list[tuple[int, str]]:
    """Where each number stands, with the key of the quantity it is part of, or of the number where no unit follows."""
    found = [(m.start(), m.end(), m[0]) for m in _NUMBER.finditer(text)]
    found += [
        (m.start(), m.end(), m[0])
        for m in _WORD.finditer(text)
        if m[0].lower() in NUMBER_WORDS and m[0].lower() != "one"
    ]
    keys = []
    for start, end, number in found:
        unit = re.match(r"[\s-]*(?:(?:square|cubic)\s+)?[A-Za-zµΩ°%]+(?:/[A-Za-z]+|\s+per\s+[a-z]+)?", text[end:])
        named = unit[0].lstrip(" -") if unit is not None else ""
        whole = f"{number.strip()} {named}" if named and unit_named(named) is not None else number.strip()
        keys.append((start, quantity_key(whole) or whole))
    return keys


def _is_name(text: str, at: int, word: str, *, ordinary: frozenset[str]) -> bool:
    if not word[0].isupper() or word == "I" or word.lower() in NUMBER_WORDS:
        return False
    if len(word) == 1:
        return not (word == "A" and re.match(r"A\s+[a-z]", text[at:]))
    if _SENTENCE_START.search(text[:at]) is None or word[1:] != word[1:].lower():
        return True
    return _stem(word.lower()) not in ordinary and word.lower() not in _NEVER_NAMES


def conflict(a: Signature, b: Signature) -> str | None:
    """In what two answers differ so that they cannot mean the same; None where nothing is found."""
    if Counter(a.anchors) != Counter(b.anchors):
        return "numbers or names"
    if a.negations != b.negations or _is_denied(a.words, b.words) or _is_denied(b.words, a.words):
        return "a negation"
    if _are_opposed(a.sides, b.sides):
        return "opposites"
    if _is_one_frame(a.words, b.words):
        return "a word in the same place"
    has_moved = a.anchors != b.anchors or (a.words != b.words and sorted(a.words) == sorted(b.words))
    return "order" if has_moved and not (_may_swap(a) and _may_swap(b)) else None


def _is_denied(words: Iterable[str], others: Iterable[str]) -> bool:
    """Whether one answer has a word that the other has with a prefix that denies it (possible, impossible)."""
    ours, theirs = set(words), set(others)
    return any(prefix + word in theirs - ours for word in ours - theirs if len(word) > 3 for prefix in _PREFIXES)


def _are_opposed(a: Iterable[tuple[int, int]], b: Iterable[tuple[int, int]]) -> bool:
    """Whether in some family of opposites both take a side, and not the same ones."""
    ours, theirs = set(a), set(b)
    shared = {family for family, _ in ours} & {family for family, _ in theirs}
    return any({s for f, s in ours if f == family} != {s for f, s in theirs if f == family} for family in shared)


def _is_one_frame(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether the answers are one sentence in which one word that matters, or a few, stand for others: "a mammal" in
    the place of "a reptile". To a question, that is how different answers look far more often than synonyms do."""
    if max(len(a), len(b)) > _LONGEST_FRAME:
        return False
    blocks = difflib.SequenceMatcher(None, [*map(_stem, a)], [*map(_stem, b)], autojunk=False).get_opcodes()
    replaced = [(a[i:j], b[k:m]) for tag, i, j, k, m in blocks if tag == "replace"]
    is_aligned = all(tag in ("equal", "replace") for tag, *_ in blocks)
    matter = [(x, y) for x, y in replaced if _content(x) and _content(y)]
    return is_aligned and bool(matter) and all(len(x) <= _LONGEST_SLOT >= len(y) for x, y in replaced)


def rest(a: Signature, b: Signature) -> str:
    """The words of `a` that matter and that `b` has in no form."""
    theirs = {_stem(word) for word in b.words}
    return " ".join(word for word in _content(a.words) if _stem(word) not in theirs)


def _content(words: Iterable[str]) -> list[str]:
    return [word for word in words if word not in _NEVER_NAMES and len(word) > 1]


def _stem(word: str) -> str:
    """A word without the commonest English endings, roughly: enough to see "causes" in "caused"."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            return word.removesuffix(ending)
    return word


def _may_swap(answer: Signature) -> bool:
    """Whether an answer says that something is something, which may be turned around."""
    words = set(answer.words)
    return bool(words & _COPULAS) and not words & _ORDERED_BY
