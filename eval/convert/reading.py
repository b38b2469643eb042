"""Opens the files that recordings are published in (JSON, also zipped, and CSV) and says where each row stands."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from router_service.errors import ConfigError

__all__ = ["JsonFile", "csv_rows", "files_at", "header_of", "json_files", "text_of"]

_MAX_JSON_BYTES = 4 * 2**30
"""A member of an archive that unpacks to more is refused: no published recording comes near."""

_MAX_CELL_CHARS = min(sys.maxsize, 2**31 - 1)
"""Cells hold whole responses; the module's default of 128 KiB is too little for some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonFile:
    """A parsed JSON document, `path` relative to the source (`archive.zip/member.json` within an archive)."""

    path: str
    document: Any


def files_at(source: Path, *suffixes: str) -> tuple[Path, ...]:
    """The file at `source`, or all files under it with one of the suffixes, sorted; hidden ones are left out.

    Raises `ConfigError` where there is none.
    """
    if source.is_file():
        return (source,)
    if not source.is_dir():
        raise ConfigError(f"there is no file or folder {source}; give the file or the folder of what was published")
    found = tuple(
        path
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.suffix.lower() in suffixes and not _is_hidden(path.relative_to(source).parts)
    )
    if not found:
        raise ConfigError(f"{source} holds no file ending in {' or '.join(suffixes)}; is it the right folder?")
    return found


def _is_hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def json_files(source: Path) -> Iterator[JsonFile]:
    """Every JSON document at `source`, in `.json` files and in the members of `.zip` files, one at a time.

    Raises `ConfigError` naming the file that is damaged.
    """
    root = source if source.is_dir() else source.parent
    for path in files_at(source, ".json", ".zip"):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() == ".zip":
            yield from _members(path, name)
        else:
            yield JsonFile(path=name, document=_parsed(path.read_bytes(), name))


def _members(path: Path, name: str) -> Iterator[JsonFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                inner = Path(member.filename)
                if inner.suffix.lower() != ".json" or _is_hidden(inner.parts):
                    continue
                if member.file_size > _MAX_JSON_BYTES:
                    raise ConfigError(f"{name}/{inner} unpacks to {member.file_size} bytes; that is no recording")
                yield JsonFile(path=f"{name}/{inner}", document=_parsed(archive.read(member), f"{name}/{inner}"))
    except (zipfile.BadZipFile, zlib.error, OSError) as damaged:
        raise ConfigError(f"{name} is not a readable zip archive: {damaged}; fetch it again") from damaged


def _parsed(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as damaged:
        raise ConfigError(f"{name} is not readable as JSON: {damaged}") from damaged


def header_of(path: Path) -> tuple[str, ...]:
    """The column names of a CSV file; none for an empty file. Raises `ConfigError` as `csv_rows` does."""
    with _read_as_csv(path) as lines:
        return tuple(next(csv.reader(lines), ()))


def csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Each row of a CSV file with its number, from 1 after the header; a row of another length lacks or has None keys.

    Raises `ConfigError` where the file is no CSV in UTF-8.
    """
    with _read_as_csv(path) as lines:
        yield from enumerate(csv.DictReader(lines), start=1)


@contextmanager
def _read_as_csv(path: Path) -> Iterator[TextIO]:
    csv.field_size_limit(_MAX_CELL_CHARS)
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            yield lines
    except (csv.Error, UnicodeDecodeError) as damaged:
        raise ConfigError(f"{path.name} is not readable as CSV in UTF-8: {damaged}") from damaged


def text_of(row: Mapping[str, Any], key: str) -> str:
    """The text under `key`; raises `ValueError` where there is none or it is empty."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {value!r}, not a text")
    return value
