"""An embedder that remembers on disk: a recorded dataset's texts are embedded once per machine, not once per run."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from router_service.config import cache_folder
from router_service.files import write_atomically
from skills.base import Embedder, Vectors

__all__ = ["KeptEmbedder"]

_log = logging.getLogger(__name__)

_KEY_BYTES = 16
_CHUNK = 1024
"""Texts embedded between two writes: what a kill can cost."""


class KeptEmbedder:
    """`inner`, with every vector it made kept in one file per `name` and fingerprint of `inner`.

    A file that cannot be read is made anew. Two processes may use one file: each write replaces it whole, and what the
    other one added meanwhile is merely embedded again another time.
    """

    def __init__(self, inner: Embedder, *, name: str, folder: Path | None = None) -> None:
        self._inner = inner
        mark = hashlib.blake2b(inner.fingerprint.encode(), digest_size=6).hexdigest()
        self._path = (folder or cache_folder() / "embeddings") / f"{name}-{mark}.npz"
        self._vectors: dict[bytes, npt.NDArray[np.float32]] | None = None

    @property
    def dimension(self) -> int:
        """That of the embedder inside."""
        return self._inner.dimension

    @property
    def fingerprint(self) -> str:
        """That of the embedder inside: keeping changes no vector."""
        return self._inner.fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, dimension); only texts never seen reach the embedder inside."""
        if self._vectors is None:
            self._vectors = self._load()
        known = self._vectors
        keys = [_key(text) for text in texts]
        missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            rows = self._inner.embed([text for _, text in chunk])
            known.update({key: row for (key, _), row in zip(chunk, rows, strict=True)})
            self._save(known)
        rows = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, key in zip(rows, keys, strict=True):
            row[:] = known[key]
        return rows

    def _load(self) -> dict[bytes, npt.NDArray[np.float32]]:
        if not self._path.exists():
            return {}
        try:
            with np.load(self._path, allow_pickle=False) as stored:
                keys, vectors = stored["keys"], stored["vectors"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as damaged:
            _log.warning("kept embeddings %s are damaged (%s); making them anew", self._path, damaged)
            return {}
        if vectors.shape != (len(keys), self.dimension) or vectors.dtype != np.float32:
            return {}
        return {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}

    def _save(self, known: dict[bytes, npt.NDArray[np.float32]]) -> None:
        """Replace the file; a cache that cannot be written costs time, not the run."""
        keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), _KEY_BYTES)
        packed = io.BytesIO()
        np.savez(packed, keys=keys, vectors=np.stack(list(known.values())))
        try:
            write_atomically(self._path, packed.getvalue())
        except OSError as unwritable:
            _log.warning("embeddings are not kept: %s", unwritable)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
