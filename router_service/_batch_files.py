"""The files of a batch: written whole or not at all, by one process at a time, with full disks named."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from router_service.errors import StoreUnavailable
from router_service.files import write_atomically
from router_service.store import records

__all__ = ["PartFile", "dump_json", "locked_part", "part_path", "remove_file", "write_whole"]

_LOCK_POLL_S = 0.05


def dump_json(record: Mapping[str, Any]) -> bytes:
    """One record as one line of UTF-8 JSON, line break included."""
    return records.dump_json(record).encode() + b"\n"


def part_path(path: Path) -> Path:
    """Where what becomes `path` is collected."""
    return path.with_name(path.name + ".part")


def write_whole(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all, and force its place in the folder to disk too.

    Raises `StoreUnavailable` where the disk does not take it.
    """
    with _named(path):
        write_atomically(path, content)
        _sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file, where it is there, and force that to disk."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


class PartFile:
    """What becomes a file once it is whole, held by this process alone."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, piece: bytes) -> None:
        """Add a piece; raises `StoreUnavailable` where the disk does not take it."""
        with _named(self._path):
            self._file.write(piece)

    def publish(self) -> None:
        """Force what was written to disk, and move it over the file in one step."""
        with _named(self._path):
            _move(self._file, part_path(self._path), self._path)


@asynccontextmanager
async def locked_part(path: Path) -> AsyncIterator[PartFile]:
    """The empty part file of `path`, once no other process is writing it; removed at the end unless published."""
    part = part_path(path)
    with _named(path):
        file = await _opened_alone(part)
    try:
        file.truncate(0)
        yield PartFile(file, path)
    finally:
        if _is_same(part, file):
            part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what a full disk did not take is not written at closing either
            file.close()


async def _opened_alone(part: Path) -> BinaryIO:
    """The part file, locked; opened anew where its last owner moved or removed it in between."""
    while True:
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            while not _locks(file):  # noqa: ASYNC110  (another process gives no event)
                await asyncio.sleep(_LOCK_POLL_S)
        except BaseException:
            file.close()
            raise
        if _is_same(part, file):
            return file
        file.close()


def _locks(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(path: Path, file: BinaryIO) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _move(file: BinaryIO, part: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    part.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Force a folder's entries (new, renamed and removed files) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as unwritable:
        raise StoreUnavailable(
            f"cannot write {path}: {unwritable.strerror or unwritable}; make room or choose a folder that can be "
            "written, and run the same again: what was finished is kept"
        ) from unwritable
