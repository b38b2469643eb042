"""How much memory the processes of one sandbox use together, read from the kernel's files in `/proc`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["memory_of_tree", "tree_of"]

_Children = Callable[[int], Iterable[int]]

_PROC = Path("/proc")

_BYTES_PER_FILE = 2048
"""What a file without content costs the kernel, about: its inode and its name."""


def memory_of_tree(first: int, *, proc: Path = _PROC) -> int:
    """Bytes used by the process `first` and all below it: their own memory, in RAM or swapped out, and the files of
    their `/tmp`, which lie in memory too. A process that ends meanwhile counts as nothing.

    Memory that processes share counts once for each; anonymous memory cannot be shared in the sandbox but by `fork`.
    """
    return sum(_memory_of(pid, proc) for pid in tree_of(first, proc=proc)) + _files_of(first, proc)


def tree_of(first: int, *, proc: Path = _PROC) -> list[int]:
    """`first` and every process below it; those that lost their parent belong to the first of their namespace."""
    if (proc / str(first) / "task" / str(first) / "children").exists():
        return _tree(first, lambda pid: _children(pid, proc))
    below: dict[int, list[int]] = {}
    for name in _listed(proc):
        if name.isdigit() and (parent := _parent_of(int(name), proc)) is not None:
            below.setdefault(parent, []).append(int(name))
    return _tree(first, lambda pid: below.get(pid, []))


def _tree(first: int, children: _Children) -> list[int]:
    found = [first]
    for pid in found:
        found += [child for child in children(pid) if child not in found]
    return found


def _children(pid: int, proc: Path) -> Iterable[int]:
    """As the kernel lists them, where it was built with CONFIG_PROC_CHILDREN."""
    found: list[int] = []
    for thread in _listed(proc / str(pid) / "task"):
        found += map(int, _text(proc / str(pid) / "task" / thread / "children").split())
    return found


def _parent_of(pid: int, proc: Path) -> int | None:
    """The fourth field of `stat`, counted from behind the name, which may hold blanks and brackets itself."""
    fields = _text(proc / str(pid) / "stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None


def _memory_of(pid: int, proc: Path) -> int:
    lines = dict(line.split(":", 1) for line in _text(proc / str(pid) / "status").splitlines() if ":" in line)
    return sum(int(lines[name].split()[0]) << 10 for name in ("RssAnon", "VmSwap") if name in lines)


def _files_of(first: int, proc: Path) -> int:
    try:
        files = os.statvfs(proc / str(first) / "root" / "tmp")
    except OSError:
        return 0
    return (files.f_blocks - files.f_bfree) * files.f_frsize + (files.f_files - files.f_ffree) * _BYTES_PER_FILE


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _listed(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []
