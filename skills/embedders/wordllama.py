"""The static embedder WordLlama: the mean of its tokens' vectors, a tenth of a millisecond a text, no model to run."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from router_service.errors import ConfigError
from skills.base import EMBEDDERS, Vectors
from skills.embedders._packages import encodable, missing_package, require

__all__ = ["Wordllama"]

DIMENSION = 256
MAX_TOKENS = 4096
"""Longer texts are cut off at the end: a mean over more hardly moves."""
_PACKAGE = "wordllama"
_NAME, _EXTRA = "WordLlama", "static"
_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENISER = "tokenizers/l2_supercat_tokenizer_config.json"
_UNKNOWN = 0
"""The vocabulary's `<unk>`, whose vector stands for a text without tokens."""
_RECIPE = 1


@EMBEDDERS.register("wordllama")
class Wordllama:
    """WordLlama's 256 dimensions (github.com/dleemiller/WordLlama, MIT): token vectors distilled from the input
    embeddings of several LLMs, averaged over the text and brought to unit length; the order of words does not matter.

    Vectors and tokeniser are read from the installed package `wordllama`, which is not imported: its own loader looks
    for the tokeniser in another folder than the one it is shipped in, and downloads it. Nothing is downloaded here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: tuple[Any, Vectors] | None = None

    @property
    def dimension(self) -> int:
        """256."""
        return DIMENSION

    @property
    def fingerprint(self) -> str:
        """Names the table of vectors and how a text's is made of them."""
        return f"wordllama/l2_supercat_256/mean/v{_RECIPE}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, 256); each row depends on its own text alone, bit for bit."""
        rows = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        if not texts:
            return rows
        tokeniser, table = self._loaded()
        for row, text in zip(rows, texts, strict=True):
            ids = tokeniser.encode(encodable(text), add_special_tokens=False).ids or [_UNKNOWN]
            total = table[ids].sum(axis=0)
            row[:] = total / np.linalg.norm(total)
        return rows

    def _loaded(self) -> tuple[Any, Vectors]:
        with self._lock:
            if self._parts is None:
                folder = _folder()
                table = _need("safetensors.numpy").load_file(str(folder / _WEIGHTS))["embedding.weight"]
                tokeniser = _need("tokenizers").Tokenizer.from_file(str(folder / _TOKENISER))
                tokeniser.no_padding()
                tokeniser.enable_truncation(MAX_TOKENS)
                self._parts = tokeniser, table.astype(np.float32)
            return self._parts


def _need(module: str) -> Any:
    return require(module, embedder=_NAME, extra=_EXTRA)


def _folder(package: str = _PACKAGE) -> Path:
    """The folder of the installed package, its files in place."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise missing_package(package, embedder=_NAME, extra=_EXTRA)
    folder = Path(found.submodule_search_locations[0])
    for name in (_WEIGHTS, _TOKENISER):
        if not (folder / name).is_file():
            raise ConfigError(f"no {name} in {folder}; install wordllama 0.4, or choose another embedder")
    return folder
