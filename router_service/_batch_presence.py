"""Names of worker processes that tell, on the machine they ran on, whether the worker is still alive."""

from __future__ import annotations

import functools
import os
import secrets
import socket
import uuid
from pathlib import Path

__all__ = ["is_known_dead", "worker_name"]

_SEPARATOR = "/"
_GONE = ("Z", "X", "x")
"""States of a process that was killed and not yet waited for by its parent (proc(5))."""


def worker_name() -> str:
    """A name of its own for a worker of this process: machine, boot, process namespace, process id, when it began."""
    pid = os.getpid()
    return _SEPARATOR.join((_machine(), _boot(), _namespace(), str(pid), _began(pid) or "-", secrets.token_hex(4)))


def is_known_dead(worker: str) -> bool:
    """True where a worker of this machine has certainly ended; False where it lives or nobody here can tell."""
    parts = worker.split(_SEPARATOR)
    if len(parts) != len(worker_name().split(_SEPARATOR)) or parts[0] != _machine():
        return False
    _, boot, namespace, pid, began, _ = parts
    if boot != _boot():
        return True  # this machine was started anew since
    if namespace != _namespace() or not pid.isdigit():
        return False
    if began == "-":  # a system without /proc
        return not _exists(int(pid))
    return _began(int(pid)) != began


@functools.cache
def _machine() -> str:
    """The host's name and what tells it from others of that name."""
    known = _read("/etc/machine-id") or f"{uuid.getnode():012x}"
    return f"{socket.gethostname().replace(_SEPARATOR, '-')}-{known[:8]}"


@functools.cache
def _boot() -> str:
    return (_read("/proc/sys/kernel/random/boot_id") or "-")[:8]


@functools.cache
def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "-"


def _began(pid: int) -> str | None:
    """When the process of that id began, in clock ticks after the boot; None where there is none (field 22 of proc(5)'s
    stat, counted after the name, which may hold anything)."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in _GONE else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
