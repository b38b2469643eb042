"""Keeps what a replay finished, so that an interrupted one goes on: a line of JSON per strategy, found by a key."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from eval.datasets import Dataset
from router_service.errors import ConfigError

__all__ = ["ReplayJournal", "code_fingerprint", "dataset_fingerprint"]

_FILE = "strategies.jsonl"
_PACKAGES = ("router_service", "skills", "experts_registry", "aggregators", "eval")
_DOORS = ("_cli", "http", "client", "batch", "report", "convert", "adapters", "perf")
"""Files and folders whose names start so decide nothing in a replay."""
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "faiss-cpu", "onnxruntime", "ortools")


class ReplayJournal:
    """Values by key in one file of `folder`, each whole on disk before `put` returns; without a folder nothing is kept.

    A key names everything that the value depends on, the code included, so a changed set-up finds nothing. A line cut
    off by a kill is passed over.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / _FILE if folder is not None else None
        self._known: dict[str, Any] = {}
        self._needs_line = False
        if self._path is not None and self._path.exists():
            self._read(self._path)

    @property
    def is_kept(self) -> bool:
        """True where values outlive the process."""
        return self._path is not None

    def get(self, key: dict[str, Any]) -> Any | None:
        """What was put under this key, as JSON gives it back; None where nothing was."""
        return self._known.get(_digest(key))

    def put(self, key: dict[str, Any], value: Any) -> None:
        """Keep a value that JSON can hold."""
        if self._path is None:
            return
        digest = _digest(key)
        line = json.dumps({"key": digest, "value": value}, ensure_ascii=False, allow_nan=False)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._needs_line else "") + line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._needs_line = False
        self._known[digest] = json.loads(line)["value"]

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text("utf-8", errors="replace")
        except OSError as unreadable:
            raise ConfigError(
                f"kept results {path} cannot be read ({unreadable.strerror}); name another folder"
            ) from None
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                continue
        self._needs_line = bool(text) and not text.endswith("\n")


def dataset_fingerprint(dataset: Dataset) -> str:
    """Changes whenever the questions, outcomes or pools of the dataset do."""
    digest = hashlib.blake2b(digest_size=12)
    for name in ("dataset.json", "questions.parquet", "outcomes.parquet"):
        digest.update((dataset.folder / name).read_bytes() + b"\x1e")
    return digest.hexdigest()


@functools.cache
def code_fingerprint() -> str:
    """Changes whenever the code that decides, aggregates or judges does, or a library that it computes with; that of
    the files as they were when first asked for."""
    digest = hashlib.blake2b(digest_size=12)
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            root = Path(folder)
            for path in sorted(root.rglob("*.py")):
                name = path.relative_to(root)
                if not any(part.startswith(_DOORS) for part in name.parts):
                    digest.update(f"{package}/{name}".encode() + b"\x1f" + path.read_bytes() + b"\x1e")
    for library in _LIBRARIES:
        try:
            digest.update(f"{library} {importlib.metadata.version(library)}\n".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()


def _digest(key: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
