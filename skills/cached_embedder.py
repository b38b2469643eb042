"""A bounded memory in front of an embedder, and the one place that opens embedders by name."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from router_service.errors import ConfigError
from skills.base import EMBEDDERS, Embedder, Vectors

__all__ = ["CachedEmbedder", "open_embedder"]

DEFAULT_CAPACITY = 20_000
"""Vectors kept: 30 MB of 384 floats each."""


class CachedEmbedder:
    """Remembers the last `capacity` texts used; equal texts of one call are embedded once. Safe between threads."""

    def __init__(self, inner: Embedder, *, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ConfigError(f"the embedder cache's capacity is {capacity}; it must be 1 or more")
        self._inner = inner
        self._capacity = capacity
        self._vectors: OrderedDict[bytes, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def dimension(self) -> int:
        """That of the embedder inside."""
        return self._inner.dimension

    @property
    def fingerprint(self) -> str:
        """That of the embedder inside: remembering changes no vector."""
        return self._inner.fingerprint

    def __len__(self) -> int:
        return len(self._vectors)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, dimension); only texts not remembered reach the embedder inside, in one call."""
        keys = [_key(text) for text in texts]
        found = self._recall(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            fresh = self._inner.embed(list(missing.values()))
            found.update(zip(missing, fresh, strict=True))
            self._remember({key: found[key].copy() for key in missing})
        rows = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, key in zip(rows, keys, strict=True):
            row[:] = found[key]
        return rows

    def _recall(self, keys: Sequence[bytes]) -> dict[bytes, npt.NDArray[np.float32]]:
        found = {}
        with self._lock:
            for key in keys:
                if key in self._vectors:
                    self._vectors.move_to_end(key)
                    found[key] = self._vectors[key]
        return found

    def _remember(self, fresh: dict[bytes, npt.NDArray[np.float32]]) -> None:
        with self._lock:
            self._vectors.update(fresh)
            while len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)


def open_embedder(embedder: Embedder | str) -> Embedder:
    """An embedder as given, or by registered name: then one instance, with its memory, serves the whole process."""
    return _shared(embedder) if isinstance(embedder, str) else embedder


@functools.cache
def _shared(name: str) -> Embedder:
    return CachedEmbedder(EMBEDDERS.create(name))


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
