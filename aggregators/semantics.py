"""Groups free-form answers that mean the same: by their formulas, then by how near their embeddings are.

Embeddings alone would join an answer with its contrary, so those that differ in something decisive (`differences`)
never join, however near they are; nor do those whose words that are not shared are far apart by themselves, for a
sentence frame that is shared makes any two answers look near.

Of pairs of short answers in English that mean the same, and of pairs that do not though they sound alike
(tests/aggregators/meanings.py), all-MiniLM-L6-v2 at the thresholds below joins: of those by which the rules were made
71 % and 0 % (nearness alone: 79 % and 58 %), of those by which they were mended 62 % and 0 % (94 % and 79 %), of those
written afterwards 75 % and 5 % (92 % and 20 %). WordLlama: 67 % and 0 %, 38 % and 0 %, 67 % and 0 %.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from aggregators.differences import conflict, rest, signature
from aggregators.formulas import same_formula
from router_service.types import EmbedTexts

__all__ = ["DEFAULT_THRESHOLD", "cluster", "same_meanings", "similarities"]

DEFAULT_THRESHOLD = 0.8
"""Cosine from which two answers are taken for one, where nothing speaks against it."""

_REST_THRESHOLD = 0.4
"""Cosine that the words have to reach which the two do not share."""

_Pairs = frozenset[tuple[int, int]]


def similarities(vectors: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """The cosines of unit vectors, each with each; rounded, so that no order of adding shows."""
    rows = np.asarray(vectors, dtype=np.float64)
    return np.asarray(np.round(rows @ rows.T, 6))


def same_meanings(
    texts: Sequence[str], near: NDArray[np.float64], *, embed: EmbedTexts, threshold: float, ordinary: frozenset[str]
) -> _Pairs:
    """The pairs of positions, the smaller first, whose texts are at least `threshold` near, differ in nothing decisive,
    and have rests that are near too."""
    signatures = [signature(text, ordinary=ordinary) for text in texts]
    candidates = [
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if near[i, j] >= threshold and conflict(signatures[i], signatures[j]) is None
    ]
    rests = {(i, j): rest(signatures[i], signatures[j]) for pair in candidates for i, j in (pair, pair[::-1])}
    compared = [(i, j) for i, j in candidates if rests[i, j] and rests[j, i]]
    if not compared:
        return frozenset(candidates)
    words = sorted({rests[found] for i, j in compared for found in ((i, j), (j, i))})
    rows = dict(zip(words, np.asarray(embed(words), dtype=np.float64), strict=True))
    far = {(i, j) for i, j in compared if round(rows[rests[i, j]] @ rows[rests[j, i]], 6) < _REST_THRESHOLD}
    return frozenset(candidates) - far


def cluster(texts: Sequence[str], meanings: _Pairs, near: NDArray[np.float64] | None) -> list[list[int]]:
    """The positions of `texts` gathered, whatever their order: those of equal formulas first, then, nearest first,
    those of which every pair is in `meanings`."""
    everyone = range(len(texts))
    equal = frozenset(pair for pair in itertools.combinations(everyone, 2) if _same_formula(*(texts[i] for i in pair)))
    home = {place: [place] for place in everyone}

    def join(pairs: _Pairs, nearness: Callable[[tuple[int, int]], float]) -> None:
        for i, j in sorted(pairs, key=lambda pair: (-nearness(pair), sorted(texts[place] for place in pair))):
            one, other = home[i], home[j]
            if one is not other and all((min(a, b), max(a, b)) in equal | meanings for a in one for b in other):
                one += other
                home.update(dict.fromkeys(other, one))

    join(equal, lambda pair: 0.0)
    if near is not None:
        join(meanings, lambda pair: float(near[pair]))
    return list({id(found): sorted(found) for found in home.values()}.values())


def _same_formula(a: str, b: str) -> bool:
    return same_formula(*sorted((a, b))) if any(map(_looks_formal, (a, b))) else False


def _looks_formal(text: str) -> bool:
    return len(text) <= 100 and bool(re.search(r"[=^\\+*/²³√π]|\d\s*-\s*\w", text))
