"""One program's run in the sandbox: started, fed, read and watched, and whatever it started ended with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, BinaryIO

from router_service.config import SandboxLimits
from router_service.dispatch._sandbox_command import Layout, Tools, sandbox_command
from router_service.dispatch._sandbox_seccomp import seccomp_filter
from router_service.dispatch._sandbox_watch import memory_of_tree
from router_service.errors import ConfigError
from router_service.types import Execution, Program

__all__ = ["run_program"]

_WATCH_S = 0.05
"""Seconds between two looks at the memory in use: a program fills some 100 MB in that time."""

_END_S = 1.0
"""Within this time the kernel has ended all processes of a namespace whose first one was killed."""

_CHUNK_BYTES = 1 << 16

Pipe = tuple[BinaryIO, BinaryIO]
"""The end to read from, and the end to write to."""

_GO = b"!"
"""What the launcher waits for (`_sandbox_command.launcher`)."""

_KILLED, _OUT_OF_CPU_TIME = 128 + 9, 128 + 24
"""Exit codes that tell of SIGKILL and SIGXCPU."""


async def run_program(program: Program, limits: SandboxLimits, *, tools: Tools, layout: Layout) -> Execution:
    """How the program ended. Cancelling kills it; when this returns or raises, nothing of it runs any more.

    Raises `ConfigError` where the sandbox itself could not be made.
    """
    started = time.perf_counter()
    async with _reports() as (lines, pipe):
        start = asyncio.create_task(_started(program, limits, tools=tools, layout=layout, reports=pipe))
        try:
            run = await asyncio.shield(start)
        except asyncio.CancelledError:
            await _to_the_end(_abandon(start, lines))
            raise
        await run.finish(program.stdin, lines)
    return run.execution(time.perf_counter() - started)


async def _started(program: Program, limits: SandboxLimits, *, tools: Tools, layout: Layout, reports: Pipe) -> _Run:
    """The sandbox on its way. Bubblewrap holds both ends of its reports' pipe: so it may write even where we end this
    very moment, and goes on to where the launcher finds that we did."""
    reads, writes = (end.fileno() for end in reports)
    with _files(program) as (source, seccomp):
        process = await asyncio.create_subprocess_exec(
            *sandbox_command(tools, layout, limits, fds=(source, seccomp, writes)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={"PATH": os.defpath},
            pass_fds=(source, seccomp, reads, writes),
            limit=_CHUNK_BYTES,
        )
    reports[1].close()
    return _Run(process, limits)


async def _abandon(start: asyncio.Task[_Run], reports: asyncio.StreamReader) -> None:
    await (await start).abandon(reports)


class _Run:
    """A started sandbox, and what is known of it."""

    def __init__(self, process: Process, limits: SandboxLimits) -> None:
        self._process = process
        self._limits = limits
        self._out, self._err = bytearray(), bytearray()
        self._stopped_by: str | None = None
        self._exit_code: int | None = None
        self._first: int | None = None
        self._first_fd = -1
        self._is_made = asyncio.Event()
        self._has_begun = asyncio.Event()

    async def finish(self, stdin: str, reports: asyncio.StreamReader) -> None:
        """Run to the end, or to a limit; everything inside has ended afterwards."""
        async with _beside(self._listen(reports)) as listening:
            try:
                async with _beside(self._watch()), _beside(self._feed(stdin)), asyncio.timeout(self._limits.wall_s):
                    await asyncio.gather(self._read_out(), self._read_err())
                    await self._process.wait()
                    await asyncio.wait([listening])
            except TimeoutError:
                await self._stop("time")
            finally:
                await _to_the_end(self._end())

    async def abandon(self, reports: asyncio.StreamReader) -> None:
        """End what nobody wants any more before it was fed."""
        async with _beside(self._listen(reports)):
            await self._end()

    def execution(self, wall_s: float) -> Execution:
        """What came of it; raises `ConfigError` where the program never began, though nobody stopped it."""
        if not self._has_begun.is_set() and self._stopped_by is None:
            raise ConfigError(_no_sandbox(self._err.decode("utf-8", "replace")))
        exit_code = self._exit_code if self._exit_code is not None and self._stopped_by is None else _KILLED
        return Execution(
            exit_code=exit_code,
            stdout=self._out.decode("utf-8", "replace"),
            stderr=self._err.decode("utf-8", "replace"),
            stopped_by=self._stopped_by or ("cpu" if exit_code == _OUT_OF_CPU_TIME else None),
            wall_s=wall_s,
        )

    async def _stop(self, reason: str | None) -> None:
        """Kill the first process inside, with which all others end; bubblewrap then takes its leave by itself, so that
        nobody has to bury what it leaves behind. Where it has not come so far, it is given a moment."""
        if self._process.returncode is not None:
            return
        self._stopped_by = self._stopped_by or reason
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_made.wait(), _END_S)
        with suppress(ProcessLookupError):
            if self._first_fd >= 0:
                signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
            else:
                self._process.kill()

    async def _end(self) -> None:
        """See to it that all processes inside have ended, and bubblewrap has."""
        try:
            async with asyncio.timeout(2 * _END_S):
                await self._stop(None)
                if self._first_fd >= 0:
                    await _readable(self._first_fd)
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        finally:
            if self._first_fd >= 0:
                os.close(self._first_fd)
                self._first_fd = -1

    async def _feed(self, stdin: str) -> None:
        """Let the program begin and give it its input; one that does not care to read it is no failure."""
        writer = self._process.stdin
        assert writer is not None
        await self._has_begun.wait()
        with suppress(BrokenPipeError, ConnectionResetError):
            writer.write(_GO + stdin.encode("utf-8", "replace"))
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async def _read_out(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        if await stream.read(1):
            self._has_begun.set()
            await self._read(stream, self._out)

    async def _read_err(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        await self._read(stream, self._err)

    async def _read(self, stream: asyncio.StreamReader, kept: bytearray) -> None:
        limit = self._limits.output_kib << 10
        while chunk := await stream.read(_CHUNK_BYTES):
            room = limit - len(self._out) - len(self._err)
            kept += chunk[:room]
            if len(chunk) > room:
                await self._stop("output")

    async def _listen(self, reports: asyncio.StreamReader) -> None:
        """Read bubblewrap's reports: its first process inside, and how the program ended."""
        while line := await reports.readline():
            with suppress(ValueError):
                report = json.loads(line)
                self._exit_code = report.get("exit-code", self._exit_code)
                if self._first is None and (first := report.get("child-pid")) is not None:
                    self._first = first
                    with suppress(ProcessLookupError):
                        self._first_fd = os.pidfd_open(first)
                    self._is_made.set()
        self._is_made.set()

    async def _watch(self) -> None:
        await self._has_begun.wait()
        while self._first is not None:
            if memory_of_tree(self._first) > self._limits.memory_mib << 20:
                await self._stop("memory")
            await asyncio.sleep(_WATCH_S)


async def _readable(fd: int) -> None:
    """Return when there is something to read; of a process's descriptor, when that process has ended."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(fd, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(fd)


def _no_sandbox(said: str) -> str:
    hint = (
        "user namespaces may be switched off here: see `sysctl kernel.unprivileged_userns_clone` and "
        "`kernel.apparmor_restrict_unprivileged_userns`, or, in a container, its seccomp profile"
    )
    return f"bubblewrap could not make a sandbox ({said.strip()[:500] or 'it said nothing'}); {hint}"


@contextmanager
def _files(program: Program) -> Iterator[tuple[int, int]]:
    """The program's source and the seccomp filter as files in memory, which bubblewrap reads once."""
    fds = []
    try:
        for name, content in (("program", program.source.encode("utf-8", "replace")), ("seccomp", seccomp_filter())):
            fds.append(os.memfd_create(name))
            with open(fds[-1], "wb", closefd=False) as file:
                file.write(content)
            os.lseek(fds[-1], 0, os.SEEK_SET)
        yield fds[0], fds[1]
    finally:
        for fd in fds:
            os.close(fd)


@contextmanager
def _pipe() -> Iterator[Pipe]:
    """Both ends of a pipe, unbuffered."""
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb", buffering=0) as source, os.fdopen(writes, "wb", buffering=0) as sink:
        yield source, sink


@asynccontextmanager
async def _reports() -> AsyncIterator[tuple[asyncio.StreamReader, Pipe]]:
    """A pipe and a reader of it; whoever hands the writing end on closes it here."""
    reader = asyncio.StreamReader()
    with _pipe() as pipe:
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe[0])
        try:
            yield reader, pipe
        finally:
            transport.close()
            await asyncio.sleep(0)  # the transport closes its file in the loop's next turn


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and see it done however often we are cancelled meanwhile."""
    task = asyncio.create_task(work)
    cancelled = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as again:
            cancelled = again
    if cancelled is not None:
        raise cancelled


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """`work` runs beside the block, and ends with it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
