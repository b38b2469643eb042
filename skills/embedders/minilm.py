"""The embedder all-MiniLM-L6-v2 as sentence-transformers runs it (torch, full precision): what others are held to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from router_service.errors import ConfigError
from skills.base import EMBEDDERS, Vectors
from skills.embedders._minilm_files import DIMENSION, model_folder
from skills.embedders._packages import encodable, require

__all__ = ["Minilm"]


@EMBEDDERS.register("minilm")
class Minilm:
    """Sentence-transformers' all-MiniLM-L6-v2 on the CPU: mean pooling, unit length, texts cut off at 256 tokens.

    `threads` bounds torch's threads while embedding; None leaves torch as it is. The model is loaded from the
    installed wheel at the first text; nothing is downloaded.
    """

    def __init__(self, *, threads: int | None = None, batch_size: int = 32) -> None:
        if (threads is not None and threads < 1) or batch_size < 1:
            raise ConfigError(f"minilm embedder: threads={threads}, batch_size={batch_size}; both must be 1 or more")
        self._threads = threads
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._model: Any = None

    @property
    def dimension(self) -> int:
        """384."""
        return DIMENSION

    @property
    def fingerprint(self) -> str:
        """Names the model; options do not change its vectors."""
        return "minilm/all-MiniLM-L6-v2"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, 384). One call at a time: the tokeniser inside is not safe to share."""
        if not texts:
            return np.zeros((0, DIMENSION), dtype=np.float32)
        with self._lock, self._bounded_threads():
            rows = self._loaded().encode(
                [encodable(text) for text in texts],
                batch_size=self._batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return np.asarray(rows, dtype=np.float32)

    def _loaded(self) -> Any:
        if self._model is None:
            library = require("sentence_transformers")
            self._model = library.SentenceTransformer(str(model_folder()), device="cpu", local_files_only=True)
        return self._model

    @contextmanager
    def _bounded_threads(self) -> Iterator[None]:
        """Torch's thread count is one number per process, so it is put back afterwards."""
        if self._threads is None:
            yield
            return
        torch = require("torch")
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
