"""Writes files so that a kill or a power cut costs nothing whole: replaced in one step, or added to line by line."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import BinaryIO

__all__ = ["end_last_line", "is_json", "write_atomically"]

_TAIL_BYTES = 1 << 16
"""The last line is nearly always within so many bytes of the end."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` (a text as UTF-8) beside `path`, then rename it over `path`; makes missing folders.

    The file's permissions are those of any new file of this process (its umask), whatever the old one had.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def end_last_line(file: BinaryIO) -> None:
    """Leave a file of JSON lines empty or ending in a line break: a whole last line gets its break, half a line, as a
    killed writer leaves it, goes. `file` is open for reading and appending."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    if b"\n" not in tail:
        file.seek(0)
        tail = file.read()
    if not tail or tail.endswith(b"\n"):
        return
    last = tail.rsplit(b"\n", 1)[-1]
    if is_json(last):
        file.write(b"\n")
    else:
        file.truncate(size - len(last))


def is_json(line: bytes) -> bool:
    """Whether the line is one whole JSON value."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
