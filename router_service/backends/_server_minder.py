"""The minder of a server process: starts it, and ends it with all its descendants when nobody wants it any more.

Run by its path, by any Python; it imports nothing of this project (`_server_process` is the other end):

    python _server_minder.py GRACE_S COMMAND...

It stands between us and the server because the kernel's own means (PR_SET_PDEATHSIG) fires when the *thread* that
started a process ends, and reaches only that process, not those it started. The server is told to end (SIGTERM, after
`GRACE_S` seconds SIGKILL) when the standard input here ends or the parent is gone, however it went. Orphans of the
server come to the minder, which knows therefore when the last one is gone, and its memory with it. It says on its
standard output `pid NUMBER`, and in the end `gone STATUS` (negative: the signal); the server writes to the standard
error. Should the minder itself be killed, the kernel ends the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LOOK_S: Final = 0.1
_LAST_S: Final = 10.0
"""How long to wait for processes that were killed; the system may be busy with freeing what they had."""
_NOT_STARTED: Final = 127


def ask_kernel(option: int, value: int) -> None:
    """`prctl`, where there is one (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(command: list[str]) -> int:
    """The number of a process that runs the command in a session of its own."""
    parent = os.getpid()
    child = os.fork()
    return child or become(command, parent)


def become(command: list[str], parent: int) -> NoReturn:
    """In the new process: cut every tie but the standard error, and turn into the command."""
    try:
        os.setsid()
        ask_kernel(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_NOT_STARTED)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(_NOT_STARTED)


class Minder:
    """One server and whatever it started."""

    def __init__(self, server: int, *, grace_s: float) -> None:
        self._server = server
        self._grace_s = grace_s
        self._parent = os.getppid()
        self._is_dismissed = False
        self.status: int | None = None

    def dismiss(self, *_: object) -> None:
        """Let the server end; also a signal's handler."""
        self._is_dismissed = True

    def mind(self) -> None:
        """Wait until the server ended or is not wanted; then see to it that nothing of it is left."""
        while self.status is None and self._is_wanted():
            self._reap()
        if self.status is None:
            self._signal(signal.SIGTERM)
            until = time.monotonic() + self._grace_s
            while self.status is None and time.monotonic() < until:
                self._reap()
                time.sleep(_LOOK_S / 2)
        until = time.monotonic() + _LAST_S
        while not self._kill_all() and time.monotonic() < until:
            time.sleep(_LOOK_S / 5)

    def _is_wanted(self) -> bool:
        try:
            ready, _, _ = select.select([0], [], [], _LOOK_S)
            is_heard = not ready or bool(os.read(0, 1))
        except OSError:
            return False
        return is_heard and not self._is_dismissed and os.getppid() == self._parent

    def _reap(self) -> bool:
        """Take note of the descendants that ended; True once none is left."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._server:
                    self.status = os.waitstatus_to_exitcode(ended[1])
            return False
        return True

    def _kill_all(self) -> bool:
        """Kill the server's group, and what left it and lost its parent since; True once all are gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._server, signal.SIGKILL)
        with contextlib.suppress(OSError):
            for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                os.kill(int(number), signal.SIGKILL)
        return self._reap()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server, number)


def say(word: str) -> None:
    """A line to the parent, if it is still there."""
    with contextlib.suppress(OSError):
        os.write(1, f"{word}\n".encode())


def main() -> None:
    """See the module's docstring."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ask_kernel(_PR_SET_CHILD_SUBREAPER, 1)
    server = start(sys.argv[2:])
    say(f"pid {server}")
    minder = Minder(server, grace_s=float(sys.argv[1]))
    signal.signal(signal.SIGTERM, minder.dismiss)
    minder.mind()
    say(f"gone {minder.status}")


if __name__ == "__main__":
    main()
