"""The parent's side of an engine process: starts it, talks to it in JSON lines, watches it, and ends it for good."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import orjson

__all__ = ["EngineGone", "EngineProcess", "Line", "end_of"]

Word = dict[str, Any]

_LONGEST_WORD_BYTES: Final = 64 << 20
_TAIL_LINES: Final = 60
_TAIL_CHARACTERS: Final = 2_000
_CHUNK_BYTES: Final = 1 << 16
_LOOK_S: Final = 0.2
"""How often a silent process is looked at."""
_LAST_WORDS_S: Final = 2.0
"""How long to wait for what a process that ended has left to say on its standard error."""
_GROUP_S: Final = 1.0
"""How long the other processes of its group may take to end by themselves."""
_EXIT_S: Final = 10.0
"""How long a process may take to end after it closed its output, or was told to stop."""
_STOPPED: Final = "it was stopped"


class EngineGone(Exception):
    """The process has ended, or never began; `status` is its exit status (negative: the signal), None if unknown."""

    def __init__(self, reason: str, *, status: int | None = None, tail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.tail = tail

    @property
    def was_stopped(self) -> bool:
        """True where this side wanted it to end."""
        return self.reason == _STOPPED


class Line:
    """One conversation with the process: what is said on it carries its number, and so do the answers."""

    def __init__(self, process: EngineProcess, number: int) -> None:
        self.number = number
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._words: asyncio.Queue[Word | EngineGone] = asyncio.Queue()

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close_line(self.number)

    def say(self, **order: object) -> None:
        """Give an order; `line` is added."""
        self._process.say({**order, "line": self.number})

    async def hear(self) -> Word:
        """The next answer on this line; raises `EngineGone` once the process has ended."""
        word = await self._words.get()
        if isinstance(word, EngineGone):
            self._words.put_nowait(word)
            raise word
        return word

    def put(self, word: Word | EngineGone) -> None:
        """Hand an answer over, from any thread; dropped where the loop that waited is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._words.put_nowait, word)


class EngineProcess:
    """A process in a session of its own. Its standard input takes orders and its standard output gives words, one JSON
    object a line; its standard error is kept for the end. It does not belong to any event loop.

    While a line is open, a process that says nothing for `silence_s` is killed; so is one that says what is no JSON
    object. With the process goes its whole group. The threads here begin it, so it lives as long as they do.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], silence_s: float) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self._silence_s = silence_s
        self._lock = threading.Lock()
        self._lines: dict[int, Line] = {}
        self._numbers = itertools.count(1)
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._fault: str | None = None
        self._gone: EngineGone | None = None
        self._has_ended = threading.Event()
        self._last_word_s = time.monotonic()
        self.is_patient = True
        """True while silence is no reason to kill it: it is being started, and whoever waits has a limit of his own."""
        threading.Thread(target=self._live, name="engine process", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """True until the process has ended and its group is gone."""
        return not self._has_ended.is_set()

    @property
    def pid(self) -> int | None:
        """The number of the process, and of its group; None before it began."""
        return None if self._process is None else self._process.pid

    def line(self) -> Line:
        """A new conversation; close it by leaving its `with`."""
        with self._lock:
            line = Line(self, next(self._numbers))
            if self._gone is not None:
                line.put(self._gone)
            else:
                if not self._lines:
                    self._last_word_s = time.monotonic()
                self._lines[line.number] = line
        return line

    def close_line(self, number: int) -> None:
        """Nobody listens to this line any more: what is under way on it is aborted."""
        with self._lock:
            self._lines.pop(number, None)
        self.say({"op": "abort", "line": number})

    def say(self, order: Word) -> None:
        """Send an order; never waits, and does nothing once the process has ended."""
        if self.is_alive:
            self._orders.put(orjson.dumps(order) + b"\n")

    async def stop(self, *, patience_s: float = _EXIT_S) -> None:
        """End it, kindly at first; returns when it and its group are gone, and their memory with them."""
        self._fault = self._fault or _STOPPED
        self.say({"op": "stop"})
        if not await asyncio.to_thread(self._has_ended.wait, patience_s):
            await self.kill()

    async def kill(self, fault: str = _STOPPED) -> EngineGone:
        """End it at once, for that reason; returns when it and its group are gone. Killing twice does no harm."""
        self._kill(fault)
        await asyncio.shield(asyncio.to_thread(self._has_ended.wait, _EXIT_S))
        return self._gone or EngineGone(fault)

    # --- in the threads ---------------------------------------------------------------------------------------------

    def _live(self) -> None:
        status: int | None = None
        try:
            with subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
                bufsize=0,
            ) as process:
                self._process = process
                if self._fault:  # ended before it began
                    process.kill()
                writer = threading.Thread(target=self._write, args=(process,), name="engine orders", daemon=True)
                writer.start()
                try:
                    self._listen(process)
                    status = _wait(process)
                finally:
                    _end_group(process.pid)
                    self._read_last_words(process)
                    self._orders.put(None)
                    writer.join()  # before its pipe is closed
            reason = self._fault or end_of(status)
        except OSError as error:
            reason = f"it could not be started: {error.strerror or error}"
        except Exception as error:  # whatever breaks here must not leave callers waiting
            reason = f"listening to it failed ({type(error).__name__}: {error})"
        self._end(EngineGone(reason, status=status, tail=self._tail_text()))

    def _end(self, gone: EngineGone) -> None:
        with self._lock:
            self._gone = gone
            lines = tuple(self._lines.values())
            self._lines.clear()
        self._has_ended.set()
        for line in lines:
            line.put(gone)

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone: the listening thread tells
            while (order := self._orders.get()) is not None:
                _write_all(process.stdin.fileno(), order)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Read both outputs until the standard output or the process ends."""
        assert process.stdout is not None and process.stderr is not None
        words, murmur = _Splitter(_LONGEST_WORD_BYTES), _Splitter(_CHUNK_BYTES)
        with selectors.DefaultSelector() as outputs:
            outputs.register(process.stdout, selectors.EVENT_READ, words)
            outputs.register(process.stderr, selectors.EVENT_READ, murmur)
            while True:
                ready = outputs.select(_LOOK_S)
                for key, _ in ready:
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    if not chunk and key.data is words:
                        return
                    if not chunk:
                        outputs.unregister(key.fileobj)
                    for text in key.data.lines(chunk):
                        (self._take if key.data is words else self._note)(text)
                if process.poll() is not None and all(key.data is not words for key, _ in ready):
                    return  # a child may hold its output open
                self._look_at_silence()

    def _take(self, text: bytes) -> None:
        self._last_word_s = time.monotonic()
        try:
            word = orjson.loads(text)
        except orjson.JSONDecodeError:
            word = None
        if not isinstance(word, dict) or "op" not in word:
            shown = text[:200].decode(errors="replace")
            self._kill(f"it said what no engine process says: {shown!r}")
            return
        with self._lock:
            line = self._lines.get(word.get("line", 0))
        if line is not None:
            line.put(word)

    def _note(self, text: bytes) -> None:
        if shown := text[:_TAIL_CHARACTERS].decode(errors="replace").strip():
            self._tail.append(shown)

    def _look_at_silence(self) -> None:
        with self._lock:
            is_awaited = bool(self._lines) and not self.is_patient
        if is_awaited and time.monotonic() - self._last_word_s > self._silence_s:
            self._kill(f"it said nothing for {self._silence_s:g} s (option silence_s) and was killed")

    def _read_last_words(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        murmur, until = _Splitter(_CHUNK_BYTES), time.monotonic() + _LAST_WORDS_S
        with selectors.DefaultSelector() as outputs:
            outputs.register(process.stderr, selectors.EVENT_READ)
            while (left_s := until - time.monotonic()) > 0 and outputs.select(left_s):
                if not (chunk := os.read(process.stderr.fileno(), _CHUNK_BYTES)):
                    break
                for text in murmur.lines(chunk):
                    self._note(text)
        self._note(murmur.rest)

    def _tail_text(self) -> str:
        return "\n".join(self._tail)[-_TAIL_CHARACTERS:]

    def _kill(self, fault: str) -> None:
        self._fault = self._fault or fault
        if self._process is not None and self.is_alive:
            self._process.kill()  # its group is ended once that is seen


class _Splitter:
    """Cuts what comes in chunks into lines; one longer than `longest` is handed on in pieces."""

    def __init__(self, longest: int) -> None:
        self.rest = b""
        self._longest = longest

    def lines(self, chunk: bytes) -> list[bytes]:
        if b"\n" not in chunk and len(self.rest) + len(chunk) <= self._longest:
            self.rest += chunk
            return []
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        if len(self.rest) > self._longest:
            whole, self.rest = [*whole, self.rest], b""
        return whole


def _write_all(descriptor: int, order: bytes) -> None:
    left = memoryview(order)
    while left:
        left = left[os.write(descriptor, left) :]


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit status of a process that closed its output; one that does not end is killed."""
    try:
        return process.wait(_EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _end_group(group: int) -> None:
    """See what is left of a group end, and kill what does not, so that its memory is free.

    Processes that share a model end when the one that began them has; Python's resource tracker, which is among them,
    gives back the shared memory that it left behind.
    """
    for patience_s in (_GROUP_S, _LAST_WORDS_S):
        until = time.monotonic() + patience_s
        while _has_members(group) and time.monotonic() < until:
            time.sleep(0.02)
        _kill_group(group)


def _has_members(group: int) -> bool:
    """True while the group has a process that is more than a zombie, which holds no memory but may stay for long."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, which may hold anything, is in brackets; state, parent and group follow.
            state, _, found, *_ = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(found) == group and state not in "ZX":
                return True
    return not Path("/proc/self/stat").exists()


def end_of(status: int | None) -> str:
    """How a process ended, by its exit status."""
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"it was killed by signal {-status} ({signal.Signals(-status).name})"
    return f"it ended with status {status}"
