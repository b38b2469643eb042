"""A file of JSON lines that is added to: each line is whole on disk, and half a line of a killed writer goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router_service.errors import ConfigError
from router_service.files import end_last_line, is_json

__all__ = ["LineFile"]


class LineFile:
    """Records in one file, in order; raises `ConfigError` where the file cannot be opened. One writer at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                end_last_line(file)
        except OSError as unusable:
            raise ConfigError(f"{path} cannot be written ({unusable.strerror}); name another folder") from unusable

    def records(self) -> Iterator[dict[str, Any]]:
        """What was added so far; a line that is no JSON object is passed over."""
        with self._path.open("rb") as file:
            for line in file:
                record = json.loads(line) if is_json(line) else None
                if isinstance(record, dict):
                    yield record

    def add(self, record: dict[str, Any]) -> None:
        """Add a record that JSON can hold; handed to the system when this returns."""
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
