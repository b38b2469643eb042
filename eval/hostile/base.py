"""What a hostile program is, and how those of this room are written.

`$folder`, `$port`, `$listens`, `$pid`, `$abstract` and `$variable` are filled in with what lies outside: a folder with
a secret file and a socket, ports, a process, a socket without a path, the name of a secret variable. A program prints
ESCAPED where it got what it wanted, and else, as far as it can, why not. System calls by number are those of x86-64.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

__all__ = ["HostileProgram", "attempts", "program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileProgram:
    """What it tries, in words, and how; `ends_by` is the limit that must stop it, where one must."""

    name: str
    tries: str
    source: str
    ends_by: str | None = None


def program(name: str, tries: str, source: str, *, ends_by: str | None = None) -> HostileProgram:
    """A program as it stands."""
    return HostileProgram(name=name, tries=tries, source=textwrap.dedent(source).strip(), ends_by=ends_by)


def attempts(name: str, tries: str, lines: str) -> HostileProgram:
    """A program that makes an attempt a line; one that raises has failed, as has a call of `c` that returns -1."""
    source = textwrap.dedent(_PRELUDE)
    for line in textwrap.dedent(lines).strip().splitlines():
        source += (
            f"try:\n    {line}\n    print('ESCAPED')\nexcept BaseException as error:\n    print(repr(error)[:100])\n"
        )
    return HostileProgram(name=name, tries=tries, source=source)


_PRELUDE = """
import ctypes, mmap, os, resource, signal, socket, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
socket.setdefaulttimeout(0.5)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def c(function, *arguments):
    if getattr(libc, function)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), 'refused')

def raise_limit(name):
    soft, hard = resource.getrlimit(name)
    resource.setrlimit(name, (hard + 1, hard + 1))

def read(path):
    with open(path, 'rb') as file:
        print(file.read(4096))

def write(path):
    with open(path, 'ab') as file:
        file.write(b'x')

def connect(path):
    socket.socket(socket.AF_UNIX).connect(path)

def inherited():
    found = []
    for fd in range(3, 256):
        try:
            found.append(os.fstat(fd))
        except OSError:
            pass
    assert found, 'nothing was inherited'

"""
