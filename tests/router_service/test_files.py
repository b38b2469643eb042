"""Files written whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from router_service.files import write_atomically


def test_texts_and_bytes_arrive_in_folders_that_are_made(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "text", "naïve\n")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "naïve\n".encode()
    write_atomically(tmp_path / "a" / "b" / "text", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == b"\x00\xff"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["text"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_others_may_read_it_unless_the_user_forbids_it(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "file", "half a pair: \ud800")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "folder", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_reader_sees_one_of_the_two_whole(tmp_path: Path) -> None:
    path, seen = tmp_path / "file", set()
    contents = {b"a" * 100_000, b"b" * 70_000}
    write_atomically(path, b"a" * 100_000)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in [*contents] * 10:
        write_atomically(path, content)
    stop.set()
    reader.join()
    assert seen <= contents
