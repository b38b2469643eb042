"""A memo of completions in one file of JSON lines: work that was interrupted pays for no call twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.line_file import LineFile
from router_service.store.records import completion_from_json, completion_to_json
from router_service.types import Completion

__all__ = ["FileMemo"]


class FileMemo:
    """Implements `CompletionMemo`, for one process at a time; `n_kept` counts what it holds."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)
        self._kept = {
            str(record["key"]): completion_from_json(record["completion"])
            for record in self._file.records()
            if "key" in record and "completion" in record
        }

    @property
    def n_kept(self) -> int:
        """How many completions are kept."""
        return len(self._kept)

    async def recall(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Those of the keys that are kept."""
        return {key: self._kept[key] for key in keys if key in self._kept}

    async def keep(self, key: str, completion: Completion) -> None:
        """Keep a completion; the first one of a key stays."""
        if key not in self._kept:
            self._file.add({"key": key, "completion": completion_to_json(completion)})
            self._kept[key] = completion
