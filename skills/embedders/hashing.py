"""An embedder without a model: words and character n-grams hashed into a signed vector; numpy alone."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from router_service.errors import ConfigError
from skills.base import EMBEDDERS, Vectors

__all__ = ["Hashing"]

_WORD = re.compile(r"\w+")
_VERSION = 1


@EMBEDDERS.register("hashing")
class Hashing:
    """Signed feature hashing (Weinberger et al. 2009) of words, word pairs and character n-grams, sublinear counts.

    A feature seen c times weighs `1 + ln c`; a whole word or word pair weighs `word_weight` times an n-gram. It knows
    spelling, not meaning: enough for tests and for installations without a model.
    """

    def __init__(self, dimension: int = 1024, *, shortest: int = 3, longest: int = 4, word_weight: float = 2.0) -> None:
        if dimension < 1 or not 1 <= shortest <= longest or word_weight < 0:
            raise ConfigError(
                f"hashing embedder: dimension={dimension}, shortest={shortest}, longest={longest}, "
                f"word_weight={word_weight}; needed: dimension >= 1, 1 <= shortest <= longest, word_weight >= 0"
            )
        self._dimension = dimension
        self._sizes = range(shortest, longest + 1)
        self._word_weight = word_weight

    @property
    def dimension(self) -> int:
        """The number of buckets that features are hashed into."""
        return self._dimension

    @property
    def fingerprint(self) -> str:
        """Names the recipe and every option."""
        sizes = f"{self._sizes.start}-{self._sizes.stop - 1}"
        return f"hashing/v{_VERSION}/d{self._dimension}/n{sizes}/w{self._word_weight:g}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, dimension); each row depends on its own text alone, bit for bit."""
        rows = np.zeros((len(texts), self._dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self._vector(text)
        return rows

    def _vector(self, text: str) -> npt.NDArray[np.float64]:
        words = _WORD.findall(text.lower())
        hashes, weights = self._hashed(_whole(words), self._word_weight)
        gram_hashes, gram_weights = self._hashed(_grams(words, self._sizes), 1.0)
        vector = self._sum(np.concatenate([hashes, gram_hashes]), np.concatenate([weights, gram_weights]))
        norm = float(np.linalg.norm(vector))
        if norm == 0.0:  # no word characters (or all cancelled out): the raw text is the one feature
            vector = self._sum(*self._hashed(iter([f"t{text}"]), 1.0))
            norm = float(np.linalg.norm(vector))
        return vector / norm

    def _hashed(self, features: Iterator[str], weight: float) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
        counts = Counter(features)
        codes = (zlib.crc32(feature.encode("utf-8", "replace")) for feature in counts)
        hashes = np.fromiter(codes, dtype=np.uint64, count=len(counts))
        seen = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
        return hashes, weight * (1.0 + np.log(seen))

    def _sum(self, hashes: npt.NDArray[np.uint64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        mixed = _mix(hashes)
        signs = np.where(mixed >> np.uint64(63), -1.0, 1.0)
        buckets = (mixed % np.uint64(self._dimension)).astype(np.int64)
        return np.bincount(buckets, weights=signs * weights, minlength=self._dimension).astype(np.float64)


def _whole(words: Sequence[str]) -> Iterator[str]:
    yield from (f"w{word}" for word in words)
    yield from (f"p{first} {second}" for first, second in pairwise(words))


def _grams(words: Sequence[str], sizes: range) -> Iterator[str]:
    for word in words:
        marked = f"<{word}>"
        for size in sizes:
            yield from (f"c{marked[i : i + size]}" for i in range(len(marked) - size + 1))


def _mix(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of MurmurHash3 (64 bit): CRC-32 alone is linear, so that near texts would share buckets."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))
