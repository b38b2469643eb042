"""The batch's memory: an append-only file of finished lines, safe against kill -9, torn writes and two writers."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from router_service.errors import ConfigError

__all__ = ["Journal", "dump_json", "part_path", "remove_file", "write_in_pieces"]

_KIND = "enlist-batch-journal"
_FORMAT = 1


def dump_json(record: Mapping[str, Any]) -> bytes:
    """One record as one line of UTF-8 JSON, keys in the order given, line break included.

    Half a surrogate pair (JSON can say it, UTF-8 cannot) is escaped.
    """
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode() + b"\n"


def part_path(path: Path) -> Path:
    """Where `write_in_pieces` collects what becomes `path`."""
    return path.with_name(path.name + ".part")


def write_in_pieces(path: Path, pieces: Iterator[bytes]) -> None:
    """Write `path` whole or not at all: a temporary file beside it, forced to disk, then moved over it."""
    part = part_path(path)
    with part.open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file, where it is there, and force that to disk."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries (new, renamed and removed files) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """The finished lines of one batch, by input line number.

    The first line is a header that says what the batch was run on; each further line is one finished input line. A
    line counts as finished once `append` returns, because it is on disk then. The open journal is locked (`flock`),
    so a second writer is refused; the lock dies with its process. What a kill left half-written at the end of the
    file is dropped on opening; damage anywhere else is an error, never skipped.
    """

    def __init__(self, path: Path, header: Mapping[str, str], *, restarts: bool = False) -> None:
        """Open or create the journal; raises `ConfigError` where it is in use, damaged, or of another batch."""
        self.path = path
        self._spans: dict[int, tuple[int, int]] = {}
        self._file = _open_locked(path)
        try:
            if restarts:
                self._file.truncate(0)
            if not self._read(header):
                self._file.truncate(0)
                self._file.seek(0)
                self._file.write(dump_json({"kind": _KIND, "format": _FORMAT, **header}))
                self._sync()
                sync_folder(path.parent)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        """How many input lines are finished."""
        return len(self._spans)

    def has(self, number: int) -> bool:
        """Whether an input line (numbered from 1) is finished and need not be run again."""
        return number in self._spans

    def forget(self, number: int) -> None:
        """Take a finished line as unfinished, until it is appended again; on disk the last entry of a line counts."""
        del self._spans[number]

    def append(self, number: int, entry: Mapping[str, Any]) -> None:
        """Note that an input line is finished, and with what; returns when that is on disk."""
        self.extend([(number, entry)])

    def extend(self, entries: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Note many finished lines at once; returns when all are on disk."""
        start = self._file.seek(0, os.SEEK_END)
        for number, entry in entries:
            length = self._file.write(dump_json({"line": number, **entry}))
            self._spans[number] = (start, length)
            start += length
        self._sync()

    def entries(self) -> Iterator[dict[str, Any]]:
        """What was noted for each finished line, in input order."""
        for number in sorted(self._spans):
            start, length = self._spans[number]
            self._file.seek(start)
            entry: dict[str, Any] = json.loads(self._file.read(length))
            yield entry

    def remove(self) -> None:
        """Delete the journal: its lines have reached the output file."""
        remove_file(self.path)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, header: Mapping[str, str]) -> bool:
        """Take in what is there, cutting off a torn end; False where not even the header is whole."""
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            return False
        self._check_header(_parse(first), header)
        end = self._file.tell()
        torn_at: int | None = None
        for line_number, raw in enumerate(self._file, start=2):
            entry = _parse(raw) if raw.endswith(b"\n") else None
            is_whole = entry is not None and isinstance(entry.get("line"), int)
            if is_whole and torn_at is not None:
                raise ConfigError(
                    f"{self.path} is damaged at line {torn_at}, before lines that are whole; restore it, or give "
                    "--restart to run the batch from its beginning"
                )
            if entry is not None and is_whole:
                self._spans[entry["line"]] = (end, len(raw))
                end += len(raw)
            elif torn_at is None:
                torn_at = line_number
        self._file.truncate(end)
        return True

    def _check_header(self, found: Mapping[str, Any] | None, header: Mapping[str, str]) -> None:
        if found is None or found.get("kind") != _KIND or found.get("format") != _FORMAT:
            raise ConfigError(
                f"{self.path} is not a batch journal of format {_FORMAT}; move it away, or name another output file"
            )
        changed = sorted(key for key in {*found, *header} - {"kind", "format"} if found.get(key) != header.get(key))
        if changed:
            raise ConfigError(
                f"{self.path} belongs to an unfinished batch that differs in: {', '.join(changed)}. Run it again as it "
                "was to finish it, give --restart to drop what it finished, or name another output file"
            )


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(raw)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _open_locked(path: Path) -> BinaryIO:
    """The journal file, locked; opened anew where its last owner removed it in between."""
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
        except OSError as unwritable:
            raise ConfigError(
                f"cannot write {path}: {unwritable.strerror}; choose an output in a folder that exists"
            ) from (unwritable)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            file.close()
            raise ConfigError(
                f"{path} is in use: another process runs this batch; wait for it, or name another output file"
            ) from held
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()
